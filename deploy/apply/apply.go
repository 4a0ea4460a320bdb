// Package apply makes a plan true: it takes the lease, keeps the journal, walks
// the actions in parallel along their order, and writes the generation.
//
// It is the only one that asks agents to do. It refuses to know what a unit
// is. Invariants: nothing is done that the journal does not hold first; the
// head moves only after every machine settled; after a crash at any point the
// same call finishes the work.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/deploy/terraform"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
)

// Request is a plan to be made true.
type Request struct {
	Store    state.Store
	Dir      string // folder of the journal
	Plan     *plan.Plan
	Objects  map[digest.Digest][]byte              // units that the state may not have yet
	LastGood map[string]map[string]json.RawMessage // last good functionalities of each library
	Held     func(address string) bool             // what stays because it did not evaluate; nil = nothing
	Moved    func(address string) string           // the address that one has after renames; nil = none
	Machines []*graph.Machine                      // how to reach them; those of the state are added
	Verb     string                                // apply, rollback, destroy
	Revision string                                // commit of the deployment's folder, if known

	AllowDelete, AllowMove map[string]bool
	Drifted                map[string]bool // modules that others changed
	Restart                string          // address of one that starts anew, as it stands
	Approved               *plan.ChangeSet // what a person agreed to; nil = whatever it is

	Dial     func(context.Context, *graph.Machine) (*agent.Client, error)
	Artifact func(plan.Artifact) (io.ReadCloser, error)
	OnEvent  func(Event)                                           // may be nil; called from one goroutine at a time
	HostKey  func(context.Context, *graph.Machine) (string, error) // public key of a machine that a module made, on first sight; nil = known_hosts tell
	Modules  *terraform.Runner                                     // where modules of resources are made; nil if there are none

	Parallel  int           // actions at once; 0 = 10
	Deadline  time.Duration // of one action; 0 = 10 minutes
	LeaseTime time.Duration // 0 = 30 seconds
	LeaseWait time.Duration // how long to wait for somebody else's lease
}

// Outcome of one action.
type Outcome string

const (
	Started Outcome = "started"
	Done    Outcome = "done"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
	Waiting Outcome = "waiting" // for somebody else's lease; the action is zero
)

// Event tells of one action.
type Event struct {
	Outcome Outcome
	Action  plan.Action
	Err     error
	Took    time.Duration
}

// Result is what an apply came to.
type Result struct {
	Generation int             // the newest; the old one if nothing was written
	Changes    *plan.ChangeSet // what was done, as seen under the lease
	Counts     state.Counts
	Failed     []string // addresses, sorted
	Skipped    []string // addresses, sorted
	Wrote      bool     // a generation was written
	Stopped    bool     // the caller's context ended before all was begun
	Unflushed  []string // machines whose manifest could not be made whole, and why
	Notes      []string // what could not be looked at
	Orphans    []string // what is of this deployment on machines that were reached, and nothing leads to
}

// ErrPlanChanged means that what would be done is not what was agreed to.
var ErrPlanChanged = errors.New("meanwhile the state changed, and with it what would be done")

// Diff is what Run would do, as far as can be told without touching a machine.
func Diff(ctx context.Context, w *Request) (*plan.ChangeSet, error) {
	gen, head, err := state.Current(ctx, w.Store)
	if err != nil {
		return nil, err
	}
	unfinished, err := ReadUnfinished(w.Dir)
	if err != nil {
		return nil, err
	}
	var records []plan.Record
	if gen != nil {
		records = slices.Clone(gen.Records)
	}
	if gen != nil {
		records = RenameMachines(records, gen.Machines, w.Machines)
	}
	uncertain := map[string]plan.Uncertainty{}
	if unfinished != nil {
		records = doubt(records, unfinished, uncertain)
	}
	if gen != nil {
		for name, was := range elsewhere(gen.Machines, w.Machines) {
			for _, rec := range w.on(name, records) {
				uncertain[rec.Address] = plan.Uncertainty{
					Unless: fmt.Sprintf("%s has it where it is now; it was %s, and what stands there stays", name, was),
					Since:  fmt.Sprintf("%s was %s, and what stands there stays", name, was),
				}
			}
		}
	}
	return w.diff(ctx, records, uncertain, head.Generation)
}

