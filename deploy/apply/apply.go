// Package apply executes plans: it takes the lease, writes the journal, runs the
// actions in parallel in the order of their dependencies, and commits a new
// generation.
//
// It is the only package that makes agents change machines. It refuses to know
// what a unit means. Invariants: an action is in the journal before it starts;
// the head moves only after every machine has flushed its manifest or was
// reported; after a crash at any point, calling Run again completes the work.
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
	"github.com/defx-dev/defx/internal/poll"
	"github.com/defx-dev/defx/internal/sets"
)

// Request is a plan to apply and the means to apply it.
type Request struct {
	Store    state.Store
	Dir      string                                // directory of the journal
	Plan     *plan.Plan                            // the desired units
	Objects  map[digest.Digest][]byte              // units that may not be in the state yet
	LastGood map[string]map[string]json.RawMessage // last good functionalities of each library
	Held     func(address string) bool             // reports whether a unit did not evaluate and is left alone; nil = none
	Moved    func(address string) string           // returns the address after renames; nil = no renames
	Machines []*graph.Machine                      // declared machines; those of the state are added
	Verb     string                                // apply, rollback or destroy
	Revision string                                // commit of the deployment's directory, if known

	AllowDelete, AllowMove map[string]bool // addresses whose deletion or move the user has confirmed
	Drifted                map[string]bool // modules that were changed outside of defx
	Restart                string          // address of a unit to restart unchanged
	Approved               *plan.ChangeSet // the change set that the user has confirmed; nil = any

	Dial     func(context.Context, *graph.Machine) (*agent.Client, error)
	Artifact func(context.Context, plan.Artifact) (io.ReadCloser, error) // opens the content of an artifact
	OnEvent  func(Event)                                                 // may be nil; called from one goroutine at a time
	HostKey  func(context.Context, *graph.Machine) (string, error)       // reads the public key of a new machine that a module made; nil = use known_hosts
	Modules  *terraform.Runner                                           // applies modules of resources; nil if there are none

	Parallel  int           // maximum number of concurrent actions; 0 = 10
	Deadline  time.Duration // of one action; 0 = 10 minutes, or an hour for a module
	LeaseTime time.Duration // lifetime of the lease between renewals; 0 = 30 seconds
	LeaseWait time.Duration // how long to wait for a lease that another process holds
}

// Environment is what all requests for one environment of a deployment share: its
// state, and the means to reach machines, artifacts and modules. The fields are
// those of Request.
type Environment struct {
	Store    state.Store
	Dir      string
	Dial     func(context.Context, *graph.Machine) (*agent.Client, error)
	HostKey  func(context.Context, *graph.Machine) (string, error)
	Artifact func(context.Context, plan.Artifact) (io.ReadCloser, error)
	Modules  *terraform.Runner
}

// Request returns a request to apply p to the machines. The caller may set further
// fields before it calls Diff or Run.
func (e Environment) Request(verb string, p *plan.Plan, machines []*graph.Machine) *Request {
	return &Request{Store: e.Store, Dir: e.Dir, Plan: p, Objects: map[digest.Digest][]byte{}, Machines: machines, Verb: verb,
		Dial: e.Dial, HostKey: e.HostKey, Artifact: e.Artifact, Modules: e.Modules}
}

// Outcome is the state of an action in an Event.
type Outcome string

const (
	Started Outcome = "started"
	Done    Outcome = "done"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
	Waiting Outcome = "waiting" // for a lease that another process holds; the action is zero
)

// Event reports the progress of one action.
type Event struct {
	Outcome Outcome
	Action  plan.Action
	Err     error         // why the action failed, was skipped or waits
	Took    time.Duration // of an action that is done or failed
}

// Result is the result of an apply.
type Result struct {
	Generation int             // the newest generation: the previous one if none was written
	Changes    *plan.ChangeSet // the change set that was executed under the lease
	Counts     state.Counts
	Failed     []string // addresses, sorted
	Skipped    []string // addresses, sorted
	Wrote      bool     // a generation was written
	Stopped    bool     // the caller's context ended before all actions were started
	Unflushed  []string // machines whose manifest could not be flushed, with the reason
	Notes      []string // checks that were not possible
	Orphans    []string // objects of this deployment on the machines that no record references
}

// ErrPlanChanged is returned if the actions to execute are not the approved ones.
var ErrPlanChanged = errors.New("the state has changed in the meantime, and the changes are no longer the confirmed ones")

