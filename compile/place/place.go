// Package place assigns a machine to every service.
//
// It is a pure function of services, machines and the previous assignment. It knows constraints
// and counts; it refuses to know what a service does. Invariants: a service stays on its
// machine as long as the constraints allow it; no two replicas with spread share a machine, no two
// services share a port, and the limits of the services on a machine stay within its capacity; the
// same input gives the same assignment, and each assignment has a reason.
package place

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// Previous is the previous machine of each address.
type Previous map[string]string

// Reasons explain the machine of each address.
type Reasons map[string]string

// Place sets Machine of every service of g. Members of a group replica stay together. A service
// that fits nowhere is an error that names every machine and the rule that excludes it. Held
// services stay on their machines.
func Place(g *graph.Graph, prev Previous) (Reasons, diag.List) {
	p := newPlacer(g, prev)
	groups := p.groups()
	// Services with a fixed machine are placed first, so that the others fill in around them.
	groups = p.filter(groups, func(pg placementGroup) bool {
		if pg[0].Held {
			p.assign(pg, p.prev[pg[0].Address.String()], "held: left unchanged")
		}
		return pg[0].Held
	})
	// Services with place.with wait until the other functionality is placed.
	var waiting []placementGroup
	ready := p.filter(groups, func(pg placementGroup) bool {
		if pg[0].Place.With != "" {
			waiting = append(waiting, pg)
		}
		return pg[0].Place.With != ""
	})
	for {
		p.placeAll(ready)
		if len(waiting) == 0 {
			break
		}
		var blocked []placementGroup
		ready = nil
		for _, pg := range waiting {
			if p.placed(pg[0].Place.With) {
				ready = append(ready, pg)
			} else {
				blocked = append(blocked, pg)
			}
		}
		if len(ready) == 0 {
			for _, pg := range blocked {
				p.errs = append(p.errs, diag.Errorf(pg[0].String(), "runs with %s, which has no machine", pg[0].Place.With).
					At(append(slices.Clone(pg[0].Path), "place", "with")...).WithHint("remove the cycle of place.with, or fix the placement of the other functionality"))
			}
			break
		}
		waiting = blocked
	}
	if len(p.dropped) > 0 {
		g.Services = slices.DeleteFunc(g.Services, func(s *graph.Service) bool { return p.dropped[s.Address] })
	}
	return p.reasons, p.errs
}

// placeAll places groups: first those that name a machine, then those that can stay, then the
// others.
func (p *placer) placeAll(groups []placementGroup) {
	groups = p.filter(groups, func(pg placementGroup) bool {
		if pg[0].Place.Machine == "" {
			return false
		}
		if pl := pg[0].Place; pl.Every != "" && pl.With != "" && !p.runsOn(pl.With, pl.Machine) {
			for _, s := range pg { // one for every machine, but only where the other one runs
				p.dropped[s.Address] = true
			}
			return true
		}
		p.placeOnNamed(pg)
		return true
	})
	groups = p.filter(groups, func(pg placementGroup) bool {
		machine := p.previousMachine(pg)
		kept := machine != "" && p.refuse(pg, p.g.Machine(machine)) == ""
		if kept {
			p.assign(pg, machine, p.requested(pg)+"; "+machine+" kept")
		}
		return kept
	})
	p.placeFree(groups)
}

// inSet reports whether a service belongs to a set.
func inSet(s *graph.Service, set string) bool {
	return s.Address.Set() == set || s.Address.Functionality() == set
}

// placed reports whether all services of a set that can be placed have a machine.
func (p *placer) placed(set string) bool {
	return !slices.ContainsFunc(p.g.Services, func(s *graph.Service) bool {
		return inSet(s, set) && s.Machine == "" && !s.Held && !p.dropped[s.Address]
	})
}

// runsOn reports whether a service of the set runs on the machine.
func (p *placer) runsOn(set, machine string) bool {
	return slices.ContainsFunc(p.g.Services, func(s *graph.Service) bool { return inSet(s, set) && s.Machine == machine })
}

// replicaSetOnMachine is a functionality and a machine on which it has replicas.
type replicaSetOnMachine struct{ functionality, machine string }

// replicasOn returns the number of replicas of the group's functionality on a machine.
func (p *placer) replicasOn(pg placementGroup, m *graph.Machine) int {
	return p.sets[replicaSetOnMachine{pg[0].Address.Functionality(), m.Name}]
}

