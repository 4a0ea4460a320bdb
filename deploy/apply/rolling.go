package apply

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
)

// rollingUpdate is the change of the replicas of one functionality: a few at a time,
// and no more after one failed. A first creation does not roll, since no member
// of a cluster is ready before its quorum is there; unless each brings what all
// share to its version, and two that do so at once would be in each other's way.
type rollingUpdate struct {
	atOnce    int
	pending   map[string]int    // replica → its actions that are not over
	registers map[string]string // address of what puts a replica behind its balancer again → that replica
	active    map[string]bool
	failedAt  string // address that stopped it
}

// rollingUpdates finds the rolls of a change set, by the addresses of their actions. A
// replica's turn is over when it is behind its balancers again.
func rollingUpdates(cs *plan.ChangeSet, p *plan.Plan, unit func(address string) plan.Unit) map[string]*rollingUpdate {
	by, at := map[string]*rollingUpdate{}, map[string]*rollingUpdate{}
	for _, a := range cs.Actions {
		address, err := graph.ParseAddress(a.Address)
		if err != nil || address.Replica == "" || a.Op == plan.Create && !migrates(unit(a.Address)) {
			continue
		}
		name := address.Functionality()
		if by[name] == nil {
			by[name] = &rollingUpdate{atOnce: max(1, unit(a.Address).AtOnce), pending: map[string]int{}, registers: map[string]string{}, active: map[string]bool{}}
		}
		by[name].pending[address.Replica]++
		at[a.Address] = by[name]
	}
	for _, a := range cs.Actions {
		u := p.Find(a.Address)
		if u == nil || u.Drain == 0 || a.Op == plan.Create {
			continue
		}
		for _, on := range u.Follows {
			if r := at[on]; r != nil {
				r.registers[a.Address] = replica(on)
				r.pending[replica(on)]++
				at[a.Address] = r
			}
		}
	}
	for address, r := range at {
		if len(r.pending) < 2 {
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

// replicaOf is the replica whose turn an action belongs to.
func (r *rollingUpdate) replicaOf(address string) string {
	if name, is := r.registers[address]; is {
		return name
	}
	return replica(address)
}

func replica(address string) string {
	a, _ := graph.ParseAddress(address)
	return a.Replica
}

// begin tells whether an action may begin, and notes that it does.
func (r *rollingUpdate) begin(address string) bool {
	if r == nil {
		return true
	}
	name := r.replicaOf(address)
	if r.failedAt != "" || !r.active[name] && len(r.active) >= r.atOnce {
		return false
	}
	r.active[name] = true
	return true
}

// finish notes the end of an action.
func (r *rollingUpdate) finish(address string, err error) {
	if r == nil {
		return
	}
	name := r.replicaOf(address)
	if r.pending[name]--; r.pending[name] <= 0 {
		delete(r.active, name)
	}
	if _, left := errors.AsType[*agent.Unhealthy](err); left {
		return // the next one may be the sick one, and its change the cure
	}
	if err != nil && r.failedAt == "" {
		r.failedAt = address
	}
}

// skip stops a roll whose replica could not be put back behind its balancer: one after the other would be missing there.
func (r *rollingUpdate) skip(address string) {
	if r != nil && r.registers[address] != "" && r.failedAt == "" {
		r.failedAt = address
	}
}

// haltReason is why an action of a roll is not begun any more.
func (r *rollingUpdate) haltReason(address string) error {
	if r == nil || r.failedAt == "" || r.failedAt == address {
		return nil
	}
	return fmt.Errorf("its roll stopped, because %s failed", r.failedAt)
}
