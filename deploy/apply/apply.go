// Package apply executes plans: it takes the lease, writes the journal, runs the
// actions in parallel in the order of their dependencies, and commits a new
// generation.
//
// It is the only package that makes agents change machines. It refuses to know
// what a unit means. Invariants: an apply is announced in the head of the state
// before its first write on a machine; the head moves only after every machine has
// flushed its manifest or was reported; after a crash at any point, calling Run
// again, from any host, completes the work; a state that is not the one that the
// machines know is refused, and nothing is changed.
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
	"github.com/defx-dev/defx/internal/sets"
)

// Request is a plan to apply and the means to apply it.
type Request struct {
	Store    state.Store
	Dir      string                                // directory of the journal, which only shows progress
	Plan     *plan.Plan                            // the desired units
	Objects  map[digest.Digest][]byte              // units that may not be in the state yet
	LastGood map[string]map[string]json.RawMessage // last good functionalities of each library
	Held     func(address string) bool             // reports whether a unit did not evaluate and is left alone; nil = none
	Moved    func(address string) string           // returns the address after renames; nil = no renames
	Machines []*graph.Machine                      // declared machines; those of the state are added
	Verb     string                                // apply, rollback or destroy
	Revision func(context.Context) string          // returns the commit of the deployment's directory, or ""; nil = unknown. It is called by Run only

	AllowDelete, AllowMove map[string]bool // addresses whose deletion or move the user has confirmed
	GiveUp                 map[string]bool // addresses whose directories with data may be given up
	Drifted                map[string]bool // modules that were changed outside of defx
	Restart                string          // address of a unit to restart unchanged
	Approved               *plan.ChangeSet // the change set that the user has confirmed; nil = any

	Refreshed   *Refreshed                                   // what the machines answered (RefreshMachines); nil = they are not asked
	RefreshTime time.Duration                                // how long one machine may take to answer; 0 = 10 seconds
	Repair      func(address string, needs plan.Repair) bool // reports whether a difference may be repaired; nil = all
	AllowEmpty  map[string]bool                              // ADDRESS or @MACHINE: units that may start although their data is gone
	Stop        map[string]*plan.Stopped                     // addresses of units to stop
	Start       map[string]bool                              // addresses of stopped units to start
	NewFields   bool                                         // list the fields of new units in the change set

	Dial     func(context.Context, *graph.Machine) (*agent.Client, error)
	Artifact func(context.Context, plan.Artifact) (io.ReadCloser, error) // opens the content of an artifact
	OnEvent  func(Event)                                                 // may be nil; called from one goroutine at a time
	HostKey  func(context.Context, *graph.Machine) (string, error)       // reads the public key of a new machine that a module made; nil = use known_hosts
	Modules  *terraform.Runner                                           // applies modules of resources; nil if there are none

	Parallel  int           // maximum number of concurrent actions; 0 = 10
	Deadline  time.Duration // of one action; 0 = 10 minutes, or an hour for a module
	LeaseTime time.Duration // after which a lease that is not renewed may be taken over; 0 = 30 seconds
	LeaseWait time.Duration // how long to wait for a lease that another process holds
}

// Recorded returns what gives a revision that is known already, for Request.Revision.
func Recorded(revision string) func(context.Context) string {
	return func(context.Context) string { return revision }
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
	Waiting Outcome = "waiting" // an action in progress waits; if the action is zero, the apply waits for a lease that another process holds
)

// Event reports the progress of one action.
type Event struct {
	Outcome Outcome
	Action  plan.Action
	Err     error           // why the action failed or was skipped, or who holds the lease
	Took    time.Duration   // of an action that is done or failed
	Wait    *agent.Progress // what an action waits for
}

// Result is the result of an apply.
type Result struct {
	Generation int             // the newest generation: the previous one if none was written
	Changes    *plan.ChangeSet // the change set that was executed under the lease
	Counts     state.Counts
	Failed     []string        // addresses, sorted
	Skipped    []string        // addresses, sorted
	Wrote      bool            // a generation was written
	Stopped    bool            // the caller's context ended before all actions were started
	Unflushed  []string        // machines whose manifest could not be flushed, with the reason
	Notes      []string        // checks that were not possible
	Unasked    []string        // machines with units that could not be asked, sorted
	Outcomes   []state.Outcome // units that did not become what was wanted
	Orphans    []string        // objects of this deployment on the machines that no record references
}