// placementGroup is a set of services that must run on the same machine: one service, or the
// members of one group replica.
type placementGroup []*graph.Service

type placer struct {
	g       *graph.Graph
	prev    Previous
	reasons Reasons
	ports   map[string]map[string]*graph.Service // machine → "tcp/80" → owner
	sets    map[replicaSetOnMachine]int          // number of replicas, of functionalities that can have several
	wants   map[*graph.Service][]wantedPort      // of a group, by its first service
	needs   map[*graph.Service]amount            // of a group, by its first service
	dropped map[graph.Address]bool               // replicas of "every" on machines that do not run the functionality in place.with
	errs    diag.List

	limited  bool     // some machine has a capacity
	capacity []amount // machine → its capacity
	used     []amount // machine → sum of the limits of its services

	// The state of leastLoaded. Machines are identified by their index.
	index          map[string]int   // machine → its index
	load           []int            // machine → number of services
	portOwners     map[string][]int // "tcp/80" → machines on which the port is used
	conflictMark   []int            // machine → the last search in which it had a port conflict
	searches       int
	candidateCache map[string][]int // rules of a place → machines that they allow
}

func newPlacer(g *graph.Graph, prev Previous) *placer {
	p := &placer{g: g, prev: prev, reasons: make(Reasons, len(g.Services)), ports: map[string]map[string]*graph.Service{}, sets: map[replicaSetOnMachine]int{}, wants: make(map[*graph.Service][]wantedPort, len(g.Services)), needs: map[*graph.Service]amount{}, dropped: map[graph.Address]bool{},
		index: map[string]int{}, load: make([]int, len(g.Machines)), portOwners: map[string][]int{}, conflictMark: make([]int, len(g.Machines)), candidateCache: map[string][]int{}}
	for i, m := range g.Machines {
		p.index[m.Name] = i
	}
	p.readCapacities()
	return p
}

func (p *placer) groups() []placementGroup {
	var out []placementGroup
	at := make(map[graph.Address]int, len(p.g.Services))
	for _, s := range p.g.Services {
		key := graph.Address{Lib: s.Address.Lib, Name: s.Address.Name, Replica: s.Address.Replica}
		if i, ok := at[key]; ok {
			out[i] = append(out[i], s)
			continue
		}
		at[key] = len(out)
		out = append(out, placementGroup{s})
	}
	return out
}

// filter returns the groups for which f returns false.
func (p *placer) filter(groups []placementGroup, f func(placementGroup) bool) []placementGroup {
	var left []placementGroup
	for _, pg := range groups {
		if !f(pg) {
			left = append(left, pg)
		}
	}
	return left
}

// previousMachine returns the previous machine of a group, or "" if it does not exist any more.
func (p *placer) previousMachine(pg placementGroup) string {
	for _, s := range pg {
		if m := p.prev[s.Address.String()]; m != "" && p.g.Machine(m) != nil {
			return m
		}
	}
	return ""
}

func (p *placer) placeOnNamed(pg placementGroup) {
	s := pg[0]
	m := p.g.Machine(s.Place.Machine)
	if m == nil {
		names := p.names()
		hint := diag.Suggest(s.Place.Machine, names)
		if hint == "" {
			hint = "there is " + strings.Join(names, ", ")
		}
		p.errs = append(p.errs, diag.Errorf(s.String(), "there is no machine %q", s.Place.Machine).
			At(append(slices.Clone(s.Path), "place", "machine")...).WithHint("%s", hint))
		return
	}
	if why := p.refuse(pg, m); why != "" {
		p.errs = append(p.errs, diag.Errorf(s.String(), "cannot run on machine %q: %s", m.Name, why).
			At(p.errorPath(pg, []*graph.Machine{m})...))
		return
	}
	why := "required by place.machine"
	if s.Place.Every != "" {
		why = "one for every machine: " + p.requested(pg)
	}
	p.assign(pg, m.Name, why)
}

// candidates returns the machines that the rules of a place allow.
func (p *placer) candidates(pl graph.Place) []int {
	var key []byte
	if pl.Pool+pl.Location != "" || len(pl.Except)+len(pl.Roles)+len(pl.Labels) > 0 {
		var err error
		if key, err = json.Marshal([]any{pl.Pool, pl.Location, pl.Except, pl.Roles, pl.Labels}); err != nil {
			panic(err) // plain data always encodes
		}
	}
	list, known := p.candidateCache[string(key)]
	if !known {
		for i, m := range p.g.Machines {
			if pl.Excludes(m) == "" {
				list = append(list, i)
			}
		}
		p.candidateCache[string(key)] = list
	}
	return list
}

