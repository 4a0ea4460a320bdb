package apply

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// This file asks machines, before anything is decided, what they have: in parallel, without a
// lease, each for a limited time. What differs from the records becomes part of the change set.

// defaultRefreshTime limits how long one machine may take to answer.
const defaultRefreshTime = 10 * time.Second

// Refreshed is what machines answered, with the connections to them.
type Refreshed struct {
	Answers  map[string]*agent.Refreshed // machine → its answer
	NotAsked map[string]error            // machine → why it could not be asked

	mu      sync.Mutex
	clients map[string]connection
}

// connection is an open connection to a machine.
type connection struct {
	client  *agent.Client
	connect string
}

// take returns the open connection to a machine, once; nil if there is none.
func (f *Refreshed) take(m *graph.Machine) *agent.Client {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.clients[m.Name]
	if !ok || c.connect != m.Connect || c.client.Broken() != nil {
		return nil
	}
	delete(f.clients, m.Name)
	return c.client
}

// Close closes the connections that no apply has taken over.
func (f *Refreshed) Close() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range f.clients {
		all.Go(func() { c.client.Close() })
	}
	all.Wait()
	clear(f.clients)
}

// unavailableError is the reason why a machine was not asked.
type unavailableError struct{ text string }

func (e *unavailableError) Error() string { return e.text }

// RefreshMachines asks the machines that have units, or will have some, and keeps the answers in
// the request. It fails only if the state cannot be read.
func (req *Request) RefreshMachines(ctx context.Context) error {
	gen, _, err := state.Current(ctx, req.Store)
	if err != nil {
		return err
	}
	req.Refreshed.Close()
	req.Refreshed = &Refreshed{Answers: map[string]*agent.Refreshed{}, NotAsked: map[string]error{}, clients: map[string]connection{}}
	var records []plan.Record
	if gen != nil {
		records = RenameMachines(gen.Records, gen.Machines, req.Machines)
	}
	all := req.machinesInUse(gen, records)
	f := req.Refreshed
	var done sync.WaitGroup
	for _, m := range all {
		if m.Connect == "" || m.Module != "" && m.Address == "" {
			if holdsUnits(gen, records, m.Name) { // otherwise it is still to be created
				f.NotAsked[m.Name] = &unavailableError{"its address is not known yet"}
			}
			continue
		}
		done.Go(func() {
			answer, client, err := req.refreshMachine(ctx, m, records)
			f.mu.Lock()
			defer f.mu.Unlock()
			if client != nil {
				f.clients[m.Name] = connection{client, m.Connect}
			}
			if err != nil {
				f.NotAsked[m.Name] = err
			} else {
				f.Answers[m.Name] = answer
			}
		})
	}
	done.Wait()
	return ctx.Err()
}

// holdsUnits reports whether units are on a machine, according to the state.
func holdsUnits(gen *state.Generation, records []plan.Record, machine string) bool {
	return slices.ContainsFunc(records, func(r plan.Record) bool { return r.Machine == machine }) ||
		gen != nil && slices.ContainsFunc(gen.Removals, func(x plan.Removal) bool { return x.Machine == machine })
}

// machinesInUse returns the machines that have records, get units, or may have leftovers.
func (req *Request) machinesInUse(gen *state.Generation, records []plan.Record) []*graph.Machine {
	known := map[string]*graph.Machine{}
	if gen != nil {
		for _, m := range gen.Machines {
			known[m.Name] = m
		}
	}
	declared := map[string]bool{}
	for _, m := range req.Machines {
		declared[m.Name] = true
		if before := known[m.Name]; m.Module != "" && m.Address == "" && before != nil && before.Module == m.Module {
			continue // the record has its address
		}
		known[m.Name] = m
	}
	used := map[string]bool{}
	for _, r := range records {
		used[r.Machine] = true
	}
	for _, u := range req.Plan.Units {
		used[u.Machine] = true
	}
	if gen != nil {
		for _, x := range gen.Removals {
			used[x.Machine] = used[x.Machine] || !x.Forgotten || declared[x.Machine]
		}
	}
	var out []*graph.Machine
	for _, name := range sets.Keys(used) {
		if m := known[name]; m != nil && name != "" && used[name] {
			out = append(out, m)
		}
	}
	return out
}