// ErrPlanChanged is returned if the actions to execute are not the approved ones.
var ErrPlanChanged = errors.New("the state has changed in the meantime, and the changes are no longer the confirmed ones")

// Diff returns the change set that Run would execute, as far as it is known
// without asking a machine, or with what machines answered (RefreshMachines). It
// fails if a machine that answered knows another state.
func Diff(ctx context.Context, req *Request) (*plan.ChangeSet, error) {
	b, err := req.readBase(ctx)
	if err != nil {
		return nil, err
	}
	return req.diffBase(ctx, b)
}

// diffBase is Diff from a recorded state.
func (req *Request) diffBase(ctx context.Context, b *base) (*plan.ChangeSet, error) {
	records, uncertain := b.uncertainRecords(req)
	var drift map[string]*plan.UnitDrift
	var removals []plan.Removal
	if req.Refreshed != nil {
		if err := req.acceptAnswers(ctx, b); err != nil {
			return nil, err
		}
		isUncertain := func(address string) bool { return uncertain[address] != plan.Uncertainty{} }
		records, drift = req.compareMachines(ctx, req.Refreshed.Answers, records, isUncertain)
		var left, more []plan.Removal
		if b.gen != nil {
			left = b.gen.Removals
		}
		known := records
		records, more = req.unrecorded(ctx, req.Refreshed.Answers, records, left, isUncertain)
		removals, _ = leftovers(left, req.Refreshed.Answers, records)
		removals = unionRemovals(removals, more)
		for _, r := range req.recordedAgain(known, records) {
			uncertain[r.Address] = plan.Uncertainty{Unless: r.Machine + " still has it; then it is only recorded again", Since: "it is not recorded, and " + r.Machine + " has it"}
		}
	}
	return req.diff(ctx, records, uncertain, drift, removals, b)
}

// recordedAgain returns the desired records that are not among the known ones: a machine has
// their units, although they were forgotten with it.
func (req *Request) recordedAgain(known, records []plan.Record) []plan.Record {
	is := map[string]bool{}
	for _, r := range known {
		is[r.Address] = true
	}
	return slices.DeleteFunc(slices.Clone(records), func(r plan.Record) bool {
		u := req.Plan.Find(r.Address)
		return is[r.Address] || u == nil || u.Machine != r.Machine || r.Digest == ""
	})
}

// forgottenData returns the addresses of units whose data was on a machine that was forgotten.
func (b *base) forgottenData() map[string]bool {
	out := map[string]bool{}
	if b.gen != nil {
		for _, x := range b.gen.Removals {
			if x.Forgotten && x.Data {
				out[x.Address] = true
			}
		}
	}
	return out
}

// base is the recorded state from which an apply starts.
type base struct {
	head       state.Head
	gen        *state.Generation // nil = none
	unfinished *Unfinished       // nil = nothing was interrupted
	records    []plan.Record     // on machines as they are named now
	relocated  map[string]string // machines with a new connection: name → previous one
}

// readBase reads the recorded state.
func (req *Request) readBase(ctx context.Context) (*base, error) {
	b := &base{relocated: map[string]string{}}
	var err error
	if b.gen, b.head, err = state.Current(ctx, req.Store); err != nil {
		return nil, err
	}
	if b.unfinished, err = unfinishedOf(ctx, req.Store, b.head); err != nil {
		return nil, err
	}
	if b.gen != nil {
		b.records = RenameMachines(b.gen.Records, b.gen.Machines, req.Machines)
		b.relocated = relocated(b.gen.Machines, req.Machines)
	}
	return b, nil
}

// uncertainRecords returns the records with those of interrupted units, and why
// the records of some units are uncertain.
func (b *base) uncertainRecords(req *Request) ([]plan.Record, map[string]plan.Uncertainty) {
	records, uncertain := b.records, map[string]plan.Uncertainty{}
	if b.unfinished != nil {
		records = markInterrupted(records, b.unfinished, uncertain, req.Moved)
	}
	for name, before := range b.relocated {
		for _, rec := range req.recordsOn(name, records) {
			uncertain[rec.Address] = plan.Uncertainty{
				Unless: fmt.Sprintf("%s already has it at its new connection; the previous one was %s, where units are left running", name, before),
				Since:  fmt.Sprintf("the connection of %s was %s, where units are left running", name, before),
			}
		}
	}
	return records, uncertain
}

