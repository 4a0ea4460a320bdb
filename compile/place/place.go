// Package place chooses a machine for every service.
//
// It is a pure function of services, machines and the previous assignment. It
// knows constraints and counts; it refuses to know what a service does.
// Invariants: a service stays where it was as long as it may; no two replicas
// that ask for spread share a machine, and no two services share a port; the
// same input gives the same choice, each with its reason.
package place

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/lang/diag"
)

// Previous is where each address was before.
type Previous map[string]string

// Reasons tell for each address why it is where it is.
type Reasons map[string]string

// Place sets Machine of every service of g. Members of a group replica stay
// together. Services that fit nowhere are errors that name every machine and
// the rule that excludes it; held services stay where they were.
func Place(g *graph.Graph, prev Previous) (Reasons, diag.List) {
	p := &placer{g: g, prev: prev, reasons: Reasons{}, ports: map[string]map[string]graph.Address{}, sets: map[string]map[string]int{}, load: map[string]int{}, wants: map[*graph.Service][]want{}, dropped: map[graph.Address]bool{}}
	blocks := p.blocks()
	// What is bound to its machine goes first, so that what is free fills in around it.
	blocks = p.each(blocks, func(b block) bool {
		if b[0].Held {
			p.put(b, p.prev[b[0].Address.String()], "held: stays as it is")
		}
		return b[0].Held
	})
	// What must share a machine with something waits until that has one.
	var waiting []block
	free := p.each(blocks, func(b block) bool {
		if b[0].Place.With != "" {
			waiting = append(waiting, b)
		}
		return b[0].Place.With != ""
	})
	for {
		p.all(free)
		if len(waiting) == 0 {
			break
		}
		var still []block
		free = nil
		for _, b := range waiting {
			if p.settled(b[0].Place.With) {
				free = append(free, b)
			} else {
				still = append(still, b)
			}
		}
		if len(free) == 0 {
			for _, b := range still {
				p.errs = append(p.errs, diag.Errorf(b[0].Address.String(), "runs with %s, which has no machine", b[0].Place.With).
					At(append(slices.Clone(b[0].Path), "place", "with")...).WithHint("two that run with each other, or with what fits nowhere, have no place to begin"))
			}
			break
		}
		waiting = still
	}
	if len(p.dropped) > 0 {
		g.Services = slices.DeleteFunc(g.Services, func(s *graph.Service) bool { return p.dropped[s.Address] })
	}
	return p.reasons, p.errs
}

// all places blocks: first those with a name, then those that stay, then the rest.
func (p *placer) all(blocks []block) {
	blocks = p.each(blocks, func(b block) bool {
		if b[0].Place.Machine == "" {
			return false
		}
		if pl := b[0].Place; pl.Every != "" && pl.With != "" && !p.runs(pl.With, pl.Machine) {
			for _, s := range b { // one for every machine, but only where the other runs
				p.dropped[s.Address] = true
			}
			return true
		}
		p.named(b)
		return true
	})
	blocks = p.each(blocks, func(b block) bool {
		machine := p.stays(b)
		kept := machine != "" && p.refuse(b, p.g.Machine(machine)) == ""
		if kept {
			p.put(b, machine, p.why(b)+"; "+machine+" kept")
		}
		return kept
	})
	p.each(blocks, func(b block) bool { p.choose(b); return true })
}

// of tells whether a service belongs to a set.
func of(s *graph.Service, set string) bool {
	return s.Address.Set() == set || s.Address.Functionality() == set
}

// settled tells whether all of a set that will have a machine have one.
func (p *placer) settled(set string) bool {
	return !slices.ContainsFunc(p.g.Services, func(s *graph.Service) bool {
		return of(s, set) && s.Machine == "" && !s.Held && !p.dropped[s.Address]
	})
}

// runs tells whether some of a set runs on a machine.
func (p *placer) runs(set, machine string) bool {
	return slices.ContainsFunc(p.g.Services, func(s *graph.Service) bool { return of(s, set) && s.Machine == machine })
}

// block is what must stand on one machine: a service, or the members of one group replica.
type block []*graph.Service

type placer struct {
	g       *graph.Graph
	prev    Previous
	reasons Reasons
	ports   map[string]map[string]graph.Address // machine → "tcp/80" → who has it
	sets    map[string]map[string]int           // machine → functionality → replicas there
	load    map[string]int                      // machine → services there
	wants   map[*graph.Service][]want           // of a block, by its first service
	dropped map[graph.Address]bool              // candidates of "every" whose machine does not run what they run with
	errs    diag.List
}

func (p *placer) blocks() []block {
	var out []block
	at := map[string]int{}
	for _, s := range p.g.Services {
		key := graph.Address{Lib: s.Address.Lib, Name: s.Address.Name, Replica: s.Address.Replica}.String()
		if i, ok := at[key]; ok {
			out[i] = append(out[i], s)
			continue
		}
		at[key] = len(out)
		out = append(out, block{s})
	}
	return out
}

// each gives the blocks that f did not settle.
func (p *placer) each(blocks []block, f func(block) bool) []block {
	var left []block
	for _, b := range blocks {
		if !f(b) {
			left = append(left, b)
		}
	}
	return left
}

// stays is the machine where the block was, if it still exists.
func (p *placer) stays(b block) string {
	for _, s := range b {
		if m := p.prev[s.Address.String()]; m != "" && p.g.Machine(m) != nil {
			return m
		}
	}
	return ""
}

