package transport

import (
	"testing"
	"time"
)

// TestAKilledProgramEndsForItsReader: even if a child of it holds what it wrote to.
func TestAKilledProgramEndsForItsReader(t *testing.T) {
	p, err := start("sh", "-c", "sleep 1000 & echo $!; wait")
	if err != nil {
		t.Fatal(err)
	}
	child, err := p.line()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if k, err := start("kill", child); err == nil {
			k.wait()
		}
	}()
	over := make(chan error, 1)
	go func() { _, err := p.line(); over <- err }()
	p.kill()
	select {
	case err := <-over:
		if err == nil {
			t.Error("it said a line")
		}
	case <-time.After(20 * time.Second):
		t.Error("its reader hangs")
	}
}
