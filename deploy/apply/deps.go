package apply

import (
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
)

// waits is what the actions of a change set wait for: for all replicas of what
// they require, or for as many as `ready.count` of it says.
type waits struct {
	left map[string]int     // address → its needs that are not met yet
	of   map[string][]*need // address → the needs that it serves
}

// need is actions of which some must succeed before another one begins.
type need struct {
	by    *plan.Action
	left  int // that must still succeed
	spare int // that may still fail
}

// waitsOf finds the needs. count gives the ready.count of the unit at an address; 0 = all.
func waitsOf(cs *plan.ChangeSet, p *plan.Plan, count func(address string) int) *waits {
	w := &waits{left: map[string]int{}, of: map[string][]*need{}}
	gone := map[string]bool{}
	for _, a := range cs.Actions {
		gone[a.Address] = a.Op == plan.Delete
	}
	for i := range cs.Actions {
		a := &cs.Actions[i]
		u := p.Find(a.Address)
		sets := map[string]*need{}
		for _, on := range a.WaitsFor {
			if u == nil || gone[on] || count(on) == 0 || !slices.Contains(u.Requires, on) || slices.Contains(u.After, on) {
				w.add(on, &need{by: a, left: 1})
				continue
			}
			key := setOf(on)
			if sets[key] == nil {
				// Those that do not change are ready as they are.
				sets[key] = &need{by: a, left: count(on)}
				for _, r := range u.Requires {
					if setOf(r) == key && !slices.Contains(a.WaitsFor, r) {
						sets[key].left--
					}
				}
			}
			n := sets[key]
			n.spare++
			w.of[on] = append(w.of[on], n)
		}
		for _, n := range sets {
			all := n.spare
			n.left = min(n.left, all)
			if n.spare = all - max(n.left, 0); n.left > 0 {
				w.left[a.Address]++
			}
		}
	}
	return w
}

func (w *waits) add(on string, n *need) {
	w.of[on] = append(w.of[on], n)
	w.left[n.by.Address]++
}

// done notes a success, and gives those that wait for nothing any more.
func (w *waits) done(address string) []*plan.Action {
	var out []*plan.Action
	for _, n := range w.of[address] {
		if n.left--; n.left != 0 {
			continue
		}
		if w.left[n.by.Address]--; w.left[n.by.Address] == 0 {
			out = append(out, n.by)
		}
	}
	return out
}

// failed notes a failure, and gives those whose need can never be met.
func (w *waits) failed(address string) []*plan.Action {
	var out []*plan.Action
	for _, n := range w.of[address] {
		if n.spare--; n.left > 0 && n.spare < 0 {
			out = append(out, n.by)
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