// refreshMachine connects to a machine and asks it once.
func (req *Request) refreshMachine(ctx context.Context, m *graph.Machine, records []plan.Record) (*agent.Refreshed, *agent.Client, error) {
	limit := cmp.Or(req.RefreshTime, defaultRefreshTime)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type dialed struct {
		client *agent.Client
		err    error
	}
	connecting := make(chan dialed, 1)
	go func() {
		c, err := req.Dial(ctx, m)
		connecting <- dialed{c, err}
	}()
	var d dialed
	select {
	case d = <-connecting:
	case <-ctx.Done(): // a connection that comes too late is closed
		go func() {
			if late := <-connecting; late.client != nil {
				late.client.Close()
			}
		}()
		return nil, nil, &unavailableError{fmt.Sprintf("no answer within %s", limit)}
	}
	if d.err != nil {
		return nil, nil, d.err
	}
	answer, err := d.client.Refresh(ctx, refreshRequest(req.scope(), m.Name, records))
	if err != nil {
		d.client.Close()
		if ctx.Err() != nil {
			err = &unavailableError{fmt.Sprintf("no answer within %s", limit)}
		}
		return nil, nil, err
	}
	return answer, d.client, nil
}

// refreshRequest asks a machine for its units, and for the data that its records name.
func refreshRequest(scope, machine string, records []plan.Record) agent.RefreshRequest {
	q := agent.RefreshRequest{Scope: scope, Data: map[string][]string{}}
	for _, r := range records {
		if r.Machine == machine && len(r.Data) > 0 {
			q.Data[r.Address] = r.Data
		}
	}
	return q
}

func (req *Request) scope() string { return req.Plan.Environment + "/" + req.Plan.Deployment }

// compareMachines compares records with the answers of their machines. It returns the records, with
// the versions that are there, and what differs by address. Units of which nobody knows what an
// interrupted apply left are not compared.
func (req *Request) compareMachines(ctx context.Context, answers map[string]*agent.Refreshed, records []plan.Record, uncertain func(address string) bool) ([]plan.Record, map[string]*plan.UnitDrift) {
	drift := map[string]*plan.UnitDrift{}
	out := slices.Clone(records)
	for i, r := range out {
		answer := answers[r.Machine]
		if r.Machine == "" || answer == nil || r.Digest == "" || uncertain(r.Address) {
			continue
		}
		d := &plan.UnitDrift{}
		now := answer.Units[r.Address]
		switch {
		case now == nil:
			d.Missing, d.Differences = true, missingUnit(r, answer)
		case now.Entry.Digest == "":
			out[i].Digest = "" // an apply is working on it, or was killed
			continue
		default:
			d.Differences = slices.Clone(now.Differences)
			if now.Entry.Digest != r.Digest || !maps.Equal(now.Entry.Values, r.Values) {
				d.Differences = append(d.Differences, plan.Difference{Field: "version", Cause: plan.CauseReverted,
					Detail: fmt.Sprintf("it has version %s, deployed was %s", now.Entry.Digest.Brief(), r.Digest.Brief())})
				out[i] = req.asOnMachine(ctx, r, now.Entry)
				if answer.Runs { // an earlier version may have had no data
					for _, dir := range sets.Minus(r.Data, sets.Union(answer.Data[r.Address], now.Entry.Data)) {
						d.Differences = append(d.Differences, plan.Difference{Field: dir, Cause: plan.CauseDataMissing})
					}
				}
			}
			if stopped := r.Stopped != nil; stopped != now.Entry.Stopped {
				cause := plan.CauseStopped
				if stopped {
					cause = plan.CauseStarted
				}
				d.Differences = append(d.Differences, plan.Difference{Field: "state", Cause: cause, Detail: "the machine's records differ"})
			}
		}
		if len(d.Differences) > 0 {
			drift[r.Address] = d
		}
	}
	return out, drift
}

// missingUnit returns the differences of a unit that its machine has no record of.
func missingUnit(r plan.Record, answer *agent.Refreshed) []plan.Difference {
	cause := plan.CauseNotThere
	detail := ""
	if !answer.Known {
		cause, detail = plan.CauseReinstalled, "its records are gone"
		for _, s := range answer.Stray {
			if cause, detail = plan.CauseRecordsLost, "units are still there"; s.Address == r.Address {
				detail = s.Name + " is still there"
				break
			}
		}
	}
	out := []plan.Difference{{Field: "record", Cause: cause, Detail: detail}}
	gone := sets.Minus(r.Data, answer.Data[r.Address])
	switch {
	case len(gone) > 0 && answer.Runs:
		for _, d := range gone {
			out = append(out, plan.Difference{Field: d, Cause: plan.CauseDataMissing})
		}
	case r.Stateful && (len(r.Data) == 0 || !answer.Runs):
		out = append(out, plan.Difference{Field: "data", Cause: plan.CauseDataMissing})
	}
	return out
}

