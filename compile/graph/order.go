package graph

import (
	"errors"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"gonum.org/v1/gonum/graph/simple"
	"gonum.org/v1/gonum/graph/topo"
)

// Sort sorts services, balancers and resources by address and machines by name.
func (g *Graph) Sort() {
	slices.SortFunc(g.Services, func(a, b *Service) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(g.Balancers, func(a, b *Balancer) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(g.Resources, func(a, b *Resource) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(g.Machines, func(a, b *Machine) int { return strings.Compare(a.Name, b.Name) })
}

// Find returns the service at an address, or nil.
func (g *Graph) Find(a Address) *Service {
	i, ok := slices.BinarySearchFunc(g.Services, a, func(s *Service, a Address) int { return s.Address.Compare(a) })
	if !ok {
		return nil
	}
	return g.Services[i]
}

// Resource returns the resource at an address, or nil.
func (g *Graph) Resource(address string) *Resource {
	for _, r := range g.Resources {
		if r.Address.String() == address {
			return r
		}
	}
	return nil
}

// Machine returns the machine with a name, or nil.
func (g *Graph) Machine(name string) *Machine {
	i, ok := slices.BinarySearchFunc(g.Machines, name, func(m *Machine, n string) int { return strings.Compare(m.Name, n) })
	if !ok {
		return nil
	}
	return g.Machines[i]
}

// CheckOrder returns an error if requires and after form a cycle. The *diag.Error names one
// shortest cycle and the functionality at which it starts.
func (g *Graph) CheckOrder() error {
	ids, names := map[string]int64{}, []string{}
	path := map[string][]string{}
	next := map[string][]string{}  // set → sets that it waits for
	for _, s := range g.Services { // in sorted order, so that ids are stable
		set := s.Address.Set()
		if _, ok := ids[set]; !ok {
			ids[set] = int64(len(names))
			names = append(names, set)
			path[set] = s.Path
		}
	}
	for _, s := range g.Services {
		from := s.Address.Set()
		for _, kind := range [][]Edge{s.Requires, s.After} {
			for _, e := range kind {
				for _, to := range e.To {
					if to := to.Set(); to != from && !slices.Contains(next[from], to) {
						next[from] = append(next[from], to)
					}
				}
			}
		}
	}
	if isAcyclic(next) {
		return nil
	}
	dg := simple.NewDirectedGraph()
	for i := range names {
		dg.AddNode(simple.Node(i))
	}
	for from, list := range next {
		for _, to := range list {
			dg.SetEdge(dg.NewEdge(simple.Node(ids[from]), simple.Node(ids[to])))
		}
	}
	_, err := topo.SortStabilized(dg, nil)
	var bad topo.Unorderable
	if !errors.As(err, &bad) {
		return nil
	}
	first := ""
	for _, component := range bad {
		for _, n := range component {
			if name := names[n.ID()]; first == "" || name < first {
				first = name
			}
		}
	}
	cycle := shortestCycle(first, next)
	field := "requires"
	return diag.Errorf(first, "a cycle of requires and after: %s", strings.Join(cycle, " → ")).
		At(append(slices.Clone(path[first]), field)...).
		WithHint("use connects where only reachability is needed: it implies no order")
}

// isAcyclic reports whether the graph has no cycle (Kahn's algorithm): sets that wait for
// nothing are removed until none is left.
func isAcyclic(next map[string][]string) bool {
	waits, ready := map[string]int{}, []string{}
	users := map[string][]string{}
	for from, list := range next {
		waits[from] = len(list)
		for _, to := range list {
			users[to] = append(users[to], from)
			if len(next[to]) == 0 && len(users[to]) == 1 {
				ready = append(ready, to)
			}
		}
	}
	for len(ready) > 0 {
		last := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		for _, u := range users[last] {
			if waits[u]--; waits[u] == 0 {
				delete(waits, u)
				ready = append(ready, u)
			}
		}
	}
	return len(waits) == 0
}

// shortestCycle returns a shortest cycle through start, found by breadth-first search.
func shortestCycle(start string, next map[string][]string) []string {
	from := map[string]string{}
	queue := []string{start}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, to := range next[at] {
			if to == start {
				cycle := []string{start}
				for x := at; x != start; x = from[x] {
					cycle = append(cycle, x)
				}
				cycle = append(cycle, start)
				slices.Reverse(cycle)
				return cycle
			}
			if _, seen := from[to]; !seen {
				from[to] = at
				queue = append(queue, to)
			}
		}
	}
	return []string{start}
}
