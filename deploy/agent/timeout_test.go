package agent

import (
	"net"
	"strings"
	"testing"
	"time"
)

// TestWhoFallsSilentGivesTheMachineFree: another side that is gone without a
// word must not keep the machine's lock; one that is only at rest keeps it.
func TestWhoFallsSilentGivesTheMachineFree(t *testing.T) {
	wasBeat, wasSilence := beat, silence
	defer func() { beat, silence = wasBeat, wasSilence }()
	beat, silence = 20*time.Millisecond, 400*time.Millisecond
	dir := t.TempDir()
	here, there := net.Pipe()
	go Serve(there, OpenHost(dir, nil))
	resting, err := NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	if err := resting.Fence(t.Context(), "dev/test", 1, nil, 1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * silence)
	if _, err := resting.Units(t.Context(), "dev/test"); err != nil {
		t.Fatalf("who is at rest was sent away: %v", err)
	}
	resting.Close()

	here, there = net.Pipe()
	over := make(chan error, 1)
	go func() { over <- Serve(there, OpenHost(dir, nil)) }()
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
	if err := <-over; err == nil {
		t.Error("the agent did not notice")
	}
	next := OpenHost(dir, nil)
	defer next.Close()
	if err := next.Fence("dev/test", 3, nil); err != nil {
		t.Errorf("the machine is not free: %v", err)
	}
}

// TestAnAgentThatFallsSilentIsNotWaitedFor: one that is at work says so now and
// then; one that is frozen says nothing.
func TestAnAgentThatFallsSilentIsNotWaitedFor(t *testing.T) {
	wasBeat, wasSilence := beat, silence
	defer func() { beat, silence = wasBeat, wasSilence }()
	beat, silence = 20*time.Millisecond, 400*time.Millisecond
	here, there := net.Pipe()
	go func() { // an agent that greets, and takes all, and says nothing more
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
	if _, known, err := client.ApplyUnit(t.Context(), "dev/test", "a/b", 1, nil, nil); known || err == nil || !strings.Contains(err.Error(), "fallen silent") {
		t.Errorf("%v", err)
	}
}
