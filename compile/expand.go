package compile

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
)

// expand returns the graph: one service for each replica of each member, with edges filled in.
func (c *compiler) expand() *graph.Graph {
	g := &graph.Graph{EC2: c.resolveInstances(), Name: c.e.Name, Allow: c.e.Allow, Environment: c.in.Result.Environment, PreviousMachines: c.in.Baseline.PreviousMachines, Externals: map[string]*graph.External{}}
	for _, name := range slices.Sorted(maps.Keys(c.e.Machines)) {
		m := newMachine(name, c.e.Machines[name])
		c.resolveMade(m, c.e.Machines[name])
		g.Machines = append(g.Machines, m)
	}
	for _, name := range c.names() {
		f := c.funcs[name]
		switch {
		case f.fn == nil:
		case f.fn.External != nil:
			g.Externals[name] = f.fn.External
		case f.fn.LoadBalancer != nil:
			if f.balancer != nil {
				g.Balancers = append(g.Balancers, f.balancer)
			}
		case f.fn.Resource != nil:
			path := f.path()
			if f.lib != "" {
				path = append(path, "resource")
			}
			g.Resources = append(g.Resources, &graph.Resource{Address: graph.Address{Lib: f.lib, Name: f.name},
				Type: f.fn.Resource.Type, Fields: f.fields, Path: path, Held: f.err != nil})
		default:
			c.expandReplicas(g, f)
		}
	}
	g.Sort()
	fillEdges(g)
	return g
}

// expandReplicas adds the services of one functionality to g.
func (c *compiler) expandReplicas(g *graph.Graph, f *function) {
	names := f.fn.Place.Replicas.List()
	if f.fn.Place.Every != "" {
		names = nil
		for _, m := range g.Machines {
			if f.fn.Place.Excludes(m) == "" {
				names = append(names, m.Name)
			}
		}
	}
	for i, name := range names {
		shape := f.forReplica(name)
		pl := shape.fn.Place
		if pl.Every != "" {
			pl.Machine = name
		}
		var patch []string
		if f.patchedReplicas[name] != nil {
			patch = append(f.path(), "place", "replicas", name)
		}
		pl.With = "" // it names the set as libraries do, and members may have others
		for _, p := range shape.members {
			pl.With = cmp.Or(pl.With, p.with)
		}
		for _, p := range shape.members {
			g.Services = append(g.Services, &graph.Service{
				Address: graph.Address{Lib: f.lib, Name: f.name, Member: p.name, Replica: name},
				Backend: shape.fn.Backend, Spec: p.spec, Options: p.options, EC2: p.ec2, FQDN: shape.fn.FQDN, Place: pl, Index: i, Sole: len(names) == 1, Host: shape.fn.Host,
				Requires: slices.Clone(p.requires), Connects: slices.Clone(p.connects), After: slices.Clone(p.after),
				Path: p.path, SpecPath: append(slices.Clone(p.path), "service"), Held: f.err != nil, Patch: patch, Summary: f.summary != nil,
			})
		}
	}
}

// fillEdges sets the services at which each edge ends.
func fillEdges(g *graph.Graph) {
	sets := make(map[string][]graph.Address, len(g.Services))
	for _, s := range g.Services {
		a := s.Address
		sets[a.Set()] = append(sets[a.Set()], a)
		if a.Member != "" {
			sets[a.Functionality()] = append(sets[a.Functionality()], a)
		}
	}
	fill := func(edges []graph.Edge, self graph.Address) []graph.Edge {
		for i := range edges {
			if name, ok := strings.CutPrefix(edges[i].Set, allPrefix); ok && sets[edges[i].Set] == nil {
				sets[edges[i].Set] = []graph.Address{}
				for _, s := range g.Services {
					if selection(name).Selects(s) {
						sets[edges[i].Set] = append(sets[edges[i].Set], s.Address)
					}
				}
			}
			edges[i].To = slices.DeleteFunc(slices.Clone(sets[edges[i].Set]), func(a graph.Address) bool { return a == self })
			slices.SortFunc(edges[i].To, graph.Address.Compare)
		}
		return edges
	}
	for _, s := range g.Services {
		s.Requires, s.Connects, s.After = fill(s.Requires, s.Address), fill(s.Connects, s.Address), fill(s.After, s.Address)
	}
}

func newMachine(name string, m Machine) *graph.Machine {
	out := &graph.Machine{Name: name, Connect: m.Connect, Address: m.Address, HostKey: m.HostKey, Via: m.Via, Docker: m.Docker, Pool: m.Pool,
		Roles: slices.Sorted(slices.Values(m.Roles)), Labels: m.Labels, Capacity: m.Capacity, Location: m.Location}
	if u, err := url.Parse(m.Connect); out.Address == "" && err == nil && u.Scheme == "ssh" {
		out.Address = u.Hostname()
	}
	return out
}

// resolveInstances resolves the tokens in defaults.ec2.
func (c *compiler) resolveInstances() graph.Instances {
	out := c.e.Defaults.EC2
	d := &decoder{}
	r := c.resolver(&function{}, &Functionality{}, &memberConfig{}, d)
	at := []string{"defaults", "ec2"}
	out.Subnet = r.resolveText(append(at, "subnet"), out.Subnet, false, nil)
	out.KeyName = r.resolveText(append(at, "keyName"), out.KeyName, false, nil)
	out.Bucket = r.resolveText(append(at, "bucket"), out.Bucket, false, nil)
	for name, l := range out.Locations {
		l.Subnet = r.resolveText(append(at, "locations", name, "subnet"), l.Subnet, false, nil)
		out.Locations[name] = l
	}
	c.errs = append(c.errs, d.errs...)
	return out
}

// resolveMade resolves the resource output that gives the address of a machine.
func (c *compiler) resolveMade(m *graph.Machine, decl Machine) {
	if len(decl.Made) == 0 {
		return
	}
	at := []string{"machines", m.Name, "made"}
	d := &decoder{}
	text := c.resolver(&function{}, &Functionality{}, &memberConfig{}, d).resolveText(at, decl.Made, false, nil)
	tokens := text.Tokens()
	f := (*function)(nil)
	if len(tokens) == 1 {
		f = c.funcs[tokens[0].Name]
	}
	switch {
	case len(d.errs) > 0:
	case len(text) != 1 || f == nil || f.fn == nil || f.fn.Resource == nil || tokens[0].Field != "output":
		d.errorf(at, "exactly one output of a resource is required").WithHint("made: defx.ref('vm').output('address')")
	case !strings.HasPrefix(decl.Connect, "ssh://") || !strings.HasSuffix(decl.Connect, "@"):
		d.errorf([]string{"machines", m.Name, "connect"}, "a machine made by a resource is reached at the address that the resource returns").WithHint("connect: 'ssh://root@'")
	default:
		m.Address, m.Made = "", &tokens[0]
	}
	c.errs = append(c.errs, d.errs...)
}
