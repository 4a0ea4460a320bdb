package apply

import (
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
)

// readiness tracks which actions of a change set may start. An action waits for
// all replicas of a set that it requires, or for `ready.count` of them.
type readiness struct {
	unmet map[string]int           // address → number of its unmet dependencies
	of    map[string][]*dependency // address → the dependencies that its action contributes to
}

// dependency is a set of actions of which some must succeed before another one starts.
type dependency struct {
	dependent *plan.Action // the action that waits
	left      int          // actions that must still succeed
	tolerance int          // actions that may still fail
}

// newReadiness returns the dependencies of a change set. The function count
// returns the ready.count of the unit at an address; 0 = all.
func newReadiness(cs *plan.ChangeSet, p *plan.Plan, count func(address string) int) *readiness {
	r := &readiness{unmet: map[string]int{}, of: map[string][]*dependency{}}
	deleted := map[string]bool{}
	for _, a := range cs.Actions {
		deleted[a.Address] = a.Op == plan.Delete
	}
	for i := range cs.Actions {
		a := &cs.Actions[i]
		u := p.Find(a.Address)
		sets := map[string]*dependency{}
		for _, on := range a.WaitsFor {
			if u == nil || deleted[on] || count(on) == 0 || !slices.Contains(u.Requires, on) || slices.Contains(u.After, on) {
				r.add(on, &dependency{dependent: a, left: 1})
				continue
			}
			key := setOf(on)
			if sets[key] == nil {
				// Replicas that do not change are ready already.
				sets[key] = &dependency{dependent: a, left: count(on)}
				for _, required := range u.Requires {
					if setOf(required) == key && !slices.Contains(a.WaitsFor, required) {
						sets[key].left--
					}
				}
			}
			d := sets[key]
			d.tolerance++
			r.of[on] = append(r.of[on], d)
		}
		for _, d := range sets {
			all := d.tolerance
			d.left = min(d.left, all)
			if d.tolerance = all - max(d.left, 0); d.left > 0 {
				r.unmet[a.Address]++
			}
		}
	}
	return r
}

// add adds a dependency on the action of one address.
func (r *readiness) add(on string, d *dependency) {
	r.of[on] = append(r.of[on], d)
	r.unmet[d.dependent.Address]++
}

// done records a success and returns the actions that may start now.
func (r *readiness) done(address string) []*plan.Action {
	var out []*plan.Action
	for _, d := range r.of[address] {
		if d.left--; d.left != 0 {
			continue
		}
		if r.unmet[d.dependent.Address]--; r.unmet[d.dependent.Address] == 0 {
			out = append(out, d.dependent)
		}
	}
	return out
}

// failed records a failure and returns the actions that can never start now.
func (r *readiness) failed(address string) []*plan.Action {
	var out []*plan.Action
	for _, d := range r.of[address] {
		if d.tolerance--; d.left > 0 && d.tolerance < 0 {
			out = append(out, d.dependent)
		}
	}
	return out
}

// setOf returns the address of the set of a replica.
func setOf(address string) string {
	a, err := graph.ParseAddress(address)
	if err != nil {
		return address
	}
	a.Replica = ""
	return a.String()
}
