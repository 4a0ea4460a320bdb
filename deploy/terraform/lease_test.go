package terraform

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
)

// TestWorker_HoldsLeaseOfItsModule: the process that started the worker dies, and
// its lease on everything is taken over; that of the worker is not.
func TestWorker_HoldsLeaseOfItsModule(t *testing.T) {
	const ttl = time.Second // so long that a busy machine renews in time
	dir := filepath.Join(t.TempDir(), "state")
	store := state.OpenDir(dir)
	owner := state.CurrentOwner("apply")
	if _, err := state.AcquireWait(t.Context(), store, state.LeaseRequest{Apply: "mine", Owner: owner, TTL: ttl}, 0, nil); err != nil { // never renewed
		t.Fatal(err)
	}
	c := &worker{workerRequest: &workerRequest{State: dir, Address: "module/net", TTL: ttl, Caller: agent.Caller{Apply: "mine", Verb: "apply", By: owner.Who}}}
	begun, end, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- c.underLease(context.Background(), func() error { close(begun); <-end; return nil })
	}()
	<-begun
	rival := state.LeaseRequest{Apply: "other", Owner: owner, TTL: ttl}
	var held *state.ErrLeaseHeld
	if _, err := state.AcquireWait(t.Context(), store, rival, 5*ttl/2, nil); !errors.As(err, &held) || len(held.Holders) != 1 || held.Holders[0].Addresses[0] != "module/net" {
		t.Fatalf("%v", err)
	}
	rival.Addresses = []string{"app/web#0"}
	if l, err := store.Acquire(t.Context(), rival); err != nil {
		t.Errorf("another address: %v", err)
	} else if err := store.Release(t.Context(), l); err != nil {
		t.Error(err)
	}
	close(end)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	rival.Addresses = nil
	if _, err := state.AcquireWait(t.Context(), store, rival, time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.underLease(t.Context(), func() error { t.Error("the module was changed under the lease of another apply"); return nil }); !errors.As(err, &held) {
		t.Errorf("%v", err)
	}
}
