package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"golang.org/x/sync/errgroup"
)

// Generation is the immutable record of what an apply left behind.
type Generation struct {
	APIVersion  string                   `json:"apiVersion"`
	Kind        string                   `json:"kind"` // "Generation"
	Number      int                      `json:"number"`
	Parent      digest.Digest            `json:"parent,omitempty"` // object of the one before
	Deployment  string                   `json:"deployment"`
	Environment string                   `json:"environment"`
	Plan        digest.Digest            `json:"plan"`               // its name
	PlanObject  digest.Digest            `json:"planObject"`         // where PutPlan keeps it
	ChangeSet   digest.Digest            `json:"changeSet"`          //
	Records     []plan.Record            `json:"-"`                  // sorted by address: what stands; kept in sheets, and read with Current or a Reader
	Chunks      []Chunk                  `json:"-"`                  // where the records are
	Machines    []*graph.Machine         `json:"machines"`           // how they were reached
	Renamed     map[string]string        `json:"renamed,omitempty"`  // address → the one that it had in the generation before
	LastGood    map[string]digest.Digest `json:"good,omitempty"`     // library → object: its last good functionalities
	Summary     Counts                   `json:"summary"`            //
	Failed      []string                 `json:"failed,omitempty"`   // addresses that did not become what the plan says
	Verb        string                   `json:"verb"`               // apply, rollback or destroy
	Applied     time.Time                `json:"applied"`            //
	By          string                   `json:"by"`                 // user@host
	Revision    string                   `json:"revision,omitempty"` // commit of the deployment's folder
}

// MarshalJSON says under "records" where they are.
func (g Generation) MarshalJSON() ([]byte, error) {
	type plain Generation
	return json.Marshal(struct {
		plain
		Records chunkIndex `json:"records"`
	}{plain(g), chunkIndex{g.Chunks}})
}

type chunkIndex struct {
	Chunks []Chunk `json:"sheets"`
}

// UnmarshalJSON reads "records" of versions before the sheets too, which were the
// records themselves.
func (g *Generation) UnmarshalJSON(raw []byte) error {
	type plain Generation
	kept := struct {
		*plain
		Records json.RawMessage `json:"records"`
	}{plain: (*plain)(g)}
	if err := json.Unmarshal(raw, &kept); err != nil {
		return err
	}
	if g.APIVersion != "" && g.APIVersion != plan.APIVersion {
		return fmt.Errorf("it is written in %s, and this defx knows %s: another version of defx applied it", g.APIVersion, plan.APIVersion)
	}
	if len(kept.Records) > 0 && kept.Records[0] == '{' {
		var in chunkIndex
		err := json.Unmarshal(kept.Records, &in)
		g.Chunks = in.Chunks
		return err
	}
	if len(kept.Records) == 0 {
		return nil
	}
	return json.Unmarshal(kept.Records, &g.Records)
}

// AddressAt gives the address that an address of the newest generation had in the
// generation with a number, given all since then, newest first.
func AddressAt(history []*Generation, number int) func(address string) string {
	return func(address string) string {
		for _, g := range history {
			if g.Number <= number {
				break
			}
			if was, ok := g.Renamed[address]; ok {
				address = was
			}
		}
		return address
	}
}

// Counts of units after an apply.
type Counts struct {
	Created     int `json:"created"`
	Updated     int `json:"updated"`
	Replaced    int `json:"replaced"`
	Moved       int `json:"moved"`
	Deleted     int `json:"deleted"`
	Unchanged   int `json:"unchanged"`
	Failed      int `json:"failed"`
	Skipped     int `json:"skipped"`
	Held        int `json:"held"`
	Quarantined int `json:"quarantined"`
}

// Chunk names a piece of a list that is sorted by address. Generations share the
// sheets in which nothing changed: what a change adds to the state is as large as
// the change, however much stands.
type Chunk struct {
	First  string        `json:"first"`  // address of its first unit
	Object digest.Digest `json:"object"` // a list of records, or of placed units
}

