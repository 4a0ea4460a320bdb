package modeltest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// verdict is whether a state must be refused.
type verdict int

const (
	mustAccept verdict = iota
	mayRefuse
	mustRefuse
)

// judge decides whether a state may be used on the machines: it must know all applies
// that changed them.
func (w *world) judge(s *scope, now *sight) verdict {
	out := mustAccept
	for _, name := range machineNames {
		k := w.disks.machines[name].marks[s.name()]
		if k == nil {
			continue
		}
		for n := range k.maybe {
			if !s.known[n] {
				out = max(out, mayRefuse)
			}
		}
		units := now.on(s.name(), name)
		asked := slices.ContainsFunc(sortedKeys(s.want.services), func(n string) bool { return s.want.services[n].machine == name })
		if len(units) == 0 || !asked {
			continue
		}
		for a, n := range k.units {
			if units[a] && !s.known[n] {
				out = mustRefuse
			}
		}
		if k.last > 0 && !s.known[k.last] {
			out = mustRefuse
		}
	}
	return out
}

// checkApply checks the invariants after an apply.
func (w *world) checkApply(s *scope, o options, before, after *sight, was any, v verdict, out *outcome) {
	w.checkEvents(s, o)
	w.checkAlways(before, after)
	switch {
	case out.refused() && v == mustAccept:
		w.violate("%s: a true state was refused: %v", s.name(), out.err)
	case out.ran && v == mustRefuse && !out.died && out.err == nil:
		w.violate("%s: a stale or forked state was accepted", s.name())
	}
	if out.refused() && (v == mustAccept || out.died) { // the copy that a crash leaves has other paths
		return
	}
	if out.refused() {
		if now := w.disks.fingerprint(); fmt.Sprint(now) != fmt.Sprint(was) {
			w.violate("%s: a refusal changed something", s.name())
		}
		return
	}
	w.mark(s, before, after, out)
	if needsConsent(out.err) && len(w.reasons(s, o, before)) > 0 { // an apply that died left what nobody had recorded
		return
	}
	if out.err != nil && !out.died {
		w.violate("%s: an apply failed: %v", s.name(), out.err)
	}
	if out.died {
		maps.Copy(s.begun, s.want.units())
		clear(w.halted[s.name()])
		for a, h := range s.had { // the next apply may finish what this one was allowed to do, or ask again
			h.waived = h.waived || h.lost && o.allowEmpty != nil
			s.had[a] = h
		}
		return
	}
	w.checkResult(s, o, before, after, out)
}

// needsConsent reports whether an apply was refused because a unit would lose its data.
func needsConsent(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "it would give up the directory") || strings.Contains(err.Error(), "it keeps data of its own on"))
}

// mark records what an apply may have changed.
func (w *world) mark(s *scope, before, after *sight, out *outcome) {
	if !out.ran {
		return
	}
	s.known[w.number] = true
	for _, name := range machineNames {
		k := w.disks.machines[name].marks.of(s.name())
		k.maybe[w.number] = true
		for a := range changed(before, after, s.name(), name) {
			k.units[a], k.last = w.number, w.number
		}
	}
}

// checkEvents checks what services found when they started.
func (w *world) checkEvents(s *scope, o options) {
	for _, name := range machineNames {
		for _, e := range w.disks.machines[name].takeStarts() {
			if e.conflict != "" {
				w.violate("%s: %s", name, e.conflict)
			}
			if e.fresh {
				w.checkFresh(s, o, name, e)
			}
		}
	}
}

// checkFresh checks a unit that started with an empty directory.
func (w *world) checkFresh(s *scope, o options, machine string, e start) {
	if e.scope != s.name() {
		w.violate("%s of %s started empty on %s during an apply of %s", e.address, e.scope, machine, s.name())
		return
	}
	had, is := s.had[e.address]
	if !is {
		had, is = s.had[s.former(e.address)]
	}
	switch {
	case !is || had.waived:
	case o.allowEmpty["@"+machine] || o.allowEmpty[e.address]:
	case had.machine != machine && o.allowMove[e.address]:
	default:
		w.violate("%s of %s started empty on %s, although it had data on %s", e.address, e.scope, machine, had.machine)
	}
}