// Diff returns the change set that Run would execute, as far as it is known
// without asking a machine.
func Diff(ctx context.Context, req *Request) (*plan.ChangeSet, error) {
	gen, head, err := state.Current(ctx, req.Store)
	if err != nil {
		return nil, err
	}
	unfinished, err := ReadUnfinished(req.Dir)
	if err != nil {
		return nil, err
	}
	var records []plan.Record
	if gen != nil {
		records = slices.Clone(gen.Records)
	}
	if gen != nil {
		records = RenameMachines(records, gen.Machines, req.Machines)
	}
	uncertain := map[string]plan.Uncertainty{}
	if unfinished != nil {
		records = markInterrupted(records, unfinished, uncertain)
	}
	if gen != nil {
		for name, before := range relocated(gen.Machines, req.Machines) {
			for _, rec := range req.recordsOn(name, records) {
				uncertain[rec.Address] = plan.Uncertainty{
					Unless: fmt.Sprintf("%s already has it at its new connection; the previous one was %s, where units are left running", name, before),
					Since:  fmt.Sprintf("the connection of %s was %s, where units are left running", name, before),
				}
			}
		}
	}
	return req.diff(ctx, records, uncertain, head.Generation)
}

// markInterrupted adds the units that an interrupted apply touched to uncertain,
// and returns the records with one for each unit that it may have created.
func markInterrupted(records []plan.Record, u *Unfinished, uncertain map[string]plan.Uncertainty) []plan.Record {
	byAddress := map[string]plan.Record{}
	for _, r := range records {
		byAddress[r.Address] = r
	}
	for address, machines := range u.Units {
		uncertain[address] = plan.Interrupted
		if _, known := byAddress[address]; !known {
			byAddress[address] = plan.Record{Address: address, Machine: sets.Keys(machines)[0]}
		}
	}
	return sortRecords(byAddress)
}

// relocated returns the machines whose connection is not the one by which they
// were last reached: name → previous connection.
func relocated(before, now []*graph.Machine) map[string]string {
	previous := map[string]string{}
	for _, b := range before {
		for _, n := range now {
			if n.Module != "" && n.Address == "" { // its module has not made it yet
				continue
			}
			if b.Name == n.Name && normalizeConnect(b.Connect) != normalizeConnect(n.Connect) {
				previous[b.Name] = b.Connect
			}
		}
	}
	return previous
}

// recordsOn returns the records of a machine without those of held units.
func (req *Request) recordsOn(machine string, records []plan.Record) []plan.Record {
	return slices.DeleteFunc(slices.Clone(records), func(r plan.Record) bool {
		return r.Machine != machine || req.Held != nil && req.Held(r.Address)
	})
}

// diff compares the plan with records and seals the change set.
func (req *Request) diff(ctx context.Context, records []plan.Record, uncertain map[string]plan.Uncertainty, base int) (*plan.ChangeSet, error) {
	cs, err := plan.Diff(plan.DiffInput{Plan: req.Plan, Records: records, Base: base, AllowDelete: req.AllowDelete, AllowMove: req.AllowMove,
		Held: req.Held, Uncertainty: uncertain, Drifted: req.Drifted, Moved: req.Moved, Restart: req.Restart,
		Unit: func(d digest.Digest) (*plan.Unit, error) {
			raw, err := req.object(ctx, d)
			if err != nil {
				return nil, err
			}
			u := &plan.Unit{}
			return u, u.Decode(raw)
		}})
	if err != nil {
		return nil, err
	}
	if req.Held != nil {
		for _, r := range records {
			if req.Held(r.Address) {
				cs.Summary.Held++
			}
		}
		cs.Summary.Unchanged -= min(cs.Summary.Held, cs.Summary.Unchanged)
	}
	return cs, cs.Seal()
}

// isApproved reports whether the user has approved every action of cs. Some of
// the approved actions may be missing, because an interrupted or another apply
// has executed them.
func (req *Request) isApproved(cs *plan.ChangeSet) bool {
	if req.Approved == nil || req.Approved.ChangeSet == cs.ChangeSet {
		return true
	}
	approved := map[string]plan.Action{}
	for _, a := range req.Approved.Actions {
		approved[a.Address] = a
	}
	for _, a := range cs.Actions {
		b, ok := approved[a.Address]
		if !ok || b.Digest != a.Digest || b.Machine != a.Machine || b.Certain && b.Op != a.Op {
			return false
		}
	}
	return true
}