// doubt lists what an interrupted apply touched. What it began to create, and
// the state does not know, gets a record of its own: it may stand.
func doubt(records []plan.Record, u *Unfinished, uncertain map[string]plan.Uncertainty) []plan.Record {
	by := map[string]plan.Record{}
	for _, r := range records {
		by[r.Address] = r
	}
	for address, machines := range u.Units {
		uncertain[address] = plan.Interrupted
		if _, known := by[address]; !known {
			by[address] = plan.Record{Address: address, Machine: slices.Sorted(maps.Keys(machines))[0]}
		}
	}
	return sorted(by)
}

// elsewhere lists the machines that were somewhere else when they were last
// reached: name → where.
func elsewhere(before, now []*graph.Machine) map[string]string {
	was := map[string]string{}
	for _, b := range before {
		for _, n := range now {
			if n.Module != "" && n.Address == "" { // nobody knows yet where it will be
				continue
			}
			if b.Name == n.Name && place(b.Connect) != place(n.Connect) {
				was[b.Name] = b.Connect
			}
		}
	}
	return was
}

// on lists what an apply may touch of what stands on a machine.
func (w *Request) on(machine string, records []plan.Record) []plan.Record {
	return slices.DeleteFunc(slices.Clone(records), func(r plan.Record) bool {
		return r.Machine != machine || w.Held != nil && w.Held(r.Address)
	})
}

func (w *Request) diff(ctx context.Context, records []plan.Record, uncertain map[string]plan.Uncertainty, base int) (*plan.ChangeSet, error) {
	cs, err := plan.Diff(plan.DiffInput{Plan: w.Plan, Records: records, Base: base, AllowDelete: w.AllowDelete, AllowMove: w.AllowMove,
		Held: w.Held, Uncertainty: uncertain, Drifted: w.Drifted, Moved: w.Moved, Restart: w.Restart,
		Unit: func(d digest.Digest) (*plan.Unit, error) {
			raw, err := w.object(ctx, d)
			if err != nil {
				return nil, err
			}
			u := &plan.Unit{}
			return u, u.Decode(raw)
		}})
	if err != nil {
		return nil, err
	}
	if w.Held != nil {
		for _, r := range records {
			if w.Held(r.Address) {
				cs.Summary.Held++
			}
		}
		cs.Summary.Unchanged -= min(cs.Summary.Held, cs.Summary.Unchanged)
	}
	return cs, cs.Seal()
}

// agrees tells whether all that would be done was agreed to: the same, or less
// of it because an interrupted or another apply did the rest.
func (w *Request) agrees(cs *plan.ChangeSet) bool {
	if w.Approved == nil || w.Approved.ChangeSet == cs.ChangeSet {
		return true
	}
	agreed := map[string]plan.Action{}
	for _, a := range w.Approved.Actions {
		agreed[a.Address] = a
	}
	for _, a := range cs.Actions {
		was, ok := agreed[a.Address]
		if !ok || was.Digest != a.Digest || was.Machine != a.Machine || was.Certain && was.Op != a.Op {
			return false
		}
	}
	return true
}

func (w *Request) object(ctx context.Context, d digest.Digest) ([]byte, error) {
	if raw, ok := w.Objects[d]; ok {
		return raw, nil
	}
	return w.Store.Get(ctx, d)
}

// Run makes the plan true. An error means that it could not be tried, or that
// its end could not be recorded; failed units are in the Result. When ctx ends,
// what is under way is finished and recorded, and nothing more is begun.
func Run(ctx context.Context, w *Request) (*Result, error) {
	unfinished, err := ReadUnfinished(w.Dir)
	if err != nil {
		return nil, err
	}
	cs, err := Diff(ctx, w)
	if err != nil {
		return nil, err
	}
	if cs.Empty() && unfinished == nil {
		return nothing(cs), nil
	}
	if !w.agrees(cs) {
		return nil, ErrPlanChanged
	}
	lasting := context.WithoutCancel(ctx) // what must be written down is written down
	lease, err := w.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Store.Release(lasting, lease)
	held, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	go state.KeepAlive(held, w.Store, lease, w.leaseTime(), lost)

	r := &run{w: w, lease: lease, machines: map[string]*machine{}, tell: w.OnEvent, doubted: map[string]bool{}}
	r.token.Store(lease.Token)
	r.life, r.end = context.WithCancel(lasting)
	if r.tell == nil {
		r.tell = func(Event) {}
	}
	defer r.hangUp()
	return r.run(held, lasting)
}

