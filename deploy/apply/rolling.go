package apply

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
)

// roll is the change of the replicas of one functionality: a few at a time,
// and no more after one failed. A first creation does not roll, since no member
// of a cluster is ready before its quorum is there; unless each brings what all
// share to its version, and two that do so at once would be in each other's way.
type roll struct {
	atOnce int
	left   map[string]int    // replica → its actions that are not over
	of     map[string]string // address of what puts a replica behind its balancer again → that replica
	open   map[string]bool
	failed string // address that stopped it
}

// rolls finds the rolls of a change set, by the addresses of their actions. A
// replica's turn is over when it is behind its balancers again.
func rolls(cs *plan.ChangeSet, p *plan.Plan, unit func(address string) plan.Unit) map[string]*roll {
	by, at := map[string]*roll{}, map[string]*roll{}
	for _, a := range cs.Actions {
		address, err := graph.ParseAddress(a.Address)
		if err != nil || address.Replica == "" || a.Op == plan.Create && !migrates(unit(a.Address)) {
			continue
		}
		name := address.Functionality()
		if by[name] == nil {
			by[name] = &roll{atOnce: max(1, unit(a.Address).AtOnce), left: map[string]int{}, of: map[string]string{}, open: map[string]bool{}}
		}
		by[name].left[address.Replica]++
		at[a.Address] = by[name]
	}
	for _, a := range cs.Actions {
		u := p.Find(a.Address)
		if u == nil || u.Drain == 0 || a.Op == plan.Create {
			continue
		}
		for _, on := range u.Follows {
			if r := at[on]; r != nil {
				r.of[a.Address] = replica(on)
				r.left[replica(on)]++
				at[a.Address] = r
			}
		}
	}
	for address, r := range at {
		if len(r.left) < 2 {
			delete(at, address)
		}
	}
	return at
}

func migrates(u plan.Unit) bool {
	var spec struct {
		Migrate []any `json:"migrate"`
	}
	return json.Unmarshal(u.Spec, &spec) == nil && len(spec.Migrate) > 0
}

// turn is the replica whose turn an action belongs to.
func (r *roll) turn(address string) string {
	if name, is := r.of[address]; is {
		return name
	}
	return replica(address)
}

func replica(address string) string {
	a, _ := graph.ParseAddress(address)
	return a.Replica
}

// begin tells whether an action may begin, and notes that it does.
func (r *roll) begin(address string) bool {
	if r == nil {
		return true
	}
	name := r.turn(address)
	if r.failed != "" || !r.open[name] && len(r.open) >= r.atOnce {
		return false
	}
	r.open[name] = true
	return true
}

// over notes the end of an action.
func (r *roll) over(address string, err error) {
	if r == nil {
		return
	}
	name := r.turn(address)
	if r.left[name]--; r.left[name] <= 0 {
		delete(r.open, name)
	}
	if _, left := errors.AsType[*agent.Unhealthy](err); left {
		return // the next one may be the sick one, and its change the cure
	}
	if err != nil && r.failed == "" {
		r.failed = address
	}
}

// lost stops a roll whose replica could not be put back behind its balancer: one after the other would be missing there.
func (r *roll) lost(address string) {
	if r != nil && r.of[address] != "" && r.failed == "" {
		r.failed = address
	}
}

// stopped is why an action of a roll is not begun any more.
func (r *roll) stopped(address string) error {
	if r == nil || r.failed == "" || r.failed == address {
		return nil
	}
	return fmt.Errorf("its roll stopped, because %s failed", r.failed)
}