// object returns an object of the request or of the state.
func (req *Request) object(ctx context.Context, d digest.Digest) ([]byte, error) {
	if raw, ok := req.Objects[d]; ok {
		return raw, nil
	}
	return req.Store.Get(ctx, d)
}

// Run applies the plan. It returns an error if the apply could not start or its
// result could not be recorded; failed units are listed in the Result. When ctx
// ends, Run starts no further action, completes those in progress and records
// the result.
func Run(ctx context.Context, req *Request) (*Result, error) {
	unfinished, err := ReadUnfinished(req.Dir)
	if err != nil {
		return nil, err
	}
	cs, err := Diff(ctx, req)
	if err != nil {
		return nil, err
	}
	if cs.Empty() && unfinished == nil {
		return unchangedResult(cs), nil
	}
	if !req.isApproved(cs) {
		return nil, ErrPlanChanged
	}
	detached := context.WithoutCancel(ctx) // results are recorded even if ctx ends
	lease, err := req.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer req.Store.Release(detached, lease)
	held, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	go state.KeepAlive(held, req.Store, lease, req.leaseTime(), lost)

	r := &run{req: req, lease: lease, machines: map[string]*machine{}, emit: req.OnEvent, uncertain: map[string]bool{}}
	r.token.Store(lease.Token)
	r.connCtx, r.cancelConns = context.WithCancel(detached)
	if r.emit == nil {
		r.emit = func(Event) {}
	}
	defer r.closeAll()
	return r.runLocked(held, detached)
}

// unchangedResult returns the result of an apply that has nothing to do.
func unchangedResult(cs *plan.ChangeSet) *Result {
	return &Result{Generation: cs.Base, Changes: cs, Counts: state.Counts{Unchanged: cs.Summary.Unchanged, Held: cs.Summary.Held}}
}

func (req *Request) leaseTime() time.Duration {
	if req.LeaseTime > 0 {
		return req.LeaseTime
	}
	return 30 * time.Second
}

// acquire takes a lease on the whole environment. While another process holds
// one it waits, at most for LeaseWait.
func (req *Request) acquire(ctx context.Context) (state.Lease, error) {
	begin, reported := time.Now(), false
	for {
		l, err := req.Store.Acquire(ctx, nil, state.CurrentOwner(req.Verb), req.leaseTime())
		held, is := errors.AsType[*state.ErrLeaseHeld](err)
		if !is || time.Since(begin) > req.LeaseWait {
			return l, err
		}
		if !reported && req.OnEvent != nil {
			reported = true
			req.OnEvent(Event{Outcome: Waiting, Err: held})
		}
		if poll.Sleep(ctx, 200*time.Millisecond) != nil {
			return l, err
		}
	}
}

// run is the execution of a request under its lease.
type run struct {
	req          *Request
	lease        state.Lease
	token        atomic.Int64 // the lease's, or a greater one if a machine remembers the token of another state
	generation   int          // number of the generation that this apply writes
	machines     map[string]*machine
	journal      *journal
	emit         func(Event)
	known        map[string]bool // addresses that have a record
	uncertain    map[string]bool // machines whose units had to be listed: an interrupted apply touched them, or they have a new connection
	connCtx      context.Context // ends when the connections to machines are closed
	cancelConns  context.CancelFunc
	outputs      outputs
	modulesOnce  sync.Once     // guards modulesErr
	modulesErr   error         // why modules must not be changed
	selfResource string        // address of the resource that is the machine defx runs on; "" = no such resource changes
	balancers    []plan.Record // the balancer memberships that were recorded when the apply began
	mu           sync.Mutex
	deregistered map[string]bool   // balancer memberships that were removed and not restored
	notes        map[string]bool   // checks that were not possible
	renames      map[string]string // renamed resources: new address → old
}

// scope is the name of the environment on machines.
func (r *run) scope() string { return r.req.Plan.Environment + "/" + r.req.Plan.Deployment }

