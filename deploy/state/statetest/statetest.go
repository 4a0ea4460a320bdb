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

// Run tests a kind of store. It calls newPlace once per test to create an empty
// place; each call of open then opens a store on this place, as another process
// would do.
func Run(t *testing.T, newPlace func(t *testing.T) (open func() state.Store)) {
	ctx := context.Background()
	head := func(n int) state.Head {
		return state.Head{Generation: n, Object: digest.Bytes(fmt.Append(nil, n))}
	}
	me := state.Owner{Who: "me@here", Verb: "apply", Host: "elsewhere", PID: 1}

	t.Run("Head_EmptyStore", func(t *testing.T) {
		s := newPlace(t)()
		if h, err := s.Head(ctx); err != nil || h != (state.Head{}) {
			t.Errorf("%+v, %v", h, err)
		}
		if _, err := s.Get(ctx, digest.Bytes([]byte("x"))); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Get_ObjectsPutByAnotherProcess", func(t *testing.T) {
		open := newPlace(t)
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
		open := newPlace(t)
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
		count, size, err := s.GC(ctx, head(7), alive, true)
		if err != nil || count != 60 || size == 0 {
			t.Fatalf("dry run: %d objects of %d bytes, %v", count, size, err)
		}
		if oldest, err := s.Oldest(ctx); err != nil || oldest != (state.Head{}) {
			t.Errorf("a dry run set the oldest generation: %+v, %v", oldest, err)
		}
		if again, bytes, err := other.GC(ctx, head(7), alive, false); err != nil || again != count || bytes != size {
			t.Fatalf("removed %d objects of %d bytes, %v", again, bytes, err)
		}
		if oldest, err := open().Oldest(ctx); err != nil || oldest != head(7) {
			t.Errorf("the oldest generation is %+v, %v", oldest, err)
		}
		if n, _, err := s.GC(ctx, head(7), alive, false); err != nil || n != 0 {
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
		s := newPlace(t)()
		if err := s.Put(ctx, []byte{}, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(ctx, digest.Bytes(nil)); err != nil || len(got) != 0 {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("Swap_FailsIfHeadMoved", func(t *testing.T) {
		open := newPlace(t)
		s := open()
		if err := s.Swap(ctx, state.Head{}, head(1)); err != nil {
			t.Fatal(err)
		}
		if err := s.Swap(ctx, state.Head{}, head(1)); !errors.Is(err, state.ErrHeadMoved) {
			t.Errorf("%v", err)
		}
		if h, err := open().Head(ctx); err != nil || h != head(1) {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("Swap_OneOfManyConcurrentCallersWins", func(t *testing.T) {
		open := newPlace(t)
		for round := range 20 {
			old := state.Head{}
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
	t.Run("Acquire_FailsUntilReleased", func(t *testing.T) {
		open := newPlace(t)
		a, err := open().Acquire(ctx, nil, me, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var busy *state.ErrLeaseHeld
		if _, err := open().Acquire(ctx, nil, me, time.Minute); !errors.As(err, &busy) || busy.Holder.Token != a.Token {
			t.Fatalf("%v", err)
		}
		if err := open().Release(ctx, a); err != nil {
			t.Fatal(err)
		}
		b, err := open().Acquire(ctx, nil, me, time.Minute)
		if err != nil || b.Token <= a.Token {
			t.Errorf("token %d after %d, %v", b.Token, a.Token, err)
		}
		if err := open().Release(ctx, a); err != nil {
			t.Errorf("releasing a lease that is not held: %v", err)
		}
	})
	t.Run("Renew_FailsAfterExpiry", func(t *testing.T) {
		open := newPlace(t)
		a, err := open().Acquire(ctx, nil, me, -time.Second)
		if err != nil {
			t.Fatal(err)
		}
		b, err := open().Acquire(ctx, nil, me, time.Minute)
		if err != nil || b.Token <= a.Token {
			t.Fatalf("%+v, %v", b, err)
		}
		if err := open().Renew(ctx, a, time.Minute); err == nil {
			t.Error("a lost lease was renewed")
		}
		if err := open().Renew(ctx, b, time.Minute); err != nil {
			t.Error(err)
		}
	})
	t.Run("RaiseToken_OnlyForCurrentHolder", func(t *testing.T) {
		open := newPlace(t)
		a, err := open().Acquire(ctx, nil, me, -time.Second)
		if err != nil {
			t.Fatal(err)
		}
		b, err := open().Acquire(ctx, nil, me, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if token, err := open().RaiseToken(ctx, a, 40); err == nil {
			t.Errorf("the holder of a lost lease got token %d", token)
		}
		token, err := open().RaiseToken(ctx, b, 40)
		if err != nil || token <= 40 {
			t.Fatalf("%d, %v", token, err)
		}
		if err := errors.Join(open().Renew(ctx, b, time.Minute), open().Release(ctx, b)); err != nil {
			t.Error(err)
		}
		if c, err := open().Acquire(ctx, nil, me, time.Minute); err != nil || c.Token <= token {
			t.Errorf("token %d after %d, %v", c.Token, token, err)
		}
	})
	t.Run("Acquire_DisjointAddresses", func(t *testing.T) {
		open := newPlace(t)
		if _, err := open().Acquire(ctx, []string{"a/x", "a/y"}, me, time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := open().Acquire(ctx, []string{"b/x"}, me, time.Minute); err != nil {
			t.Errorf("disjoint: %v", err)
		}
		for _, overlapping := range [][]string{{"a/y"}, {"c/z", "b/x"}, nil} {
			if _, err := open().Acquire(ctx, overlapping, me, time.Minute); err == nil {
				t.Errorf("%v was leased twice", overlapping)
			}
		}
	})
}