// former returns the address before a rename.
func (s *scope) former(address string) string {
	name, replica, _ := strings.Cut(strings.TrimPrefix(address, "app/"), "#")
	for old, now := range s.want.moved {
		if now == name {
			return "app/" + old + "#" + replica
		}
	}
	return ""
}

// forget removes what is known of units that an apply has deleted.
func (s *scope) forget(o options, after *sight) {
	wanted := s.want.units()
	clear(s.begun)
	for a, x := range s.recorded {
		if _, is := wanted[a]; !is && len(after.units[s.name()][a]) == 0 && (len(x.state) == 0 || o.allowDelete[a] || s.renamed(a)) {
			delete(s.recorded, a)
			delete(s.had, a)
		}
	}
}

// renamed reports whether the unit at an address has another one now.
func (s *scope) renamed(address string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(address, "app/"), "#")
	return s.want.moved[name] != ""
}

// checkAlways checks what holds at any time: no data disappears, and a unit that was
// stopped on purpose does not run.
func (w *world) checkAlways(before, after *sight) {
	for machine, ids := range before.data {
		for id, dir := range ids {
			if _, there := after.data[machine][id]; !there {
				w.violate("the data of %s on %s was lost", dir, machine)
			}
		}
	}
	for _, s := range w.scopes {
		for address := range s.stopped {
			for _, u := range after.units[s.name()][address] {
				ran := slices.ContainsFunc(before.units[s.name()][address], func(x seen) bool { return x.machine == u.machine && x.active })
				if u.active && !ran {
					w.violate("%s of %s runs on %s, although it was stopped on purpose", address, s.name(), u.machine)
				}
			}
		}
	}
}

// checkResult checks the units of a scope after an apply that has ended.
func (w *world) checkResult(s *scope, o options, before, after *sight, out *outcome) {
	if len(out.blocked) > 0 {
		w.checkBlocked(s, out)
		return
	}
	excused := func(address string) bool {
		functionality, _, _ := strings.Cut(address, "#")
		_, failed := out.failed[address]
		return failed || out.left[address] || out.held[functionality] || out.held["app"]
	}
	w.checkExcuses(s, o, before, out)
	wanted := s.want.units()
	used := s.used()
	for a, name := range w.halted[s.name()] { // nothing else is different: it runs again only with consent
		was, is := before.units[s.name()][a], after.units[s.name()][a]
		if !o.repair && o.allowEmpty == nil && len(was) == 1 && len(is) == 1 && was[0].name == name && !was[0].active && is[0].active && was[0].text == is[0].text {
			w.violate("%s of %s was started, although somebody had stopped it", a, s.name())
		}
		if len(is) != 1 || is[0].active || is[0].name != name {
			delete(w.halted[s.name()], a)
		}
	}
	for _, a := range sortedKeys(wanted) {
		if old := s.former(a); s.stopped[old] && len(before.units[s.name()][a]) == 0 && len(after.units[s.name()][old]) == 0 && len(after.units[s.name()][a]) > 0 {
			delete(s.stopped, old)
			s.stopped[a] = true
		}
	}
	for _, a := range sortedKeys(wanted) {
		if !excused(a) {
			w.checkUnit(s, wanted[a], after)
		}
	}
	for _, a := range sortedKeys(before.units[s.name()]) {
		asked := slices.ContainsFunc(before.units[s.name()][a], func(u seen) bool { return used[u.machine] })
		if _, is := wanted[a]; !is && !excused(a) && asked {
			w.checkGone(s, o, a, before, after, wanted, excused)
		}
	}
	for _, a := range sortedKeys(after.units[s.name()]) {
		_, is := wanted[a]
		if _, recorded := s.recorded[a]; !is && !recorded && before.units[s.name()][a] == nil {
			w.violate("%s of %s appeared, but nobody asked for it", a, s.name())
		}
	}
	if len(after.loose) > len(before.loose) {
		w.violate("units run without their files: %v", after.loose)
	}
	w.remember(s, after)
	for a := range s.stopped {
		if _, is := wanted[a]; !is && after.units[s.name()][a] == nil && before.units[s.name()][a] != nil {
			delete(s.stopped, a)
		}
	}
	if out.clean() {
		s.forget(o, after)
		s.past[out.result.Generation] = s.want.clone()
		s.want.moved = map[string]string{}
	}
}