// runLocked is Run under the lease. It ends early when ctx ends; detached is for
// what must be completed nevertheless.
func (r *run) runLocked(ctx, detached context.Context) (*Result, error) {
	gen, head, err := state.Current(detached, r.req.Store)
	if err != nil {
		return nil, err
	}
	r.generation = head.Generation + 1
	var records []plan.Record
	if gen != nil {
		records = slices.Clone(gen.Records)
		r.addMachines(gen.Machines)
	}
	unfinished, err := ReadUnfinished(r.req.Dir)
	if err != nil {
		return nil, err
	}
	if unfinished != nil {
		r.addMachines(unfinished.Machines)
	}
	r.addMachines(r.req.Machines)
	records = r.renameMachines(records, gen)
	moved := map[string]string{} // machines with a new connection
	if gen != nil {
		moved = relocated(gen.Machines, r.req.Machines)
	}
	if unfinished != nil || len(moved) > 0 {
		uncertain := &Unfinished{Units: map[string]map[string]bool{}}
		if unfinished != nil {
			uncertain.Units = unfinished.Units
		}
		for name := range moved {
			for _, rec := range r.req.recordsOn(name, records) {
				if uncertain.Units[rec.Address] == nil {
					uncertain.Units[rec.Address] = map[string]bool{}
				}
				uncertain.Units[rec.Address][name] = true
			}
		}
		before := records
		records = r.renameMachines(r.observe(detached, records, uncertain), gen) // the journal may have a machine under its previous name
		if err := r.checkData(before, records, moved); err != nil {
			return nil, err
		}
	}
	r.outputs.load(records)
	r.loadBalancers(records)
	cs, err := r.req.diff(detached, records, nil, head.Generation)
	if err != nil {
		return nil, err
	}
	r.completePlan(records)
	if cs.Plan, err = r.req.Plan.Digest(); err != nil {
		return nil, err
	}
	if err := r.checkStateMismatch(detached, cs, records); err != nil {
		return nil, err
	}
	if !r.req.isApproved(cs) {
		return nil, ErrPlanChanged
	}
	if err := r.checkSelfDestruct(detached, cs, records); err != nil {
		return nil, err
	}
	if cs.Empty() && unfinished == nil && len(moved) == 0 { // another apply did it in the meantime
		return unchangedResult(cs), nil
	}
	objects := slices.Collect(maps.Values(r.req.Objects))
	lastGood := map[string]digest.Digest{}
	for lib, funcs := range r.req.LastGood {
		raw, d, err := state.Object(funcs)
		if err != nil {
			return nil, err
		}
		lastGood[lib] = d
		objects = append(objects, raw)
	}
	if err := r.req.Store.Put(detached, objects...); err != nil {
		return nil, err
	}
	if r.journal, err = openJournal(r.req.Dir); err != nil {
		return nil, err
	}
	completed := false
	defer func() { r.journal.finish(completed) }()
	all := make([]*graph.Machine, 0, len(r.machines))
	for _, name := range sets.Keys(r.machines) {
		all = append(all, r.machines[name].decl)
	}
	if err := r.journal.write(journalLine{Start: &startLine{Token: r.lease.Token, Base: head.Generation, Plan: cs.Plan, Machines: all}}); err != nil {
		return nil, err
	}
	res, now, err := r.execute(ctx, detached, cs, records)
	if err != nil {
		return nil, err
	}
	res.Generation = head.Generation
	final := r.req.Plan
	if p := r.planWithValues(now); p != nil { // values that were unknown before are known now
		final = p
		if cs.Plan, err = p.Digest(); err != nil {
			return nil, err
		}
	}
	planObject, err := state.PutPlan(detached, r.req.Store, final)
	if err != nil {
		return nil, err
	}
	if r.req.Restart != "" && gen != nil { // a restart keeps the plan; its own plan lacks the units that are uncertain
		cs.Plan, planObject = gen.Plan, gen.PlanObject
	}
	next := &state.Generation{APIVersion: plan.APIVersion, Kind: "Generation", Number: r.generation, Parent: head.Object,
		Deployment: r.req.Plan.Deployment, Environment: r.req.Plan.Environment, Plan: cs.Plan, PlanObject: planObject, ChangeSet: cs.ChangeSet,
		Records: now, Renamed: r.appliedRenames(cs, now), Machines: r.usedMachines(now), LastGood: lastGood, Summary: res.Counts, Failed: res.Failed, Verb: r.req.Verb,
		Applied: time.Now().UTC().Truncate(time.Second), By: r.lease.Owner.Who, Revision: r.req.Revision}
	same := gen != nil && equalRecords(gen.Records, now) && len(moved) == 0
	if !same {
		res.Generation = next.Number
	}
	res.Unflushed, res.Orphans = r.flushAll(detached, res.Generation)
	if !same && (gen != nil || len(now) > 0) {
		if err := state.Commit(detached, r.req.Store, head, next); err != nil {
			return res, err
		}
		res.Wrote = true
	} else {
		res.Generation = head.Generation
	}
	completed = true
	return res, nil
}

