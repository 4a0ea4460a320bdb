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
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"golang.org/x/sync/errgroup"
)

// Generation is the immutable record of the result of an apply.
type Generation struct {
	APIVersion  string                   `json:"apiVersion"`
	Kind        string                   `json:"kind"` // "Generation"
	Number      int                      `json:"number"`
	Parent      digest.Digest            `json:"parent,omitempty"`   // object of the previous generation
	Lineage     string                   `json:"lineage,omitempty"`  // of the state; absent before format 2
	Apply       string                   `json:"apply,omitempty"`    // ID of the apply that made it; absent before format 2
	Finished    []string                 `json:"finished,omitempty"` // IDs of interrupted applies that it finished, sorted
	Token       int64                    `json:"token,omitempty"`    // fencing token of the apply
	Deployment  string                   `json:"deployment"`
	Environment string                   `json:"environment"`
	Plan        digest.Digest            `json:"plan"`               // digest of the plan
	PlanObject  digest.Digest            `json:"planObject"`         // the object that PutPlan has returned
	ChangeSet   digest.Digest            `json:"changeSet"`          //
	Records     []plan.Record            `json:"-"`                  // the deployed units, sorted by address; stored in Chunks, read by Current or a Reader
	Chunks      []Chunk                  `json:"-"`                  // the objects that hold the records
	Machines    []*graph.Machine         `json:"machines"`           // of the records, with their connections
	Renamed     map[string]string        `json:"renamed,omitempty"`  // address → address in the previous generation
	LastGood    map[string]digest.Digest `json:"good,omitempty"`     // library → object that holds its last good functionalities
	Summary     Counts                   `json:"summary"`            //
	Failed      []string                 `json:"failed,omitempty"`   // addresses whose action failed
	Outcomes    []Outcome                `json:"outcomes,omitempty"` // what did not become as it was wanted, sorted by address
	Removals    []plan.Removal           `json:"removals,omitempty"` // what still lies on machines that could not be reached, sorted
	Verb        string                   `json:"verb"`               // apply, rollback or destroy
	Applied     time.Time                `json:"applied"`            //
	By          string                   `json:"by"`                 // user@host
	Revision    string                   `json:"revision,omitempty"` // commit of the deployment's directory
}

// Outcome is why a unit did not become what an apply wanted.
type Outcome struct {
	Address string        `json:"address"`
	Machine string        `json:"machine,omitempty"` // "" = a module
	Outcome string        `json:"outcome"`           // one of the constants below
	Digest  digest.Digest `json:"digest,omitempty"`  // of the unit that was wanted; empty = it was to be deleted
	Reason  string        `json:"reason"`            // one line
}

// Kinds of outcomes.
const (
	OutcomeFailed      = "failed"      // the action failed
	OutcomeRolledBack  = "rolledBack"  // the action failed, and the previous version was restored
	OutcomeSkipped     = "skipped"     // something that it needs failed
	OutcomeInterrupted = "interrupted" // the apply ended before
)

// MarshalJSON encodes the chunks of the records under "records".
func (g Generation) MarshalJSON() ([]byte, error) {
	type plain Generation
	return json.Marshal(struct {
		plain
		Records chunkIndex `json:"records"`
	}{plain(g), chunkIndex{g.Chunks}})
}

// chunkIndex is the JSON form of a chunked list.
type chunkIndex struct {
	Chunks []Chunk `json:"sheets"`
}

// UnmarshalJSON also accepts the format of versions before chunks, in which
// "records" is the list of records itself.
func (g *Generation) UnmarshalJSON(raw []byte) error {
	type plain Generation
	doc := struct {
		*plain
		Records json.RawMessage `json:"records"`
	}{plain: (*plain)(g)}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return err
	}
	if g.APIVersion != "" && g.APIVersion != plan.APIVersion {
		return problem(fmt.Errorf("unsupported format %s (this defx supports %s): a newer version of defx has written it", g.APIVersion, plan.APIVersion), "update defx; nothing was changed")
	}
	if len(doc.Records) > 0 && doc.Records[0] == '{' {
		var in chunkIndex
		err := json.Unmarshal(doc.Records, &in)
		g.Chunks = in.Chunks
		return err
	}
	if len(doc.Records) == 0 {
		return nil
	}
	return json.Unmarshal(doc.Records, &g.Records)
}

// AddressAt returns a function that maps an address of the newest generation to
// the address that the same unit had in generation number. The history lists all
// generations since then, newest first.
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

// Counts is the number of units by the outcome of an apply.
type Counts struct {
	Created     int `json:"created"`
	Updated     int `json:"updated"`
	Replaced    int `json:"replaced"`
	Moved       int `json:"moved"`
	Deleted     int `json:"deleted"`
	Repaired    int `json:"repaired,omitempty"` // equal to the plan, but not on their machines
	Unchanged   int `json:"unchanged"`
	Failed      int `json:"failed"`
	Skipped     int `json:"skipped"`
	Held        int `json:"held"`
	Quarantined int `json:"quarantined"`
}

