package compile

import (
	"maps"
	"net/url"
	"slices"
	"strconv"

	"github.com/defx-dev/defx/compile/graph"
)

// expand makes a service of every replica of every part, and fills the edges.
func (c *compiler) expand() *graph.Graph {
	g := &graph.Graph{Name: c.e.Name, Environment: c.in.Result.Environment, Former: c.in.Baseline.Former}
	for _, name := range slices.Sorted(maps.Keys(c.e.Machines)) {
		g.Machines = append(g.Machines, machine(name, c.e.Machines[name]))
	}
	sets := map[string][]graph.Address{}
	for _, name := range slices.Sorted(maps.Keys(c.funcs)) {
		f := c.funcs[name]
		if f.fn == nil {
			continue
		}
		n, counted := f.replicas()
		for _, p := range f.parts {
			for i := range n {
				a := graph.Address{Lib: f.lib, Name: f.name, Member: p.member}
				if counted {
					a.Replica = strconv.Itoa(i)
				}
				g.Services = append(g.Services, &graph.Service{
					Address: a, Backend: f.fn.Backend, Spec: p.spec, Options: p.options, FQDN: f.fn.FQDN, Place: f.fn.Place, Index: i,
					Requires: slices.Clone(p.requires), Connects: slices.Clone(p.connects), After: slices.Clone(p.after),
					Path: p.path, SpecPath: append(slices.Clone(p.path), "service"), Held: f.err != nil,
				})
				sets[a.Set()] = append(sets[a.Set()], a)
				if a.Member != "" {
					sets[a.Functionality()] = append(sets[a.Functionality()], a)
				}
			}
		}
	}
	fill := func(edges []graph.Edge, self graph.Address) []graph.Edge {
		for i := range edges {
			to := slices.DeleteFunc(slices.Clone(sets[edges[i].Set]), func(a graph.Address) bool { return a == self })
			slices.SortFunc(to, graph.Address.Compare)
			edges[i].To = to
		}
		return edges
	}
	for _, s := range g.Services {
		s.Requires, s.Connects, s.After = fill(s.Requires, s.Address), fill(s.Connects, s.Address), fill(s.After, s.Address)
	}
	g.Sort()
	return g
}

func machine(name string, m Machine) *graph.Machine {
	out := &graph.Machine{Name: name, Connect: m.Connect, Address: m.Address, HostKey: m.HostKey, Via: m.Via, Pool: m.Pool,
		Roles: slices.Sorted(slices.Values(m.Roles)), Labels: m.Labels, Capacity: m.Capacity, Location: m.Location}
	if u, err := url.Parse(m.Connect); out.Address == "" && err == nil && u.Scheme == "ssh" {
		out.Address = u.Hostname()
	}
	return out
}
