package state_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
)

// history is a store and the generations written to it.
type history struct {
	t           *testing.T
	dir         string
	store       *state.Dir
	head        state.Head
	generations []*state.Generation // oldest first, with their records
	plans       []*plan.Plan
	pending     [][]byte // objects to put with the next generation
}

func newHistory(t *testing.T) *history {
	dir := filepath.Join(t.TempDir(), "state")
	h := &history{t: t, dir: dir, store: state.OpenDir(dir)}
	ctx := context.Background()
	if err := state.WithLease(ctx, h.store, state.LeaseOptions{}, func(context.Context, state.Lease) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.head, err = h.store.Head(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// unit returns the record of a version of a unit and adds its object to pending.
func (h *history) unit(address, machine string, version int) plan.Record {
	raw := fmt.Appendf(nil, `{"address":%q,"version":%d}`, address, version)
	h.pending = append(h.pending, raw)
	return plan.Record{Address: address, Machine: machine, Backend: "systemd", Digest: digest.Named("unit", raw), Object: digest.Bytes(raw)}
}

// commit writes a generation.
func (h *history) commit(records []plan.Record) {
	h.t.Helper()
	ctx := context.Background()
	if err := h.store.Put(ctx, h.pending...); err != nil {
		h.t.Fatal(err)
	}
	h.pending = nil
	p := &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: "shop", Environment: "prod"}
	for _, r := range records {
		p.Units = append(p.Units, r.Placed())
	}
	object, err := state.PutPlan(ctx, h.store, p)
	if err != nil {
		h.t.Fatal(err)
	}
	g := &state.Generation{Number: len(h.generations) + 1, Parent: h.head.Object, PlanObject: object, Records: slices.Clone(records), Applied: time.Unix(int64(len(h.generations)), 0).UTC()}
	if err := state.Commit(ctx, h.store, h.head, g); err != nil {
		h.t.Fatal(err)
	}
	if h.head, err = h.store.Head(ctx); err != nil {
		h.t.Fatal(err)
	}
	h.generations, h.plans = append(h.generations, g), append(h.plans, p)
}

// fill commits random generations in which units are added, deleted, changed and moved.
func (h *history) fill(generations, units int) {
	r := rand.New(rand.NewPCG(3, 5))
	now := map[string]plan.Record{}
	for n := range generations {
		for range r.IntN(6) + units*max(0, 1-n) {
			a := fmt.Sprintf("lib%d/svc%d", r.IntN(20), r.IntN(units))
			switch rec, exists := now[a]; {
			case exists && r.IntN(3) == 0:
				delete(now, a)
			case exists && r.IntN(2) == 0:
				rec.Machine += "x"
				now[a] = rec
			default:
				now[a] = h.unit(a, "m1", n)
			}
		}
		records := []plan.Record{}
		for _, rec := range now {
			records = append(records, rec)
		}
		slices.SortFunc(records, func(x, y plan.Record) int { return strings.Compare(x.Address, y.Address) })
		h.commit(records)
	}
}

// since is the reference implementation of Reader.Since for one record.
func (h *history) since(r plan.Record) int {
	at := len(h.generations)
	for i := len(h.generations) - 1; i >= 0; i-- {
		if !slices.ContainsFunc(h.generations[i].Records, func(x plan.Record) bool {
			return x.Address == r.Address && x.Digest == r.Digest && x.Machine == r.Machine
		}) {
			break
		}
		at = i + 1
	}
	return at
}

func TestReader_SharedChunksGiveSameResults(t *testing.T) {
	ctx := context.Background()
	h := newHistory(t)
	h.fill(30, 500)
	store := state.OpenDir(h.dir)
	g, _, err := state.Current(ctx, store)
	if err != nil || !reflect.DeepEqual(g.Records, h.generations[29].Records) {
		t.Fatalf("the newest generation differs: %v", err)
	}
	list, err := state.History(ctx, store, 0)
	if err != nil || len(list) != 30 {
		t.Fatalf("%d generations, %v", len(list), err)
	}
	reader := state.NewReader(store)
	since, err := reader.Since(ctx, list)
	if err != nil || len(since) != len(g.Records) {
		t.Fatalf("since: %d of %d, %v", len(since), len(g.Records), err)
	}
	for _, r := range g.Records {
		if got, want := since[r.Address].Number, h.since(r); got != want {
			t.Errorf("%s: since generation %d, want %d", r.Address, got, want)
		}
	}
	shared := 0
	for i, g := range list {
		p, err := state.LoadPlan(ctx, store, g)
		if want := h.plans[29-i]; err != nil || !reflect.DeepEqual(p, want) {
			t.Fatalf("the plan of %d differs: %v", g.Number, err)
		}
		var older *state.Generation
		var before []plan.Record
		if i < 29 {
			older, before = list[i+1], h.generations[28-i].Records
		}
		now, was, err := reader.Changed(ctx, g, older)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := differing(now, was), differing(h.generations[29-i].Records, before); !slices.Equal(got, want) {
			t.Errorf("generation %d: changed %v, want %v", g.Number, got, want)
		}
		shared += len(h.generations[29-i].Records) - len(now)
	}
	if shared == 0 {
		t.Error("no chunk was shared")
	}
}

// differing lists added and removed records; a changed one is both.
func differing(now, before []plan.Record) (out []string) {
	line := func(list []plan.Record) map[string]bool {
		m := map[string]bool{}
		for _, r := range list {
			m[r.Address+" "+r.Machine+" "+string(r.Digest)] = true
		}
		return m
	}
	a, b := line(now), line(before)
	for x := range a {
		if !b[x] {
			out = append(out, "+"+x)
		}
	}
	for x := range b {
		if !a[x] {
			out = append(out, "-"+x)
		}
	}
	slices.Sort(out)
	return out
}

func TestPrune_RemovesOldGenerationsAndKeepsTheRest(t *testing.T) {
	ctx := context.Background()
	h := newHistory(t)
	h.fill(20, 200)
	if _, err := state.Prune(ctx, h.store, 0, false); err != nil {
		t.Fatal(err)
	}
	if err := h.store.Put(ctx, []byte("of an apply that was killed")); err != nil {
		t.Fatal(err)
	}
	before := size(t, h.dir)

	lease, err := h.store.Acquire(ctx, someLease)
	if err != nil {
		t.Fatal(err)
	}
	var busy *state.ErrLeaseHeld
	if err := state.WithLease(ctx, h.store, state.LeaseOptions{Verb: "gc"}, func(context.Context, state.Lease) error {
		t.Error("f was called without the lease")
		return nil
	}); !errors.As(err, &busy) {
		t.Errorf("while another process holds a lease: %v", err)
	}
	h.store.Release(ctx, lease)

	if got, err := state.Prune(ctx, h.store, 0, false); err != nil || got.Objects != 1 || got.Generations != 0 {
		t.Errorf("keep all generations: %+v, %v", got, err)
	}
	dry, err := state.Prune(ctx, h.store, 4, true)
	if err != nil || dry.Generations != 16 || size(t, h.dir) < before/2 {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	if got, err := state.Prune(ctx, h.store, 4, false); err != nil || got != dry {
		t.Errorf("dry run %+v, real run %+v, %v", dry, got, err)
	}
	if after := size(t, h.dir); after > before-dry.Freed/2 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	for _, store := range []*state.Dir{h.store, state.OpenDir(h.dir)} {
		list, err := state.History(ctx, store, 0)
		if err != nil || len(list) != 4 || list[3].Number != 17 {
			t.Fatalf("%d generations, %v", len(list), err)
		}
		for i, g := range list {
			if p, err := state.LoadPlan(ctx, store, g); err != nil || !reflect.DeepEqual(p, h.plans[19-i]) {
				t.Errorf("the plan of %d: %v", g.Number, err)
			}
		}
		if err := state.NewReader(store).Each(ctx, list, func(r plan.Record) error {
			_, err := store.Get(ctx, r.Object)
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	if got, err := state.Prune(ctx, h.store, 100, false); err != nil || got != (state.Pruned{}) {
		t.Errorf("nothing to prune: %+v, %v", got, err)
	}
	h.commit(h.generations[19].Records[1:])
	if list, err := state.History(ctx, h.store, 0); err != nil || len(list) != 5 {
		t.Errorf("after another commit: %d generations, %v", len(list), err)
	}
}

// someLease is a lease of an apply on some address.
var someLease = state.LeaseRequest{Addresses: []string{"a/b"}, Owner: state.Owner{Who: "me@there", Verb: "apply", Host: "elsewhere"}, TTL: time.Hour}

// TestPrune_ConcurrentWithApplyAndReaders: one process applies, one prunes, two
// read, each with its own store on the same directory.
func TestPrune_ConcurrentWithApplyAndReaders(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h := newHistory(t)
	h.fill(2, 100)
	var others sync.WaitGroup
	others.Go(func() {
		s := state.OpenDir(h.dir)
		for ctx.Err() == nil {
			var busy *state.ErrLeaseHeld
			time.Sleep(5 * time.Millisecond)
			if err := state.WithLease(context.Background(), s, state.LeaseOptions{Verb: "gc"}, func(ctx context.Context, _ state.Lease) error {
				_, err := state.Prune(ctx, s, 3, false)
				return err
			}); err != nil && !errors.As(err, &busy) {
				t.Errorf("prune: %v", err)
				return
			}
		}
	})
	for range 2 {
		others.Go(func() {
			for ctx.Err() == nil {
				s := state.OpenDir(h.dir)
				list, err := state.History(context.Background(), s, 0)
				if err != nil || len(list) == 0 {
					t.Errorf("read: %d generations, %v", len(list), err)
					return
				}
			}
		})
	}
	mine := state.OpenDir(h.dir)
	for n := range 20 {
		lease, err := mine.Acquire(ctx, someLease)
		for ; err != nil; lease, err = mine.Acquire(ctx, someLease) {
			var busy *state.ErrLeaseHeld
			if !errors.As(err, &busy) {
				t.Fatal(err)
			}
		}
		records := slices.Clone(h.generations[len(h.generations)-1].Records)
		records[n%len(records)] = h.unit(records[n%len(records)].Address, "m1", 100+n%3) // some of these were pruned before
		h.commit(records)
		g, _, err := state.Current(ctx, state.OpenDir(h.dir))
		if err != nil || !reflect.DeepEqual(g.Records, records) {
			t.Fatalf("round %d: %v", n, err)
		}
		for _, r := range records {
			if _, err := mine.Get(ctx, r.Object); err != nil {
				t.Fatalf("round %d: %s: %v", n, r.Address, err)
			}
		}
		if err := mine.Release(ctx, lease); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	others.Wait()
}

// size returns the total size of the files below a directory.
func size(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestHistory_ReadsFormatBeforeChunks: generations held their records, and plans
// their units, in one object.
func TestHistory_ReadsFormatBeforeChunks(t *testing.T) {
	ctx := context.Background()
	h := newHistory(t)
	put := func(v any) digest.Digest {
		t.Helper()
		raw, d, err := state.Object(v)
		if err == nil {
			err = h.store.Put(ctx, raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	records := []plan.Record{h.unit("a/one", "m1", 1), h.unit("a/two", "m1", 1)}
	for n := range 2 {
		p := &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: "shop", Environment: "prod"}
		for _, r := range records {
			p.Units = append(p.Units, r.Placed())
		}
		if err := h.store.Put(ctx, h.pending...); err != nil {
			t.Fatal(err)
		}
		g := &state.Generation{Number: n + 1, Parent: h.head.Object, PlanObject: put(p), Records: slices.Clone(records)}
		head := state.Head{Format: state.Format, Lineage: h.head.Lineage, Generation: n + 1, Object: put(map[string]any{"number": n + 1, "parent": g.Parent, "planObject": g.PlanObject, "records": records})}
		if err := h.store.Swap(ctx, h.head, head); err != nil {
			t.Fatal(err)
		}
		h.head, h.generations, h.plans = head, append(h.generations, g), append(h.plans, p)
		records[1] = h.unit("a/two", "m1", 2)
	}
	h.commit(records)

	list, err := state.History(ctx, h.store, 0)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d generations, %v", len(list), err)
	}
	since, err := state.NewReader(h.store).Since(ctx, list)
	if err != nil || since["a/one"].Number != 1 || since["a/two"].Number != 2 {
		t.Errorf("%+v, %v", since, err)
	}
	for i, g := range list {
		if p, err := state.LoadPlan(ctx, h.store, g); err != nil || !reflect.DeepEqual(p, h.plans[2-i]) {
			t.Errorf("the plan of %d: %v", g.Number, err)
		}
	}
	if got, err := state.Prune(ctx, h.store, 2, false); err != nil || got.Generations != 1 {
		t.Errorf("%+v, %v", got, err)
	}

	// A generation of a later format is refused.
	head := state.Head{Format: state.Format, Lineage: h.head.Lineage, Generation: 4, Object: put(map[string]any{"apiVersion": "defx/v9", "number": 4, "parent": h.head.Object})}
	if err := h.store.Swap(ctx, h.head, head); err != nil {
		t.Fatal(err)
	}
	if _, _, err := state.Current(ctx, h.store); err == nil || !strings.Contains(err.Error(), "generation 4: unsupported format defx/v9 (this defx supports") {
		t.Errorf("%v", err)
	}
}

// TestAncestry_NewStateKnowsItsFirstApply checks that an apply which read a state before
// anything was written accepts what another first apply has done since.
func TestAncestry_NewStateKnowsItsFirstApply(t *testing.T) {
	s := state.OpenDir(filepath.Join(t.TempDir(), "state"))
	a := state.NewAncestry(s, state.Head{}, nil)
	if lineage, err := a.Lineage(t.Context()); lineage != "" || err != nil {
		t.Fatal(lineage, err)
	}
	head := state.Head{Format: state.Format, Lineage: state.NewID()}
	if err := s.Swap(t.Context(), state.Head{}, head); err != nil {
		t.Fatal(err)
	}
	if lineage, err := a.Lineage(t.Context()); lineage != head.Lineage || err != nil {
		t.Error(lineage, err)
	}
}
