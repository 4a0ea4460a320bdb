package place_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/place"
	"pgregory.net/rapid"
)

func service(name, replica string, p graph.Place, ports ...int) *graph.Service {
	s := &graph.Service{Address: graph.Address{Lib: "l", Name: name, Replica: replica}, Place: p, Path: []string{"libs", "l", name}}
	for i, port := range ports {
		if s.Spec.Ports == nil {
			s.Spec.Ports = map[string]graph.Port{}
		}
		s.Spec.Ports[fmt.Sprint("p", i)] = graph.Port{Port: port, Protocol: "tcp"}
	}
	return s
}

func machines(names ...string) []*graph.Machine {
	var out []*graph.Machine
	for _, n := range names {
		out = append(out, &graph.Machine{Name: n, Pool: "p", Roles: []string{"r-" + n}, Labels: map[string]string{"n": n}, Location: "at-" + n})
	}
	return out
}

func where(g *graph.Graph) string {
	var out []string
	for _, s := range g.Services {
		out = append(out, s.Address.String()+"="+s.Machine)
	}
	return strings.Join(out, " ")
}

func TestPlace(t *testing.T) {
	spread := graph.Place{Spread: "machine"}
	cases := []struct {
		name     string
		services []*graph.Service
		machines []string
		prev     place.Previous
		want     string // assignment, or a part of the error
	}{
		{"fewest services first", []*graph.Service{service("a", "", graph.Place{}), service("b", "", graph.Place{})}, []string{"m1", "m2"}, nil, "l/a=m1 l/b=m2"},
		{"previous machine is kept", []*graph.Service{service("a", "", graph.Place{}), service("b", "", graph.Place{})}, []string{"m1", "m2"}, place.Previous{"l/a": "m2", "l/b": "m2"}, "l/a=m2 l/b=m2"},
		{"a new machine changes nothing", []*graph.Service{service("a", "", graph.Place{}), service("b", "", graph.Place{})}, []string{"m0", "m1"}, place.Previous{"l/a": "m1", "l/b": "m1"}, "l/a=m1 l/b=m1"},
		{"spread", []*graph.Service{service("a", "0", spread), service("a", "1", spread)}, []string{"m1", "m2"}, nil, "l/a#0=m1 l/a#1=m2"},
		{"spread is a hard constraint", []*graph.Service{service("a", "0", spread), service("a", "1", spread)}, []string{"m1"}, nil, "m1: already has another replica"},
		{"port conflict", []*graph.Service{service("a", "", graph.Place{}, 80), service("b", "", graph.Place{}, 80)}, []string{"m1", "m2"}, nil, "l/a=m1 l/b=m2"},
		{"no machine with a free port", []*graph.Service{service("a", "", graph.Place{}, 80), service("b", "", graph.Place{}, 80)}, []string{"m1"}, nil, "has port tcp/80 in use by l/a"},
		{"by role", []*graph.Service{service("a", "", graph.Place{Roles: []string{"r-m2"}})}, []string{"m1", "m2"}, nil, "l/a=m2"},
		{"by label", []*graph.Service{service("a", "", graph.Place{Labels: map[string]string{"n": "m2"}})}, []string{"m1", "m2"}, nil, "l/a=m2"},
		{"by location", []*graph.Service{service("a", "", graph.Place{Location: "at-m2"})}, []string{"m1", "m2"}, nil, "l/a=m2"},
		{"except", []*graph.Service{service("a", "", graph.Place{Except: []string{"m1"}})}, []string{"m1", "m2"}, nil, "l/a=m2"},
		{"named", []*graph.Service{service("a", "", graph.Place{Machine: "m2"})}, []string{"m1", "m2"}, place.Previous{"l/a": "m1"}, "l/a=m2"},
		{"unknown machine", []*graph.Service{service("a", "", graph.Place{Machine: "m22"})}, []string{"m1", "m2"}, nil, `did you mean "m2"?`},
		{"previous machine no longer exists", []*graph.Service{service("a", "", graph.Place{})}, []string{"m1"}, place.Previous{"l/a": "m9"}, "l/a=m1"},
		{"nowhere", []*graph.Service{service("a", "", graph.Place{Pool: "q"})}, []string{"m1"}, nil, `m1: is not in pool "q"`},
		{"named before others", []*graph.Service{service("a", "", graph.Place{}, 80), service("b", "", graph.Place{Machine: "m1"}, 80)}, []string{"m1", "m2"}, nil, "l/a=m2 l/b=m1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := &graph.Graph{Services: c.services, Machines: machines(c.machines...)}
			g.Sort()
			reasons, errs := place.Place(g, c.prev)
			got := where(g)
			if errs != nil {
				got = errs.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
			for _, s := range g.Services {
				if s.Machine != "" && reasons[s.Address.String()] == "" {
					t.Errorf("%s: no reason", s.Address)
				}
			}
		})
	}
}

