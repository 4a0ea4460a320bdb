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

// book is a state and what was written into it, kept beside.
type book struct {
	t     *testing.T
	dir   string
	store *state.Dir
	head  state.Head
	told  []*state.Generation // oldest first, with their records
	plans []*plan.Plan
	fresh [][]byte // objects to be put with the next generation
}

func newBook(t *testing.T) *book {
	dir := filepath.Join(t.TempDir(), "state")
	return &book{t: t, dir: dir, store: state.OpenDir(dir)}
}

// unit is a version of a unit, which is an object of the state.
func (b *book) unit(address, machine string, version int) plan.Record {
	raw := fmt.Appendf(nil, `{"address":%q,"version":%d}`, address, version)
	b.fresh = append(b.fresh, raw)
	return plan.Record{Address: address, Machine: machine, Backend: "systemd", Digest: digest.Named("unit", raw), Object: digest.Bytes(raw)}
}

// commit writes a generation.
func (b *book) commit(records []plan.Record) {
	b.t.Helper()
	ctx := context.Background()
	if err := b.store.Put(ctx, b.fresh...); err != nil {
		b.t.Fatal(err)
	}
	b.fresh = nil
	p := &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: "shop", Environment: "prod"}
	for _, r := range records {
		p.Units = append(p.Units, r.Placed())
	}
	object, err := state.PutPlan(ctx, b.store, p)
	if err != nil {
		b.t.Fatal(err)
	}
	g := &state.Generation{Number: len(b.told) + 1, Parent: b.head.Object, PlanObject: object, Records: slices.Clone(records), Applied: time.Unix(int64(len(b.told)), 0).UTC()}
	if err := state.Commit(ctx, b.store, b.head, g); err != nil {
		b.t.Fatal(err)
	}
	if b.head, err = b.store.Head(ctx); err != nil {
		b.t.Fatal(err)
	}
	b.told, b.plans = append(b.told, g), append(b.plans, p)
}

// live makes generations in which units come, go, change and move.
func (b *book) live(generations, units int) {
	r := rand.New(rand.NewPCG(3, 5))
	now := map[string]plan.Record{}
	for n := range generations {
		for range r.IntN(6) + units*max(0, 1-n) {
			a := fmt.Sprintf("lib%d/svc%d", r.IntN(20), r.IntN(units))
			switch was, stands := now[a]; {
			case stands && r.IntN(3) == 0:
				delete(now, a)
			case stands && r.IntN(2) == 0:
				was.Machine += "x"
				now[a] = was
			default:
				now[a] = b.unit(a, "m1", n)
			}
		}
		records := []plan.Record{}
		for _, rec := range now {
			records = append(records, rec)
		}
		slices.SortFunc(records, func(x, y plan.Record) int { return strings.Compare(x.Address, y.Address) })
		b.commit(records)
	}
}

// since is the plain way to say since when a unit stands as it does.
func (b *book) since(r plan.Record) int {
	at := len(b.told)
	for i := len(b.told) - 1; i >= 0; i-- {
		if !slices.ContainsFunc(b.told[i].Records, func(x plan.Record) bool {
			return x.Address == r.Address && x.Digest == r.Digest && x.Machine == r.Machine
		}) {
			break
		}
		at = i + 1
	}
	return at
}

func TestGenerationsShareWhatDidNotChange(t *testing.T) {
	ctx := context.Background()
	b := newBook(t)
	b.live(30, 500)
	store := state.OpenDir(b.dir)
	g, _, err := state.Current(ctx, store)
	if err != nil || !reflect.DeepEqual(g.Records, b.told[29].Records) {
		t.Fatalf("the newest differs: %v", err)
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
		if got, want := since[r.Address].Number, b.since(r); got != want {
			t.Errorf("%s stands since %d, not %d", r.Address, want, got)
		}
	}
	shared := 0
	for i, g := range list {
		p, err := state.LoadPlan(ctx, store, g)
		if want := b.plans[29-i]; err != nil || !reflect.DeepEqual(p, want) {
			t.Fatalf("the plan of %d differs: %v", g.Number, err)
		}
		var older *state.Generation
		var before []plan.Record
		if i < 29 {
			older, before = list[i+1], b.told[28-i].Records
		}
		now, was, err := reader.Changed(ctx, g, older)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := differing(now, was), differing(b.told[29-i].Records, before); !slices.Equal(got, want) {
			t.Errorf("generation %d changed %v, not %v", g.Number, want, got)
		}
		shared += len(b.told[29-i].Records) - len(now)
	}
	if shared == 0 {
		t.Error("nothing was shared")
	}
}

// differing lists what came, went or changed.
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