// isBoundary tells whether a sheet ends behind an address, which one of 64 does. It asks
// for nothing else, so that a unit that comes or goes touches its own sheet alone.
func isBoundary(address string) bool {
	h := fnv.New32a()
	h.Write([]byte(address))
	return h.Sum32()%64 == 0
}

// split cuts a list.
func split[T any](list []T, address func(T) string) (index []Chunk, objects [][]byte, err error) {
	for len(list) > 0 {
		n := 1
		for n < len(list) && !isBoundary(address(list[n-1])) {
			n++
		}
		raw, d, err := Object(list[:n])
		if err != nil {
			return nil, nil, err
		}
		index, objects = append(index, Chunk{address(list[0]), d}), append(objects, raw)
		list = list[n:]
	}
	return index, objects, nil
}

// readChunks reads what sheets cut.
func readChunks[T any](ctx context.Context, s Store, index []Chunk) ([]T, error) {
	parts := make([][]T, len(index))
	var g errgroup.Group
	g.SetLimit(4)
	for i, sheet := range index {
		raw, err := s.Get(ctx, sheet.Object)
		if err != nil {
			return nil, err
		}
		g.Go(func() error { return json.Unmarshal(raw, &parts[i]) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(parts...), nil
}

// storedPlan is a plan as it is kept: its units are in sheets.
type storedPlan struct {
	plan.Plan
	Units  []plan.Placed `json:"units,omitempty"` // as versions before the sheets kept them
	Chunks []Chunk       `json:"sheets,omitempty"`
}

// PutPlan keeps a plan and names the object that leads to all of it.
func PutPlan(ctx context.Context, s Store, p *plan.Plan) (digest.Digest, error) {
	kept := storedPlan{Plan: *p}
	kept.Plan.Units = nil
	index, objects, err := split(p.Units, func(u plan.Placed) string { return u.Address })
	if err != nil {
		return "", err
	}
	kept.Chunks = index
	raw, d, err := Object(kept)
	if err != nil {
		return "", err
	}
	return d, s.Put(ctx, append(objects, raw)...)
}

// LoadPlan reads the plan of a generation.
func LoadPlan(ctx context.Context, s Store, g *Generation) (*plan.Plan, error) {
	var kept storedPlan
	err := Load(ctx, s, g.PlanObject, &kept)
	p := kept.Plan
	if p.Units = kept.Units; err == nil && len(kept.Chunks) > 0 {
		p.Units, err = readChunks[plan.Placed](ctx, s, kept.Chunks)
	}
	if err != nil {
		return nil, fmt.Errorf("plan of generation %d: %w", g.Number, err)
	}
	return &p, nil
}

// LoadLastGood reads the last good functionalities of a generation: library → name → value.
func LoadLastGood(ctx context.Context, s Store, g *Generation) (map[string]map[string]json.RawMessage, error) {
	out := map[string]map[string]json.RawMessage{}
	for lib, object := range g.LastGood {
		var funcs map[string]json.RawMessage
		if err := Load(ctx, s, object, &funcs); err != nil {
			return nil, fmt.Errorf("last good version of library %s: %w", lib, err)
		}
		out[lib] = funcs
	}
	return out, nil
}

// Commit keeps a generation and moves the head from old to it, or fails with
// ErrMoved.
func Commit(ctx context.Context, s Store, old Head, g *Generation) error {
	index, objects, err := split(g.Records, func(r plan.Record) string { return r.Address })
	if err != nil {
		return err
	}
	kept := *g
	kept.Records, kept.Chunks = nil, index
	raw, d, err := Object(kept)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, append(objects, raw)...); err != nil {
		return err
	}
	return s.Swap(ctx, old, Head{Generation: g.Number, Object: d})
}

// Current reads the newest generation with its records; nil if there is none.
func Current(ctx context.Context, s Store) (g *Generation, h Head, err error) {
	h, err = withHead(ctx, s, func(h Head) error {
		g, err = readGeneration(ctx, s, h.Object)
		return err
	})
	return g, h, err
}

// withHead reads what the head leads to. If that was forgotten while it was read, the
// head has moved on, and what it leads to now is read.
func withHead(ctx context.Context, s Store, read func(Head) error) (Head, error) {
	h, err := s.Head(ctx)
	for err == nil && h.Generation > 0 {
		rerr := read(h)
		if rerr == nil {
			break
		}
		was := h
		if h, err = s.Head(ctx); err == nil && (h == was || !errors.Is(rerr, ErrNotFound)) {
			return h, fmt.Errorf("generation %d: %w", h.Generation, rerr)
		}
	}
	return h, err
}

// readGeneration reads one. A folder knows the one that it read last: an object
// never changes.
func readGeneration(ctx context.Context, s Store, object digest.Digest) (*Generation, error) {
	dir, _ := s.(*Dir)
	if dir != nil {
		dir.readMu.Lock()
		defer dir.readMu.Unlock()
		if dir.newestAt == object {
			return dir.newest.clone(), nil
		}
	}
	g := &Generation{}
	err := Load(ctx, s, object, g)
	if err == nil && len(g.Chunks) > 0 {
		g.Records, err = readChunks[plan.Record](ctx, s, g.Chunks)
	}
	if err != nil {
		return nil, err
	}
	if dir != nil {
		dir.newest, dir.newestAt = g.clone(), object
	}
	return g, nil
}

// clone is a copy of which records and machines may be changed, but not what these hold.
func (g *Generation) clone() *Generation {
	out := *g
	out.Records, out.Machines = slices.Clone(g.Records), slices.Clone(g.Machines)
	for i, m := range g.Machines {
		one := *m
		out.Machines[i] = &one
	}
	return &out
}

// History reads generations without their records, newest first, until limit (0 = all).
func History(ctx context.Context, s Store, limit int) (out []*Generation, err error) {
	_, err = withHead(ctx, s, func(h Head) error {
		out = nil
		oldest, err := s.Oldest(ctx)
		if err != nil {
			return err
		}
		for next := h.Object; next != "" && (limit == 0 || len(out) < limit); next = out[len(out)-1].Parent {
			g := &Generation{}
			if err := Load(ctx, s, next, g); err != nil {
				if now, _ := s.Oldest(ctx); len(out) > 0 && out[len(out)-1].Number <= now.Generation {
					break // it was forgotten just now
				}
				return err
			}
			if out = append(out, g); next == oldest.Object {
				break
			}
		}
		return nil
	})
	return out, err
}

// A Reader reads the records of generations. What they share it reads once.
type Reader struct {
	store  Store
	chunks map[digest.Digest][]plan.Record
}

// NewReader reads from a store.
func NewReader(s Store) *Reader { return &Reader{s, map[digest.Digest][]plan.Record{}} }

// chunksOf names the sheets of a generation; those of one from before there were
// sheets are made here.
func (r *Reader) chunksOf(g *Generation) ([]Chunk, error) {
	if len(g.Chunks) > 0 || len(g.Records) == 0 {
		return g.Chunks, nil
	}
	index, objects, err := split(g.Records, func(r plan.Record) string { return r.Address })
	for i, sheet := range index {
		if _, known := r.chunks[sheet.Object]; err == nil && !known {
			var list []plan.Record
			err = json.Unmarshal(objects[i], &list)
			r.chunks[sheet.Object] = list
		}
	}
	if err == nil {
		g.Chunks, g.Records = index, nil
	}
	return index, err
}

// records reads one.
func (r *Reader) records(ctx context.Context, d digest.Digest) ([]plan.Record, error) {
	list, ok := r.chunks[d]
	if ok {
		return list, nil
	}
	err := Load(ctx, r.store, d, &list)
	if err == nil {
		r.chunks[d] = list
	}
	return list, err
}

// Changed gives the records of two generations that may differ: those on sheets
// that they do not share. Without an older one that is all of the newer.
func (r *Reader) Changed(ctx context.Context, newer, older *Generation) (now, before []plan.Record, err error) {
	if older == nil {
		older = &Generation{}
	}
	a, errA := r.chunksOf(newer)
	b, errB := r.chunksOf(older)
	if err := errors.Join(errA, errB); err != nil {
		return nil, nil, err
	}
	only := func(list, other []Chunk) (out []plan.Record, err error) {
		known := map[digest.Digest]bool{}
		for _, sheet := range other {
			known[sheet.Object] = true
		}
		for _, sheet := range list {
			if known[sheet.Object] {
				continue
			}
			part, err := r.records(ctx, sheet.Object)
			if err != nil {
				return nil, err
			}
			out = append(out, part...)
		}
		return out, nil
	}
	if now, err = only(a, b); err == nil {
		before, err = only(b, a)
	}
	return now, before, err
}

// Each calls f for every record of some generations, once for each sheet that they share.
func (r *Reader) Each(ctx context.Context, list []*Generation, f func(plan.Record) error) error {
	seen := map[digest.Digest]bool{}
	for _, g := range list {
		index, err := r.chunksOf(g)
		if err != nil {
			return err
		}
		for _, sheet := range index {
			if seen[sheet.Object] {
				continue
			}
			seen[sheet.Object] = true
			part, err := r.records(ctx, sheet.Object)
			if err != nil {
				return err
			}
			for _, rec := range part {
				if err := f(rec); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Since gives for each unit of the newest generation the oldest one, without a gap,
// in which it stood as it does now. The list is a History.
func (r *Reader) Since(ctx context.Context, list []*Generation) (map[string]*Generation, error) {
	since, newest := map[string]*Generation{}, map[string]plan.Record{}
	if len(list) == 0 {
		return since, nil
	}
	index, err := r.chunksOf(list[0])
	if err != nil {
		return nil, err
	}
	whole := slices.Clone(index) // sheets that all generations so far have
	own := map[digest.Digest][]string{}
	for _, sheet := range whole {
		part, err := r.records(ctx, sheet.Object)
		if err != nil {
			return nil, err
		}
		for _, rec := range part {
			newest[rec.Address], own[sheet.Object] = rec, append(own[sheet.Object], rec.Address)
		}
	}
	var single []string // units of other sheets that were as they are in all so far
	for i, g := range list[1:] {
		if index, err = r.chunksOf(g); err != nil {
			return nil, err
		}
		here := map[digest.Digest]bool{}
		for _, sheet := range index {
			here[sheet.Object] = true
		}
		whole = slices.DeleteFunc(whole, func(sheet Chunk) bool {
			if !here[sheet.Object] {
				single = append(single, own[sheet.Object]...)
			}
			return !here[sheet.Object]
		})
		same := single[:0]
		for _, a := range single {
			rec, err := r.find(ctx, index, a)
			if err != nil {
				return nil, err
			}
			if rec != nil && rec.Digest == newest[a].Digest && rec.Machine == newest[a].Machine {
				same = append(same, a)
			} else {
				since[a] = list[i]
			}
		}
		single = same
		if len(whole)+len(single) == 0 {
			break
		}
	}
	for _, sheet := range whole {
		single = append(single, own[sheet.Object]...)
	}
	for _, a := range single {
		since[a] = list[len(list)-1]
	}
	return since, nil
}

// find looks a unit up in the sheets of a generation; nil if it is not there.
func (r *Reader) find(ctx context.Context, index []Chunk, address string) (*plan.Record, error) {
	i, exact := slices.BinarySearchFunc(index, address, func(s Chunk, a string) int { return strings.Compare(s.First, a) })
	if !exact {
		i--
	}
	if i < 0 {
		return nil, nil
	}
	part, err := r.records(ctx, index[i].Object)
	if err != nil {
		return nil, err
	}
	j, found := slices.BinarySearchFunc(part, address, func(rec plan.Record, a string) int { return strings.Compare(rec.Address, a) })
	if !found {
		return nil, nil
	}
	return &part[j], nil
}