func nothing(cs *plan.ChangeSet) *Result {
	return &Result{Generation: cs.Base, Changes: cs, Counts: state.Counts{Unchanged: cs.Summary.Unchanged, Held: cs.Summary.Held}}
}

func (w *Request) leaseTime() time.Duration {
	if w.LeaseTime > 0 {
		return w.LeaseTime
	}
	return 30 * time.Second
}

// acquire takes the lease of the whole environment, waiting as long as allowed.
func (w *Request) acquire(ctx context.Context) (state.Lease, error) {
	begun, told := time.Now(), false
	for {
		l, err := w.Store.Acquire(ctx, nil, state.CurrentOwner(w.Verb), w.leaseTime())
		busy, is := errors.AsType[*state.ErrLeaseHeld](err)
		if !is || time.Since(begun) > w.LeaseWait {
			return l, err
		}
		if !told && w.OnEvent != nil {
			told = true
			w.OnEvent(Event{Outcome: Waiting, Err: busy})
		}
		select {
		case <-ctx.Done():
			return l, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// run is one apply under its lease.
type run struct {
	w        *Request
	lease    state.Lease
	token    atomic.Int64 // the lease's, or a higher one for machines that remember another state
	making   int          // the generation
	machines map[string]*machine
	j        *journal
	tell     func(Event)
	known    map[string]bool // addresses that the state knows
	doubted  map[string]bool // machines that an interrupted apply touched
	life     context.Context // of the conversations with machines
	end      context.CancelFunc
	outs     outputs
	looked   sync.Once     // at what stands on no machine
	foreign  error         // what was found there
	own      string        // resource that is the machine on which defx runs; "" = none that changes
	leads    []plan.Record // what led users to services when it began
	mu       sync.Mutex
	outside  map[string]bool   // what of it was taken out and is not back
	notes    map[string]bool   // what could not be looked at
	renames  map[string]string // resources that were renamed: new address → old
}

// scope names deployment and environment on machines.
func (r *run) scope() string { return r.w.Plan.Environment + "/" + r.w.Plan.Deployment }

func (r *run) run(ctx, lasting context.Context) (*Result, error) {
	gen, head, err := state.Current(lasting, r.w.Store)
	if err != nil {
		return nil, err
	}
	r.making = head.Generation + 1
	var records []plan.Record
	if gen != nil {
		records = slices.Clone(gen.Records)
		r.know(gen.Machines)
	}
	unfinished, err := ReadUnfinished(r.w.Dir)
	if err != nil {
		return nil, err
	}
	if unfinished != nil {
		r.know(unfinished.Machines)
	}
	r.know(r.w.Machines)
	records = r.renamed(records, gen)
	places := map[string]string{}
	if gen != nil {
		places = elsewhere(gen.Machines, r.w.Machines)
	}
	if unfinished != nil || len(places) > 0 {
		doubted := &Unfinished{Units: map[string]map[string]bool{}}
		if unfinished != nil {
			doubted.Units = unfinished.Units
		}
		for name := range places {
			for _, rec := range r.w.on(name, records) {
				if doubted.Units[rec.Address] == nil {
					doubted.Units[rec.Address] = map[string]bool{}
				}
				doubted.Units[rec.Address][name] = true
			}
		}
		before := records
		records = r.renamed(r.observe(lasting, records, doubted), gen) // the journal may know a machine by its former name
		if err := r.checkData(before, records, places); err != nil {
			return nil, err
		}
	}
	r.outs.learn(records)
	r.note(records)
	cs, err := r.w.diff(lasting, records, nil, head.Generation)
	if err != nil {
		return nil, err
	}
	r.completePlan(records)
	if cs.Plan, err = r.w.Plan.Digest(); err != nil {
		return nil, err
	}
	if err := r.checkLost(lasting, cs, records); err != nil {
		return nil, err
	}
	if !r.w.agrees(cs) {
		return nil, ErrPlanChanged
	}
	if err := r.undermines(lasting, cs, records); err != nil {
		return nil, err
	}
	if cs.Empty() && unfinished == nil && len(places) == 0 { // somebody else did it meanwhile
		return nothing(cs), nil
	}
	objects := slices.Collect(maps.Values(r.w.Objects))
	good := map[string]digest.Digest{}
	for lib, funcs := range r.w.LastGood {
		raw, d, err := state.Object(funcs)
		if err != nil {
			return nil, err
		}
		good[lib] = d
		objects = append(objects, raw)
	}
	if err := r.w.Store.Put(lasting, objects...); err != nil {
		return nil, err
	}
	if r.j, err = openJournal(r.w.Dir); err != nil {
		return nil, err
	}
	ended := false
	defer func() { r.j.finish(ended) }()
	all := make([]*graph.Machine, 0, len(r.machines))
	for _, name := range slices.Sorted(maps.Keys(r.machines)) {
		all = append(all, r.machines[name].m)
	}
	if err := r.j.write(line{Start: &start{Token: r.lease.Token, Base: head.Generation, Plan: cs.Plan, Machines: all}}); err != nil {
		return nil, err
	}
	res, now, err := r.walk(ctx, lasting, cs, records)
	if err != nil {
		return nil, err
	}
	res.Generation = head.Generation
	full := r.w.Plan
	if done := r.asDone(now); done != nil { // what was not known before is known now
		full = done
		if cs.Plan, err = done.Digest(); err != nil {
			return nil, err
		}
	}
	planObject, err := state.PutPlan(lasting, r.w.Store, full)
	if err != nil {
		return nil, err
	}
	if r.w.Restart != "" && gen != nil { // what is meant to be is what it was, and more than what is certain to stand
		cs.Plan, planObject = gen.Plan, gen.PlanObject
	}
	next := &state.Generation{APIVersion: plan.APIVersion, Kind: "Generation", Number: r.making, Parent: head.Object,
		Deployment: r.w.Plan.Deployment, Environment: r.w.Plan.Environment, Plan: cs.Plan, PlanObject: planObject, ChangeSet: cs.ChangeSet,
		Records: now, Renamed: r.whatWasRenamed(cs, now), Machines: r.remembered(now), LastGood: good, Summary: res.Counts, Failed: res.Failed, Verb: r.w.Verb,
		Applied: time.Now().UTC().Truncate(time.Second), By: r.lease.Owner.Who, Revision: r.w.Revision}
	same := gen != nil && equalRecords(gen.Records, now) && len(places) == 0
	if !same {
		res.Generation = next.Number
	}
	res.Unflushed, res.Orphans = r.settle(lasting, res.Generation)
	if !same && (gen != nil || len(now) > 0) {
		if err := state.Commit(lasting, r.w.Store, head, next); err != nil {
			return res, err
		}
		res.Wrote = true
	} else {
		res.Generation = head.Generation
	}
	ended = true
	return res, nil
}

// whatWasRenamed lists the renames of a change set that came to be, of units and of resources: new address → old.
func (r *run) whatWasRenamed(cs *plan.ChangeSet, now []plan.Record) map[string]string {
	out := maps.Clone(r.renames)
	for _, a := range cs.Actions {
		if a.PreviousMachine != "" && slices.ContainsFunc(now, func(r plan.Record) bool { return r.Address == a.Address }) {
			out[a.Address] = a.PreviousMachine
		}
	}
	return out
}

// equalRecords compares by canonical bytes: empty and absent are the same there.
func equalRecords(a, b []plan.Record) bool {
	if len(a) != len(b) {
		return false
	}
	x, _, errX := state.Object(a)
	y, _, errY := state.Object(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// know adds machines; later ones replace earlier ones of the same name.
func (r *run) know(list []*graph.Machine) {
	for _, m := range list {
		r.machines[m.Name] = &machine{m: m}
	}
}

// remembered is how to reach the machines on which something stands.
func (r *run) remembered(records []plan.Record) []*graph.Machine {
	used := map[string]bool{}
	for _, rec := range records {
		used[rec.Machine] = true
	}
	out := []*graph.Machine{}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if m := r.machines[name]; m != nil {
			out = append(out, m.m)
		}
	}
	return out
}

// observe asks the machines what an interrupted apply left of the units that
// it touched. Of a machine that does not answer nobody knows, and its units
// stay in doubt: they hold up nobody else.
func (r *run) observe(ctx context.Context, records []plan.Record, u *Unfinished) []plan.Record {
	by := map[string]plan.Record{}
	for _, rec := range records {
		by[rec.Address] = rec
	}
	stands, silent := map[string]map[string]*agent.Entry{}, map[string]bool{}
	var names []string
	for _, machines := range u.Units {
		for name := range machines {
			if !r.doubted[name] {
				r.doubted[name], silent[name] = true, true
				names = append(names, name)
			}
		}
	}
	var mu sync.Mutex
	over := false
	together(names, func(name string) error {
		units, err := r.units(ctx, name)
		mu.Lock()
		defer mu.Unlock()
		if !over && err == nil {
			stands[name], silent[name] = units, false
		}
		return nil
	})
	mu.Lock()
	over = true
	mu.Unlock()
	for _, address := range slices.Sorted(maps.Keys(u.Units)) {
		old, had := by[address]
		found := map[string]plan.Record{}
		for _, name := range slices.Sorted(maps.Keys(u.Units[address])) {
			if silent[name] {
				rec := old
				rec.Address, rec.Machine, rec.Digest = address, name, ""
				found[name] = rec
			} else if e := stands[name][address]; e != nil {
				rec, err := r.record(ctx, address, name, e, old)
				if err != nil {
					rec.Digest = ""
				}
				found[name] = rec
			}
		}
		delete(by, address)
		if names := slices.Sorted(maps.Keys(found)); len(names) > 0 {
			by[address] = found[names[0]]
			// In the middle of a move both machines have it: it counts as not moved yet, so that the move is done again to its end.
			if rec, still := found[old.Machine]; had && still {
				by[address] = rec
			}
		}
	}
	return sorted(by)
}

// renamed lets records follow a machine that is reached as before under another name.
func (r *run) renamed(records []plan.Record, gen *state.Generation) []plan.Record {
	if gen == nil {
		return records
	}
	return RenameMachines(records, gen.Machines, r.w.Machines)
}

// RenameMachines gives records of a machine that is not declared any more the
// name under which the same place is declared now.
func RenameMachines(records []plan.Record, before, now []*graph.Machine) []plan.Record {
	declared, at := map[string]bool{}, map[string]string{}
	for _, m := range now {
		declared[m.Name] = true
		at[place(m.Connect)] = m.Name
	}
	names := map[string]string{}
	for _, m := range before {
		if name := at[place(m.Connect)]; m.Connect != "" && !declared[m.Name] && name != "" {
			names[m.Name] = name
		}
	}
	out := slices.Clone(records)
	for i, rec := range out {
		if name := names[rec.Machine]; name != "" {
			out[i].Machine = name
		}
	}
	return out
}

// place is where connect leads, in one form.
func place(connect string) string {
	if dir, ok := strings.CutPrefix(connect, "dir:"); ok {
		return "dir:" + path.Clean(dir)
	}
	return connect
}

// completePlan puts what is held and stands into the plan: an earlier apply may
// have deployed it without living to tell, and a later rollback must know it.
func (r *run) completePlan(records []plan.Record) {
	if r.w.Held == nil {
		return
	}
	whole := *r.w.Plan
	whole.Units = slices.DeleteFunc(slices.Clone(whole.Units), func(u plan.Placed) bool { return r.w.Held(u.Address) })
	for _, rec := range records {
		if r.w.Held(rec.Address) && rec.Digest != "" {
			u := rec.Placed()
			u.Held = true
			whole.Units = append(whole.Units, u)
		}
	}
	slices.SortFunc(whole.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	r.w.Plan = &whole
}

// checkLost stops an apply whose state does not know what a machine's manifest
// holds: then the state was lost, or is another's. Who does not answer soon is
// looked at before the first change there.
func (r *run) checkLost(ctx context.Context, cs *plan.ChangeSet, records []plan.Record) error {
	r.known = map[string]bool{}
	for _, rec := range records {
		r.known[rec.Address] = true
	}
	var names []string
	changing := map[string]bool{}
	for _, a := range cs.Actions {
		changing[a.Address] = true
	}
	for _, a := range cs.Actions {
		for _, name := range []string{a.Machine, a.From} {
			if m := r.machines[name]; m != nil && changing[m.m.Module] {
				continue // it may not be there yet, or be another one soon
			}
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return together(names, func(name string) error {
		err := r.lost(ctx, name)
		if l, is := errors.AsType[*lostState](err); is {
			return l.err
		}
		return nil // its actions will fail and say so
	})
}

// lostState is an error that concerns all that would be done.
type lostState struct{ err *diag.Error }

func (l *lostState) Error() string { return l.err.Error() }
func (l *lostState) Unwrap() error { return l.err }

// lost tells whether a machine holds what the state does not know.
func (r *run) lost(ctx context.Context, name string) error {
	units, err := r.units(ctx, name)
	if err != nil {
		return err
	}
	for _, address := range slices.Sorted(maps.Keys(units)) {
		if !r.known[address] && units[address].Digest != "" {
			where := "machine " + name
			if name == "" {
				where = "folder terraform of the state"
			}
			return &lostState{diag.Errorf(where, "holds %s, which the state does not know: the state was lost or is another's", address).
				WithHint("bring back the state folder of %s, or make one from what machines hold: defx state rebuild; nothing was done", r.scope())}
		}
	}
	return nil
}

// checkData refuses to begin anew, without its data, what keeps data of its own
// and is not where its machine is now.
func (r *run) checkData(before, now []plan.Record, places map[string]string) error {
	var out diag.List
	for _, b := range before {
		was := places[b.Machine]
		if was == "" || !b.Stateful || r.w.AllowMove[b.Address] || r.w.Held != nil && r.w.Held(b.Address) {
			continue
		}
		if !slices.ContainsFunc(now, func(n plan.Record) bool { return n.Address == b.Address }) && r.w.Plan.Find(b.Address) != nil {
			out = append(out, diag.Errorf(b.Address, "it keeps data of its own, which %s does not have where it is now; it was %s", b.Machine, was).
				WithHint("bring the data there, and say --allow-move %s; nothing was done", b.Address))
		}
	}
	return out.Err()
}

func sorted(by map[string]plan.Record) []plan.Record {
	out := make([]plan.Record, 0, len(by))
	for _, a := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[a])
	}
	return out
}

// record is what the state keeps of an entry on a machine.
func (r *run) record(ctx context.Context, address, machine string, e *agent.Entry, old plan.Record) (plan.Record, error) {
	rec := old
	rec.Address, rec.Machine, rec.Backend = address, machine, e.Backend
	rec.Digest, rec.Object, rec.Values, rec.Outputs = e.Digest, e.Object, e.Values, e.Outputs
	if e.Digest == "" {
		if rec.Backend == "" {
			if u := r.w.Plan.Find(address); u != nil {
				rec.Backend = u.Backend
			}
		}
		return rec, nil
	}
	raw, err := r.w.object(ctx, e.Object)
	if err != nil {
		return rec, fmt.Errorf("%s: what stands there: %w", strings.TrimSuffix(address+" on machine "+machine, " on machine "), err)
	}
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return rec, err
	}
	rec.Traits = u.Traits
	return rec, nil
}

// Summary says in one line what an apply came to.
func (r *Result) Summary() string {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	c := r.Counts
	add(c.Created, "created")
	add(c.Updated, "updated")
	add(c.Replaced, "replaced")
	add(c.Moved, "moved")
	add(c.Deleted, "deleted")
	add(c.Failed, "failed")
	add(c.Skipped, "skipped")
	add(c.Held, "held")
	if len(parts) == 0 {
		parts = []string{"nothing changed"}
	}
	return strings.Join(parts, ", ") + fmt.Sprintf("; %d unchanged", c.Unchanged)
}