// checkUnit checks that a unit is what the deployment asks for.
func (w *world) checkUnit(s *scope, want unit, after *sight) {
	used := s.used()
	list := slices.DeleteFunc(slices.Clone(after.units[s.name()][want.address]), func(u seen) bool { return !used[u.machine] })
	if len(list) != 1 {
		w.violate("%s of %s is installed %d times", want.address, s.name(), len(list))
		return
	}
	port := portText(want.port)
	u := list[0]
	if strings.Contains(u.text, byHand) {
		w.violate("%s of %s is still as somebody edited it", want.address, s.name())
	}
	got := fmt.Sprintf("version %s, port %q, path %q on %s, runs %v, data %v", u.version, u.port, u.path, u.machine, u.active, len(u.state) > 0)
	expect := fmt.Sprintf("version %d, port %q, path %q on %s, runs %v, data %v", want.version, port, want.path, want.machine, !s.stopped[want.address], want.data)
	if got != expect {
		w.violate("%s of %s is %s, and should be %s", want.address, s.name(), got, expect)
	}
}

// portText is a port as unit files have it.
func portText(port int) string {
	if port == 0 {
		return ""
	}
	return strconv.Itoa(port)
}

// checkGone checks a unit that the deployment does not ask for.
func (w *world) checkGone(s *scope, o options, address string, before, after *sight, wanted map[string]unit, excused func(string) bool) {
	for now := range wanted {
		if s.former(now) == address {
			if stateful := before.units[s.name()][address][0].state; !excused(now) && (len(stateful) > 0 || len(before.units[s.name()][now]) == 0) && len(after.units[s.name()][address]) > 0 {
				w.violate("%s of %s was renamed, and is still there", address, s.name())
			}
			return
		}
	}
	stateful := slices.ContainsFunc(before.units[s.name()][address], func(u seen) bool { return len(u.state) > 0 })
	stays := stateful && !o.allowDelete[address]
	list := after.units[s.name()][address]
	switch {
	case stays && len(list) == 0:
		w.violate("%s of %s was deleted with its data, without consent", address, s.name())
	case !stays && len(list) > 0:
		w.violate("%s of %s was left behind", address, s.name())
	case stays && before.units[s.name()][address][0].active && !list[0].active:
		w.violate("%s of %s does not run any more", address, s.name())
	}
}

// checkBlocked checks that units which an apply does not start have lost their data.
func (w *world) checkBlocked(s *scope, out *outcome) {
	for a := range out.blocked {
		had, is := s.had[a]
		if !is {
			had, is = s.had[s.former(a)]
		}
		if !is || !had.lost {
			w.violate("%s of %s is said to have lost its data", a, s.name())
		}
	}
}

// checkExcuses checks that what was not made has a reason.
func (w *world) checkExcuses(s *scope, o options, before *sight, out *outcome) {
	reasons := w.reasons(s, o, before)
	for h := range out.held {
		if reasons[h] == "" {
			w.violate("%s of %s is held without a reason that the model knows: %v", h, s.name(), out.why)
		}
	}
	for a, err := range out.failed {
		functionality, _, _ := strings.Cut(a, "#")
		if reasons[functionality] == "" {
			w.violate("%s of %s failed without a reason that the model knows: %v", a, s.name(), err)
		}
	}
	for a := range out.left {
		if !w.touched[s.name()+" "+a] {
			w.violate("%s of %s is said to have been changed by hand", a, s.name())
		}
	}
	made := func(address string) bool {
		f, _, _ := strings.Cut(address, "#")
		_, failed := out.failed[address]
		return !failed && !out.held[f] && !out.held["app"]
	}
	wanted := s.want.units()
	list := sortedKeys(wanted)
	for i, a := range list {
		for _, b := range list[i+1:] {
			if x := wanted[b]; wanted[a].machine == x.machine && wanted[a].claims(x.service) && made(a) && made(b) {
				w.violate("%s and %s of %s want the same, and both were made", a, b, s.name())
			}
		}
	}
	for f, reason := range reasons {
		if strings.HasPrefix(reason, "!") && !out.held[f] && !slices.ContainsFunc(sortedKeys(out.failed), func(a string) bool { return strings.HasPrefix(a, f+"#") }) {
			w.violate("%s of %s was made, although %s", f, s.name(), reason[1:])
		}
	}
}

