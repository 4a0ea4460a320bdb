package agent

import (
	"net"
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
	if err := resting.Fence(t.Context(), "dev/test", 1, nil); err != nil {
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
	if _, err := c.receive(); err != nil {
		t.Fatal(err)
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
