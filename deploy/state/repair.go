package state

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// asideMark is in the names of damaged files that were kept aside.
const asideMark = ".damaged-"

// Repaired is the result of Repair.
type Repaired struct {
	Aside      []string // paths of the damaged files that were kept aside
	Generation int      // the newest one now; 0 = none could be kept
	Lost       []int    // numbers of generations that could not be kept, sorted
	Verify     bool     // the next apply compares everything with the machines
}

// Repair restores a state whose files are damaged or missing from what is left of
// it. Damaged files are kept aside. The head becomes the newest generation that
// is complete. If anything of the records was lost, an intent makes the next
// apply ask every machine, so that a lost record is never taken for a unit that
// does not exist. It fails with *ErrLeaseHeld if a lease is renewed meanwhile.
func (s *Dir) Repair(ctx context.Context, owner Owner) (*Repaired, error) {
	if err := s.watchLeases(ctx); err != nil {
		return nil, err
	}
	r := &repair{Dir: s, owner: owner, out: &Repaired{}, when: time.Now().UTC()}
	err := s.withLock(ctx, func() error { return r.run(ctx) })
	s.mu.Lock()
	s.index = nil
	s.mu.Unlock()
	if err == nil {
		err = s.verify(ctx)
	}
	return r.out, err
}

// watchLeases returns when no lease is held, or when those that are were not
// renewed for their time limit.
func (s *Dir) watchLeases(ctx context.Context) error {
	before, err := s.readLeases()
	if err != nil || len(before.Held) == 0 {
		return nil // what cannot be read is repaired
	}
	limit := time.Duration(0)
	for _, l := range before.Held {
		limit = max(limit, l.TTL)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(limit):
	}
	now, err := s.readLeases()
	if err != nil {
		return nil
	}
	var held []Lease
	for key, l := range now.Held {
		if b, is := before.Held[key]; !is || b.Counter != l.Counter {
			held = append(held, l)
		}
	}
	if len(held) > 0 {
		return &ErrLeaseHeld{held}
	}
	return nil
}

// repair is one run of Repair.
type repair struct {
	*Dir
	owner Owner
	out   *Repaired
	when  time.Time

	objects     map[digest.Digest][]byte
	generations map[digest.Digest]*Generation
	intents     map[digest.Digest]*IntentDetail
	applies     map[string]bool // IDs of all applies that are mentioned anywhere
	token       int64           // greatest token that is mentioned anywhere
	lost        bool            // records may be lost
}