// leastLoaded returns the number of machines that accept a group, and the best one: the one
// with the fewest replicas of the same functionality, then the fewest services, then the first
// by name. It is equivalent to asking refuse for each machine.
func (p *placer) leastLoaded(pg placementGroup) (fit int, best *graph.Machine) {
	pl := pg[0].Place
	p.searches++
	wants := p.wantedPorts(pg)
	if portConflict(wants) >= 0 {
		return 0, nil
	}
	for _, w := range wants {
		for _, i := range p.portOwners[w.key] {
			p.conflictMark[i] = p.searches
		}
	}
	need := p.need(pg)
	least, lightest := 0, 0
	for _, i := range p.candidates(pl) {
		if p.conflictMark[i] == p.searches {
			continue
		}
		m := p.g.Machines[i]
		n := p.replicasOn(pg, m)
		if n > 0 && pl.Spread == "machine" || pl.With != "" && !p.runsOn(pl.With, m.Name) || need.lacking(p.used[i], p.capacity[i]) != "" {
			continue
		}
		if fit++; best == nil || cmp.Or(cmp.Compare(n, least), cmp.Compare(p.load[i], lightest)) < 0 {
			best, least, lightest = m, n, p.load[i]
		}
	}
	return fit, best
}

// choose assigns a group to a machine that was found for it, or to the least loaded machine that
// accepts it if that is nil.
func (p *placer) choose(pg placementGroup, found *graph.Machine) {
	s := pg[0]
	fit, best := p.leastLoaded(pg)
	if fit == 0 {
		e := diag.Errorf(s.String(), "no machine can run it").At(p.errorPath(pg, p.g.Machines)...)
		var refused []string
		for _, m := range p.g.Machines {
			refused = append(refused, m.Name+": "+p.refuse(pg, m))
		}
		if len(refused) == 0 {
			e.WithHint("declare a machine: machines: { box: { connect: 'dir:./box' } }")
		} else {
			e.WithHint("%s", strings.Join(refused, "; "))
		}
		p.errs = append(p.errs, e)
		return
	}
	why := p.requested(pg)
	if found != nil && found != best {
		best = found
		why += fmt.Sprintf("; of %d machines %s leaves enough capacity for the other services", fit, best.Name)
	} else if fit > 1 {
		why += fmt.Sprintf("; of %d machines %s has the fewest services", fit, best.Name)
	} else {
		why += "; only " + best.Name + " fits"
	}
	if old := p.prev[s.Address.String()]; old != "" && old != best.Name {
		gone := "machine " + old + " no longer exists"
		if m := p.g.Machine(old); m != nil {
			gone = "was on " + old + ", which " + p.refuse(pg, m)
		}
		why += "; " + gone
	}
	if full := p.withoutCapacity(pg, p.prev[s.Address.String()]); full != "" {
		why += "; " + full
	}
	p.assign(pg, best.Name, why)
}

// errorPath returns the path of the single field that excludes a group from the machines: a
// rule of its place that excludes all, or a port that is used on all that its place allows. If
// there is no single field it returns the path of place.
func (p *placer) errorPath(pg placementGroup, machines []*graph.Machine) []string {
	place := append(slices.Clone(pg[0].Path), "place")
	var field, port []string
	open, same := 0, true
	for i, m := range machines {
		by := pg[0].Place.ExcludedBy(m)
		same = same && by != nil && (i == 0 || slices.Equal(by, field))
		field = by
		if by != nil {
			continue
		}
		var at []string
		if s, name, _ := p.unavailablePort(pg, m); s != nil {
			at = append(slices.Clone(s.SpecPath), "ports", name)
		} else if resource, _ := p.exceeded(pg, p.index[m.Name]); resource != "" {
			at = limitPath(pg, resource)
		}
		if open++; open > 1 && !slices.Equal(at, port) {
			at = nil
		}
		port = at
	}
	switch {
	case same && field != nil:
		return append(place, field...)
	case port != nil:
		return port
	}
	return place
}

func (p *placer) names() []string {
	var out []string
	for _, m := range p.g.Machines {
		out = append(out, m.Name)
	}
	return out
}

