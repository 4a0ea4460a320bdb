package place_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/place"
	"pgregory.net/rapid"
)

func limited(name string, p graph.Place, cpu, memory string) *graph.Service {
	s := service(name, "", p)
	s.SpecPath = append(s.Path, "service")
	s.Spec.Limits = &graph.Limits{CPU: cpu, Memory: memory}
	return s
}

func TestPlace_Capacity(t *testing.T) {
	any := graph.Place{}
	held := limited("a", any, "", "3Gi")
	held.Held = true
	member := func(name, memory string) *graph.Service {
		s := limited("g", any, "", memory)
		s.Address.Member = name
		return s
	}
	for name, c := range map[string]struct {
		services []*graph.Service
		machines map[string]graph.Capacity
		prev     place.Previous
		want     string // assignment, or a part of the error
		reason   string // part of the last service's reason or error
	}{
		"the sum counts":             {[]*graph.Service{limited("a", any, "", "1Gi"), limited("b", any, "", "1Gi"), limited("c", any, "", "1Gi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}, "m2": {}}, nil, "l/a=m1 l/b=m2 l/c=m1", ""},
		"full":                       {[]*graph.Service{limited("a", any, "", "1536Mi"), limited("b", any, "", "1Gi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}}, nil, "m1: has too little memory: 1536Mi of 2Gi in use, 1Gi required", ""},
		"cpu":                        {[]*graph.Service{limited("a", any, "1.5", ""), limited("b", any, "0.75", "")}, map[string]graph.Capacity{"m1": {CPU: "2"}}, nil, "m1: has too little cpu: 1.5 of 2 cores in use, 0.75 required", ""},
		"decimal and binary units":   {[]*graph.Service{limited("a", any, "", "8G")}, map[string]graph.Capacity{"m1": {Memory: "7Gi"}}, nil, "has too little memory: 0 of 7Gi in use, 8G required", ""},
		"no limit counts as zero":    {[]*graph.Service{limited("a", any, "", "2Gi"), service("b", "", any)}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}}, nil, "l/a=m1 l/b=m1", ""},
		"a full machine is a reason": {[]*graph.Service{limited("a", graph.Place{Machine: "m1"}, "", "1Gi"), limited("b", any, "", "2Gi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}, "m2": {}}, nil, "l/a=m1 l/b=m2", "only m2 fits; m1 has too little memory: 1Gi of 2Gi in use, 2Gi required"},
		"named":                      {[]*graph.Service{limited("a", graph.Place{Machine: "m1"}, "", "3Gi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}}, nil, `cannot run on machine "m1": has too little memory: 0 of 2Gi in use, 3Gi required`, ""},
		"kept":                       {[]*graph.Service{limited("a", any, "", "1Gi"), limited("b", any, "", "1Gi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}, "m2": {}}, place.Previous{"l/a": "m1", "l/b": "m1"}, "l/a=m1 l/b=m1", "m1 kept"},
		"kept until exceeded":        {[]*graph.Service{limited("a", any, "", "1Gi"), limited("b", any, "", "1Gi")}, map[string]graph.Capacity{"m1": {Memory: "1Gi"}, "m2": {}}, place.Previous{"l/a": "m1", "l/b": "m1"}, "l/a=m1 l/b=m2", "was on m1, which has too little memory: 1Gi of 1Gi in use, 1Gi required"},
		"held ones count and stay":   {[]*graph.Service{held, limited("b", any, "", "1Gi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}, "m2": {}}, place.Previous{"l/a": "m1"}, "l/a=m1 l/b=m2", "m1 has too little memory: 3Gi of 2Gi in use"},
		"large ones first":           {[]*graph.Service{limited("a", any, "", "1Gi"), limited("b", any, "", "1Gi"), limited("c", any, "", "2Gi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}, "m2": {Memory: "2Gi"}}, nil, "l/a=m2 l/b=m2 l/c=m1", ""},
		"only a search finds it":     {[]*graph.Service{limited("a", any, "", "3Gi"), limited("b", any, "", "3Gi"), limited("c", any, "", "2Gi"), limited("d", any, "", "2Gi"), limited("e", any, "", "2Gi")}, map[string]graph.Capacity{"m1": {Memory: "6Gi"}, "m2": {Memory: "6Gi"}}, nil, "l/a=m1 l/b=m1 l/c=m2 l/d=m2 l/e=m2", ""},
		"members together":           {[]*graph.Service{member("x", "1Gi"), member("y", "1536Mi")}, map[string]graph.Capacity{"m1": {Memory: "2Gi"}, "m2": {Memory: "3Gi"}}, nil, "l/g/x=m2 l/g/y=m2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := &graph.Graph{Services: c.services}
			for m, capacity := range c.machines {
				g.Machines = append(g.Machines, &graph.Machine{Name: m, Capacity: capacity})
			}
			g.Sort()
			reasons, errs := place.Place(g, c.prev)
			got := where(g)
			if errs != nil {
				got = errs.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
			if last := g.Services[len(g.Services)-1].Address.String(); !strings.Contains(reasons[last], c.reason) {
				t.Errorf("reason %q, want %q", reasons[last], c.reason)
			}
		})
	}
}

func TestPlace_CapacityErrorHasPathOfLimit(t *testing.T) {
	for _, p := range []graph.Place{{}, {Machine: "m1"}} {
		g := &graph.Graph{Services: []*graph.Service{limited("a", p, "", "3Gi")}, Machines: []*graph.Machine{{Name: "m1", Capacity: graph.Capacity{Memory: "2Gi"}}}}
		_, errs := place.Place(g, nil)
		if len(errs) != 1 || strings.Join(errs[0].Path, ".") != "libs.l.a.service.limits.memory" {
			t.Errorf("%+v: %v", p, errs)
		}
	}
}

// TestPlace_CapacityMatchesBruteForce compares with all possible assignments: capacities hold, services
// stay if all of them can stay, and an error means that there is no assignment.
func TestPlace_CapacityMatchesBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &graph.Graph{}
		capacity := map[string]int{}
		for i := range rapid.IntRange(1, 3).Draw(t, "machines") {
			m := &graph.Machine{Name: fmt.Sprint("m", i)}
			if n := rapid.IntRange(0, 8).Draw(t, "capacity"); n > 0 {
				m.Capacity.Memory, capacity[m.Name] = fmt.Sprint(n, "Gi"), n
			}
			g.Machines = append(g.Machines, m)
		}
		machine := func(label string) string { return rapid.SampledFrom(g.Machines).Draw(t, label).Name }
		need, prev := map[*graph.Service]int{}, place.Previous{}
		for i := range rapid.IntRange(1, 6).Draw(t, "services") {
			n := rapid.IntRange(0, 5).Draw(t, "memory")
			s := service(fmt.Sprint("s", i), "", graph.Place{})
			if n > 0 {
				s.Spec.Limits, need[s] = &graph.Limits{Memory: fmt.Sprint(n*1024, "Mi")}, n
			}
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				s.Place.Machine = machine("named")
			case 1:
				s.Place.Except = []string{machine("except")}
			case 2:
				s.Held = true
				prev[s.Address.String()] = machine("held")
			case 3:
				prev[s.Address.String()] = machine("previous")
			}
			g.Services = append(g.Services, s)
		}
		valid := func(at map[*graph.Service]string) bool {
			sum, others := map[string]int{}, map[string]bool{}
			for s, m := range at {
				if strings.Join(s.Place.Except, "") == m {
					return false
				}
				sum[m] += need[s]
				others[m] = others[m] || !s.Held && need[s] > 0
			}
			for m, n := range sum {
				if capacity[m] > 0 && n > capacity[m] && others[m] {
					return false
				}
			}
			return true
		}
		// Places that are given: of held and named services.
		fixed, all := map[*graph.Service]string{}, map[*graph.Service]string{}
		var previous []*graph.Service
		for _, s := range g.Services {
			switch m := prev[s.Address.String()]; {
			case s.Held:
				fixed[s] = m
			case s.Place.Machine != "":
				fixed[s] = s.Place.Machine
			case m != "":
				previous = append(previous, s)
			}
		}
		for s, m := range fixed {
			all[s] = m
		}
		for _, s := range previous {
			all[s] = prev[s.Address.String()]
		}
		stay := valid(all)

		reasons, errs := place.Place(g, prev)
		got := map[*graph.Service]string{}
		for _, s := range g.Services {
			if s.Machine != "" {
				got[s] = s.Machine
			}
		}
		if !valid(got) {
			t.Fatalf("%s exceeds a capacity", where(g))
		}
		if stay {
			for _, s := range previous {
				if s.Machine != prev[s.Address.String()] {
					t.Fatalf("%s could stay on %s", s.Address, prev[s.Address.String()])
				}
			}
		}
		if len(errs) == 0 {
			return
		}
		for s, m := range got { // what stays is given, too
			if strings.HasSuffix(reasons[s.Address.String()], "kept") {
				fixed[s] = m
			}
		}
		var free []*graph.Service
		for _, s := range g.Services {
			if fixed[s] == "" {
				free = append(free, s)
			}
		}
		var try func(n int) bool
		try = func(n int) bool {
			if n == len(free) {
				return valid(fixed)
			}
			for _, m := range g.Machines {
				if fixed[free[n]] = m.Name; try(n + 1) {
					return true
				}
			}
			delete(fixed, free[n])
			return false
		}
		if try(0) {
			t.Fatalf("%v, but there is an assignment: %v", errs, fixed)
		}
	})
}