// asOnMachine returns a record with the version that the machine has. If the state does not have
// that version, it is unknown.
func (req *Request) asOnMachine(ctx context.Context, r plan.Record, e *agent.Entry) plan.Record {
	raw, err := req.object(ctx, e.Object)
	var u plan.Unit
	if err != nil || json.Unmarshal(raw, &u) != nil {
		r.Digest = ""
		return r
	}
	r.Digest, r.Object, r.Values = e.Digest, e.Object, e.Values
	return r
}

// leftovers returns the removals that are still to be done, as far as machines answered: units that
// lie on machines which their records do not name. done are those of which nothing is left.
func leftovers(removals []plan.Removal, answers map[string]*agent.Refreshed, records []plan.Record) (todo, done []plan.Removal) {
	at := map[string]string{}
	for _, r := range records {
		at[r.Address] = r.Machine
	}
	for _, x := range removals {
		answer := answers[x.Machine]
		switch {
		case at[x.Address] == x.Machine:
			done = append(done, x) // it is deployed there again
		case answer == nil:
		case answer.Units[x.Address] == nil:
			done = append(done, x)
		default:
			todo = append(todo, x)
		}
	}
	return todo, done
}

// unrecorded adds to the records the units that machines have without a record: a machine was
// reverted to a time when they were deployed. removals are units that are recorded elsewhere. Units
// of which nobody knows what an interrupted apply left are not added.
//
// A unit that was forgotten with its machine is recorded again if it is still desired; if it is not,
// it is one of those to be removed.
func (req *Request) unrecorded(ctx context.Context, answers map[string]*agent.Refreshed, records []plan.Record, left []plan.Removal, uncertain func(address string) bool) (all []plan.Record, removals []plan.Removal) {
	byAddress := map[string]plan.Record{}
	for _, r := range records {
		byAddress[r.Address] = r
	}
	for _, name := range sets.Keys(answers) {
		for _, address := range sets.Keys(answers[name].Units) {
			r, recorded := byAddress[address]
			u := req.Plan.Find(address)
			switch {
			case uncertain(address) || recorded && r.Machine == name:
			case recorded && u != nil && u.Machine == name: // the move there was interrupted, and is executed again
			case recorded:
				removals = append(removals, plan.Removal{Address: address, Machine: name})
			case u == nil && slices.ContainsFunc(left, func(x plan.Removal) bool { return x.Address == address && x.Machine == name }):
			default:
				var err error
				if r, err = req.record(ctx, address, name, answers[name].Units[address].Entry, plan.Record{}); err != nil {
					r.Digest = "" // the state does not have that version
				}
				byAddress[address] = r
			}
		}
	}
	return sortRecords(byAddress), removals
}

// unionRemovals returns the removals of both lists, each once.
func unionRemovals(a, b []plan.Removal) []plan.Removal {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.ContainsFunc(out, func(y plan.Removal) bool { return y.Address == x.Address && y.Machine == x.Machine }) {
			out = append(out, x)
		}
	}
	return out
}

// asked describes what a change set was compared with; nil if machines were not asked.
func (req *Request) asked(records []plan.Record) *plan.MachinesAsked {
	f := req.Refreshed
	if f == nil {
		return nil
	}
	out := &plan.MachinesAsked{Asked: sets.Keys(f.Answers)}
	for name, err := range f.NotAsked {
		if out.NotAsked == nil {
			out.NotAsked = map[string]string{}
		}
		out.NotAsked[name] = shortReason(name, err)
	}
	modules := map[string]bool{}
	for _, r := range records {
		if r.Machine == "" {
			modules[r.Address] = true
		}
	}
	for _, u := range req.Plan.Units {
		if u.Machine == "" {
			modules[u.Address] = true
		}
	}
	out.Modules = len(modules)
	return out
}

// unasked returns the machines with units that could not be asked, sorted.
func (req *Request) unasked(records []plan.Record) []string {
	if req.Refreshed == nil {
		return nil
	}
	names := map[string]bool{}
	for _, r := range records {
		if req.Refreshed.NotAsked[r.Machine] != nil {
			names[r.Machine] = true
		}
	}
	return sets.Keys(names)
}

// shortReason returns in one line why a machine was not asked.
func shortReason(name string, err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*diag.Error](err); ok {
		text = e.Msg
	}
	text, _, _ = strings.Cut(text, "\n")
	text = strings.TrimPrefix(text, "machine "+name+": ")
	if e, ok := errors.AsType[*agent.Error](err); ok && e.Code == agent.CodeDamaged && e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// refreshAgain asks the machines that answered once more, under the lease: another apply may have