// appliedRenames returns the renames of units and resources that were applied: new address → old.
func (r *run) appliedRenames(cs *plan.ChangeSet, now []plan.Record) map[string]string {
	out := maps.Clone(r.renames)
	for _, a := range cs.Actions {
		if a.PreviousAddress != "" && slices.ContainsFunc(now, func(r plan.Record) bool { return r.Address == a.Address }) {
			out[a.Address] = a.PreviousAddress
		}
	}
	return out
}

// equalRecords compares canonical encodings, in which empty and absent are equal.
func equalRecords(a, b []plan.Record) bool {
	if len(a) != len(b) {
		return false
	}
	x, _, errX := state.Object(a)
	y, _, errY := state.Object(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// addMachines adds machines; they replace those of the same name.
func (r *run) addMachines(list []*graph.Machine) {
	for _, m := range list {
		r.machines[m.Name] = &machine{decl: m}
	}
}

// usedMachines returns the machines that have records.
func (r *run) usedMachines(records []plan.Record) []*graph.Machine {
	used := map[string]bool{}
	for _, rec := range records {
		used[rec.Machine] = true
	}
	out := []*graph.Machine{}
	for _, name := range sets.Keys(used) {
		if m := r.machines[name]; m != nil {
			out = append(out, m.decl)
		}
	}
	return out
}

// observe asks the machines for the actual state of the units of u and returns
// the updated records. The units of a machine that does not answer in time stay
// uncertain (without a digest), so that they do not delay the other machines.
func (r *run) observe(ctx context.Context, records []plan.Record, u *Unfinished) []plan.Record {
	byAddress := map[string]plan.Record{}
	for _, rec := range records {
		byAddress[rec.Address] = rec
	}
	entries, unreachable := map[string]map[string]*agent.Entry{}, map[string]bool{}
	var names []string
	for _, machines := range u.Units {
		for name := range machines {
			if !r.uncertain[name] {
				r.uncertain[name], unreachable[name] = true, true
				names = append(names, name)
			}
		}
	}
	var mu sync.Mutex
	closed := false // late answers are ignored
	forEachParallel(names, func(name string) error {
		units, err := r.units(ctx, name)
		mu.Lock()
		defer mu.Unlock()
		if !closed && err == nil {
			entries[name], unreachable[name] = units, false
		}
		return nil
	})
	mu.Lock()
	closed = true
	mu.Unlock()
	for _, address := range sets.Keys(u.Units) {
		old, recorded := byAddress[address]
		found := map[string]plan.Record{}
		for _, name := range sets.Keys(u.Units[address]) {
			if unreachable[name] {
				rec := old
				rec.Address, rec.Machine, rec.Digest = address, name, ""
				found[name] = rec
			} else if e := entries[name][address]; e != nil {
				rec, err := r.record(ctx, address, name, e, old)
				if err != nil {
					rec.Digest = ""
				}
				found[name] = rec
			}
		}
		delete(byAddress, address)
		if names := sets.Keys(found); len(names) > 0 {
			byAddress[address] = found[names[0]]
			// During a move both machines have the unit. It counts as not moved yet, so that the move is executed again.
			if rec, ok := found[old.Machine]; recorded && ok {
				byAddress[address] = rec
			}
		}
	}
	return sortRecords(byAddress)
}

// renameMachines is RenameMachines from the machines of gen to those of the request.
func (r *run) renameMachines(records []plan.Record, gen *state.Generation) []plan.Record {
	if gen == nil {
		return records
	}
	return RenameMachines(records, gen.Machines, r.req.Machines)
}

// RenameMachines returns the records with the new name of each machine that is
// no longer declared, but whose connection is declared under another name.
func RenameMachines(records []plan.Record, before, now []*graph.Machine) []plan.Record {
	declared, byConnect := map[string]bool{}, map[string]string{}
	for _, m := range now {
		declared[m.Name] = true
		byConnect[normalizeConnect(m.Connect)] = m.Name
	}
	names := map[string]string{}
	for _, m := range before {
		if name := byConnect[normalizeConnect(m.Connect)]; m.Connect != "" && !declared[m.Name] && name != "" {
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

// normalizeConnect returns connect in a form that is equal for equal connections.
func normalizeConnect(connect string) string {
	if dir, ok := strings.CutPrefix(connect, "dir:"); ok {
		return "dir:" + path.Clean(dir)
	}
	return connect
}

// completePlan adds the held units that are deployed to the plan, so that a later
// rollback includes them. They may have been deployed by an apply that was killed
// before it wrote a generation.
func (r *run) completePlan(records []plan.Record) {
	if r.req.Held == nil {
		return
	}
	complete := *r.req.Plan
	complete.Units = slices.DeleteFunc(slices.Clone(complete.Units), func(u plan.Placed) bool { return r.req.Held(u.Address) })
	for _, rec := range records {
		if r.req.Held(rec.Address) && rec.Digest != "" {
			u := rec.Placed()
			u.Held = true
			complete.Units = append(complete.Units, u)
		}
	}
	slices.SortFunc(complete.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	r.req.Plan = &complete
}

// checkStateMismatch fails if a machine that the actions change has units of this
// environment that the state does not know: the state was lost, or it is the
// wrong one. A machine that does not answer in time is checked before the first
// change there.
func (r *run) checkStateMismatch(ctx context.Context, cs *plan.ChangeSet, records []plan.Record) error {
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
			if m := r.machines[name]; m != nil && changing[m.decl.Module] {
				continue // its module may not have made it yet, or may replace it
			}
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return forEachParallel(names, func(name string) error {
		err := r.checkMachine(ctx, name)
		if m, is := errors.AsType[*stateMismatch](err); is {
			return m.err
		}
		return nil // the actions on this machine will report the error
	})
}

// stateMismatch is an error that stops the whole apply: a machine has units that
// the state does not know.
type stateMismatch struct{ err *diag.Error }

func (m *stateMismatch) Error() string { return m.err.Error() }
func (m *stateMismatch) Unwrap() error { return m.err }

// checkMachine returns a *stateMismatch if a machine has units that the state does
// not know. The empty name means the modules.
func (r *run) checkMachine(ctx context.Context, name string) error {
	units, err := r.units(ctx, name)
	if err != nil {
		return err
	}
	for _, address := range sets.Keys(units) {
		if !r.known[address] && units[address].Digest != "" {
			where := "machine " + name
			if name == "" {
				where = "the terraform directory of the state"
			}
			return &stateMismatch{diag.Errorf(where, "has %s, which the state does not know: the state was lost, or it is not the state of this environment", address).
				WithHint("restore the state directory of %s, or recreate it from the machines: defx state rebuild; nothing was changed", r.scope())}
		}
	}
	return nil
}

// checkData returns an error for each stateful unit that would be started without
// its data, because its machine has a new connection and does not have the unit.
// The moved machines are given as in relocated.
func (r *run) checkData(before, now []plan.Record, moved map[string]string) error {
	var out diag.List
	for _, b := range before {
		previous := moved[b.Machine]
		if previous == "" || !b.Stateful || r.req.AllowMove[b.Address] || r.req.Held != nil && r.req.Held(b.Address) {
			continue
		}
		if !slices.ContainsFunc(now, func(n plan.Record) bool { return n.Address == b.Address }) && r.req.Plan.Find(b.Address) != nil {
			out = append(out, diag.Errorf(b.Address, "it has data, which machine %s does not have at its new connection; the previous one was %s", b.Machine, previous).
				WithHint("copy the data there and use --allow-move %s; nothing was changed", b.Address))
		}
	}
	return out.Err()
}

// sortRecords returns the values of a map in the order of their addresses.
func sortRecords(byAddress map[string]plan.Record) []plan.Record {
	out := make([]plan.Record, 0, len(byAddress))
	for _, a := range sets.Keys(byAddress) {
		out = append(out, byAddress[a])
	}
	return out
}

// record returns the record of an entry on a machine; old is the previous one.
func (r *run) record(ctx context.Context, address, machine string, e *agent.Entry, old plan.Record) (plan.Record, error) {
	rec := old
	rec.Address, rec.Machine, rec.Backend = address, machine, e.Backend
	rec.Digest, rec.Object, rec.Values, rec.Outputs = e.Digest, e.Object, e.Values, e.Outputs
	if e.Digest == "" {
		if rec.Backend == "" {
			if u := r.req.Plan.Find(address); u != nil {
				rec.Backend = u.Backend
			}
		}
		return rec, nil
	}
	raw, err := r.req.object(ctx, e.Object)
	if err != nil {
		return rec, fmt.Errorf("%s: reading the deployed unit: %w", strings.TrimSuffix(address+" on machine "+machine, " on machine "), err)
	}
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return rec, err
	}
	rec.Traits = u.Traits
	return rec, nil
}

// Summary returns the counts of an apply as one line.
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