// markInterrupted adds the units that an interrupted apply touched to uncertain,
// and returns the records with one for each unit that it may have created. The
// record of a unit that it was renaming stays the only one of both addresses.
func markInterrupted(records []plan.Record, u *Unfinished, uncertain map[string]plan.Uncertainty, moved func(string) string) []plan.Record {
	byAddress, renamed := map[string]plan.Record{}, map[string]bool{}
	for _, r := range records {
		byAddress[r.Address] = r
		if moved != nil && u.Units[r.Address] != nil {
			renamed[moved(r.Address)] = true
		}
	}
	for address, machines := range u.Units {
		uncertain[address] = plan.Interrupted
		if _, known := byAddress[address]; !known && !renamed[address] {
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
func (req *Request) diff(ctx context.Context, records []plan.Record, uncertain map[string]plan.Uncertainty, drift map[string]*plan.UnitDrift, removals []plan.Removal, b *base) (*plan.ChangeSet, error) {
	cs, err := plan.Diff(plan.DiffInput{Plan: req.Plan, Records: records, Base: b.head.Generation, Forgotten: b.forgottenData(), AllowDelete: req.AllowDelete, AllowMove: req.AllowMove, GiveUp: req.GiveUp,
		Drift: drift, Repair: req.Repair, AllowEmpty: req.allowsEmpty, Stop: req.Stop, Start: req.Start, NewFields: req.NewFields,
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
	cs.Removals, cs.Machines = removals, req.asked(records)
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
		if !ok || b.Digest != a.Digest || b.Machine != a.Machine || b.Certain && (b.Op != a.Op || b.Before != a.Before) {
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
// the result. The lease is kept until all of this has ended.
func Run(ctx context.Context, req *Request) (*Result, error) {
	b, err := req.readBase(ctx)
	if err != nil {
		return nil, err
	}
	cs, err := req.diffBase(ctx, b)
	if err != nil {
		return nil, err
	}
	if cs.Empty() && b.unfinished == nil {
		return req.unchangedResult(ctx, cs)
	}
	if !req.isApproved(cs) {
		return nil, ErrPlanChanged
	}
	detached := context.WithoutCancel(ctx) // results are recorded even if ctx ends
	owner := state.CurrentOwner(req.Verb)
	r := &run{req: req, caller: agent.Caller{Apply: state.NewID(), By: owner.Who, Verb: req.Verb}, emit: serialize(req.OnEvent)}
	r.connCtx, r.cancelConns = context.WithCancel(detached)
	defer r.closeAll()
	r.start(b)
	if err := r.checkMachines(ctx, b, cs); err != nil { // before anything is written, even a lease
		return nil, err
	}
	lease, err := state.AcquireWait(ctx, req.Store, state.LeaseRequest{Apply: r.caller.Apply, Owner: owner, TTL: req.LeaseTime}, req.LeaseWait, func(held *state.ErrLeaseHeld) {
		r.emit(Event{Outcome: Waiting, Err: held})
	})
	if err != nil {
		return nil, err
	}
	defer req.Store.Release(detached, lease)
	held, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	renewing, stop := context.WithCancel(detached)
	defer stop()
	go state.KeepAlive(renewing, req.Store, lease, lost)
	r.lease, r.caller.Token = lease, lease.Token
	if req.Revision != nil {
		r.revision = req.Revision(ctx)
	}

	now, err := req.readBase(detached)
	if err != nil {
		return nil, err
	}
	first := b.head.IsZero() && now.head.Generation == 0 && len(now.head.Intents) == 0
	if !first && !now.head.Equal(b.head) { // another apply has changed the machines meanwhile
		r.forgetScopes()
	}
	r.start(now)
	return r.runLocked(held, detached, now)
}

// start sets what a run knows of the recorded state.
func (r *run) start(b *base) {
	r.caller.Lineage, r.generation = b.head.Lineage, b.head.Generation+1
	r.acceptance, r.uncertain = newAcceptance(r.req, b, r.caller.Token), map[string]bool{}
	r.missing, r.unreached, r.previous, r.removals, r.left = map[string]bool{}, map[string]bool{}, map[string]*graph.Machine{}, nil, nil
	if b.gen != nil {
		r.removals = slices.Clone(b.gen.Removals)
	}
	known := r.machines
	r.machines = map[string]*machine{}
	if b.gen != nil {
		r.addMachines(b.gen.Machines)
	}
	if b.unfinished != nil {
		r.addMachines(b.unfinished.Machines)
	}
	r.addMachines(r.req.Machines)
	for name, m := range known { // with their connections
		if now := r.machines[name]; now != nil && now.decl.Connect == m.decl.Connect {
			r.machines[name] = m
		} else if m.mu.TryLock() {
			if m.client != nil {
				m.client.Close()
			}
			m.mu.Unlock()
		}
	}
}

// unchangedResult returns the result of an apply that has nothing to do.
func (req *Request) unchangedResult(ctx context.Context, cs *plan.ChangeSet) (*Result, error) {
	res := &Result{Generation: cs.Base, Changes: cs, Counts: state.Counts{Unchanged: cs.Summary.Unchanged + cs.Summary.Protected, Held: cs.Summary.Held}}
	gen, _, err := state.Current(ctx, req.Store)
	if gen != nil {
		res.Unasked = req.unasked(gen.Records)
	}
	return res, err
}

// run is the execution of a request.
type run struct {
	req          *Request
	lease        state.Lease
	caller       agent.Caller // this apply, as machines know it
	revision     string       // of the deployment's directory when this apply began
	acceptance   *acceptance
	generation   int // number of the generation that this apply writes
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
	touched      atomic.Bool   // a machine or a module was changed, or may have been
	mu           sync.Mutex
	deregistered map[string]bool           // balancer memberships that were removed and not restored
	notes        map[string]bool           // checks that were not possible
	renames      map[string]string         // renamed resources: new address → old
	missing      map[string]bool           // addresses of units that their machine does not have, although they are recorded there
	unreached    map[string]bool           // machines whose new connection does not work
	previous     map[string]*graph.Machine // these machines with the connection that worked last
	left         []plan.Removal            // the removals of which machines have said that there is something to remove
	names        *graph.Names              // of all units, as people read them
	removals     []plan.Removal            // what is still to be removed from machines that units have left
}

// scope is the name of the environment on machines.
func (r *run) scope() string { return r.req.Plan.Environment + "/" + r.req.Plan.Deployment }

// runLocked is Run under the lease. It ends early when ctx ends; detached is for
// what must be completed nevertheless.
func (r *run) runLocked(ctx, detached context.Context, b *base) (*Result, error) {
	head, gen, unfinished := b.head, b.gen, b.unfinished
	cs, err := r.req.diffBase(detached, b)
	if err != nil {
		return nil, err
	}
	if err := r.checkMachines(detached, b, cs); err != nil {
		return nil, err
	}
	records := r.observe(detached, b, cs)
	if err := r.checkData(b.records, records, b.relocated); err != nil {
		return nil, err
	}
	if err := r.checkMissing(records); err != nil {
		return nil, err
	}
	r.keepConnections(gen, b.relocated)
	r.outputs.load(records)
	r.loadBalancers(records)
	var drift map[string]*plan.UnitDrift
	var todo []plan.Removal
	if answers := r.refreshAgain(detached, records); answers != nil {
		records, drift = r.req.compareMachines(detached, answers, records, func(string) bool { return false })
		var done, more []plan.Removal
		records, more = r.req.unrecorded(detached, answers, records, r.removals, func(string) bool { return false })
		todo, done = leftovers(r.removals, answers, records)
		r.removals = slices.DeleteFunc(r.removals, func(x plan.Removal) bool { return slices.Contains(done, x) })
		for _, x := range more {
			r.addLeftover(x.Address, x.Machine)
		}
	}
	for _, x := range r.left {
		if slices.Contains(r.removals, x) && !slices.Contains(todo, x) {
			todo = append(todo, x)
		}
	}
	todo = sortRemovals(todo)
	if repair := r.req.Repair; repair != nil && unfinished != nil { // what was begun is finished
		r.req.Repair = func(address string, needs plan.Repair) bool {
			return unfinished.Units[address] != nil || repair(address, needs)
		}
	}
	if cs, err = r.req.diff(detached, records, nil, drift, todo, b); err != nil {
		return nil, err
	}
	if err := r.checkStop(cs); err != nil {
		return nil, err
	}
	r.names = cs.Names
	r.completePlan(records)
	if cs.Plan, err = r.req.Plan.Digest(); err != nil {
		return nil, err
	}
	r.known = map[string]bool{}
	for _, rec := range records {
		r.known[rec.Address] = true
	}
	for _, x := range r.removals {
		r.known[x.Address] = true
	}
	if !r.req.isApproved(cs) {
		return nil, ErrPlanChanged
	}
	if err := r.checkSelfDestruct(detached, cs, records); err != nil {
		return nil, err
	}
	if cs.Empty() && unfinished == nil && len(b.relocated) == 0 && len(r.req.recordedAgain(b.records, records)) == 0 { // another apply did it in the meantime
		return r.req.unchangedResult(detached, cs)
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
	if !cs.Empty() || unfinished != nil {
		if head, err = state.Announce(detached, r.req.Store, head, r.intent(cs, unfinished)); err != nil {
			return nil, err
		}
	}
	if r.journal, err = openJournal(r.req.Dir); err != nil {
		return nil, err
	}
	completed := false
	defer func() { r.journal.finish(completed) }()
	r.journal.write(journalLine{Start: &startLine{Apply: r.caller.Apply, Token: r.caller.Token, Base: head.Generation, Plan: cs.Plan}})
	r.fenceInterrupted(detached, unfinished)
	res, after, err := r.execute(ctx, detached, cs, records)
	if err != nil {
		return nil, err
	}
	if ctx.Err() == nil {
		r.removeLeftovers(detached, cs.Removals)
		res.Notes = sets.Keys(r.notes)
	}
	res.Generation, res.Unasked = head.Generation, r.req.unasked(after)
	final := r.req.Plan
	if p := r.planWithValues(after); p != nil { // values that were unknown before are known now
		final = p
		if cs.Plan, err = p.Digest(); err != nil {
			return nil, err
		}
	}
	planObject, err := state.PutPlan(detached, r.req.Store, final)
	if err != nil {
		return nil, err
	}
	if gen != nil && (r.req.Restart != "" || len(r.req.Stop)+len(r.req.Start) > 0) { // a restart keeps the plan; its own plan lacks the units that are uncertain
		cs.Plan, planObject = gen.Plan, gen.PlanObject
	}
	next := &state.Generation{APIVersion: plan.APIVersion, Kind: "Generation", Number: r.generation, Parent: head.Object, Apply: r.caller.Apply, Token: r.caller.Token,
		Deployment: r.req.Plan.Deployment, Environment: r.req.Plan.Environment, Plan: cs.Plan, PlanObject: planObject, ChangeSet: cs.ChangeSet,
		Records: after, Renamed: r.appliedRenames(cs, after), Machines: r.usedMachines(after), LastGood: lastGood, Summary: res.Counts, Failed: res.Failed, Verb: r.req.Verb,
		Applied: now(), By: r.caller.By, Revision: r.revision}
	next.Outcomes, next.Removals = sortOutcomes(append(r.carriedOutcomes(gen, cs), res.Outcomes...)), sortRemovals(r.removals)
	if unfinished != nil {
		next.Finished = unfinished.Applies
	}
	var removals []plan.Removal
	if gen != nil {
		removals = gen.Removals
	}
	same := (gen != nil && equalRecords(gen.Records, after) || gen == nil && len(after) == 0) && len(b.relocated) == 0 && slices.Equal(removals, next.Removals)
	write := !same || unfinished != nil || r.touched.Load() || len(res.Outcomes) > 0 // what was tried stays visible
	if write {
		res.Generation = next.Number
	}
	res.Unflushed, res.Orphans = r.flushAll(detached, res.Generation)
	if _, err := r.req.Store.Renew(detached, r.lease); err != nil { // nobody has taken over meanwhile
		return res, fmt.Errorf("the result was not recorded: %w", err)
	}
	if write {
		err = state.Commit(detached, r.req.Store, head, next)
	} else if !cs.Empty() {
		err = state.Withdraw(detached, r.req.Store, r.caller.Apply)
	}
	if err != nil {
		res.Generation = head.Generation
		return res, err
	}
	res.Wrote = write
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

// usedMachines returns the machines that have records, or from which something is still to be removed.
func (r *run) usedMachines(records []plan.Record) []*graph.Machine {
	used := map[string]bool{}
	for _, x := range r.removals {
		used[x.Machine] = !x.Forgotten
	}
	for _, rec := range records {
		used[rec.Machine] = true
	}
	out := []*graph.Machine{}
	for _, name := range sets.Keys(used) {
		if m := r.previous[name]; m != nil && used[name] {
			out = append(out, m)
		} else if m := r.machines[name]; m != nil && used[name] {
			out = append(out, m.decl)
		}
	}
	return out
}

// involved returns the machines that an apply has to ask before it changes
// anything: those of interrupted applies, those with a new connection, and those
// that the changes touch. A machine that a changing module makes is left out: it
// may not exist yet, or may be replaced.
func (r *run) involved(b *base, cs *plan.ChangeSet) []string {
	names := map[string]bool{}
	if b.unfinished != nil {
		for _, name := range b.unfinished.Names {
			names[name] = true
		}
		for _, machines := range b.unfinished.Units {
			for name := range machines {
				names[name] = true
			}
		}
	}
	for name := range b.relocated {
		names[name] = true
	}
	changing := map[string]bool{}
	for _, a := range cs.Actions {
		changing[a.Address] = true
	}
	for _, a := range cs.Actions {
		for _, name := range []string{a.Machine, a.From} {
			if m := r.machines[name]; m == nil || !changing[m.decl.Module] {
				names[name] = true
			}
		}
	}
	for _, x := range cs.Removals {
		names[x.Machine] = true
	}
	if r.req.Modules == nil || b.unfinished == nil {
		delete(names, "")
	}
	return sets.Keys(names)
}

// checkMachines asks the involved machines and fails if the state must not be
// used on one of them. A machine that does not answer in time is checked before
// the first change there.
func (r *run) checkMachines(ctx context.Context, b *base, cs *plan.ChangeSet) error {
	accepts, machines := r.acceptance, r.machines // calls that are late must not see those of a later check
	return forEachParallel(slices.DeleteFunc(r.involved(b, cs), func(name string) bool { return machines[name] == nil }), func(name string) error {
		s, err := r.scopeOn(ctx, machines[name])
		if err == nil {
			err = accepts.check(ctx, name, s)
		}
		if m, is := errors.AsType[*stateMismatch](err); is {
			return m.err
		}
		return nil // the actions on this machine will report the error
	})
}

// observe returns the records with what the involved machines have: the units of
// interrupted applies and of machines with a new connection, and everything in
// which a machine differs from its records. checkMachines has asked them before;
// interrupted units of a machine that has not answered become uncertain (without
// a digest), so that it does not delay the others.
func (r *run) observe(ctx context.Context, b *base, cs *plan.ChangeSet) []plan.Record {
	uncertain := map[string]map[string]bool{} // address → machines that may have it
	add := func(address, name string) {
		if uncertain[address] == nil {
			uncertain[address] = map[string]bool{}
		}
		uncertain[address][name] = true
	}
	if b.unfinished != nil {
		for address, machines := range b.unfinished.Units {
			for name := range machines {
				add(address, name)
				r.uncertain[name] = true
			}
		}
		for _, name := range b.unfinished.Names {
			r.uncertain[name] = true
		}
	}
	reconnected := map[string]bool{} // addresses that are uncertain only because their machine has a new connection
	for name := range b.relocated {
		r.uncertain[name] = true
		for _, rec := range r.req.recordsOn(name, b.records) {
			reconnected[rec.Address] = uncertain[rec.Address] == nil
			add(rec.Address, name)
		}
	}
	byAddress := map[string]plan.Record{}
	for _, rec := range b.records {
		byAddress[rec.Address] = rec
	}
	answered := map[string]map[string]*agent.Entry{}
	for _, name := range r.involved(b, cs) {
		if entries, ok := r.answer(ctx, name); ok {
			answered[name] = entries
		}
	}
	for _, name := range sets.Keys(answered) {
		for address, e := range answered[name] {
			if e.Former == "" || e.Digest != "" { // it was not interrupted while it was renamed
				continue
			}
			add(e.Former, name)
			add(address, name)
			was, recorded := byAddress[e.Former]
			switch {
			case r.req.Plan.Find(address) == nil && r.req.Plan.Find(e.Former) != nil: // the agent takes the rename back
				answered[name] = maps.Clone(answered[name])
				delete(answered[name], address)
				answered[name][e.Former] = e
			case recorded: // it keeps what its record protects
				was.Address = address
				byAddress[address] = was
			}
		}
	}
	for _, name := range sets.Keys(answered) {
		if _, moved := b.relocated[name]; moved || name == "" {
			continue
		}
		for address, e := range answered[name] {
			rec, known := byAddress[address]
			switch {
			case uncertain[address] != nil:
			case !known: // the machine was reverted, or its unit was forgotten
				add(address, name)
			case rec.Machine != name: // it was reverted to a time before the unit moved away
				r.addLeftover(address, name)
			case rec.Digest != "" && r.req.leaves(address):
			case !r.isRefreshed(name) && (rec.Digest != e.Digest || !maps.Equal(rec.Values, e.Values)):
				add(address, name)
			}
		}
	}
	for _, address := range sets.Keys(uncertain) {
		old, recorded := byAddress[address]
		found := map[string]plan.Record{}
		for _, name := range sets.Keys(uncertain[address]) {
			entries, asked := answered[name]
			switch e := entries[address]; {
			case !asked && reconnected[address] && recorded: // nothing was done there
				r.unreached[name] = true
				found[name] = old
			case !asked && recorded && old.Machine == name && !r.uncertain[name]:
				found[name] = old // nothing speaks against the record
			case !asked:
				rec := old
				rec.Address, rec.Machine, rec.Digest = address, name, ""
				found[name] = rec
			case e != nil:
				rec, err := r.req.record(ctx, address, name, e, old)
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
			for _, name := range names { // unless it is, the one that was not recorded is removed
				if u := r.req.Plan.Find(address); name != byAddress[address].Machine && (u == nil || u.Machine != name) && (r.req.Held == nil || !r.req.Held(address)) {
					r.addLeftover(address, name)
				}
			}
		}
	}
	for _, rec := range b.records { // a machine lacks what its records say: it was reverted, or its records were lost
		entries, asked := answered[rec.Machine]
		if _, there := byAddress[rec.Address]; !there || !asked || uncertain[rec.Address] != nil || entries[rec.Address] != nil || rec.Machine == "" || r.isRefreshed(rec.Machine) {
			continue
		}
		if _, moved := b.relocated[rec.Machine]; moved || r.req.leaves(rec.Address) {
			continue
		}
		r.missing[rec.Address] = true
		rec.Digest = ""
		byAddress[rec.Address] = rec
	}
	return r.renameMachines(sortRecords(byAddress), b.gen) // an interrupted apply may know a machine under its previous name
}

// keepConnections lets the state remember the previous connections of machines whose new ones do
// not work: their units are still there. Such machines do not count as moved.
func (r *run) keepConnections(gen *state.Generation, moved map[string]string) {
	for name := range r.unreached {
		delete(moved, name)
		for _, m := range gen.Machines {
			if m.Name == name {
				r.previous[name] = m
			}
		}
	}
}

// addLeftover adds a unit that a machine has, although its records say that it is elsewhere.
func (r *run) addLeftover(address, machine string) {
	x := plan.Removal{Address: address, Machine: machine}
	r.left = append(r.left, x)
	if !slices.ContainsFunc(r.removals, func(y plan.Removal) bool { return y.Address == address && y.Machine == machine }) {
		r.removals = append(r.removals, x)
	}
}

// isRefreshed reports whether a machine has answered a refresh, whose comparison
// with the records says more than their versions do.
func (r *run) isRefreshed(name string) bool {
	return r.req.Refreshed != nil && r.req.Refreshed.Answers[name] != nil
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

// checkUnits returns a *stateMismatch if a machine has units that the state does
// not know. The empty name means the modules.
func (r *run) checkUnits(ctx context.Context, name string) error {
	units, err := r.units(ctx, name)
	if err != nil {
		return err
	}
	names := graph.NamesOf(sets.Keys(units)...)
	for address := range r.known {
		names.Add(address)
	}
	for _, address := range sets.Keys(units) {
		if !r.known[address] && units[address].Digest != "" {
			where := "machine " + name
			if name == "" {
				where = "the terraform directory of the state"
			}
			return &stateMismatch{diag.Errorf(where, "has %s, which the state does not know: the state was lost, or it is not the state of this environment", names.Text(address)).
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
	names := r.req.Plan.Names()
	for _, b := range before {
		text := names.Text(b.Address)
		previous := moved[b.Machine]
		if previous == "" || !b.Stateful || r.req.AllowMove[b.Address] || r.req.AllowMove[text] || r.req.Held != nil && r.req.Held(b.Address) {
			continue
		}
		if !slices.ContainsFunc(now, func(n plan.Record) bool { return n.Address == b.Address }) && r.req.Plan.Find(b.Address) != nil {
			out = append(out, diag.Errorf(text, "it has data, which machine %s does not have at its new connection; the previous one was %s", b.Machine, previous).
				WithHint("copy the data there and use --allow-move %s; nothing was changed", text))
		}
	}
	return out.Err()
}

// leaves reports whether the request has nothing to do with a unit: it stops, starts or restarts
// another one.
func (req *Request) leaves(address string) bool {
	only := len(req.Stop)+len(req.Start) > 0 || req.Restart != ""
	return only && req.Stop[address] == nil && !req.Start[address] && req.Restart != address
}

// checkStop returns an error if a unit that is to be stopped or started would get another version
// instead: its machine does not have it as it is recorded.
func (r *run) checkStop(cs *plan.ChangeSet) error {
	for i := range cs.Actions {
		a := &cs.Actions[i]
		if (r.req.Stop[a.Address] != nil || r.req.Start[a.Address]) && !r.isStop(a) {
			return diag.Errorf(cs.Names.Text(a.Address), "machine %s does not have it as it is recorded; nothing was changed", a.Machine).
				WithHint("defx plan --refresh shows what the machine has, and defx apply restores it")
		}
	}
	return nil
}

// checkMissing returns an error for each unit that its machine does not have and that would be made
// again without its data: nobody has asked the machine whether its data is still there.
func (r *run) checkMissing(records []plan.Record) error {
	var out diag.List
	names := r.req.Plan.Names()
	for _, rec := range records {
		if !r.missing[rec.Address] || r.req.Stop[rec.Address] != nil || r.req.Start[rec.Address] || r.req.Held != nil && r.req.Held(rec.Address) {
			continue
		}
		text, now := names.Text(rec.Address), rec.Address
		if r.req.Moved != nil {
			now = r.req.Moved(now)
		}
		u := r.req.Plan.Find(now)
		if u == nil {
			u = r.req.Plan.Find(rec.Address)
		}
		if u != nil && u.Machine == rec.Machine && (rec.Stateful || len(rec.Data) > 0) && !r.req.allowsEmpty(rec.Address, rec.Machine) && !r.req.allowsEmpty(u.Address, rec.Machine) {
			out = append(out, diag.Errorf(text, "it has data, and machine %s has no record of it; nothing was changed", rec.Machine).
				WithHint("leave out --no-refresh, so that the machine is asked for its data; or start it as it is: --allow-empty %s", text))
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
func (req *Request) record(ctx context.Context, address, machine string, e *agent.Entry, old plan.Record) (plan.Record, error) {
	rec := old
	rec.Address, rec.Machine, rec.Backend = address, machine, e.Backend
	rec.Digest, rec.Object, rec.Values, rec.Outputs, rec.Data, rec.Claims = e.Digest, e.Object, e.Values, e.Outputs, e.Data, e.Claims
	if e.Apply != "" {
		rec.Apply = e.Apply
	}
	if e.Digest == "" {
		rec.Stateful = rec.Stateful || len(e.Data) > 0 // what was begun may have data
		if rec.Backend == "" {
			if u := req.Plan.Find(address); u != nil {
				rec.Backend = u.Backend
			}
		}
		return rec, nil
	}
	raw, err := req.object(ctx, e.Object)
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
	add(c.Repaired, "repaired")
	add(c.Failed, "failed")
	add(c.Skipped, "skipped")
	add(c.Held, "held")
	if len(parts) == 0 {
		parts = []string{"nothing changed"}
	}
	return strings.Join(parts, ", ") + fmt.Sprintf("; %d unchanged", c.Unchanged)
}

// Unit reads a unit of the request or of the state, by the digest of its canonical bytes.
func (req *Request) Unit(ctx context.Context, d digest.Digest) (*plan.Unit, error) {
	raw, err := req.object(ctx, d)
	if err != nil {
		return nil, err
	}
	u := &plan.Unit{}
	return u, json.Unmarshal(raw, u)
}