func (r *repair) run(ctx context.Context) error {
	head, headErr := r.readHead()
	_, leasesErr := r.readLeases()
	_, oldestErr := r.readOldest()
	for i, err := range []error{headErr, leasesErr, oldestErr} {
		var o *OtherFormat
		if errors.As(err, &o) && (i == 0 || o.Format > Format) { // it is not damaged
			return err
		}
	}
	if err := r.salvage(ctx); err != nil {
		return err
	}
	if err := r.scan(ctx); err != nil {
		return err
	}
	next := r.chooseHead(head, headErr)
	if err := r.verifyJournal(); err != nil {
		if err := r.setAside(JournalName); err != nil {
			return err
		}
	}
	if err := r.repairModules(); err != nil {
		return err
	}
	if err := r.dropLostUnits(ctx, &next); err != nil {
		return err
	}
	if r.lost && next.Generation > 0 { // otherwise nothing can be compared, and the state is rebuilt
		if err := r.addIntent(ctx, &next); err != nil {
			return err
		}
	}
	if err := r.repairOldest(ctx, next); err != nil {
		return err
	}
	if err := r.repairLeases(next); err != nil {
		return err
	}
	if headErr != nil || head.Object != next.Object && r.generations[head.Object] == nil {
		if err := r.setAside(headName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	r.out.Generation, r.out.Verify = next.Generation, r.lost
	if headErr == nil && next.Equal(head) {
		return nil
	}
	return r.writeFile(headName, next)
}

// setAside renames a damaged file.
func (r *repair) setAside(name string) error {
	from := filepath.Join(r.path, name)
	to := from + asideMark + r.when.Format("20060102T150405Z")
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s%s%s-%d", from, asideMark, r.when.Format("20060102T150405Z"), n)
	}
	err := os.Rename(from, to)
	if err == nil {
		r.out.Aside = append(r.out.Aside, to)
	}
	return err
}

// salvage replaces damaged packs by packs of the objects in them that are intact.
func (r *repair) salvage(ctx context.Context) error {
	names, err := r.packs()
	if err != nil {
		return err
	}
	for _, name := range names {
		objects, err := r.verifyPack(name)
		if err == nil {
			continue
		}
		var damage *Damaged
		if !errors.As(err, &damage) {
			return err
		}
		r.lost = true
		if objects == nil {
			objects = r.split(name)
		}
		if err := r.setAside(filepath.Join(objectsName, name)); err != nil {
			return err
		}
		r.mu.Lock()
		r.index = nil
		r.mu.Unlock()
		if len(objects) > 0 {
			if err := r.Put(ctx, objects...); err != nil {
				return err
			}
		}
	}
	return nil
}

// split returns the JSON values in a pack whose index cannot be read: those that
// are objects have the right digest, and others do no harm.
func (r *repair) split(name string) (out [][]byte) {
	raw, err := readRegular(filepath.Join(r.path, objectsName, name))
	if err != nil {
		return nil
	}
	_, rest, _ := bytes.Cut(raw, []byte("\n"))
	for dec := json.NewDecoder(bytes.NewReader(rest)); ; {
		var v json.RawMessage
		if dec.Decode(&v) != nil {
			return out
		}
		out = append(out, v)
	}
}

// scan reads all objects and finds generations, intents and known applies.
func (r *repair) scan(ctx context.Context) error {
	r.objects, r.generations, r.intents, r.applies = map[digest.Digest][]byte{}, map[digest.Digest]*Generation{}, map[digest.Digest]*IntentDetail{}, map[string]bool{}
	names, err := r.packs()
	if err != nil {
		return err
	}
	for _, name := range names {
		objects, err := r.verifyPack(name)
		if err != nil {
			return err
		}
		for _, raw := range objects {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r.classify(raw)
		}
	}
	return nil
}

// classify adds one object.
func (r *repair) classify(raw []byte) {
	d := digest.Bytes(raw)
	r.objects[d] = raw
	var head struct {
		Kind string `json:"kind"`
	}
	if !bytes.Contains(raw, []byte(`"kind":"`)) || json.Unmarshal(raw, &head) != nil {
		return
	}
	switch head.Kind {
	case "Generation":
		if g := (&Generation{}); json.Unmarshal(raw, g) == nil && g.Number > 0 {
			r.generations[d] = g
			r.token = max(r.token, g.Token)
			for _, id := range g.applies() {
				r.applies[id] = true
			}
		}
	case "Intent":
		if i := (&IntentDetail{}); json.Unmarshal(raw, i) == nil && i.Apply != "" {
			i.Detail = d
			r.intents[d] = i
			r.token = max(r.token, i.Token)
		}
	case "KnownApplies":
		var k KnownApplies
		if json.Unmarshal(raw, &k) == nil {
			for _, id := range k.Applies {
				r.applies[id] = true
			}
		}
	}
}

// isComplete reports whether everything that a generation refers to is there.
// The units of its records need not be: machines have them, too.
func (r *repair) isComplete(g *Generation) bool {
	for _, d := range g.LastGood {
		if r.objects[d] == nil {
			return false
		}
	}
	for _, c := range g.Chunks {
		var records []plan.Record
		if json.Unmarshal(r.objects[c.Object], &records) != nil {
			return false
		}
	}
	var p storedPlan
	if json.Unmarshal(r.objects[g.PlanObject], &p) != nil {
		return false
	}
	for _, c := range p.Chunks {
		var units []plan.Placed
		if json.Unmarshal(r.objects[c.Object], &units) != nil {
			return false
		}
	}
	return true
}

// records returns the records of a complete generation.
func (r *repair) records(g *Generation) []plan.Record {
	if len(g.Chunks) == 0 {
		return g.Records
	}
	var out []plan.Record
	for _, c := range g.Chunks {
		var part []plan.Record
		json.Unmarshal(r.objects[c.Object], &part)
		out = append(out, part...)
	}
	return out
}

// lacksUnits reports whether units of a complete generation are missing.
func (r *repair) lacksUnits(g *Generation) bool {
	var p storedPlan
	json.Unmarshal(r.objects[g.PlanObject], &p)
	for _, c := range p.Chunks {
		var part []plan.Placed
		json.Unmarshal(r.objects[c.Object], &part)
		p.Units = append(p.Units, part...)
	}
	return slices.ContainsFunc(p.Units, func(u plan.Placed) bool { return u.Object != "" && r.objects[u.Object] == nil }) ||
		slices.ContainsFunc(r.records(g), func(rec plan.Record) bool { return rec.Object != "" && r.objects[rec.Object] == nil })
}

// dropLostUnits replaces the newest generation by one in which the versions of
// lost units are unknown, so that the next apply asks their machines.
func (r *repair) dropLostUnits(ctx context.Context, head *Head) error {
	g := r.generations[head.Object]
	if g == nil || !r.lacksUnits(g) {
		return nil
	}
	r.lost = true
	s := unverified{r.Dir}
	p, err := LoadPlan(ctx, s, g)
	if err != nil {
		return err
	}
	p.Units = slices.DeleteFunc(p.Units, func(u plan.Placed) bool { return u.Object != "" && r.objects[u.Object] == nil })
	next := *g
	if next.PlanObject, err = PutPlan(ctx, s, p); err != nil {
		return err
	}
	if next.Plan, err = p.Digest(); err != nil {
		return err
	}
	records := r.records(g)
	for i, rec := range records {
		if rec.Object != "" && r.objects[rec.Object] == nil {
			records[i].Digest, records[i].Object = "", ""
		}
	}
	index, objects, err := split(records, func(rec plan.Record) string { return rec.Address })
	if err != nil {
		return err
	}
	next.Number, next.Parent, next.Records, next.Chunks, next.Lineage = g.Number+1, head.Object, nil, index, head.Lineage
	next.Apply, next.Finished, next.Token = NewID(), nil, r.token
	next.Verb, next.By, next.Applied = r.owner.Verb, r.owner.Who, r.when.Truncate(time.Second)
	next.Summary, next.Failed, next.Outcomes, next.Renamed = Counts{Unchanged: len(records)}, nil, nil, nil
	raw, d, err := Object(next)
	if err != nil {
		return err
	}
	if err := r.Put(ctx, append(objects, raw)...); err != nil {
		return err
	}
	if err := r.scan(ctx); err != nil {
		return err
	}
	head.Generation, head.Object, head.Applies = next.Number, d, next.applies()
	return nil
}

// chooseHead returns the head: the one that there is if it is intact, else the
// newest complete generation with the intents that no generation has finished.
func (r *repair) chooseHead(head Head, headErr error) Head {
	if headErr == nil && !head.IsZero() {
		if g := r.generations[head.Object]; head.Generation == 0 || g != nil && r.isComplete(g) {
			if len(head.Intents) > 0 {
				head.Intents = slices.DeleteFunc(slices.Clone(head.Intents), func(i Intent) bool {
					gone := r.objects[i.Detail] == nil
					if gone {
						r.applies[i.Apply], r.lost = true, true
					}
					return gone
				})
			}
			return head
		}
	}
	r.lost = true
	for _, id := range head.Applies {
		r.applies[id] = true
	}
	next := Head{Format: Format, Lineage: head.Lineage}
	var newest *Generation
	for _, d := range sets.Keys(r.generations) {
		g := r.generations[d]
		if next.Lineage != "" && g.Lineage != "" && g.Lineage != next.Lineage || !r.isComplete(g) {
			continue
		}
		if newest == nil || cmp.Or(cmp.Compare(g.Number, newest.Number), g.Applied.Compare(newest.Applied)) > 0 {
			newest, next.Generation, next.Object, next.Applies = g, g.Number, d, g.applies()
		}
	}
	if newest != nil && next.Lineage == "" {
		next.Lineage = newest.Lineage
	}
	for _, d := range sets.Keys(r.generations) {
		if g := r.generations[d]; next.Lineage == "" {
			next.Lineage = g.Lineage
		}
	}
	if next.Lineage == "" {
		next.Lineage = NewID()
	}
	lost := map[int]bool{}
	for _, g := range r.generations {
		if g.Number > next.Generation {
			lost[g.Number] = true
		}
	}
	if head.Generation > next.Generation {
		lost[head.Generation] = true
	}
	r.out.Lost = sets.Keys(lost)
	open := head.Intents // as far as the head can be read
	for _, i := range r.intents {
		if !r.applies[i.Apply] && head.Intent(i.Apply) == nil { // it was open, or the generation that it made is lost
			open = append(open, i.Intent)
		}
	}
	rebuild := next.Generation == 0 && len(r.out.Lost) > 0 // from the machines, whatever was interrupted there
	for _, i := range open {
		if r.objects[i.Detail] != nil && !rebuild {
			next.Intents = append(next.Intents, i)
		} else {
			r.applies[i.Apply] = true
		}
	}
	slices.SortFunc(next.Intents, func(a, b Intent) int {
		return cmp.Or(cmp.Compare(a.Token, b.Token), cmp.Compare(a.Apply, b.Apply))
	})
	return next
}

// addIntent makes the next apply compare everything with the machines.
func (r *repair) addIntent(ctx context.Context, head *Head) error {
	machines, units := map[string]*graph.Machine{}, map[string][]string{}
	for _, g := range r.generations { // also of lost generations: something may run there
		for _, m := range g.Machines {
			if machines[m.Name] == nil || g.Number == head.Generation {
				machines[m.Name] = m
			}
		}
	}
	for _, i := range r.intents {
		for _, m := range i.Connections {
			if machines[m.Name] == nil {
				machines[m.Name] = m
			}
		}
	}
	names := map[string]bool{}
	if g := r.generations[head.Object]; g != nil {
		for _, rec := range r.records(g) {
			units[rec.Address] = []string{rec.Machine}
			names[rec.Machine] = true
		}
	}
	for name := range machines {
		names[name] = true
	}
	delete(names, "")
	r.token++
	d := IntentDetail{Kind: "Intent", Units: units, Intent: Intent{Apply: NewID(), Base: head.Object, Token: r.token, Verb: r.owner.Verb, By: r.owner.Who,
		Started: r.when.Truncate(time.Second), Machines: sets.Keys(names)}}
	for _, name := range sets.Keys(machines) {
		d.Connections = append(d.Connections, machines[name])
	}
	if err := d.store(ctx, r.Put); err != nil {
		return err
	}
	head.Intents = append(head.Intents, d.Intent)
	return nil
}

// repairOldest ends the kept history where it is no longer complete, and records
// the applies that are not in it.
func (r *repair) repairOldest(ctx context.Context, head Head) error {
	before, err := r.readOldest()
	damaged := err != nil || before.Object != "" && r.generations[before.Object] == nil || before.Applies != "" && r.objects[before.Applies] == nil
	if damaged {
		if err := r.setAside(oldestName); err != nil {
			return err
		}
	}
	want := Oldest{Format: Format, Generation: head.Generation, Object: head.Object}
	known, first, broken := map[string]bool{}, false, false
	for d := head.Object; d != ""; {
		g := r.generations[d]
		if broken = g == nil || !r.isComplete(g) || r.lacksUnits(g); broken {
			break
		}
		want.Generation, want.Object, first = g.Number, d, g.Parent == ""
		for _, id := range g.applies() {
			known[id] = true
		}
		if !damaged && d == before.Object {
			break
		}
		d = g.Parent
	}
	if broken {
		r.loseOlder(before.Generation, want.Generation)
	}
	var extra []string
	for _, id := range sets.Keys(r.applies) {
		if !known[id] && head.Intent(id) == nil {
			extra = append(extra, id)
		}
	}
	if head.Object == "" || first && len(extra) == 0 {
		if err := os.Remove(filepath.Join(r.path, oldestName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if len(extra) > 0 {
		raw, d, err := Object(KnownApplies{"KnownApplies", extra})
		if err == nil {
			err = r.Put(ctx, raw)
		}
		if err != nil {
			return err
		}
		want.Applies = d
	}
	if !damaged && want == before {
		return nil
	}
	return r.writeFile(oldestName, want)
}

// loseOlder notes that the generations before the oldest complete one are lost; first is the oldest
// one that was kept, 0 if that is not known.
func (r *repair) loseOlder(first, oldest int) {
	lost := map[int]bool{}
	for _, n := range r.out.Lost {
		lost[n] = true
	}
	if first == 0 {
		first = oldest - 1
		for _, g := range r.generations {
			first = min(first, g.Number)
		}
	}
	for n := max(first, 1); n < oldest; n++ {
		lost[n] = true
	}
	r.out.Lost = sets.Keys(lost)
}

// repairLeases makes sure that the next lease has a token above all others.
func (r *repair) repairLeases(head Head) error {
	l, err := r.readLeases()
	if err != nil {
		if err := r.setAside(leasesName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		l = leaseFile{Format: Format}
	}
	for _, i := range head.Intents {
		r.token = max(r.token, i.Token)
	}
	if err == nil && l.Last >= r.token && len(l.Held) == 0 {
		return nil
	}
	l.Last, l.Held = max(l.Last, r.token), map[string]Lease{} // a holder that still runs loses its lease, and does not commit
	return r.writeFile(leasesName, l)
}