// changed them since. It returns their answers.
func (r *run) refreshAgain(ctx context.Context, records []plan.Record) map[string]*agent.Refreshed {
	if r.req.Refreshed == nil {
		return nil
	}
	names := sets.Keys(r.req.Refreshed.Answers)
	answers := map[string]*agent.Refreshed{}
	var mu sync.Mutex
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.req.RefreshTime, defaultRefreshTime))
	defer cancel()
	for _, name := range names {
		if r.machines[name] == nil {
			continue
		}
		all.Go(func() {
			m, err := r.dial(name)
			if err != nil {
				return // the actions on it report the error
			}
			answer, err := m.client.Refresh(ctx, refreshRequest(r.scope(), name, records))
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[name] = answer
		})
	}
	all.Wait()
	return answers
}

// prepareRepair lets a machine prepare a unit that differs there for being applied, or deleted.
func (r *run) prepareRepair(ctx context.Context, a *plan.Action) error {
	machine := a.Machine
	if a.From != "" {
		machine = a.From
	}
	if len(a.Drift) == 0 || machine == "" {
		return nil
	}
	m, err := r.prepareWrite(ctx, machine)
	if err != nil {
		if machine != a.Machine { // the old machine: its removal reports the error
			return nil
		}
		return err
	}
	kept, err := m.client.PrepareRepair(ctx, r.scope(), a.Address, r.caller, r.req.allowsEmpty(a.Address, machine), a.Op == plan.Delete)
	m.mu.Lock()
	m.sent = nil // damaged artifacts were removed
	m.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range kept {
		r.notes[fmt.Sprintf("%s: a copy of the edited file is kept on %s: %s", r.names.Text(a.Address), machine, f)] = true
	}
	return err
}

// allowsEmpty reports whether a unit may start without its data.
func (req *Request) allowsEmpty(address, machine string) bool {
	set, first := strings.CutSuffix(address, "#"+graph.FirstReplica)
	return req.AllowEmpty[address] || first && req.AllowEmpty[set] || req.AllowEmpty["@"+machine]
}

// applyStop stops or starts a unit, and returns its record.
func (r *run) applyStop(ctx context.Context, a *plan.Action, old *plan.Record) (*plan.Record, error) {
	m, err := r.prepareWrite(ctx, a.Machine)
	if err != nil {
		return old, err
	}
	e, err := m.client.SetStopped(ctx, r.scope(), a.Address, r.caller, a.Verb == plan.Stop, r.limit())
	now := *old
	if e == nil && err != nil {
		now.Digest = "" // the connection was lost: the result is unknown
	} else if e != nil && !e.Stopped {
		now.Stopped = nil
	} else if e != nil && r.req.Stop[a.Address] != nil {
		now.Stopped = r.req.Stop[a.Address]
	}
	return &now, err
}

// isStop reports whether an action is a stop or start that was asked for.
func (r *run) isStop(a *plan.Action) bool {
	return a.Op == plan.Update && (a.Verb == plan.Stop && r.req.Stop[a.Address] != nil || a.Verb == plan.Start && r.req.Start[a.Address])
}

// removePending adds a removal that could not be done, because a machine cannot be reached.
func (r *run) removePending(address, machine string, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := plan.Removal{Address: address, Machine: machine}
	if !slices.ContainsFunc(r.removals, func(y plan.Removal) bool { return y.Address == address && y.Machine == machine }) {
		r.removals = append(r.removals, x)
	}
	r.notes[fmt.Sprintf("%s could not be removed from %s (%s): the next apply that reaches %s removes it, or run defx machine forget %s", r.names.Text(address), machine, shortReason(machine, cause), machine, machine)] = true
}

// removeLeftovers deletes units from machines that they have moved away from.
func (r *run) removeLeftovers(ctx context.Context, list []plan.Removal) {
	for _, x := range list {
		m, err := r.prepareWrite(ctx, x.Machine)
		var e *agent.Entry
		if err == nil {
			e, _, err = m.client.ApplyUnit(ctx, r.scope(), x.Address, r.caller, nil, nil, r.limit())
		}
		r.mu.Lock()
		if err == nil && e == nil {
			r.removals = slices.DeleteFunc(r.removals, func(y plan.Removal) bool { return y.Address == x.Address && y.Machine == x.Machine })
			r.notes[fmt.Sprintf("%s was removed from %s, which it had left", r.names.Text(x.Address), x.Machine)] = true
		} else {
			r.notes[fmt.Sprintf("%s could not be removed from %s, which it had left: %v", r.names.Text(x.Address), x.Machine, err)] = true
		}
		r.mu.Unlock()
	}
}

func sortRemovals(list []plan.Removal) []plan.Removal {
	slices.SortFunc(list, func(a, b plan.Removal) int {
		return cmp.Or(strings.Compare(a.Address, b.Address), strings.Compare(a.Machine, b.Machine))
	})
	return list
}
