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
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// Previous is where each address was before.
type Previous map[string]string

// Reasons tell for each address why it is where it is.
type Reasons map[string]string

// Place sets Machine of every service of g. Members of a group replica stay
// together. Services that fit nowhere are errors that name every machine and
// the rule that excludes it; held services stay where they were.
func Place(g *graph.Graph, prev Previous) (Reasons, diag.List) {
	p := newPlacer(g, prev)
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

// kin are the replicas of a functionality on a machine.
type kin struct{ functionality, machine string }

// there counts the replicas of a block's functionality on a machine.
func (p *placer) there(b block, m *graph.Machine) int {
	if b[0].Address.Replica == "" { // it is the only one
		return 0
	}
	return p.sets[kin{b[0].Address.Functionality(), m.Name}]
}

// block is what must stand on one machine: a service, or the members of one group replica.
type block []*graph.Service

type placer struct {
	g       *graph.Graph
	prev    Previous
	reasons Reasons
	ports   map[string]map[string]graph.Address // machine → "tcp/80" → who has it
	sets    map[kin]int                         // replicas of functionalities that may have several
	wants   map[*graph.Service][]want           // of a block, by its first service
	dropped map[graph.Address]bool              // candidates of "every" whose machine does not run what they run with
	errs    diag.List

	// What choose looks at for each block and machine; machines by their numbers.
	at      map[string]int   // machine → its number
	load    []int            // services there
	takers  map[string][]int // "tcp/80" → machines where somebody has it
	mark    []int            // the last choice of which the machine has a port taken
	choices int
	allowed map[string][]int // rules of a place → machines that they do not exclude
}

func newPlacer(g *graph.Graph, prev Previous) *placer {
	p := &placer{g: g, prev: prev, reasons: make(Reasons, len(g.Services)), ports: map[string]map[string]graph.Address{}, sets: map[kin]int{}, wants: make(map[*graph.Service][]want, len(g.Services)), dropped: map[graph.Address]bool{},
		at: map[string]int{}, load: make([]int, len(g.Machines)), takers: map[string][]int{}, mark: make([]int, len(g.Machines)), allowed: map[string][]int{}}
	for i, m := range g.Machines {
		p.at[m.Name] = i
	}
	return p
}

func (p *placer) blocks() []block {
	var out []block
	at := make(map[graph.Address]int, len(p.g.Services))
	for _, s := range p.g.Services {
		key := graph.Address{Lib: s.Address.Lib, Name: s.Address.Name, Replica: s.Address.Replica}
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
			At(p.field(b, []*graph.Machine{m})...))
		return
	}
	why := "place.machine names it"
	if s.Place.Every != "" {
		why = "one for every machine: " + p.why(b)
	}
	p.put(b, m.Name, why)
}

// candidates gives the machines that the rules of a place do not exclude.
func (p *placer) candidates(pl graph.Place) []int {
	var key []byte
	if pl.Pool+pl.Location != "" || len(pl.Except)+len(pl.Roles)+len(pl.Labels) > 0 {
		var err error
		if key, err = json.Marshal([]any{pl.Pool, pl.Location, pl.Except, pl.Roles, pl.Labels}); err != nil {
			panic(err) // plain data always encodes
		}
	}
	list, known := p.allowed[string(key)]
	if !known {
		for i, m := range p.g.Machines {
			if pl.Excludes(m) == "" {
				list = append(list, i)
			}
		}
		p.allowed[string(key)] = list
	}
	return list
}