// Chunk is a reference to a part of a list that is sorted by address.
// Generations share the chunks in which nothing changed, so a change adds to the
// state in proportion to its own size, not to the size of the deployment.
type Chunk struct {
	First  string        `json:"first"`  // address of its first element
	Object digest.Digest `json:"object"` // a list of records or of placed units
}

// isBoundary reports whether a chunk ends after address, which is the case for 1
// in 64 addresses on average. It depends on the address only (content-defined
// chunking), so adding or removing a unit changes only the chunk around it.
func isBoundary(address string) bool {
	h := fnv.New32a()
	h.Write([]byte(address))
	return h.Sum32()%64 == 0
}

// split encodes a list as chunks. It returns references to them and their content.
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

// readChunks reads a list that split has encoded.
func readChunks[T any](ctx context.Context, s Store, index []Chunk) ([]T, error) {
	parts := make([][]T, len(index))
	var g errgroup.Group
	g.SetLimit(4)
	for i, c := range index {
		raw, err := s.Get(ctx, c.Object)
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

// storedPlan is the stored form of a plan: its units are in chunks.
type storedPlan struct {
	plan.Plan
	Units  []plan.Placed `json:"units,omitempty"` // only in plans of versions before chunks
	Chunks []Chunk       `json:"sheets,omitempty"`
}

// PutPlan stores a plan and returns the object from which LoadPlan reads it.
func PutPlan(ctx context.Context, s Store, p *plan.Plan) (digest.Digest, error) {
	stored := storedPlan{Plan: *p}
	stored.Plan.Units = nil
	index, objects, err := split(p.Units, func(u plan.Placed) string { return u.Address })
	if err != nil {
		return "", err
	}
	stored.Chunks = index
	raw, d, err := Object(stored)
	if err != nil {
		return "", err
	}
	return d, s.Put(ctx, append(objects, raw)...)
}

// LoadPlan reads the plan of a generation.
func LoadPlan(ctx context.Context, s Store, g *Generation) (*plan.Plan, error) {
	var stored storedPlan
	err := Load(ctx, s, g.PlanObject, &stored)
	p := stored.Plan
	if p.Units = stored.Units; err == nil && len(stored.Chunks) > 0 {
		p.Units, err = readChunks[plan.Placed](ctx, s, stored.Chunks)
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

// Commit stores a generation and moves the head from old to it. The intents of
// its apply, and of those that it finished, leave the head. It returns
// ErrHeadMoved if another process has moved the head to another generation, or
// has finished this apply in its place.
func Commit(ctx context.Context, s Store, old Head, g *Generation) error {
	lineage := old.Lineage
	if lineage == "" {
		lineage = NewID()
	}
	index, objects, err := split(g.Records, func(r plan.Record) string { return r.Address })
	if err != nil {
		return err
	}
	stored := *g
	stored.Records, stored.Chunks, stored.Lineage = nil, index, lineage
	raw, d, err := Object(stored)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, append(objects, raw)...); err != nil {
		return err
	}
	announced := old.Intent(g.Apply) != nil
	_, err = Update(ctx, s, func(now Head) (Head, error) {
		if now.Object != old.Object || now.Generation != old.Generation || announced && now.Intent(g.Apply) == nil {
			return now, ErrHeadMoved
		}
		return Head{Format: Format, Lineage: lineage, Generation: g.Number, Object: d, Applies: g.applies(),
			Intents: without(now.Intents, append(g.Finished, g.Apply)...)}, nil
	})
	return err
}

// Current returns the newest generation with its records, or nil if there is none.
func Current(ctx context.Context, s Store) (g *Generation, h Head, err error) {
	h, err = withHead(ctx, s, func(h Head) error {
		g, err = readGeneration(ctx, s, h.Object)
		return err
	})
	if dir, is := s.(*Dir); is && err == nil && g != nil {
		err = dir.checkSubject(g)
	}
	return g, h, err
}

// checkSubject returns an error if a generation is of another deployment or environment than the
// state: its folder was copied or moved from there.
func (s *Dir) checkSubject(g *Generation) error {
	if s.Deployment == "" || s.Deployment == g.Deployment && s.Environment == g.Environment {
		return nil
	}
	return diag.Errorf("", "%s is the state of %s (%s), not of %s (%s)", s.path, g.Deployment, g.Environment, s.Deployment, s.Environment).
		WithHint("nothing was changed; it was probably copied or moved: put it back in the folder %s/%s", g.Deployment, g.Environment)
}

// withHead calls read with the head. If the objects of the head were pruned
// while read ran, the head has moved, and withHead calls read with the new one.
func withHead(ctx context.Context, s Store, read func(Head) error) (Head, error) {
	h, err := s.Head(ctx)
	for err == nil && h.Generation > 0 {
		rerr := read(h)
		if rerr == nil {
			break
		}
		previous := h
		if h, err = s.Head(ctx); err == nil && (h.Object == previous.Object || !errors.Is(rerr, ErrNotFound)) {
			return h, fmt.Errorf("generation %d: %w", h.Generation, rerr)
		}
	}
	return h, err
}

// readGeneration reads a generation with its records. A Dir caches the one that
// it read last, which is sound because an object never changes.
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

// clone returns a copy whose records and machines may be replaced; the slices
// and maps inside them are shared.
func (g *Generation) clone() *Generation {
	out := *g
	out.Records, out.Machines = slices.Clone(g.Records), slices.Clone(g.Machines)
	for i, m := range g.Machines {
		machine := *m
		out.Machines[i] = &machine
	}
	return &out
}

// History returns generations without their records, newest first, at most limit (0 = all).
func History(ctx context.Context, s Store, limit int) (out []*Generation, err error) {
	_, err = withHead(ctx, s, func(h Head) error {
		oldest, err := s.Oldest(ctx)
		if err == nil {
			out, err = history(ctx, s, h, oldest, limit, "")
		}
		return err
	})
	return out, err
}

// history is History from a head. It ends before the generation with the object until.
func history(ctx context.Context, s Store, h Head, oldest Oldest, limit int, until digest.Digest) (out []*Generation, err error) {
	for next := h.Object; next != "" && next != until && (limit == 0 || len(out) < limit); next = out[len(out)-1].Parent {
		g := &Generation{}
		if err := Load(ctx, s, next, g); err != nil {
			if now, _ := s.Oldest(ctx); len(out) > 0 && out[len(out)-1].Number <= now.Generation {
				break // it was pruned while this loop ran
			}
			return nil, err
		}
		if out = append(out, g); next == oldest.Object {
			break
		}
	}
	return out, nil
}

// A Reader reads the records of generations. It reads a chunk that they share once.
type Reader struct {
	store  Store
	chunks map[digest.Digest][]plan.Record
}

// NewReader returns a Reader of a store.
func NewReader(s Store) *Reader { return &Reader{s, map[digest.Digest][]plan.Record{}} }

// chunksOf returns the chunks of a generation. It splits the records of a
// generation that a version before chunks has written.
func (r *Reader) chunksOf(g *Generation) ([]Chunk, error) {
	if len(g.Chunks) > 0 || len(g.Records) == 0 {
		return g.Chunks, nil
	}
	index, objects, err := split(g.Records, func(r plan.Record) string { return r.Address })
	for i, c := range index {
		if _, known := r.chunks[c.Object]; err == nil && !known {
			var list []plan.Record
			err = json.Unmarshal(objects[i], &list)
			r.chunks[c.Object] = list
		}
	}
	if err == nil {
		g.Chunks, g.Records = index, nil
	}
	return index, err
}

// records returns the records of a chunk.
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

// Changed returns the records of two generations that may differ: those in
// chunks that the generations do not share. If older is nil these are all
// records of newer.
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
		for _, c := range other {
			known[c.Object] = true
		}
		for _, c := range list {
			if known[c.Object] {
				continue
			}
			part, err := r.records(ctx, c.Object)
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

// Each calls f for every record of some generations. It visits a chunk that they
// share once.
func (r *Reader) Each(ctx context.Context, list []*Generation, f func(plan.Record) error) error {
	seen := map[digest.Digest]bool{}
	for _, g := range list {
		index, err := r.chunksOf(g)
		if err != nil {
			return err
		}
		for _, c := range index {
			if seen[c.Object] {
				continue
			}
			seen[c.Object] = true
			part, err := r.records(ctx, c.Object)
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

// Since returns, for each unit of the newest generation, the generation that
// deployed it as it is now: the oldest one since which its digest and machine
// are the same. The list is a History.
func (r *Reader) Since(ctx context.Context, list []*Generation) (map[string]*Generation, error) {
	since, newest := map[string]*Generation{}, map[string]plan.Record{}
	if len(list) == 0 {
		return since, nil
	}
	index, err := r.chunksOf(list[0])
	if err != nil {
		return nil, err
	}
	shared := slices.Clone(index) // chunks that all generations so far have
	addresses := map[digest.Digest][]string{}
	for _, c := range shared {
		part, err := r.records(ctx, c.Object)
		if err != nil {
			return nil, err
		}
		for _, rec := range part {
			newest[rec.Address], addresses[c.Object] = rec, append(addresses[c.Object], rec.Address)
		}
	}
	var single []string // units of other chunks that are the same in all generations so far
	for i, g := range list[1:] {
		if index, err = r.chunksOf(g); err != nil {
			return nil, err
		}
		here := map[digest.Digest]bool{}
		for _, c := range index {
			here[c.Object] = true
		}
		shared = slices.DeleteFunc(shared, func(c Chunk) bool {
			if !here[c.Object] {
				single = append(single, addresses[c.Object]...)
			}
			return !here[c.Object]
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
		if len(shared)+len(single) == 0 {
			break
		}
	}
	for _, c := range shared {
		single = append(single, addresses[c.Object]...)
	}
	for _, a := range single {
		since[a] = list[len(list)-1]
	}
	return since, nil
}

// find returns the record of a unit from the chunks of a generation, or nil.
func (r *Reader) find(ctx context.Context, index []Chunk, address string) (*plan.Record, error) {
	i, exact := slices.BinarySearchFunc(index, address, func(c Chunk, a string) int { return strings.Compare(c.First, a) })
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
