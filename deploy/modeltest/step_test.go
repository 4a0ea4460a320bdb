package modeltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
)

// step is one step of a sequence. What it does depends on its seed and on the world,
// so that the steps that are left after others were dropped still make sense.
type step struct {
	kind string
	seed uint64
}

// kinds are the kinds of steps, with how often each occurs.
var kinds = []struct {
	name string
	rate int
	do   func(*world, *scope)
}{
	{"several", 0, func(w *world, _ *scope) { w.several = true }},
	{"grow", 0, (*world).grow},
	{"edit", 34, (*world).edit},
	{"apply", 22, (*world).applyStep},
	{"crash", 8, (*world).crashStep},
	{"stop", 5, (*world).stopStep},
	{"start", 3, (*world).startStep},
	{"rollback", 4, (*world).rollbackStep},
	{"save state", 4, (*world).saveState},
	{"restore state", 3, (*world).restoreState},
	{"save machine", 4, (*world).saveMachine},
	{"revert machine", 5, (*world).revertMachine},
	{"wipe machine", 2, (*world).wipeMachine},
	{"stop by hand", 3, (*world).stopByHand},
	{"edit by hand", 3, (*world).editByHand},
	{"remove by hand", 3, (*world).removeByHand},
	{"lose data", 1, (*world).loseData},
	{"reboot", 2, (*world).reboot},
	{"concurrent", 2, (*world).concurrentStep},
	{"pause", 3, (*world).pauseStep},
	{"fork", 3, (*world).forkStep},
}

// growing is how many services are added before anything else.
const growing = 5

func randomSteps(r *rand.Rand, n int) []step {
	total := 0
	for _, k := range kinds {
		total += k.rate
	}
	out := make([]step, n)
	several := r.IntN(3) == 0
	for i := range out {
		if i == 0 && several {
			out[i] = step{"several", 0}
			continue
		}
		if i < growing {
			out[i] = step{"grow", r.Uint64()}
			continue
		}
		at := r.IntN(total)
		for _, k := range kinds {
			if at -= k.rate; at < 0 {
				out[i] = step{k.name, r.Uint64()}
				break
			}
		}
	}
	return out
}