// refuse returns why a machine does not accept a group, or "".
func (p *placer) refuse(pg placementGroup, m *graph.Machine) string {
	if why := p.refuseIgnoringCapacity(pg, m); why != "" {
		return why
	}
	_, why := p.exceeded(pg, p.index[m.Name])
	return why
}

func (p *placer) refuseIgnoringCapacity(pg placementGroup, m *graph.Machine) string {
	pl := pg[0].Place
	switch {
	case pl.With != "" && !p.runsOn(pl.With, m.Name):
		return "does not run " + pl.With
	case pl.Spread == "machine" && p.replicasOn(pg, m) > 0:
		return "already has another replica (spread: machine)"
	}
	if why := pl.Excludes(m); why != "" {
		return why
	}
	_, _, why := p.unavailablePort(pg, m)
	return why
}

// wantedPorts returns the ports that a group listens on.
func (p *placer) wantedPorts(pg placementGroup) []wantedPort {
	wants, known := p.wants[pg[0]]
	if !known {
		for _, s := range pg {
			for _, name := range slices.Sorted(maps.Keys(s.Spec.Ports)) {
				wants = append(wants, wantedPort{s, name, portKey(s.Spec.Ports[name])})
			}
		}
		p.wants[pg[0]] = wants
	}
	return wants
}

// portConflict returns the index of a port that two services of a group want; -1 if there is
// none.
func portConflict(wants []wantedPort) int {
	for i, w := range wants {
		if slices.ContainsFunc(wants[:i], func(o wantedPort) bool { return o.key == w.key && o.service != w.service }) {
			return i
		}
	}
	return -1
}

// unavailablePort returns the first port of a group that is not available on a machine: the
// service that wants it, its name, and the reason. The service is nil if all are available.
func (p *placer) unavailablePort(pg placementGroup, m *graph.Machine) (*graph.Service, string, string) {
	wants := p.wantedPorts(pg)
	there, twice := p.ports[m.Name], portConflict(wants)
	for i, w := range wants {
		if other, taken := there[w.key]; taken {
			return w.service, w.name, fmt.Sprintf("has port %s in use by %s", w.key, other)
		}
		if i == twice {
			o := wants[slices.IndexFunc(wants, func(o wantedPort) bool { return o.key == w.key && o.service != w.service })]
			return w.service, w.name, fmt.Sprintf("would have port %s twice, for %s and %s", w.key, o.service, w.service)
		}
	}
	return nil, "", ""
}

// wantedPort is a port that a group listens on.
type wantedPort struct {
	service   *graph.Service
	name, key string
}

func portKey(p graph.Port) string { return p.Protocol + "/" + strconv.Itoa(p.Port) }

// requested describes the constraints of a group.
func (p *placer) requested(pg placementGroup) string {
	pl := pg[0].Place
	var parts []string
	if pl.Pool != "" {
		parts = append(parts, "pool "+pl.Pool)
	}
	for _, r := range pl.Roles {
		parts = append(parts, "role "+r)
	}
	for _, k := range slices.Sorted(maps.Keys(pl.Labels)) {
		parts = append(parts, k+"="+pl.Labels[k])
	}
	if pl.Location != "" {
		parts = append(parts, "location "+pl.Location)
	}
	if pl.With != "" {
		parts = append(parts, "with "+pl.With)
	}
	if pl.Spread != "" {
		parts = append(parts, "spread over machines")
	}
	if len(parts) == 0 {
		return "any machine"
	}
	return strings.Join(parts, ", ")
}

func (p *placer) assign(pg placementGroup, machine, why string) {
	at, known := p.index[machine]
	for _, s := range pg {
		s.Machine = machine
		p.reasons[s.Address.String()] = why
		if p.ports[machine] == nil {
			p.ports[machine] = map[string]*graph.Service{}
		}
		if known {
			p.load[at]++
		}
	}
	if known {
		p.used[at] = p.used[at].add(p.need(pg))
	}
	for _, w := range p.wantedPorts(pg) {
		if _, taken := p.ports[machine][w.key]; known && !taken {
			p.portOwners[w.key] = append(p.portOwners[w.key], at)
		}
		p.ports[machine][w.key] = w.service
	}
	p.sets[replicaSetOnMachine{pg[0].Address.Functionality(), machine}]++
}
