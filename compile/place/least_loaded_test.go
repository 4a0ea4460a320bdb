package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"pgregory.net/rapid"
)

// The optimized search must find the same as asking every machine.
func TestLeastLoaded_MatchesExhaustiveSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		optional := func(label string, list ...string) []string {
			return rapid.SliceOfN(rapid.SampledFrom(list), 0, 1).Draw(t, label)
		}
		g := &graph.Graph{}
		for i := range rapid.IntRange(0, 5).Draw(t, "machines") {
			m := &graph.Machine{Name: fmt.Sprint("m", i), Roles: optional("roles", "a", "b"), Pool: strings.Join(optional("pool", "p"), "")}
			if rapid.Bool().Draw(t, "label") {
				m.Labels = map[string]string{"k": "v"}
			}
			if rapid.Bool().Draw(t, "limited") {
				m.Capacity = graph.Capacity{CPU: fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "cores")), Memory: fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "capacity"), "Gi")}
			}
			g.Machines = append(g.Machines, m)
		}
		for i := range rapid.IntRange(0, 12).Draw(t, "services") {
			pl := graph.Place{Roles: optional("role", "a", "b"), Pool: strings.Join(optional("of pool", "p", "q"), ""), Except: optional("except", "m0", "m1"),
				Spread: strings.Join(optional("spread", "machine"), ""), With: strings.Join(optional("with", "l/f0"), "")}
			if rapid.Bool().Draw(t, "labelled") {
				pl.Labels = map[string]string{"k": "v"}
			}
			s := &graph.Service{Address: graph.Address{Lib: "l", Name: fmt.Sprint("f", rapid.IntRange(0, 3).Draw(t, "name")), Replica: fmt.Sprint(i / 2)}, Place: pl, Spec: graph.Spec{Ports: map[string]graph.Port{}}}
			s.Address.Member = strings.Join(optional("member", "x", "y"), "")
			for _, p := range rapid.SliceOfN(rapid.IntRange(1, 4), 0, 2).Draw(t, "ports") {
				s.Spec.Ports[fmt.Sprint("p", p)] = graph.Port{Port: p, Protocol: "tcp"}
			}
			if rapid.Bool().Draw(t, "limits") {
				s.Spec.Limits = &graph.Limits{CPU: "0.5", Memory: fmt.Sprint(rapid.IntRange(1, 3000).Draw(t, "memory"), "Mi")}
			}
			g.Services = append(g.Services, s)
		}
		p := newPlacer(g, nil)
		for _, b := range p.groups() {
			f := b[0].Address.Functionality()
			var fit []*graph.Machine
			for _, m := range g.Machines {
				if p.refuse(b, m) == "" {
					fit = append(fit, m)
				}
			}
			load := func(m *graph.Machine) (n int) {
				for _, s := range g.Services {
					if s.Machine == m.Name {
						n++
					}
				}
				return n
			}
			replicas := func(m *graph.Machine) (n int) {
				seen := map[string]bool{}
				for _, s := range g.Services {
					if s.Machine == m.Name && s.Address.Functionality() == f && !seen[s.Address.Replica] {
						seen[s.Address.Replica] = true
						n++
					}
				}
				return n
			}
			n, best := p.leastLoaded(b)
			if n != len(fit) || (best == nil) != (n == 0) {
				t.Fatalf("%d machines fit, but %d were found", len(fit), n)
			}
			if best != nil {
				if want := slices.MinFunc(fit, func(a, b *graph.Machine) int {
					return cmp.Or(cmp.Compare(replicas(a), replicas(b)), cmp.Compare(load(a), load(b)), strings.Compare(a.Name, b.Name))
				}); want != best {
					t.Fatalf("chose %s, want %s", best.Name, want.Name)
				}
			}
			if p.choose(b, nil); (b[0].Machine == "") != (best == nil) {
				t.Fatalf("%s is on %q", b[0].Address, b[0].Machine)
			}
		}
	})
}
