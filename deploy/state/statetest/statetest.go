// Package statetest is the contract suite of state.Store: every store passes it.
package statetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
)

// Run tests a kind of store. As every user of a store does, the tests write a head
// before anything else, and what is applied under a lease. It calls newPlace once per test to create an empty
// place; each call of open then opens a store on this place, as another process
// would do.
func Run(t *testing.T, newPlace func(t *testing.T) (open func() state.Store)) {
	ctx := context.Background()
	const lineage = "0123456789abcdef0123456789abcdef"
	generation := func(n int) []byte { return fmt.Appendf(nil, `{"number":%d}`, n) }
	head := func(n int) state.Head {
		return state.Head{Format: state.Format, Lineage: lineage, Generation: n, Object: digest.Bytes(generation(n))}
	}
	end := state.Oldest{Format: state.Format, Generation: 7, Object: digest.Bytes([]byte("7"))}
	me := state.Owner{Who: "me@here", Verb: "apply", Host: "elsewhere"}
	all := state.LeaseRequest{Owner: me, TTL: time.Minute}
	empty := state.Head{Format: state.Format, Lineage: lineage}
	// begun returns how to open a store that has a head and had a lease.
	begun := func(t *testing.T) func() state.Store {
		t.Helper()
		open := newPlace(t)
		s := open()
		err := s.Swap(ctx, state.Head{}, empty)
		if err == nil {
			var l state.Lease
			if l, err = s.Acquire(ctx, all); err == nil {
				err = s.Release(ctx, l)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return open
	}

	// filled is begun, with the objects that head refers to.
	filled := func(t *testing.T) func() state.Store {
		t.Helper()
		open := begun(t)
		var objects [][]byte
		for n := range 30 {
			objects = append(objects, generation(n))
		}
		if err := open().Put(ctx, objects...); err != nil {
			t.Fatal(err)
		}
		return open
	}

	t.Run("Head_EmptyStore", func(t *testing.T) {
		s := newPlace(t)()
		if h, err := s.Head(ctx); err != nil || !h.IsZero() {
			t.Errorf("%+v, %v", h, err)
		}
		if _, err := s.Get(ctx, digest.Bytes([]byte("x"))); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Get_ObjectsPutByAnotherProcess", func(t *testing.T) {
		open := begun(t)
		s := open()
		for n := range 200 {
			a, b := fmt.Appendf(nil, "a%d", n), fmt.Appendf(nil, "b%d", n)
			if err := s.Put(ctx, a, b, a); err != nil {
				t.Fatal(err)
			}
		}
		other := open()
		for n := range 200 {
			for _, s := range []state.Store{s, other} {
				want := fmt.Sprintf("b%d", n)
				if got, err := s.Get(ctx, digest.Bytes([]byte(want))); err != nil || string(got) != want {
					t.Fatalf("%q, %v", got, err)
				}
			}
		}
	})
	t.Run("GC_RemovesOnlyUnreferencedObjects", func(t *testing.T) {
		open := begun(t)
		s, other := open(), open()
		live := map[digest.Digest]bool{}
		for n := range 90 {
			raw := fmt.Appendf(nil, "object %d", n)
			if err := s.Put(ctx, raw); err != nil {
				t.Fatal(err)
			}
			if _, err := other.Get(ctx, digest.Bytes(raw)); err != nil {
				t.Fatal(err)
			}
			live[digest.Bytes(raw)] = n%3 == 0
		}
		alive := func(d digest.Digest) bool { return live[d] }
		count, size, err := s.GC(ctx, end, alive, true)
		if err != nil || count != 60 || size == 0 {
			t.Fatalf("dry run: %d objects of %d bytes, %v", count, size, err)
		}
		if oldest, err := s.Oldest(ctx); err != nil || oldest != (state.Oldest{}) {
			t.Errorf("a dry run set the oldest generation: %+v, %v", oldest, err)
		}
		if again, bytes, err := other.GC(ctx, end, alive, false); err != nil || again != count || bytes != size {
			t.Fatalf("removed %d objects of %d bytes, %v", again, bytes, err)
		}
		if oldest, err := open().Oldest(ctx); err != nil || oldest != end {
			t.Errorf("the oldest generation is %+v, %v", oldest, err)
		}
		if n, _, err := s.GC(ctx, end, alive, false); err != nil || n != 0 {
			t.Errorf("second run: %d objects, %v", n, err)
		}
		for _, s := range []state.Store{s, other, open()} {
			for d, want := range live {
				if _, err := s.Get(ctx, d); (err == nil) != want || err != nil && !errors.Is(err, state.ErrNotFound) {
					t.Fatalf("live %v: %v", want, err)
				}
			}
		}
	})
	t.Run("Put_EmptyObject", func(t *testing.T) {
		s := begun(t)()
		if err := s.Put(ctx, []byte{}, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(ctx, digest.Bytes(nil)); err != nil || len(got) != 0 {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("Swap_FailsIfHeadMoved", func(t *testing.T) {
		open := filled(t)
		s := open()
		if err := s.Swap(ctx, empty, head(1)); err != nil {
			t.Fatal(err)
		}
		if err := s.Swap(ctx, empty, head(1)); !errors.Is(err, state.ErrHeadMoved) {
			t.Errorf("%v", err)
		}
		if h, err := open().Head(ctx); err != nil || !h.Equal(head(1)) {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("Swap_OneOfManyConcurrentCallersWins", func(t *testing.T) {
		open := filled(t)
		for round := range 20 {
			old := empty
			if round > 0 {
				old = head(round)
			}
			var won sync.Map
			var wg sync.WaitGroup
			for i := range 8 {
				s := open()
				wg.Go(func() {
					if err := s.Swap(ctx, old, head(round+1)); err == nil {
						won.Store(i, true)
					} else if !errors.Is(err, state.ErrHeadMoved) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			n := 0
			won.Range(func(any, any) bool { n++; return true })
			if n != 1 {
				t.Fatalf("round %d: %d swaps succeeded", round, n)
			}
		}
	})
	t.Run("Swap_KeepsLineage", func(t *testing.T) {
		s := filled(t)()
		if err := s.Swap(ctx, empty, head(1)); err != nil {
			t.Fatal(err)
		}
		other := head(2)
		other.Lineage = "ffffffffffffffffffffffffffffffff"
		if err := s.Swap(ctx, head(1), other); err == nil || errors.Is(err, state.ErrHeadMoved) {
			t.Errorf("another lineage: %v", err)
		}
		if h, err := s.Head(ctx); err != nil || !h.Equal(head(1)) {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("Swap_ComparesIntents", func(t *testing.T) {
		open := filled(t)
		s := open()
		a, b := head(1), head(1)
		a.Intents = []state.Intent{{Apply: "a", Token: 1, Machines: []string{"m"}}}
		b.Intents = []state.Intent{{Apply: "b", Token: 2, Machines: []string{"m"}}}
		if err := s.Swap(ctx, empty, a); err != nil {
			t.Fatal(err)
		}
		for _, old := range []state.Head{head(1), b} {
			if err := s.Swap(ctx, old, b); !errors.Is(err, state.ErrHeadMoved) {
				t.Errorf("from %+v: %v", old, err)
			}
		}
		if h, err := open().Head(ctx); err != nil || !h.Equal(a) {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("Announce_ConcurrentIntentsAreAllKept", func(t *testing.T) {
		open := begun(t)
		var wg sync.WaitGroup
		for n := range 8 {
			s := open()
			wg.Go(func() {
				d := state.IntentDetail{Intent: state.Intent{Apply: fmt.Sprint("apply", n), Token: int64(n), Machines: []string{"m"}}, Units: map[string][]string{"a/b": {"m"}}}
				if _, err := state.Announce(ctx, s, empty, d); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		s := open()
		h, err := s.Head(ctx)
		if err != nil || len(h.Intents) != 8 {
			t.Fatalf("%d intents, %v", len(h.Intents), err)
		}
		details, err := state.LoadIntents(ctx, s, h)
		if err != nil || len(details) != 8 || details[3].Units["a/b"] == nil {
			t.Errorf("%+v, %v", details, err)
		}
		if err := state.Withdraw(ctx, s, "apply1", "apply2"); err != nil {
			t.Fatal(err)
		}
		if h, err := open().Head(ctx); err != nil || len(h.Intents) != 6 || h.Intent("apply1") != nil || h.Intent("apply3") == nil {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("Announce_FailsAfterAnotherGeneration", func(t *testing.T) {
		s := filled(t)()
		if err := errors.Join(s.Swap(ctx, empty, head(1)), s.Swap(ctx, head(1), head(2))); err != nil {
			t.Fatal(err)
		}
		if _, err := state.Announce(ctx, s, head(1), state.IntentDetail{Intent: state.Intent{Apply: "a"}}); !errors.Is(err, state.ErrHeadMoved) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Commit_RemovesFinishedIntentsOnly", func(t *testing.T) {
		s := begun(t)()
		for _, apply := range []string{"mine", "killed", "other"} {
			if _, err := state.Announce(ctx, s, empty, state.IntentDetail{Intent: state.Intent{Apply: apply}}); err != nil {
				t.Fatal(err)
			}
		}
		h, err := s.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := state.Commit(ctx, s, h, &state.Generation{Number: 1, Apply: "mine", Finished: []string{"killed"}}); err != nil {
			t.Fatal(err)
		}
		now, err := s.Head(ctx)
		if err != nil || now.Generation != 1 || now.Lineage != lineage || len(now.Intents) != 1 || now.Intent("other") == nil {
			t.Errorf("%+v, %v", now, err)
		}
		known := state.NewAncestry(s, now, nil)
		for apply, want := range map[string]bool{"mine": true, "killed": true, "other": true, "foreign": false, "": false} {
			if got, err := known.Knows(ctx, apply); got != want || err != nil {
				t.Errorf("%q: %v, %v", apply, got, err)
			}
		}
	})
	t.Run("Commit_FailsIfItsIntentIsGone", func(t *testing.T) {
		s := begun(t)()
		h, err := state.Announce(ctx, s, empty, state.IntentDetail{Intent: state.Intent{Apply: "mine"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := state.Withdraw(ctx, s, "mine"); err != nil { // as one that took over does when it has finished it
			t.Fatal(err)
		}
		if err := state.Commit(ctx, s, h, &state.Generation{Number: 1, Apply: "mine"}); !errors.Is(err, state.ErrHeadMoved) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Acquire_FailsUntilReleased", func(t *testing.T) {
		open := begun(t)
		a, err := open().Acquire(ctx, all)
		if err != nil {
			t.Fatal(err)
		}
		var busy *state.ErrLeaseHeld
		if _, err := open().Acquire(ctx, all); !errors.As(err, &busy) || busy.Holders[0].Token != a.Token || busy.Holders[0].TTL != time.Minute || busy.Holders[0].Owner != me {
			t.Fatalf("%v", err)
		}
		if err := open().Release(ctx, a); err != nil {
			t.Fatal(err)
		}
		b, err := open().Acquire(ctx, all)
		if err != nil || b.Token <= a.Token {
			t.Errorf("token %d after %d, %v", b.Token, a.Token, err)
		}
		if err := open().Release(ctx, a); err != nil {
			t.Errorf("releasing a lease that is not held: %v", err)
		}
	})
	t.Run("Break_OnlyWhatWasNotRenewed", func(t *testing.T) {
		open := begun(t)
		a, err := open().Acquire(ctx, all)
		if err != nil {
			t.Fatal(err)
		}
		renewed, err := open().Renew(ctx, a)
		if err != nil || renewed.Counter <= a.Counter || renewed.Token != a.Token {
			t.Fatalf("%+v, %v", renewed, err)
		}
		if err := open().Break(ctx, a); err != nil {
			t.Fatal(err)
		}
		if _, err := open().Acquire(ctx, all); err == nil {
			t.Fatal("a lease was broken although it was renewed")
		}
		if err := open().Break(ctx, renewed); err != nil {
			t.Fatal(err)
		}
		b, err := open().Acquire(ctx, all)
		if err != nil || b.Token <= a.Token {
			t.Fatalf("%+v, %v", b, err)
		}
		if _, err := open().Renew(ctx, renewed); !errors.Is(err, state.ErrLeaseLost) {
			t.Errorf("a lost lease was renewed: %v", err)
		}
		if err := open().Break(ctx, renewed); err != nil {
			t.Errorf("breaking a lease that is not held: %v", err)
		}
		if _, err := open().Renew(ctx, b); err != nil {
			t.Error(err)
		}
	})
	t.Run("AcquireWait_TakesOverWhatDoesNotMove", func(t *testing.T) {
		open := begun(t)
		dead := state.LeaseRequest{Owner: me, TTL: 150 * time.Millisecond}
		a, err := open().Acquire(ctx, dead)
		if err != nil {
			t.Fatal(err)
		}
		var busy *state.ErrLeaseHeld
		if _, err := state.AcquireWait(ctx, open(), all, 0, nil); !errors.As(err, &busy) {
			t.Fatalf("without waiting: %v", err)
		}
		begin, waited := time.Now(), 0
		b, err := state.AcquireWait(ctx, open(), all, time.Minute, func(*state.ErrLeaseHeld) { waited++ })
		if err != nil || b.Token <= a.Token || waited != 1 || time.Since(begin) < dead.TTL {
			t.Fatalf("after %s, %d times reported: %+v, %v", time.Since(begin), waited, b, err)
		}
	})
	t.Run("AcquireWait_LeavesWhatMoves", func(t *testing.T) {
		open := begun(t)
		a, err := open().Acquire(ctx, state.LeaseRequest{Owner: me, TTL: time.Second}) // so long that a busy machine renews in time
		if err != nil {
			t.Fatal(err)
		}
		alive, stop := context.WithCancel(ctx)
		defer stop()
		go state.KeepAlive(alive, open(), a, func(err error) { t.Errorf("the lease was lost: %v", err) })
		var busy *state.ErrLeaseHeld
		if _, err := state.AcquireWait(ctx, open(), all, 2500*time.Millisecond, nil); !errors.As(err, &busy) || busy.Holders[0].Token != a.Token {
			t.Errorf("%v", err)
		}
	})
	t.Run("KeepAlive_ReportsLoss", func(t *testing.T) {
		open := begun(t)
		a, err := open().Acquire(ctx, state.LeaseRequest{Owner: me, TTL: 60 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if err := open().Release(ctx, a); err != nil {
			t.Fatal(err)
		}
		lost := make(chan error, 1)
		go state.KeepAlive(ctx, open(), a, func(err error) { lost <- err })
		if err := <-lost; !errors.Is(err, state.ErrLeaseLost) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Acquire_LeasesOfOneApplyDoNotConflict", func(t *testing.T) {
		open := begun(t)
		mine := state.LeaseRequest{Owner: me, Apply: "one", TTL: time.Minute}
		a, err := open().Acquire(ctx, mine)
		if err != nil {
			t.Fatal(err)
		}
		mine.Addresses = []string{"module/x"}
		b, err := open().Acquire(ctx, mine)
		if err != nil || b.Token <= a.Token {
			t.Fatalf("%+v, %v", b, err)
		}
		if err := open().Release(ctx, a); err != nil {
			t.Fatal(err)
		}
		other := state.LeaseRequest{Owner: me, Apply: "two", TTL: time.Minute}
		if _, err := open().Acquire(ctx, other); err == nil {
			t.Error("a lease on everything was granted although one on a module is held")
		}
		other.Addresses = []string{"module/y"}
		if _, err := open().Acquire(ctx, other); err != nil {
			t.Errorf("disjoint: %v", err)
		}
	})
	t.Run("Acquire_DisjointAddresses", func(t *testing.T) {
		open := begun(t)
		on := func(addresses ...string) state.LeaseRequest {
			return state.LeaseRequest{Addresses: addresses, Owner: me, TTL: time.Minute}
		}
		if _, err := open().Acquire(ctx, on("a/x", "a/y")); err != nil {
			t.Fatal(err)
		}
		if _, err := open().Acquire(ctx, on("b/x")); err != nil {
			t.Errorf("disjoint: %v", err)
		}
		for _, overlapping := range [][]string{{"a/y"}, {"c/z", "b/x"}, nil} {
			if _, err := open().Acquire(ctx, on(overlapping...)); err == nil {
				t.Errorf("%v was leased twice", overlapping)
			}
		}
	})
}