func (p *placer) named(b block) {
	s := b[0]
	m := p.g.Machine(s.Place.Machine)
	if m == nil {
		names := p.names()
		hint := diag.Suggest(s.Place.Machine, names)
		if hint == "" {
			hint = "there is " + strings.Join(names, ", ")
		}
		p.errs = append(p.errs, diag.Errorf(s.Address.String(), "there is no machine %q", s.Place.Machine).
			At(append(slices.Clone(s.Path), "place", "machine")...).WithHint("%s", hint))
		return
	}
	if why := p.refuse(b, m); why != "" {
		p.errs = append(p.errs, diag.Errorf(s.Address.String(), "cannot run on machine %q: %s", m.Name, why).
			At(p.at(b, []*graph.Machine{m})...))
		return
	}
	why := "place.machine names it"
	if s.Place.Every != "" {
		why = "one for every machine: " + p.why(b)
	}
	p.put(b, m.Name, why)
}

// choose takes the machine with the fewest of its kind, then the fewest of all, then the first by name.
func (p *placer) choose(b block) {
	s := b[0]
	var fit []*graph.Machine
	var refused []string
	for _, m := range p.g.Machines {
		if why := p.refuse(b, m); why != "" {
			refused = append(refused, m.Name+": "+why)
		} else {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		e := diag.Errorf(s.Address.String(), "no machine can run it").At(p.at(b, p.g.Machines)...)
		if len(refused) == 0 {
			e.WithHint("declare a machine: machines: { box: { connect: 'dir:./box' } }")
		} else {
			e.WithHint("%s", strings.Join(refused, "; "))
		}
		p.errs = append(p.errs, e)
		return
	}
	f := s.Address.Functionality()
	best := slices.MinFunc(fit, func(a, b *graph.Machine) int {
		return cmp.Or(cmp.Compare(p.sets[a.Name][f], p.sets[b.Name][f]), cmp.Compare(p.load[a.Name], p.load[b.Name]), strings.Compare(a.Name, b.Name))
	})
	why := p.why(b)
	if len(fit) > 1 {
		why += fmt.Sprintf("; of %d machines %s runs the fewest", len(fit), best.Name)
	} else {
		why += "; only " + best.Name + " fits"
	}
	if old := p.prev[s.Address.String()]; old != "" && old != best.Name {
		gone := "machine " + old + " is gone"
		if m := p.g.Machine(old); m != nil {
			gone = "was on " + old + ", which " + p.refuse(b, m)
		}
		why += "; " + gone
	}
	p.put(b, best.Name, why)
}

// at is the one field that keeps a block from machines: a rule of its place
// that excludes them all, or a port that is taken wherever its place allows.
// If there is no such field it is the place as a whole.
func (p *placer) at(b block, machines []*graph.Machine) []string {
	place := append(slices.Clone(b[0].Path), "place")
	var field, port []string
	open, same := 0, true
	for i, m := range machines {
		by := b[0].Place.ExcludedBy(m)
		same = same && by != nil && (i == 0 || slices.Equal(by, field))
		field = by
		if by != nil {
			continue
		}
		var at []string
		if s, name, _ := p.taken(b, m); s != nil {
			at = append(slices.Clone(s.SpecPath), "ports", name)
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

// refuse gives the rule that keeps a block from a machine, or "".
func (p *placer) refuse(b block, m *graph.Machine) string {
	pl := b[0].Place
	switch {
	case pl.With != "" && !p.runs(pl.With, m.Name):
		return "does not run " + pl.With
	case pl.Spread == "machine" && p.sets[m.Name][b[0].Address.Functionality()] > 0:
		return "has another replica already (spread: machine)"
	}
	if why := pl.Excludes(m); why != "" {
		return why
	}
	_, _, why := p.taken(b, m)
	return why
}

// taken tells of the first port of a block that it cannot have on a machine:
// whose it is, its name, and why.
func (p *placer) taken(b block, m *graph.Machine) (*graph.Service, string, string) {
	wants, known := p.wants[b[0]]
	if !known {
		for _, s := range b {
			for _, name := range slices.Sorted(maps.Keys(s.Spec.Ports)) {
				wants = append(wants, want{s, name, portKey(s.Spec.Ports[name])})
			}
		}
		p.wants[b[0]] = wants
	}
	there := p.ports[m.Name]
	for i, w := range wants {
		if other, taken := there[w.key]; taken {
			return w.service, w.name, fmt.Sprintf("has port %s taken by %s", w.key, other)
		}
		for _, o := range wants[:i] {
			if o.key == w.key && o.service != w.service {
				return w.service, w.name, fmt.Sprintf("would have port %s twice, by %s and %s", w.key, o.service.Address, w.service.Address)
			}
		}
	}
	return nil, "", ""
}

// want is a port that a block must have on its machine.
type want struct {
	service   *graph.Service
	name, key string
}

func portKey(p graph.Port) string { return p.Protocol + "/" + strconv.Itoa(p.Port) }

func portKeys(s *graph.Service) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.Spec.Ports)) {
		out = append(out, portKey(s.Spec.Ports[name]))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// why says what was asked for.
func (p *placer) why(b block) string {
	pl := b[0].Place
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
		return "any machine will do"
	}
	return strings.Join(parts, ", ")
}

func (p *placer) put(b block, machine, why string) {
	for _, s := range b {
		s.Machine = machine
		p.reasons[s.Address.String()] = why
		if p.ports[machine] == nil {
			p.ports[machine], p.sets[machine] = map[string]graph.Address{}, map[string]int{}
		}
		for _, port := range portKeys(s) {
			p.ports[machine][port] = s.Address
		}
		p.load[machine]++
	}
	p.sets[machine][b[0].Address.Functionality()]++
}