// fewest counts the machines that refuse would not keep a block from, and finds
// the one with the fewest of its kind, then the fewest of all, then the first by name.
func (p *placer) fewest(b block) (fit int, best *graph.Machine) {
	pl := b[0].Place
	p.choices++
	wants := p.wanted(b)
	if clash(wants) >= 0 {
		return 0, nil
	}
	for _, w := range wants {
		for _, i := range p.takers[w.key] {
			p.mark[i] = p.choices
		}
	}
	least, lightest := 0, 0
	for _, i := range p.candidates(pl) {
		if p.mark[i] == p.choices {
			continue
		}
		m := p.g.Machines[i]
		n := p.there(b, m)
		if n > 0 && pl.Spread == "machine" || pl.With != "" && !p.runs(pl.With, m.Name) {
			continue
		}
		if fit++; best == nil || cmp.Or(cmp.Compare(n, least), cmp.Compare(p.load[i], lightest)) < 0 {
			best, least, lightest = m, n, p.load[i]
		}
	}
	return fit, best
}

// choose takes a machine for a block that may have several.
func (p *placer) choose(b block) {
	s := b[0]
	fit, best := p.fewest(b)
	if fit == 0 {
		e := diag.Errorf(s.Address.String(), "no machine can run it").At(p.field(b, p.g.Machines)...)
		var refused []string
		for _, m := range p.g.Machines {
			refused = append(refused, m.Name+": "+p.refuse(b, m))
		}
		if len(refused) == 0 {
			e.WithHint("declare a machine: machines: { box: { connect: 'dir:./box' } }")
		} else {
			e.WithHint("%s", strings.Join(refused, "; "))
		}
		p.errs = append(p.errs, e)
		return
	}
	why := p.why(b)
	if fit > 1 {
		why += fmt.Sprintf("; of %d machines %s runs the fewest", fit, best.Name)
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

// field is the one field that keeps a block from machines: a rule of its place
// that excludes them all, or a port that is taken wherever its place allows.
// If there is no such field it is the place as a whole.
func (p *placer) field(b block, machines []*graph.Machine) []string {
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
	case pl.Spread == "machine" && p.there(b, m) > 0:
		return "has another replica already (spread: machine)"
	}
	if why := pl.Excludes(m); why != "" {
		return why
	}
	_, _, why := p.taken(b, m)
	return why
}

// wanted lists the ports that a block must have.
func (p *placer) wanted(b block) []want {
	wants, known := p.wants[b[0]]
	if !known {
		for _, s := range b {
			for _, name := range slices.Sorted(maps.Keys(s.Spec.Ports)) {
				wants = append(wants, want{s, name, portKey(s.Spec.Ports[name])})
			}
		}
		p.wants[b[0]] = wants
	}
	return wants
}

// clash finds a port that two services of a block want; -1 if there is none.
func clash(wants []want) int {
	for i, w := range wants {
		if slices.ContainsFunc(wants[:i], func(o want) bool { return o.key == w.key && o.service != w.service }) {
			return i
		}
	}
	return -1
}

// taken tells of the first port of a block that it cannot have on a machine:
// whose it is, its name, and why.
func (p *placer) taken(b block, m *graph.Machine) (*graph.Service, string, string) {
	wants := p.wanted(b)
	there, twice := p.ports[m.Name], clash(wants)
	for i, w := range wants {
		if other, taken := there[w.key]; taken {
			return w.service, w.name, fmt.Sprintf("has port %s taken by %s", w.key, other)
		}
		if i == twice {
			o := wants[slices.IndexFunc(wants, func(o want) bool { return o.key == w.key && o.service != w.service })]
			return w.service, w.name, fmt.Sprintf("would have port %s twice, by %s and %s", w.key, o.service.Address, w.service.Address)
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
	at, known := p.at[machine]
	for _, s := range b {
		s.Machine = machine
		p.reasons[s.Address.String()] = why
		if p.ports[machine] == nil {
			p.ports[machine] = map[string]graph.Address{}
		}
		if known {
			p.load[at]++
		}
	}
	for _, w := range p.wanted(b) {
		if _, taken := p.ports[machine][w.key]; known && !taken {
			p.takers[w.key] = append(p.takers[w.key], at)
		}
		p.ports[machine][w.key] = w.service.Address
	}
	if b[0].Address.Replica != "" {
		p.sets[kin{b[0].Address.Functionality(), machine}]++
	}
}
