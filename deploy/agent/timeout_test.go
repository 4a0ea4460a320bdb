package agent

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/compile/plan"
)

// shorten sets a timeout for the duration of a test.
func shorten(t *testing.T, limit *timeout, d time.Duration) {
	before := limit.get()
	t.Cleanup(func() { limit.set(before) })
	limit.set(d)
}

// A client that is gone without closing its connection must not keep the machine locked; an
// idle one keeps it.
func TestServe_SilentClient(t *testing.T) {
	shorten(t, heartbeatInterval, 20*time.Millisecond)
	shorten(t, idleTimeout, 400*time.Millisecond)
	dir := t.TempDir()
	here, there := net.Pipe()
	go Serve(t.Context(), there, OpenHost(dir, nil))
	idle, err := NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Fence(t.Context(), "dev/test", caller(1), nil, 1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * idleTimeout.get())
	if _, err := idle.Units(t.Context(), "dev/test"); err != nil {
		t.Fatalf("the idle client was disconnected: %v", err)
	}
	idle.Close()

	here, there = net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), there, OpenHost(dir, nil)) }()
	c := newConn(here)
	if err := c.send(&Message{Kind: "fence", ID: 1, Scope: "dev/test", Token: 2}); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == "fence" {
			break
		}
	}
	if err := <-done; err == nil {
		t.Error("the agent did not notice that the client is gone")
	}
	next := OpenHost(dir, nil)
	defer next.Close()
	if err := next.Fence(t.Context(), "dev/test", caller(3), nil); err != nil {
		t.Errorf("the machine is still locked: %v", err)
	}
}

// A busy agent sends heartbeats; a frozen one is silent.
func TestClient_SilentAgent(t *testing.T) {
	shorten(t, heartbeatInterval, 20*time.Millisecond)
	shorten(t, idleTimeout, 400*time.Millisecond)
	here, there := net.Pipe()
	go func() { // an agent that completes the handshake, accepts everything, and never replies
		c := newConn(there)
		if m, err := c.receive(); err == nil {
			c.send(&Message{Kind: m.Kind, ID: m.ID, Protocol: Protocol})
		}
		for {
			if _, err := c.receive(); err != nil {
				return
			}
		}
	}()
	client, err := NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, known, err := client.ApplyUnit(t.Context(), "dev/test", "a/b", caller(1), nil, nil, 0); known || err == nil || !strings.Contains(err.Error(), "stopped responding") {
		t.Errorf("%v", err)
	}
}

// A machine that accepts the first bytes of an upload and then hangs, but still sends
// heartbeats.
func TestPut_Stalls(t *testing.T) {
	shorten(t, stallTimeout, 300*time.Millisecond)
	here, there := net.Pipe()
	go func() {
		c := newConn(there)
		if m, err := c.receive(); err == nil {
			c.send(&Message{Kind: m.Kind, ID: m.ID, Protocol: Protocol})
		}
		io.ReadFull(there, make([]byte, 1<<20))
		for c.send(&Message{Kind: "heartbeat"}) == nil {
			time.Sleep(50 * time.Millisecond)
		}
	}()
	client, err := NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.Put(t.Context(), plan.Artifact{Path: "large"}, 0, bytes.NewReader(make([]byte, 5<<20)))
	if err == nil || !strings.Contains(err.Error(), "accepted nothing of artifact large for 300ms") {
		t.Errorf("%v", err)
	}
}
