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
	"github.com/defx-dev/defx/internal/digest"
)

// machine is a machine and the conversation with its agent, once begun.
type machine struct {
	m *graph.Machine

	mu     sync.Mutex
	client *agent.Client
	err    error // it could not be reached: not tried again in this apply
	fenced bool
	asked  bool                    // stands is known
	stands map[string]*agent.Entry // when it was asked
	sent   map[digest.Digest]bool  // artifacts known to be there
}

// reach dials a machine once.
func (r *run) reach(name string) (*machine, error) {
	m := r.machines[name]
	if m == nil {
		return nil, fmt.Errorf("machine %q is not declared any more, and the state does not say how it was reached", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == nil && m.err == nil && m.m.Module != "" {
		if err := r.find(r.life, m); err != nil {
			return m, err
		}
	}
	if m.client == nil && m.err == nil {
		m.client, m.err = r.w.Dial(r.life, m.m)
	}
	return m, m.err
}

// units asks what stands on a machine, once.
func (r *run) units(ctx context.Context, name string) (map[string]*agent.Entry, error) {
	if name == "" { // what stands on no machine
		return r.modules(ctx)
	}
	m, err := r.reach(name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.asked {
		if m.stands, err = m.client.Units(ctx, r.scope()); err != nil {
			return nil, err
		}
		m.asked = true
	}
	return m.stands, nil
}

// patience is how long all wait for a machine before the others go on without it.
const patience = 5 * time.Second

// together does f for machines at once. It ends at the first error, or when
// those that are still silent hold up the others for too long.
func together(names []string, f func(name string) error) error {
	over := make(chan error, len(names))
	for _, n := range names {
		go func() { over <- f(n) }()
	}
	late := time.After(patience)
	for range names {
		select {
		case err := <-over:
			if err != nil {
				return err
			}
		case <-late:
			return nil
		}
	}
	return nil
}

// write reaches a machine for a change: what it holds is known, and the lease
// is announced first.
func (r *run) write(ctx context.Context, name string) (*machine, error) {
	if err := r.lost(ctx, name); err != nil {
		return nil, err
	}
	m, err := r.reach(name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.fenced {
		err := m.client.Fence(ctx, r.scope(), r.token.Load(), r.lease.Addresses, r.making)
		if f, is := errors.AsType[*agent.ErrStaleToken](err); is && len(m.stands) == 0 {
			err = r.raise(ctx, m, f.Token)
		}
		if err != nil {
			return nil, err
		}
		m.fenced = true
	}
	return m, nil
}

// raise begins anew on a machine that holds nothing but remembers a higher
// token: that of another state, for within one state who has the lease has the
// highest. Who lost it meanwhile is kept away.
func (r *run) raise(ctx context.Context, m *machine, above int64) error {
	token, err := r.w.Store.RaiseToken(ctx, r.lease, above)
	if err != nil {
		return err
	}
	for {
		was := r.token.Load()
		if was >= token || r.token.CompareAndSwap(was, token) {
			return m.client.Fence(ctx, r.scope(), r.token.Load(), r.lease.Addresses, r.making)
		}
	}
}

// settle makes the manifests of the machines that were reached whole, and says
// of which it could not. What is not whole is in the machine's own journal. Since
// they are asked anyway, they also tell what nothing leads to.
func (r *run) settle(ctx context.Context, generation int) (unsettled, orphans []string) {
	names := slices.Sorted(maps.Keys(r.machines))
	said, left := make([]string, len(names)), make([][]string, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		m := r.machines[name]
		if !m.mu.TryLock() { // it was never reached
			continue
		}
		client, used := m.client, m.fenced || m.asked && r.doubted[name]
		m.mu.Unlock()
		if client == nil || !used {
			continue
		}
		all.Go(func() {
			if err := client.FlushManifest(ctx, r.scope(), generation); err != nil {
				said[i] = fmt.Sprintf("machine %s: %v", name, err)
			}
		})
		all.Go(func() {
			list, _ := client.Orphans(ctx, r.scope()) // that it cannot tell is no failure of what was done
			for _, o := range list {
				left[i] = append(left[i], o+" on "+name)
			}
		})
	}
	all.Wait()
	return slices.DeleteFunc(said, func(s string) bool { return s == "" }), slices.Concat(left...)
}

// hangUp ends all conversations, and those that have not come about yet.
func (r *run) hangUp() {
	r.end()
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

// finished is what became of one action.
type finished struct {
	a      *plan.Action
	stands *plan.Record // nil: nothing
	err    error
	took   time.Duration
	kept   bool // it is what it was
}

// walk does the actions, each when those that it waits for are done, and gives
// what stands afterwards.
func (r *run) walk(ctx, lasting context.Context, cs *plan.ChangeSet, records []plan.Record) (*Result, []plan.Record, error) {
	res := &Result{Changes: cs}
	res.Counts.Held = cs.Summary.Held
	res.Counts.Unchanged = cs.Summary.Unchanged + cs.Summary.Protected
	by := map[string]plan.Record{}
	for _, rec := range records {
		by[rec.Address] = rec
	}
	planned := func(address string) plan.Unit { // what should be there
		var u plan.Unit
		if p := r.w.Plan.Find(address); p != nil {
			if raw, err := r.w.object(lasting, p.Object); err == nil {
				u.Decode(raw)
			}
		}
		return u
	}
	waiting := waitsOf(cs, r.w.Plan, func(address string) int { return planned(address).MinReady })
	ready := []*plan.Action{}
	for i := range cs.Actions {
		if a := &cs.Actions[i]; waiting.left[a.Address] == 0 {
			ready = append(ready, a)
		}
	}
	limit := r.w.Parallel
	if limit <= 0 {
		limit = 10
	}
	over := make(chan finished)
	running := 0
	doomed := map[string]string{} // address → the failed one that it waits for
	begun := map[string]bool{}
	rolling := rolls(cs, r.w.Plan, planned)
	for {
		ready = slices.DeleteFunc(ready, func(a *plan.Action) bool {
			halted := rolling[a.Address].stopped(a.Address) != nil
			if halted && doomed[a.Address] == "" {
				doomed[a.Address] = rolling[a.Address].failed
				doom(a.Address, rolling[a.Address].failed, waiting, doomed)
			}
			return halted || begun[a.Address]
		})
		if len(ready) == 0 && running == 0 {
			// Records of different times may make deletions wait for each other: then the first goes first.
			next := stuck(cs.Actions, begun, doomed)
			if next == nil {
				break
			}
			ready = append(ready, next)
		}
		for running < limit && ctx.Err() == nil {
			i := slices.IndexFunc(ready, func(a *plan.Action) bool { return rolling[a.Address].begin(a.Address) })
			if i < 0 && running == 0 && len(ready) > 0 {
				i = 0 // nobody else would ever make room
			}
			if i < 0 {
				break
			}
			a := ready[i]
			ready = slices.Delete(ready, i, i+1)
			if begun[a.Address] {
				continue
			}
			begun[a.Address] = true
			running++
			r.tell(Event{Outcome: Started, Action: *a})
			had, stood := by[a.Address]
			if a.PreviousMachine != "" {
				had, stood = by[a.PreviousMachine]
			}
			go func() {
				at := time.Now()
				stands, err := r.act(lasting, a, had, stood)
				kept := stood && stands != nil && had.Digest == stands.Digest && maps.Equal(had.Values, stands.Values)
				over <- finished{a, stands, err, time.Since(at), kept}
			}()
		}
		if running == 0 && ctx.Err() != nil { // stopped: what is ready is not begun any more
			res.Stopped = true
			break
		}
		if running == 0 {
			continue
		}
		f := <-over
		running--
		delete(by, f.a.Address)
		if f.a.PreviousMachine != "" {
			delete(by, f.a.PreviousMachine)
		}
		if f.stands != nil { // under its old name if renaming failed
			by[f.stands.Address] = *f.stands
		}
		rolling[f.a.Address].over(f.a.Address, f.err)
		out := Event{Outcome: Done, Action: *f.a, Err: f.err, Took: f.took}
		if f.err != nil {
			out.Outcome = Failed
			res.Failed = append(res.Failed, f.a.Address)
			doom(f.a.Address, f.a.Address, waiting, doomed)
			for address := range doomed {
				rolling[address].lost(address)
			}
		} else if !f.a.Certain && f.kept {
			res.Counts.Unchanged++ // its values turned out equal
		} else {
			count(&res.Counts, f.a.Op)
		}
		r.tell(out)
		if f.err != nil {
			continue
		}
		for _, next := range waiting.done(f.a.Address) {
			if doomed[next.Address] == "" {
				ready = append(ready, next)
			}
		}
	}
	done := map[string]bool{}
	for _, a := range res.Failed {
		done[a] = true
	}
	for i := range cs.Actions {
		a := &cs.Actions[i]
		if by := doomed[a.Address]; by != "" && !done[a.Address] {
			res.Skipped = append(res.Skipped, a.Address)
			why := rolling[a.Address].stopped(a.Address)
			if why == nil {
				why = fmt.Errorf("it needs %s, which failed", by)
			}
			r.tell(Event{Outcome: Skipped, Action: *a, Err: why})
		}
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return nil, nil, err // the lease was lost
	}
	for address := range r.outside { // nobody put it back: the next apply does
		if rec, stood := by[address]; stood {
			rec.Digest = ""
			by[address] = rec
		}
	}
	res.Notes = slices.Sorted(maps.Keys(r.notes))
	slices.Sort(res.Failed)
	slices.Sort(res.Skipped)
	res.Counts.Failed, res.Counts.Skipped = len(res.Failed), len(res.Skipped)
	return res, sorted(by), nil
}

// stuck is the first action that was neither begun nor given up.
func stuck(actions []plan.Action, begun map[string]bool, doomed map[string]string) *plan.Action {
	for i := range actions {
		if a := &actions[i]; !begun[a.Address] && doomed[a.Address] == "" {
			return a
		}
	}
	return nil
}

// doom marks all that waits in vain for a failed action, directly or not.
func doom(address, because string, w *waits, doomed map[string]string) {
	for _, f := range w.failed(address) {
		if doomed[f.Address] == "" {
			doomed[f.Address] = because
			doom(f.Address, because, w, doomed)
		}
	}
}

// act journals and does one action, and gives what stands afterwards.
func (r *run) act(ctx context.Context, a *plan.Action, had plan.Record, stood bool) (*plan.Record, error) {
	old := &had
	if !stood {
		old = nil
	}
	s := &step{Op: a.Op, Address: a.Address, Machine: a.Machine, From: a.From, Former: a.PreviousMachine}
	if err := r.j.write(line{Begin: s}); err != nil {
		return old, err
	}
	deadline := r.w.Deadline
	if deadline == 0 {
		deadline = 10 * time.Minute
		if a.Machine == "" {
			deadline = time.Hour // a database takes half of it
		}
	}
	for _, rec := range r.behind(a.Address) {
		deadline += time.Duration(rec.Drain)*time.Second + 10*time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	stands, err := r.do(ctx, a, old)
	if err != nil {
		err = advise(err)
		s.Failed = err.Error()
	}
	if jerr := r.j.write(line{End: s, Stand: stands}); jerr != nil {
		err = errors.Join(err, jerr)
	}
	return stands, err
}

// advise adds what to do about what machines suffer from.
func advise(err error) error {
	const login = "docker login on that machine, as the user as whom defx comes, lets it in"
	for _, h := range []struct{ what, hint string }{
		{"no space left on device", "its disk is full: make room there"},
		{"read-only file system", "defx writes below /var/lib/defx and /etc/systemd/system: both must be writable"},
		{"may not be used by this user", "run defx as root, or as somebody of the group docker"},
		{"nothing runs units here", "a machine has systemd, a docker engine (docker: 'unix:///PATH' says where it listens) or both; a folder that nothing runs in is dir:PATH"},
		{"no docker engine", "install and start docker there, or say where its engine listens: docker: 'unix:///PATH' of the machine"},
		{"no systemd runs here", "defx leaves running to systemd; a folder that nothing runs in is dir:PATH"},
		{"401 Unauthorized", login},          // a registry to us
		{"no basic auth credentials", login}, // and to an engine
	} {
		if strings.Contains(err.Error(), h.what) {
			return fmt.Errorf("%w\n    hint: %s", err, h.hint)
		}
	}
	return err
}

func (r *run) do(ctx context.Context, a *plan.Action, old *plan.Record) (*plan.Record, error) {
	if a.Op == plan.Delete && a.Machine == "" {
		return r.change(ctx, a.Address, "", nil, old)
	}
	if a.Op == plan.Delete {
		m, err := r.write(ctx, a.Machine)
		if err == nil {
			err = m.client.Retire(ctx, r.scope(), a.Address, r.token.Load())
		}
		if err != nil {
			return old, err
		}
		return r.change(ctx, a.Address, a.Machine, nil, old)
	}
	u := r.w.Plan.Find(a.Address)
	if len(u.Unknown)+len(u.Binds) > 0 {
		bound, err := u.Bind(r.outs.get)
		if err != nil {
			return old, err
		}
		if !a.Certain && old != nil && old.Digest == bound.Digest && maps.Equal(old.Values, bound.Values) {
			return old, nil // what it reads has not changed
		}
		u = &bound
	}
	if a.Machine != "" && a.Op != plan.Create && a.Stops() {
		return r.apart(ctx, a, u, old)
	}
	return r.exchange(ctx, a, u, old)
}

// apart changes what is taken out from behind its balancers meanwhile. What
// moves is taken out when the new one has its place.
func (r *run) apart(ctx context.Context, a *plan.Action, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	behind := r.behind(a.Address)
	if a.PreviousMachine != "" {
		behind = append(behind, r.behind(a.PreviousMachine)...)
	}
	if len(behind) == 0 {
		return r.exchange(ctx, a, u, old)
	}
	if a.Op == plan.Move && a.PreviousMachine == "" {
		stands, err := r.change(ctx, a.Address, a.Machine, u, old)
		for _, rec := range behind {
			var before []cloud.Target
			if err == nil {
				before, err = r.w.Modules.Targets(rec.Address)
			}
			if err == nil {
				err = r.putBack(ctx, rec)
			}
			if err == nil {
				err = r.rest(ctx, rec.Drain, before)
			}
		}
		if err != nil {
			return old, err // it counts as not moved yet
		}
		return r.leave(ctx, a, stands, old)
	}
	for _, rec := range behind {
		if err := r.takeOut(ctx, rec); err != nil {
			return old, fmt.Errorf("it could not be taken out from behind its balancer, and goes on as it was: %w", err)
		}
	}
	stands, err := r.exchange(ctx, a, u, old)
	if err != nil && stands != nil && stands.Digest != "" && !r.again(a) { // what stood before is back
		for _, rec := range behind {
			err = errors.Join(err, r.putBack(ctx, rec))
		}
	}
	return stands, err
}

// again tells whether an action only starts anew what stands.
func (r *run) again(a *plan.Action) bool { return a.Address == r.w.Restart && a.Before == a.Digest }

// exchange puts the new one in the place of the old one.
func (r *run) exchange(ctx context.Context, a *plan.Action, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	if r.again(a) {
		m, err := r.write(ctx, a.Machine)
		if err == nil {
			err = m.client.Restart(ctx, r.scope(), a.Address)
		}
		return old, err
	}
	if a.Op == plan.Replace && a.From == a.Machine {
		stands, err := r.change(ctx, a.Address, a.Machine, nil, old)
		if err != nil {
			return stands, err
		}
		old = stands
	}
	if a.PreviousMachine != "" {
		return r.rename(ctx, a, u, old)
	}
	stands, err := r.change(ctx, a.Address, a.Machine, u, old)
	if err == nil && a.From != "" && a.From != a.Machine { // the new one stands: the old one goes
		return r.leave(ctx, a, stands, old)
	}
	return stands, err
}

// leave removes what moved from where it was.
func (r *run) leave(ctx context.Context, a *plan.Action, stands, old *plan.Record) (*plan.Record, error) {
	if _, err := r.change(ctx, a.Address, a.From, nil, old); err != nil {
		return old, fmt.Errorf("it stands on %s now, but could not be removed from %s: %w", a.Machine, a.From, err)
	}
	return stands, nil
}

// rename puts a unit in the place of the same one under its old name. The two
// would be in each other's way, so the old one goes first, and comes back if
// the new one fails.
func (r *run) rename(ctx context.Context, a *plan.Action, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	from := a.Machine
	if from == "" { // what stands is called otherwise from now on
		if err := r.strange(ctx); err != nil {
			return old, err
		}
		if err := r.w.Modules.Rename(ctx, r.scope(), a.PreviousMachine, a.Address); err != nil {
			return old, err
		}
		r.outs.set(a.PreviousMachine, nil)
		return r.change(ctx, a.Address, "", u, old)
	}
	if a.From != "" {
		from = a.From
	}
	if left, err := r.change(ctx, a.PreviousMachine, from, nil, old); err != nil {
		return left, err
	}
	stands, err := r.change(ctx, a.Address, a.Machine, u, nil)
	if err == nil || stands != nil || old == nil || old.Digest == "" {
		return stands, err
	}
	back := &plan.Placed{Address: a.PreviousMachine, Machine: from, Backend: old.Backend, Digest: old.Digest, Object: old.Object, Values: old.Values, Traits: old.Traits}
	was, again := r.change(ctx, a.PreviousMachine, from, back, nil)
	if again != nil {
		err = fmt.Errorf("%w; the old one did not come back: %w", err, again)
	}
	if was != nil {
		was.Traits = old.Traits
	}
	return was, err
}

// change asks one machine to make a unit what it should be; u nil deletes it.
func (r *run) change(ctx context.Context, address, name string, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	if name == "" {
		return r.module(ctx, address, u, old)
	}
	m, err := r.write(ctx, name)
	if err != nil {
		return old, err
	}
	var raw []byte
	var values plan.Values
	if u != nil {
		if raw, err = r.w.object(ctx, u.Object); err != nil {
			return old, err
		}
		if err := r.artifacts(ctx, m, raw); err != nil {
			return old, err
		}
		values = u.Values
	}
	e, known, err := m.client.ApplyUnit(ctx, r.scope(), address, r.token.Load(), raw, values)
	if !known { // the connection broke: nobody knows what stands
		rec := plan.Record{Address: address, Machine: name}
		if old != nil {
			rec = *old
		} else if u != nil {
			rec.Backend = u.Backend
		}
		rec.Digest = ""
		return &rec, err
	}
	if e == nil {
		return nil, err
	}
	var was plan.Record
	if old != nil {
		was = *old
	}
	rec, rerr := r.record(ctx, address, name, e, was)
	return &rec, errors.Join(err, rerr)
}