func TestWhatIsForgottenIsGoneAndTheRestIsWhole(t *testing.T) {
	ctx := context.Background()
	b := newBook(t)
	b.live(20, 200)
	if _, err := state.Prune(ctx, b.store, 0, false); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Put(ctx, []byte("of an apply that came to no end")); err != nil {
		t.Fatal(err)
	}
	before := size(t, b.dir)

	lease, err := b.store.Acquire(ctx, []string{"a/b"}, state.Owner{Who: "me@there", Verb: "apply", Host: "elsewhere"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var busy *state.ErrLeaseHeld
	if err := state.WithLease(ctx, b.store, "gc", func(context.Context) error { t.Error("and went on"); return nil }); !errors.As(err, &busy) {
		t.Errorf("while somebody is at work: %v", err)
	}
	b.store.Release(ctx, lease)

	if got, err := state.Prune(ctx, b.store, 0, false); err != nil || got.Objects != 1 || got.Generations != 0 {
		t.Errorf("without a limit: %+v, %v", got, err)
	}
	told, err := state.Prune(ctx, b.store, 4, true)
	if err != nil || told.Generations != 16 || size(t, b.dir) < before/2 {
		t.Errorf("only told: %+v, %v", told, err)
	}
	if got, err := state.Prune(ctx, b.store, 4, false); err != nil || got != told {
		t.Errorf("%+v was told, %+v done, %v", told, got, err)
	}
	if after := size(t, b.dir); after > before-told.Freed/2 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	for _, store := range []*state.Dir{b.store, state.OpenDir(b.dir)} {
		list, err := state.History(ctx, store, 0)
		if err != nil || len(list) != 4 || list[3].Number != 17 {
			t.Fatalf("%d generations, %v", len(list), err)
		}
		for i, g := range list {
			if p, err := state.LoadPlan(ctx, store, g); err != nil || !reflect.DeepEqual(p, b.plans[19-i]) {
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
	if got, err := state.Prune(ctx, b.store, 100, false); err != nil || got != (state.Pruned{}) {
		t.Errorf("nothing is left to forget: %+v, %v", got, err)
	}
	b.commit(b.told[19].Records[1:])
	if list, err := state.History(ctx, b.store, 0); err != nil || len(list) != 5 {
		t.Errorf("and it goes on: %d, %v", len(list), err)
	}
}

// TestForgettingRacesWithWork: one process applies, one forgets, others read, each
// as a process of its own does.
func TestForgettingRacesWithWork(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b := newBook(t)
	b.live(2, 100)
	var others sync.WaitGroup
	others.Go(func() {
		s := state.OpenDir(b.dir)
		for ctx.Err() == nil {
			var busy *state.ErrLeaseHeld
			time.Sleep(5 * time.Millisecond)
			if err := state.WithLease(context.Background(), s, "gc", func(ctx context.Context) error {
				_, err := state.Prune(ctx, s, 3, false)
				return err
			}); err != nil && !errors.As(err, &busy) {
				t.Errorf("forgetting: %v", err)
				return
			}
		}
	})
	for range 2 {
		others.Go(func() {
			for ctx.Err() == nil {
				s := state.OpenDir(b.dir)
				list, err := state.History(context.Background(), s, 0)
				if err != nil || len(list) == 0 {
					t.Errorf("reading: %d generations, %v", len(list), err)
					return
				}
			}
		})
	}
	mine := state.OpenDir(b.dir)
	for n := range 20 {
		lease, err := mine.Acquire(ctx, []string{"a/b"}, state.Owner{Who: "me@there", Verb: "apply", Host: "elsewhere"}, time.Minute)
		for ; err != nil; lease, err = mine.Acquire(ctx, []string{"a/b"}, state.Owner{Who: "me@there", Verb: "apply", Host: "elsewhere"}, time.Minute) {
			var busy *state.ErrLeaseHeld
			if !errors.As(err, &busy) {
				t.Fatal(err)
			}
		}
		records := slices.Clone(b.told[len(b.told)-1].Records)
		records[n%len(records)] = b.unit(records[n%len(records)].Address, "m1", 100+n%3) // some come back that were swept before
		b.commit(records)
		g, _, err := state.Current(ctx, state.OpenDir(b.dir))
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

// size is what the files of a folder hold.
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

// TestAStateOfFormerVersionsIsRead: generations held their records, and plans
// their units, in one object.
func TestAStateOfFormerVersionsIsRead(t *testing.T) {
	ctx := context.Background()
	b := newBook(t)
	put := func(v any) digest.Digest {
		t.Helper()
		raw, d, err := state.Object(v)
		if err == nil {
			err = b.store.Put(ctx, raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	records := []plan.Record{b.unit("a/one", "m1", 1), b.unit("a/two", "m1", 1)}
	for n := range 2 {
		p := &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: "shop", Environment: "prod"}
		for _, r := range records {
			p.Units = append(p.Units, r.Placed())
		}
		if err := b.store.Put(ctx, b.fresh...); err != nil {
			t.Fatal(err)
		}
		g := &state.Generation{Number: n + 1, Parent: b.head.Object, PlanObject: put(p), Records: slices.Clone(records)}
		head := state.Head{Generation: n + 1, Object: put(map[string]any{"number": n + 1, "parent": g.Parent, "planObject": g.PlanObject, "records": records})}
		if err := b.store.Swap(ctx, b.head, head); err != nil {
			t.Fatal(err)
		}
		b.head, b.told, b.plans = head, append(b.told, g), append(b.plans, p)
		records[1] = b.unit("a/two", "m1", 2)
	}
	b.commit(records)

	list, err := state.History(ctx, b.store, 0)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d generations, %v", len(list), err)
	}
	since, err := state.NewReader(b.store).Since(ctx, list)
	if err != nil || since["a/one"].Number != 1 || since["a/two"].Number != 2 {
		t.Errorf("%+v, %v", since, err)
	}
	for i, g := range list {
		if p, err := state.LoadPlan(ctx, b.store, g); err != nil || !reflect.DeepEqual(p, b.plans[2-i]) {
			t.Errorf("the plan of %d: %v", g.Number, err)
		}
	}
	if got, err := state.Prune(ctx, b.store, 2, false); err != nil || got.Generations != 1 {
		t.Errorf("%+v, %v", got, err)
	}

	// One of a version to come is not taken for something else.
	head := state.Head{Generation: 4, Object: put(map[string]any{"apiVersion": "defx/v9", "number": 4, "parent": b.head.Object})}
	if err := b.store.Swap(ctx, b.head, head); err != nil {
		t.Fatal(err)
	}
	if _, _, err := state.Current(ctx, b.store); err == nil || !strings.Contains(err.Error(), "generation 4: it is written in defx/v9, and this defx knows") {
		t.Errorf("%v", err)
	}
}