// do makes one step.
func (w *world) do(s step) {
	w.r = rand.New(rand.NewPCG(s.seed, 7))
	for _, k := range kinds {
		if k.name == s.kind {
			i := 0
			if w.several {
				i = w.r.IntN(len(w.scopes))
			}
			w.changes++
			k.do(w, w.scopes[i])
			if k.name != "edit" && k.name != "apply" {
				w.sight = nil
			}
		}
	}
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

var (
	serviceNames = []string{"a", "b", "c", "d", "e", "f"}
	ports        = []int{5000, 5001, 5002, 5003, 5004, 5005, 5006, 5007, 5008, 5009}
)

// free returns the names that no service has.
func (d *deployment) free() []string {
	return slices.DeleteFunc(slices.Clone(serviceNames), func(n string) bool {
		_, used := d.services[n]
		return used || d.moved[n] != ""
	})
}

// grow adds a service.
func (w *world) grow(s *scope) {
	free := s.want.free()
	if len(free) == 0 {
		return
	}
	n := pick(w.r, free)
	svc := service{version: w.r.IntN(1000), machine: pick(w.r, machineNames[:2]), replicas: 1, data: w.r.IntN(2) == 0}
	if w.r.IntN(6) == 0 {
		svc.machine = machineNames[2]
	}
	switch w.r.IntN(6) {
	case 0, 1, 2:
		svc.port = pick(w.r, ports)
	case 3:
		svc.path = pick(w.r, []string{"/srv/x", "/srv/y"})
	case 4:
		svc.replicas = 2
	}
	s.want.services[n] = svc
	w.note("%s: add %s %+v", s.name(), n, svc)
}

// edit changes the entry file.
func (w *world) edit(s *scope) {
	d := s.want
	names, free := sortedKeys(d.services), d.free()
	what := w.r.IntN(12)
	if len(names) < 2 {
		what = 0
	}
	switch {
	case what <= 1:
		w.grow(s)
		return
	case len(names) == 0:
		return
	}
	n := pick(w.r, names)
	svc := d.services[n]
	switch what {
	case 2, 3:
		w.drop(s, n)
		w.note("%s: remove %s", s.name(), n)
		return
	case 4, 5:
		if len(free) == 0 || len(d.moved) > 0 {
			return
		}
		to := pick(w.r, free)
		delete(d.services, n)
		d.services[to] = svc
		moved := w.r.IntN(4) > 0
		if moved {
			d.moved[n] = to
		}
		w.note("%s: rename %s to %s, moved %v", s.name(), n, to, moved)
		return
	case 6:
		svc.port = pick(w.r, append([]int{0}, ports...))
		if svc.replicas > 1 {
			svc.port = 0
		}
	case 7:
		svc.replicas = 1 + w.r.IntN(3)
		if svc.replicas > 1 {
			svc.port, svc.path = 0, ""
		}
	case 8:
		svc.machine = pick(w.r, machineNames)
	case 9:
		svc.data = w.r.IntN(3) > 0
	default:
		svc.version = w.r.IntN(1000)
	}
	d.services[n] = svc
	w.note("%s: edit %s %+v", s.name(), n, svc)
}

// drop removes a service from the entry file.
func (w *world) drop(s *scope, name string) {
	delete(s.want.services, name)
	maps.DeleteFunc(s.want.moved, func(_, now string) bool { return now == name })
}

// consent returns the options of an apply.
func (w *world) consent(s *scope) options {
	o := options{by: operator(w.r.IntN(2)), repair: w.r.IntN(2) == 0}
	all := func() map[string]bool {
		out := map[string]bool{}
		for _, n := range serviceNames {
			for i := range 3 {
				out[addressOf(n, i)] = true
			}
		}
		return out
	}
	if w.r.IntN(5) == 0 {
		o.allowDelete = all()
	}
	if w.r.IntN(5) == 0 {
		o.allowMove = all()
	}
	if w.r.IntN(5) == 0 {
		o.giveUp = all()
	}
	if w.r.IntN(6) == 0 {
		o.allowEmpty = map[string]bool{"@m1": true, "@m2": true, "@m3": true}
	}
	return o
}

func (o options) String() string {
	return fmt.Sprintf("by %d, repair %v, allow delete %v, move %v, giving up %v, empty %v, dies at %d", o.by, o.repair, o.allowDelete != nil, o.allowMove != nil, o.giveUp != nil, o.allowEmpty != nil, o.dieAt)
}

func (w *world) applyStep(s *scope) {
	w.applyAndNote(s, w.consent(s))
}

// applyAndNote applies, and sometimes once more, which must change nothing.
func (w *world) applyAndNote(s *scope, o options) *outcome {
	i := len(w.log)
	w.note("")
	out := w.apply(s, o)
	w.log[i] = fmt.Sprintf("%s: apply %d (%s): %s", s.name(), w.number, o, out)
	if out.clean() && len(w.violations) == 0 && !out.nothing() && (w.r.IntN(3) == 0 || w.finishing) {
		again := w.apply(s, options{by: 1 - o.by, repair: true, allowDelete: o.allowDelete, allowMove: o.allowMove, giveUp: o.giveUp})
		if !again.nothing() || again.result.Wrote {
			w.violate("%s: the second of two applies is not empty: %s", s.name(), again)
		}
		s.settled = w.changes
	}
	return out
}

// String describes an outcome in one line.
func (o *outcome) String() string {
	var out []string
	add := func(what string, m map[string]bool) {
		if len(m) > 0 {
			out = append(out, what+" "+strings.Join(sortedKeys(m), ", "))
		}
	}
	if o.died {
		out = append(out, "died")
	}
	if o.err != nil {
		out = append(out, "error "+o.err.Error())
	}
	add("held", o.held)
	add("blocked", o.blocked)
	add("left", o.left)
	for _, a := range sortedKeys(o.failed) {
		out = append(out, fmt.Sprintf("failed %s: %v", a, o.failed[a]))
	}
	if o.changes != nil {
		for _, a := range o.changes.Actions {
			out = append(out, fmt.Sprintf("%s %s (%s)", a.Op, a.Address, a.Reason))
		}
	}
	if o.result != nil && o.result.Wrote {
		out = append(out, fmt.Sprintf("generation %d", o.result.Generation))
	}
	return strings.Join(out, "; ")
}

func (w *world) crashStep(s *scope) {
	o := w.consent(s)
	o.dieAt = 1 + w.r.Int64N(1<<(2+w.r.IntN(7)))
	w.applyAndNote(s, o)
}

// deployed returns what is deployed as the deployment asks for.
func (w *world) deployed(s *scope) []seen {
	var out []seen
	now := w.disks.observe()
	wanted := s.want.units()
	for _, a := range sortedKeys(now.units[s.name()]) {
		if _, is := wanted[a]; is {
			out = append(out, now.units[s.name()][a]...)
		}
	}
	return out
}

func (w *world) stopStep(s *scope) {
	if list := w.deployed(s); len(list) > 0 {
		w.stopOrStart(s, pick(w.r, list).address, true)
	}
}

func (w *world) startStep(s *scope) {
	if len(s.stopped) > 0 {
		w.stopOrStart(s, pick(w.r, sortedKeys(s.stopped)), false)
	}
}

// stopOrStart does what defx stop and defx start do.
func (w *world) stopOrStart(s *scope, address string, stop bool) {
	ctx := context.Background()
	w.number++
	before, v := w.disks.observe(), w.judge(s, w.disks.observe())
	was := w.disks.fingerprint()
	out := &outcome{}
	out.err = func() error {
		sess, err := session.Open(ctx, w.project(0, s, options{}), s.environment, func(error) {})
		if err != nil {
			return err
		}
		rec, err := sess.Unit(address)
		if err != nil {
			return err
		}
		var r *apply.Request
		if stop {
			r, err = sess.StopRequest(ctx, rec, "a test")
		} else {
			r, err = sess.StartRequest(ctx, rec)
		}
		if err != nil {
			return err
		}
		w.prepare(r, options{})
		out.ran = true
		out.result, err = apply.Run(ctx, r)
		return err
	}()
	after := w.disks.observe()
	w.note("%s: stop %v %s: %v", s.name(), stop, address, out.err)
	w.checkEvents(s, options{})
	if !stop && out.err == nil {
		delete(s.stopped, address)
	}
	w.checkAlways(before, after)
	switch {
	case out.refused() && v == mustAccept:
		w.violate("%s: a true state was refused: %v", s.name(), out.err)
	case out.refused():
		if fmt.Sprint(w.disks.fingerprint()) != fmt.Sprint(was) {
			w.violate("%s: a refusal changed something", s.name())
		}
		return
	}
	w.mark(s, before, after, out)
	if stop && out.err == nil && len(out.result.Failed) == 0 {
		for _, u := range after.units[s.name()][address] {
			if u.active {
				w.violate("%s of %s was stopped, and runs", address, s.name())
			}
		}
		s.stopped[address] = true
	}
}

// rollbackStep goes back to an earlier generation, in the entry file, too.
func (w *world) rollbackStep(s *scope) {
	if len(s.past) < 2 {
		return
	}
	var numbers []int
	for n := range s.past {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	to := pick(w.r, numbers[:len(numbers)-1])
	ctx := context.Background()
	w.number++
	before := w.disks.observe()
	v, was := w.judge(s, before), w.disks.fingerprint()
	o := w.consent(s)
	out := &outcome{held: map[string]bool{}, blocked: map[string]bool{}, left: map[string]bool{}, failed: map[string]error{}}
	out.err = func() error {
		sess, err := session.Open(ctx, w.project(o.by, s, o), s.environment, func(error) {})
		if err != nil {
			return err
		}
		_, r, err := sess.Rollback(ctx, to)
		if err != nil {
			return err
		}
		w.prepare(r, o)
		w.executeRequest(ctx, r, o, out)
		return out.err
	}()
	w.note("%s: rollback to %d (%s): %s", s.name(), to, o, out)
	after := w.disks.observe()
	w.checkEvents(s, o)
	w.checkAlways(before, after)
	if out.refused() {
		if v == mustAccept {
			w.violate("%s: a true state was refused: %v", s.name(), out.err)
		}
		if fmt.Sprint(w.disks.fingerprint()) != fmt.Sprint(was) {
			w.violate("%s: a refusal changed something", s.name())
		}
		return
	}
	w.mark(s, before, after, out)
	w.remember(s, after)
	gone := 0 // stopped units that have their former names again
	for a := range s.stopped {
		if len(before.units[s.name()][a]) > 0 && len(after.units[s.name()][a]) == 0 {
			delete(s.stopped, a)
			gone++
		}
	}
	for _, a := range sortedKeys(after.units[s.name()]) {
		if u := after.units[s.name()][a][0]; gone > 0 && len(before.units[s.name()][a]) == 0 && !u.active {
			s.stopped[a] = true
			gone--
		}
	}
	if out.clean() {
		s.want = s.past[to].clone()
		s.want.moved = map[string]string{}
	}
}

func (w *world) saveState(s *scope) {
	dir := w.newFolder()
	must(copyTree(w.stateDir(s), dir))
	w.saved.states[s.name()] = stateCopy{dir, maps.Clone(s.known)}
	w.note("%s: save state", s.name())
}

// restoreState replaces the state by an earlier copy, applies, and takes over the
// newest one again.
func (w *world) restoreState(s *scope) {
	old, is := w.saved.states[s.name()]
	if !is {
		return
	}
	newest, known := w.newFolder(), maps.Clone(s.known)
	must(copyTree(w.stateDir(s), newest))
	w.replaceState(s, old.dir)
	s.known = maps.Clone(old.known)
	w.note("%s: restore state", s.name())
	for range 1 + w.r.IntN(2) {
		if w.r.IntN(2) == 0 {
			w.edit(s)
		}
		w.applyAndNote(s, w.consent(s))
	}
	behind := true
	for n := range s.known {
		behind = behind && known[n]
	}
	_, err := state.OpenDir(w.stateDir(s)).Pull(context.Background(), state.OpenDir(newest), state.LeaseOptions{Verb: "pull", Wait: time.Minute}, false)
	w.note("%s: pull: %v", s.name(), err)
	if _, serr := os.Stat(filepath.Join(newest, "head.json")); behind && err != nil && serr == nil && !strings.Contains(err.Error(), "has no generation") {
		w.violate("%s: a copy that fell behind cannot be brought up to date: %v", s.name(), err)
	}
	if err == nil {
		s.known = known
	}
}

// replaceState makes a copy the state of a scope.
func (w *world) replaceState(s *scope, dir string) {
	must(os.RemoveAll(w.stateDir(s)))
	must(copyTree(dir, w.stateDir(s)))
}

func (w *world) saveMachine(*scope) {
	name := pick(w.r, machineNames)
	c, err := w.disks.machines[name].clone(w.newFolder())
	must(err)
	w.saved.machines[name] = c
	w.note("save machine %s", name)
}

func (w *world) revertMachine(*scope) {
	name := pick(w.r, machineNames)
	old := w.saved.machines[name]
	if old == nil {
		w.saveMachine(nil)
		return
	}
	c, err := old.clone(w.newFolder())
	must(err)
	w.disks.machines[name] = c
	w.note("revert machine %s", name)
	w.disturb(name)
}

func (w *world) wipeMachine(*scope) {
	name := pick(w.r, machineNames)
	w.disks.machines[name] = newMachine(name, w.newFolder())
	w.note("wipe machine %s", name)
	w.disturb(name)
}

// disturb makes the oracle forget what it expects of a machine, because somebody
// replaced it.
func (w *world) disturb(name string) {
	w.sight = nil
	clear(w.halted)
	now := w.look()
	for _, s := range w.scopes {
		for a, h := range s.had {
			if h.machine == name {
				there := slices.ContainsFunc(now.units[s.name()][a], func(u seen) bool { return u.machine == name && len(u.data) > 0 })
				s.had[a] = held{machine: name, lost: !there}
			}
		}
		for a := range now.units[s.name()] {
			w.touched[s.name()+" "+a] = true
		}
	}
}

// byHand is what somebody adds to a unit file.
const byHand = "# mine\n"

// victim returns a unit that somebody is going to change by hand.
func (w *world) victim(s *scope) (seen, bool) {
	list := w.deployed(s)
	if len(list) == 0 {
		return seen{}, false
	}
	u := pick(w.r, list)
	w.touched[s.name()+" "+u.address] = true
	delete(w.halted[s.name()], u.address)
	return u, true
}

func (w *world) stopByHand(s *scope) {
	if u, ok := w.victim(s); ok {
		delete(w.disks.machines[u.machine].active, u.name)
		if w.halted[s.name()] == nil {
			w.halted[s.name()] = map[string]string{}
		}
		w.halted[s.name()][u.address] = u.name
		w.note("%s: stop %s by hand", s.name(), u.address)
	}
}

func (w *world) editByHand(s *scope) {
	if u, ok := w.victim(s); ok {
		must(os.WriteFile(w.disks.machines[u.machine].path(unitDir, u.name), []byte(u.text+byHand), 0o644))
		w.note("%s: edit %s by hand", s.name(), u.address)
	}
}

func (w *world) removeByHand(s *scope) {
	if u, ok := w.victim(s); ok {
		must(os.Remove(w.disks.machines[u.machine].path(unitDir, u.name)))
		delete(w.disks.machines[u.machine].active, u.name)
		w.note("%s: remove %s by hand", s.name(), u.address)
	}
}

func (w *world) loseData(s *scope) {
	u, ok := w.victim(s)
	if !ok || len(u.data) == 0 {
		return
	}
	for _, d := range u.state {
		must(os.RemoveAll(w.disks.machines[u.machine].path("var/lib", d)))
	}
	s.had[u.address] = held{machine: u.machine, lost: true}
	w.note("%s: lose the data of %s", s.name(), u.address)
}

func (w *world) reboot(*scope) {
	name := pick(w.r, machineNames)
	m := w.disks.machines[name]
	m.boot()
	w.note("reboot %s", name)
	for _, e := range m.takeStarts() { // data that was lost is made anew without defx
		for _, s := range w.scopes {
			if s.name() == e.scope && e.fresh {
				s.had[e.address] = held{machine: name}
			}
		}
	}
}

// concurrentStep lets both operators apply at the same time.
func (w *world) concurrentStep(s *scope) {
	w.number++
	before := w.disks.observe()
	v := w.judge(s, before)
	o := w.consent(s)
	var both [2]*outcome
	var all sync.WaitGroup
	for i := range both {
		all.Go(func() {
			mine := o
			mine.by = operator(i)
			both[i] = w.execute(s, mine)
		})
	}
	all.Wait()
	after := w.disks.observe()
	w.note("%s: two applies at once (%s): %s | %s", s.name(), o, both[0], both[1])
	w.checkEvents(s, o)
	w.checkAlways(before, after)
	for _, out := range both {
		w.mark(s, before, after, out)
		var held *state.ErrLeaseHeld
		switch {
		case out.refused() && v == mustAccept:
			w.violate("%s: a true state was refused: %v", s.name(), out.err)
		case out.err != nil && !out.refused() && !errors.Is(out.err, state.ErrHeadMoved) && !errors.Is(out.err, apply.ErrPlanChanged) && !errors.As(out.err, &held) && !(needsConsent(out.err) && len(w.reasons(s, o, before)) > 0):
			w.violate("%s: one of two applies failed: %v", s.name(), out.err)
		}
	}
	w.remember(s, after)
}
