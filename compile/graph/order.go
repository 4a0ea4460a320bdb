package graph

import (
	"errors"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"gonum.org/v1/gonum/graph/simple"
	"gonum.org/v1/gonum/graph/topo"
)

// Sort puts services and machines in their order.
func (g *Graph) Sort() {
	slices.SortFunc(g.Services, func(a, b *Service) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(g.Balancers, func(a, b *Balancer) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(g.Resources, func(a, b *Resource) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(g.Machines, func(a, b *Machine) int { return strings.Compare(a.Name, b.Name) })
}

// Find gives the service at an address, or nil.
func (g *Graph) Find(a Address) *Service {
	i, ok := slices.BinarySearchFunc(g.Services, a, func(s *Service, a Address) int { return s.Address.Compare(a) })
	if !ok {
		return nil
	}
	return g.Services[i]
}

// Resource gives the resource at an address, or nil.
func (g *Graph) Resource(address string) *Resource {
	for _, r := range g.Resources {
		if r.Address.String() == address {
			return r
		}
	}
	return nil
}

// Machine gives the machine of a name, or nil.
func (g *Graph) Machine(name string) *Machine {
	i, ok := slices.BinarySearchFunc(g.Machines, name, func(m *Machine, n string) int { return strings.Compare(m.Name, n) })
	if !ok {
		return nil
	}
	return g.Machines[i]
}

// CheckOrder refuses a cycle over requires and after with a *diag.Error that
// names one shortest way around, and where it begins.
func (g *Graph) CheckOrder() error {
	ids, names := map[string]int64{}, []string{}
	path := map[string][]string{}
	next := map[string][]string{}  // set → sets it waits for
	for _, s := range g.Services { // sorted, so ids are stable
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
	if ordered(next) {
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
	way := around(first, next)
	field := "requires"
	return diag.Errorf(first, "a cycle of requires and after: %s", strings.Join(way, " → ")).
		At(append(slices.Clone(path[first]), field)...).
		WithHint("use connects where only reachability is meant: it has no order")
}

// ordered tells whether there is no way from anywhere back to itself: what
// waits for nothing is taken away, until nothing is left.
func ordered(next map[string][]string) bool {
	waits, free := map[string]int{}, []string{}
	users := map[string][]string{}
	for from, list := range next {
		waits[from] = len(list)
		for _, to := range list {
			users[to] = append(users[to], from)
			if len(next[to]) == 0 && len(users[to]) == 1 {
				free = append(free, to)
			}
		}
	}
	for len(free) > 0 {
		last := free[len(free)-1]
		free = free[:len(free)-1]
		for _, u := range users[last] {
			if waits[u]--; waits[u] == 0 {
				delete(waits, u)
				free = append(free, u)
			}
		}
	}
	return len(waits) == 0
}

// around finds a shortest way from start back to itself.
func around(start string, next map[string][]string) []string {
	from := map[string]string{}
	queue := []string{start}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, to := range next[at] {
			if to == start {
				way := []string{start}
				for x := at; x != start; x = from[x] {
					way = append(way, x)
				}
				way = append(way, start)
				slices.Reverse(way)
				return way
			}
			if _, seen := from[to]; !seen {
				from[to] = at
				queue = append(queue, to)
			}
		}
	}
	return []string{start}
}