func TestPlace_GroupMembersStayTogether(t *testing.T) {
	a, b := service("g", "", graph.Place{}), service("g", "", graph.Place{})
	a.Address.Member, b.Address.Member = "x", "y"
	g := &graph.Graph{Services: []*graph.Service{a, b, service("z", "", graph.Place{})}, Machines: machines("m1", "m2")}
	g.Sort()
	place.Place(g, nil)
	if where(g) != "l/g/x=m1 l/g/y=m1 l/z=m2" {
		t.Errorf("%s", where(g))
	}
}

// TestPlace_ConstraintsHoldAndAssignmentIsStable checks that constraints hold, that services
// stay where they can, and that placing again changes nothing.
func TestPlace_ConstraintsHoldAndAssignmentIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"m1", "m2", "m3", "m4"}[:rapid.IntRange(1, 4).Draw(t, "machines")]
		build := func() *graph.Graph { return &graph.Graph{Machines: machines(names...)} }
		type draw struct {
			spread bool
			n      int
			port   int
		}
		var draws []draw
		for range rapid.IntRange(1, 5).Draw(t, "services") {
			draws = append(draws, draw{rapid.Bool().Draw(t, "spread"), rapid.IntRange(1, 3).Draw(t, "n"), rapid.IntRange(0, 3).Draw(t, "port")})
		}
		fill := func(g *graph.Graph) *graph.Graph {
			for i, d := range draws {
				p := graph.Place{}
				if d.spread {
					p.Spread = "machine"
				}
				for r := range d.n {
					var ports []int
					if d.port > 0 {
						ports = []int{80 + d.port}
					}
					g.Services = append(g.Services, service(fmt.Sprint("s", i), fmt.Sprint(r), p, ports...))
				}
			}
			g.Sort()
			return g
		}
		prev := place.Previous{}
		g := fill(build())
		for _, s := range g.Services {
			if rapid.Bool().Draw(t, "was") {
				prev[s.Address.String()] = rapid.SampledFrom(names).Draw(t, "on")
			}
		}
		_, errs := place.Place(g, prev)
		taken := map[string]string{}
		for _, s := range g.Services {
			if s.Machine == "" {
				continue
			}
			keys := []string{}
			if s.Place.Spread != "" {
				keys = append(keys, s.Machine+" "+s.Address.Functionality())
			}
			for _, p := range s.Spec.Ports {
				keys = append(keys, fmt.Sprint(s.Machine, " ", p.Port))
			}
			for _, k := range keys {
				if taken[k] != "" && taken[k] != s.Address.String() {
					t.Fatalf("%s and %s share %s", taken[k], s.Address, k)
				}
				taken[k] = s.Address.String()
			}
		}
		if errs != nil {
			return
		}
		now := place.Previous{}
		for _, s := range g.Services {
			now[s.Address.String()] = s.Machine
		}
		again := fill(build())
		if _, errs := place.Place(again, now); errs != nil || where(again) != where(g) {
			t.Fatalf("placed again: %s, was %s", where(again), where(g))
		}
	})
}