// reasons returns why functionalities cannot be made as the deployment asks for. A
// reason that begins with ! is one in spite of which they must not be made.
func (w *world) reasons(s *scope, o options, before *sight) map[string]string {
	out := map[string]string{}
	add := func(address, reason string) {
		f, _, _ := strings.Cut(address, "#")
		if !strings.HasPrefix(out[f], "!") {
			out[f] = reason
		}
	}
	deployed := map[string]map[string][]seen{}
	for _, x := range w.scopes {
		units := maps.Clone(before.units[x.name()])
		if units == nil {
			units = map[string][]seen{}
		}
		for a, u := range x.recorded { // somebody may have removed it by hand, or an apply that died has moved it
			u.active = false
			units[a] = append(slices.Clone(units[a]), u)
		}
		for a, u := range x.begun {
			units[a] = append(slices.Clone(units[a]), seen{machine: u.machine, unitFile: unitFile{address: a, port: portText(u.port), path: u.path}})
		}
		deployed[x.name()] = units
	}
	wanted := s.want.units()
	list := sortedKeys(wanted)
	for i, a := range list {
		u := wanted[a]
		for _, b := range list[i+1:] {
			if x := wanted[b]; u.machine == x.machine && u.claims(x.service) {
				add(a, "it wants what "+b+" wants")
				add(b, "it wants what "+a+" wants")
			}
		}
		for scope, units := range deployed {
			for b, seen := range units {
				for _, x := range seen {
					if x.machine != u.machine || !u.service.claimsUnit(x.unitFile) {
						continue
					}
					switch _, is := wanted[b]; {
					case scope != s.name() && x.active:
						add(a, "!it wants what "+b+" of "+scope+" has")
					case scope != s.name():
						add(a, "it wants what "+b+" of "+scope+" had")
					case !is:
						add(a, "it wants what "+b+" has, which is no longer defined")
					case b != a:
						add(a, "it wants what "+b+" has until now")
						add(b, "it has what "+a+" wants")
					}
				}
			}
		}
		if len(deployed[s.name()][a]) > 0 && len(deployed[s.name()][s.former(a)]) > 0 {
			add(a, "another unit of its new name is deployed")
		}
		for _, address := range []string{a, s.former(a)} {
			for _, x := range deployed[s.name()][address] {
				if len(x.state) > 0 && x.machine != u.machine && !o.allowMove[a] {
					add(a, "it would move away from its data")
				}
				if len(x.state) > 0 && !u.data && !o.giveUp[a] {
					add(a, "it would give up its data")
				}
			}
		}
	}
	return out
}

// claims reports whether two services cannot be on one machine.
func (s service) claims(o service) bool {
	return s.port > 0 && s.port == o.port || s.path != "" && s.path == o.path
}

func (s service) claimsUnit(u unitFile) bool {
	return s.port > 0 && strconv.Itoa(s.port) == u.port || s.path != "" && s.path == u.path
}

// used returns the machines that an apply asks: those that nobody uses may have anything.
func (s *scope) used() map[string]bool {
	out := map[string]bool{}
	for _, u := range s.want.units() {
		out[u.machine] = true
	}
	for _, u := range s.recorded {
		out[u.machine] = true
	}
	return out
}

// remember records which units have data now.
func (w *world) remember(s *scope, now *sight) {
	before, used := maps.Clone(s.had), s.used()
	clear(s.had)
	for a, list := range now.units[s.name()] {
		if used[list[0].machine] {
			s.recorded[a] = list[0]
		}
	}
	for a, list := range now.units[s.name()] {
		for _, u := range list {
			if len(u.data) > 0 {
				s.had[a] = held{machine: u.machine}
			}
		}
	}
	for a, h := range before { // still deployed, but its data is not there
		_, recorded := s.recorded[a]
		if _, is := s.had[a]; !is && h.lost && recorded {
			s.had[a] = h
		} else if !is && slices.ContainsFunc(now.units[s.name()][a], func(u seen) bool { return len(u.state) > 0 }) {
			s.had[a] = h
		}
	}
}
