package apply

import (
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
)

// readiness is what the actions of a change set wait for: for all replicas of what
// they require, or for as many as `ready.count` of it says.
type readiness struct {
	unmet      map[string]int           // address → its needs that are not met yet
	dependents map[string][]*dependency // address → the needs that it serves
}

// dependency is actions of which some must succeed before another one begins.
type dependency struct {
	dependent *plan.Action
	left      int // that must still succeed
	tolerance int // that may still fail
}

// newReadiness finds the needs. count gives the ready.count of the unit at an address; 0 = all.
func newReadiness(cs *plan.ChangeSet, p *plan.Plan, count func(address string) int) *readiness {
	w := &readiness{unmet: map[string]int{}, dependents: map[string][]*dependency{}}
	gone := map[string]bool{}
	for _, a := range cs.Actions {
		gone[a.Address] = a.Op == plan.Delete
	}
	for i := range cs.Actions {
		a := &cs.Actions[i]
		u := p.Find(a.Address)
		sets := map[string]*dependency{}
		for _, on := range a.WaitsFor {
			if u == nil || gone[on] || count(on) == 0 || !slices.Contains(u.Requires, on) || slices.Contains(u.After, on) {
				w.add(on, &dependency{dependent: a, left: 1})
				continue
			}
			key := setOf(on)
			if sets[key] == nil {
				// Those that do not change are ready as they are.
				sets[key] = &dependency{dependent: a, left: count(on)}
				for _, r := range u.Requires {
					if setOf(r) == key && !slices.Contains(a.WaitsFor, r) {
						sets[key].left--
					}
				}
			}
			n := sets[key]
			n.tolerance++
			w.dependents[on] = append(w.dependents[on], n)
		}
		for _, n := range sets {
			all := n.tolerance
			n.left = min(n.left, all)
			if n.tolerance = all - max(n.left, 0); n.left > 0 {
				w.unmet[a.Address]++
			}
		}
	}
	return w
}

func (w *readiness) add(on string, n *dependency) {
	w.dependents[on] = append(w.dependents[on], n)
	w.unmet[n.dependent.Address]++
}

// done notes a success, and gives those that wait for nothing any more.
func (w *readiness) done(address string) []*plan.Action {
	var out []*plan.Action
	for _, n := range w.dependents[address] {
		if n.left--; n.left != 0 {
			continue
		}
		if w.unmet[n.dependent.Address]--; w.unmet[n.dependent.Address] == 0 {
			out = append(out, n.dependent)
		}
	}
	return out
}

// failed notes a failure, and gives those whose need can never be met.
func (w *readiness) failed(address string) []*plan.Action {
	var out []*plan.Action
	for _, n := range w.dependents[address] {
		if n.tolerance--; n.left > 0 && n.tolerance < 0 {
			out = append(out, n.dependent)
		}
	}
	return out
}

// setOf is the address of the set that a replica is of.
func setOf(address string) string {
	a, err := graph.ParseAddress(address)
	if err != nil {
		return address
	}
	a.Replica = ""
	return a.String()
}
