package apply

import (
	"context"
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
	"github.com/defx-dev/defx/deploy/cloud"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// machine is a machine and the connection to its agent.
type machine struct {
	decl *graph.Machine

	mu     sync.Mutex
	client *agent.Client
	err    error                  // why dialing failed; it is not tried again in this apply
	fenced bool                   // the token of the lease was sent
	state  *agent.Scope           // what the machine knew before the first change; nil = it was not asked
	sent   map[digest.Digest]bool // artifacts that the machine has
}

// dial connects to a machine, once.
func (r *run) dial(name string) (*machine, error) {
	m := r.machines[name]
	if m == nil {
		return nil, fmt.Errorf("machine %q is not declared any more, and the state does not have its connection", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m, r.connect(m)
}

// connect connects to a machine, once. The caller holds the machine's lock.
func (r *run) connect(m *machine) error {
	if m.client == nil && m.err == nil && m.decl.Module != "" {
		if err := r.resolveAddress(r.connCtx, m); err != nil {
			return err
		}
	}
	if m.client == nil && m.err == nil {
		if m.client = r.req.Refreshed.take(m.decl); m.client == nil {
			m.client, m.err = r.req.Dial(r.connCtx, m.decl)
		}
	}
	return m.err
}

// scopeOn asks a machine what it knows of the environment, once.
func (r *run) scopeOn(ctx context.Context, m *machine) (*agent.Scope, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := r.connect(m); err != nil {
		return nil, err
	}
	if m.state == nil {
		var err error
		if m.state, err = m.client.Scope(ctx, r.scope()); err != nil {
			return nil, err
		}
	}
	return m.state, nil
}

// forgetScopes makes the next call of scopeOn ask each machine again.
func (r *run) forgetScopes() {
	for _, m := range r.machines {
		if m.mu.TryLock() { // otherwise it is still being asked
			m.state = nil
			m.mu.Unlock()
		}
	}
}

// units lists the units of a machine, once. The empty name means the modules.
func (r *run) units(ctx context.Context, name string) (map[string]*agent.Entry, error) {
	if name == "" {
		return r.moduleEntries(ctx)
	}
	m, err := r.dial(name)
	if err != nil {
		return nil, err
	}
	s, err := r.scopeOn(ctx, m)
	if err != nil {
		return nil, err
	}
	return s.Units, nil
}

// answer returns the units of a machine if it has already been asked and has
// answered. The modules can always be asked.
func (r *run) answer(ctx context.Context, name string) (map[string]*agent.Entry, bool) {
	if name == "" {
		entries, err := r.moduleEntries(ctx)
		return entries, err == nil
	}
	m := r.machines[name]
	if m == nil || !m.mu.TryLock() { // still being asked
		return nil, false
	}
	defer m.mu.Unlock()
	if m.state == nil {
		return nil, false
	}
	return m.state.Units, true
}

// probeTimeout limits how long machines that do not answer delay the others.
const probeTimeout = 5 * time.Second

// forEachParallel calls f for all machines at once. It returns at the first error,
// or after probeTimeout without waiting for the calls that are still running.
func forEachParallel(names []string, f func(name string) error) error {
	results := make(chan error, len(names))
	for _, n := range names {
		go func() { results <- f(n) }()
	}
	timeout := time.After(probeTimeout)
	for range names {
		select {
		case err := <-results:
			if err != nil {
				return err
			}
		case <-timeout:
			return nil
		}
	}
	return nil
}

// prepareWrite connects to a machine for a change. Before the first change it
// checks that the state is the one that the machine knows, and announces the apply.
func (r *run) prepareWrite(ctx context.Context, name string) (*machine, error) {
	m, err := r.dial(name)
	if err != nil {
		return nil, err
	}
	s, err := r.scopeOn(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := r.acceptance.check(ctx, name, s); err != nil {
		return nil, err
	}
	if err := r.checkUnits(ctx, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.fenced {
		r.touched.Store(true)
		if err := m.client.Fence(ctx, r.scope(), r.caller, r.lease.Addresses, r.generation); err != nil {
			return nil, err
		}
		m.fenced = true
	}
	return m, nil
}

// flushAll makes the connected machines flush their manifests. It returns those
// that failed, with the reason; their changes are safe in the machine's journal.
// In the same exchange it lists the orphans of these machines.
func (r *run) flushAll(ctx context.Context, generation int) (unflushed, orphans []string) {
	names := sets.Keys(r.machines)
	failures, left := make([]string, len(names)), make([][]string, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		m := r.machines[name]
		if !m.mu.TryLock() { // still being dialed
			continue
		}
		client, used := m.client, m.fenced || m.state != nil && r.uncertain[name]
		m.mu.Unlock()
		if client == nil || !used {
			continue
		}
		all.Go(func() {
			if err := client.FlushManifest(ctx, r.scope(), generation); err != nil {
				failures[i] = fmt.Sprintf("machine %s: %v", name, err)
			}
		})
		all.Go(func() {
			list, _ := client.Orphans(ctx, r.scope()) // an error does not make the apply fail
			for _, o := range list {
				left[i] = append(left[i], o+" on "+name)
			}
		})
	}
	all.Wait()
	return slices.DeleteFunc(failures, func(s string) bool { return s == "" }), slices.Concat(left...)
}

// closeAll closes all connections and cancels those that are being dialed.
func (r *run) closeAll() {
	r.cancelConns()
	var all sync.WaitGroup
	for _, m := range r.machines {
		all.Go(func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.client != nil {
				m.client.Close()
			}
		})
	}
	all.Wait()
}

// result is the result of one action.
type result struct {
	action    *plan.Action
	record    *plan.Record // the unit after the action; nil = it does not exist
	err       error
	took      time.Duration
	unchanged bool         // the unit is the same as before
	old       *plan.Record // the unit before the action; nil = it did not exist
}

// execute runs the actions, each one when its dependencies are met, and returns
// the records afterwards. It starts no action after ctx has ended; actions run
// under detached.
func (r *run) execute(ctx, detached context.Context, cs *plan.ChangeSet, records []plan.Record) (*Result, []plan.Record, error) {
	res := &Result{Changes: cs}
	res.Counts.Held = cs.Summary.Held
	res.Counts.Unchanged = cs.Summary.Unchanged + cs.Summary.Protected
	byAddress := map[string]plan.Record{}
	for _, rec := range records {
		byAddress[rec.Address] = rec
	}
	planned := func(address string) plan.Unit {
		var u plan.Unit
		if p := r.req.Plan.Find(address); p != nil {
			if raw, err := r.req.object(detached, p.Object); err == nil {
				u.Decode(raw)
			}
		}
		return u
	}
	waiting := newReadiness(cs, r.req.Plan, func(address string) int { return planned(address).MinReady })
	ready := []*plan.Action{}
	for i := range cs.Actions {
		if a := &cs.Actions[i]; waiting.unmet[a.Address] == 0 {
			ready = append(ready, a)
		}
	}
	limit := r.req.Parallel
	if limit <= 0 {
		limit = 10
	}
	results, watched := make(chan result), make(chan outcome)
	running, watching := 0, 0
	skipped := map[string]string{} // address → the failed address because of which it is skipped
	started := map[string]bool{}
	rolling := rollingUpdates(cs, r.req.Plan, planned)
	var succeeded []done
	failing := false // from the first failure on, ready actions may have to be skipped
	for {
		if failing {
			ready = slices.DeleteFunc(ready, func(a *plan.Action) bool {
				halted := rolling[a.Address].haltReason(a.Address) != nil
				if halted && skipped[a.Address] == "" {
					skipped[a.Address] = rolling[a.Address].failedAt
					markSkipped(a.Address, rolling[a.Address].failedAt, waiting, skipped)
				}
				return halted || started[a.Address]
			})
		}
		if len(ready) == 0 && running+watching == 0 {
			// Records of different generations may make deletions wait for each other; then the first one starts.
			next := deadlocked(cs.Actions, started, skipped)
			if next == nil {
				break
			}
			ready = append(ready, next)
		}
		for running < limit && ctx.Err() == nil {
			i := slices.IndexFunc(ready, func(a *plan.Action) bool { return rolling[a.Address].begin(a.Address) })
			if i < 0 && running+watching == 0 && len(ready) > 0 {
				i = 0 // no running action can make a rolling update continue
			}
			if i < 0 {
				break
			}
			a := ready[i]
			ready = slices.Delete(ready, i, i+1)
			if started[a.Address] {
				continue
			}
			started[a.Address] = true
			running++
			r.emit(Event{Outcome: Started, Action: *a})
			old, existed := byAddress[a.Address]
			if a.PreviousAddress != "" {
				old, existed = byAddress[a.PreviousAddress]
			}
			go func() {
				begin := time.Now()
				now, err := r.runAction(detached, a, old, existed)
				unchanged := existed && now != nil && old.Digest == now.Digest && maps.Equal(old.Values, now.Values)
				out := result{action: a, record: now, err: err, took: time.Since(begin), unchanged: unchanged}
				if existed {
					out.old = &old
				}
				results <- out
			}()
		}
		if running+watching == 0 && ctx.Err() != nil { // interrupted: ready actions are not started
			res.Stopped = true
			break
		}
		if running+watching == 0 {
			continue
		}
		var f result
		select {
		case f = <-results:
			running--
		case o := <-watched:
			watching--
			rolling[o.action.Address].finish(o.action.Address, o.err)
			if o.err != nil {
				failing = true
				r.recordEnded(o, byAddress, res)
			}
			continue
		}
		delete(byAddress, f.action.Address)
		if f.action.PreviousAddress != "" {
			delete(byAddress, f.action.PreviousAddress)
		}
		if f.record != nil { // under its old address if a rename failed
			byAddress[f.record.Address] = *f.record
		}
		out := Event{Outcome: Done, Action: *f.action, Err: f.err, Took: f.took}
		watch := false
		if f.err != nil {
			out.Outcome, failing = Failed, true
			res.Failed = append(res.Failed, f.action.Address)
			res.Outcomes = append(res.Outcomes, outcomeOf(f.action, f.record, f.err))
			markSkipped(f.action.Address, f.action.Address, waiting, skipped)
			for address := range skipped {
				rolling[address].skip(address)
			}
		} else if !f.action.Certain && f.unchanged {
			res.Counts.Unchanged++ // the values that it reads are the same as before
		} else {
			n := counter(&res.Counts, f.action)
			*n++
			if watch = f.action.Machine != "" && f.action.Op != plan.Delete && f.record != nil; watch {
				d := done{f.action, f.old, *f.record, n}
				succeeded = append(succeeded, d)
				watching++
				go func() { watched <- r.watch(detached, d) }()
			}
		}
		if !watch { // otherwise the next replica waits until it has run for a while
			rolling[f.action.Address].finish(f.action.Address, f.err)
		}
		r.emit(out)
		if f.err != nil {
			continue
		}
		for _, next := range waiting.done(f.action.Address) {
			if skipped[next.Address] == "" {
				ready = append(ready, next)
			}
		}
	}
	for _, o := range r.watchAll(detached, succeeded, res.Failed) {
		r.recordEnded(o, byAddress, res)
	}
	failed := map[string]bool{}
	for _, a := range res.Failed {
		failed[a] = true
	}
	for i := range cs.Actions {
		a := &cs.Actions[i]
		if because := skipped[a.Address]; because != "" && !failed[a.Address] {
			res.Skipped = append(res.Skipped, a.Address)
			reason := rolling[a.Address].haltReason(a.Address)
			if reason == nil {
				reason = fmt.Errorf("it needs %s, which failed", cs.Names.Text(because))
			}
			r.emit(Event{Outcome: Skipped, Action: *a, Err: reason})
			res.Outcomes = append(res.Outcomes, state.Outcome{Address: a.Address, Machine: a.Machine, Outcome: state.OutcomeSkipped, Digest: wanted(a), Reason: oneLine(reason)})
		} else if res.Stopped && !started[a.Address] {
			res.Outcomes = append(res.Outcomes, state.Outcome{Address: a.Address, Machine: a.Machine, Outcome: state.OutcomeInterrupted, Digest: wanted(a), Reason: "the apply was interrupted before it began"})
		}
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return nil, nil, err // the lease was lost
	}
	for address := range r.deregistered { // still removed: the next apply registers it again
		if rec, exists := byAddress[address]; exists {
			rec.Digest = ""
			byAddress[address] = rec
		}
	}
	res.Notes = sets.Keys(r.notes)
	slices.Sort(res.Failed)
	slices.Sort(res.Skipped)
	res.Counts.Failed, res.Counts.Skipped = len(res.Failed), len(res.Skipped)
	return res, sortRecords(byAddress), nil
}

// deadlocked returns the first action that was neither started nor skipped, or nil.
func deadlocked(actions []plan.Action, started map[string]bool, skipped map[string]string) *plan.Action {
	for i := range actions {
		if a := &actions[i]; !started[a.Address] && skipped[a.Address] == "" {
			return a
		}
	}
	return nil
}

// markSkipped marks the actions that depend on address, directly or not, and can
// never start.
func markSkipped(address, because string, r *readiness, skipped map[string]string) {
	for _, a := range r.failed(address) {
		if skipped[a.Address] == "" {
			skipped[a.Address] = because
			markSkipped(a.Address, because, r, skipped)
		}
	}
}

// runAction journals and executes one action and returns the record afterwards.
func (r *run) runAction(ctx context.Context, a *plan.Action, previous plan.Record, existed bool) (*plan.Record, error) {
	old := &previous
	if !existed {
		old = nil
	}
	s := &stepLine{Op: a.Op, Address: a.Address, Machine: a.Machine, From: a.From, Former: a.PreviousAddress}
	r.journal.write(journalLine{Begin: s})
	deadline := r.req.Deadline
	if deadline == 0 {
		deadline = usualDeadline
		if a.Machine == "" {
			deadline = time.Hour // a managed database takes half an hour
		}
	}
	if a.Machine != "" {
		deadline += r.patience(ctx, a, old)
	}
	for _, rec := range r.balancersOf(a.Address) {
		deadline += time.Duration(rec.Drain)*time.Second + 10*time.Minute
	}
	ctx, cancel := context.WithTimeout(r.withAction(ctx, a), deadline)
	defer cancel()
	now, err := r.perform(ctx, a, old)
	r.reject(a, now, err)
	if err != nil {
		err = withHint(err)
		s.Failed = err.Error()
	}
	r.journal.write(journalLine{End: s})
	return now, err
}

// withHint adds a hint to errors with a known cause on the machine.
func withHint(err error) error {
	const login = "run docker login on that machine, as the user as whom defx connects"
	if e, ok := errors.AsType[*agent.Error](err); ok && e.Hint != "" {
		return err // the agent has added a hint of its own
	}
	for _, h := range []struct{ text, hint string }{ // of registries and docker engines, which have no error types
		{"401 Unauthorized", login},
		{"no basic auth credentials", login},
	} {
		if strings.Contains(err.Error(), h.text) {
			return fmt.Errorf("%w\n    hint: %s", err, h.hint)
		}
	}
	return err
}

// perform executes one action and returns the record afterwards.
func (r *run) perform(ctx context.Context, a *plan.Action, old *plan.Record) (*plan.Record, error) {
	if a.Op == plan.Delete && a.Machine == "" {
		return r.applyUnit(ctx, a.Address, "", nil, old)
	}
	if err := r.prepareRepair(ctx, a); err != nil {
		return old, err
	}
	if r.isStop(a) {
		return r.applyStop(ctx, a, old)
	}
	if a.Op == plan.Delete {
		m, err := r.prepareWrite(ctx, a.Machine)
		if err == nil {
			err = m.client.Retire(ctx, r.scope(), a.Address, r.caller, r.limit())
		}
		if err != nil {
			return old, err
		}
		return r.applyUnit(ctx, a.Address, a.Machine, nil, old)
	}
	u := r.req.Plan.Find(a.Address)
	if len(u.Unknown)+len(u.Binds) > 0 {
		bound, err := u.Bind(r.outputs.get)
		if err != nil {
			return old, err
		}
		if !a.Certain && old != nil && old.Digest == bound.Digest && maps.Equal(old.Values, bound.Values) {
			return old, nil // the values that it reads have not changed
		}
		u = &bound
	}
	if a.Machine != "" && a.Op != plan.Create && a.Stops() {
		return r.withDeregistration(ctx, a, u, old)
	}
	return r.swap(ctx, a, u, old)
}

// withDeregistration executes an action while the service is removed from its load
// balancers. A service that moves is started on the new machine first, then
// switched over in the load balancers, then removed from the old machine.
func (r *run) withDeregistration(ctx context.Context, a *plan.Action, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	balancers := r.balancersOf(a.Address)
	if a.PreviousAddress != "" {
		balancers = append(balancers, r.balancersOf(a.PreviousAddress)...)
	}
	if len(balancers) == 0 {
		return r.swap(ctx, a, u, old)
	}
	if a.Op == plan.Move && a.PreviousAddress == "" {
		now, err := r.applyUnit(ctx, a.Address, a.Machine, u, old)
		for _, rec := range balancers {
			var before []cloud.Target
			if err == nil {
				before, err = r.req.Modules.Targets(rec.Address)
			}
			if err == nil {
				err = r.register(ctx, rec)
			}
			if err == nil {
				err = r.waitDrained(ctx, rec.Drain, before)
			}
		}
		if err != nil {
			return old, err // it counts as not moved yet
		}
		return r.removeOld(ctx, a, now, old)
	}
	for _, rec := range balancers {
		if err := r.deregister(ctx, rec); err != nil {
			return old, fmt.Errorf("it could not be removed from its load balancer and was left unchanged: %w", err)
		}
	}
	now, err := r.swap(ctx, a, u, old)
	if err != nil && now != nil && now.Digest != "" && !r.isRestart(a) { // the old version is running again
		for _, rec := range balancers {
			err = errors.Join(err, r.register(ctx, rec))
		}
	}
	return now, err
}

// isRestart reports whether an action only restarts a unit.
func (r *run) isRestart(a *plan.Action) bool {
	return a.Address == r.req.Restart && a.Before == a.Digest
}

// swap replaces the old version of a unit by the new one.
func (r *run) swap(ctx context.Context, a *plan.Action, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	if r.isRestart(a) {
		m, err := r.prepareWrite(ctx, a.Machine)
		if err == nil {
			err = m.client.Restart(ctx, r.scope(), a.Address)
		}
		return old, err
	}
	if a.Op == plan.Replace && a.From == a.Machine {
		now, err := r.applyUnit(ctx, a.Address, a.Machine, nil, old)
		if err != nil {
			return now, err
		}
		old = now
	}
	if a.PreviousAddress != "" {
		return r.rename(ctx, a, u, old)
	}
	now, err := r.applyUnit(ctx, a.Address, a.Machine, u, old)
	if err == nil && a.From != "" && a.From != a.Machine { // it runs on the new machine
		return r.removeOld(ctx, a, now, old)
	}
	return now, err
}

// removeOld removes a unit that has moved from its previous machine.
func (r *run) removeOld(ctx context.Context, a *plan.Action, now, old *plan.Record) (*plan.Record, error) {
	if _, err := r.units(ctx, a.From); err != nil { // it is recorded where it runs now, and its dependents go on
		r.removePending(a.Address, a.From, err)
		return now, nil
	}
	if _, err := r.applyUnit(ctx, a.Address, a.From, nil, old); err != nil {
		return old, fmt.Errorf("it was deployed to %s, but could not be removed from %s: %w", a.Machine, a.From, err)
	}
	return now, nil
}

// rename replaces a unit by the same unit under a new address. On one machine that is
// one action of the agent, which moves the directories of the unit. Otherwise the old
// one is removed first, and restored if the new one fails.
func (r *run) rename(ctx context.Context, a *plan.Action, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	from := a.Machine
	if from == "" { // a module keeps its resources and gets a new name
		if err := r.checkUnknownModules(ctx); err != nil {
			return old, err
		}
		if err := r.req.Modules.Rename(ctx, r.scope(), a.PreviousAddress, a.Address); err != nil {
			return old, err
		}
		r.outputs.set(a.PreviousAddress, nil)
		return r.applyUnit(ctx, a.Address, "", u, old)
	}
	if a.From != "" {
		from = a.From
	}
	if from == a.Machine && a.Op == plan.Update {
		return r.renameUnit(ctx, a, u, old)
	}
	if rec, err := r.applyUnit(ctx, a.PreviousAddress, from, nil, old); err != nil {
		return rec, err
	}
	now, err := r.applyUnit(ctx, a.Address, a.Machine, u, stoppedAs(old, a.Address, a.Machine))
	if err == nil || now != nil || old == nil || old.Digest == "" {
		return now, err
	}
	previous := &plan.Placed{Address: a.PreviousAddress, Machine: from, Backend: old.Backend, Digest: old.Digest, Object: old.Object, Values: old.Values,
		Traits: old.Traits}
	restored, rerr := r.applyUnit(ctx, a.PreviousAddress, from, previous, stoppedAs(old, a.PreviousAddress, from))
	if rerr != nil {
		err = fmt.Errorf("%w; the old version could not be restored: %w", err, rerr)
	}
	if restored != nil {
		restored.Traits = old.Traits
	}
	return restored, err
}

// stoppedAs returns what is kept of a record when its unit is made anew at another place: that it was
// stopped on purpose. It returns nil if it was not.
func stoppedAs(old *plan.Record, address, machine string) *plan.Record {
	if old == nil || old.Stopped == nil {
		return nil
	}
	return &plan.Record{Address: address, Machine: machine, Backend: old.Backend, Stopped: old.Stopped}
}

// renameUnit gives a unit another address on its machine, and returns the record
// afterwards, which has the former address if that failed.
func (r *run) renameUnit(ctx context.Context, a *plan.Action, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	m, raw, err := r.prepareUnit(ctx, a.Machine, u)
	if err != nil {
		return old, err
	}
	rec := plan.Record{Backend: u.Backend}
	if old != nil {
		rec = *old
	}
	e, at, known, err := m.client.RenameUnit(ctx, r.scope(), a.PreviousAddress, a.Address, r.caller, raw, u.Values, rec.Stopped != nil, r.limit())
	if !known { // the next apply asks the machine for both addresses
		rec.Address, rec.Machine, rec.Digest, rec.Apply = a.Address, a.Machine, "", r.caller.Apply
		return &rec, err
	}
	if e == nil {
		return nil, err
	}
	now, rerr := r.req.record(ctx, at, a.Machine, e, rec)
	return &now, errors.Join(err, rerr)
}

// prepareUnit prepares a machine for a unit, and returns the unit's content.
func (r *run) prepareUnit(ctx context.Context, name string, u *plan.Placed) (*machine, []byte, error) {
	m, err := r.prepareWrite(ctx, name)
	if err != nil || u == nil {
		return m, nil, err
	}
	raw, err := r.req.object(ctx, u.Object)
	if err == nil {
		err = r.sendArtifacts(ctx, m, raw)
	}
	return m, raw, err
}

// applyUnit creates, updates or, if u is nil, deletes a unit on a machine, and
// returns the record afterwards. The empty machine name means a module.
func (r *run) applyUnit(ctx context.Context, address, name string, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	if name == "" {
		return r.applyModule(ctx, address, u, old)
	}
	m, raw, err := r.prepareUnit(ctx, name, u)
	if err != nil {
		return old, err
	}
	var values plan.Values
	if u != nil {
		values = u.Values
	}
	send := m.client.ApplyUnit
	if u != nil && old != nil && old.Stopped != nil {
		send = m.client.ApplyStopped
	}
	e, known, err := send(ctx, r.scope(), address, r.caller, raw, values, r.limit())
	if !known { // the connection was lost: the result is unknown
		rec := plan.Record{Address: address, Machine: name}
		if old != nil {
			rec = *old
		} else if u != nil {
			rec.Backend = u.Backend
		}
		rec.Digest, rec.Apply = "", r.caller.Apply
		return &rec, err
	}
	if e == nil {
		return nil, err
	}
	var previous plan.Record
	if old != nil {
		previous = *old
	}
	rec, rerr := r.req.record(ctx, address, name, e, previous)
	return &rec, errors.Join(err, rerr)
}
