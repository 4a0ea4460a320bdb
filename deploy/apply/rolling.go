package apply

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
)

// rollingUpdate changes the replicas of one functionality, a few at a time, and
// stops after the first failure. The first creation is not rolling, because the
// members of a cluster become ready only when a quorum of them is running; except
// if the unit runs migrations, which two replicas must not run at the same time.
type rollingUpdate struct {
	atOnce    int               // maximum number of replicas in progress
	pending   map[string]int    // replica → number of its actions that have not ended
	registers map[string]string // address of a balancer membership → the replica that it registers
	active    map[string]bool   // replicas in progress
	failedAt  string            // address of the action that stopped the update
}

// rollingUpdates returns the rolling update of each action of a change set, by
// address. A replica is in progress until its load balancers have it again.
func rollingUpdates(cs *plan.ChangeSet, p *plan.Plan, unit func(address string) plan.Unit) map[string]*rollingUpdate {
	byName, byAddress := map[string]*rollingUpdate{}, map[string]*rollingUpdate{}
	for _, a := range cs.Actions {
		address, err := graph.ParseAddress(a.Address)
		if err != nil || address.Replica == "" || a.Op == plan.Create && !migrates(unit(a.Address)) {
			continue
		}
		name := address.Functionality()
		if byName[name] == nil {
			byName[name] = &rollingUpdate{atOnce: max(1, unit(a.Address).AtOnce), pending: map[string]int{}, registers: map[string]string{}, active: map[string]bool{}}
		}
		byName[name].pending[address.Replica]++
		byAddress[a.Address] = byName[name]
	}
	for _, a := range cs.Actions {
		u := p.Find(a.Address)
		if u == nil || u.Drain == 0 || a.Op == plan.Create {
			continue
		}
		for _, on := range u.Follows {
			if r := byAddress[on]; r != nil {
				r.registers[a.Address] = replica(on)
				r.pending[replica(on)]++
				byAddress[a.Address] = r
			}
		}
	}
	for address, r := range byAddress {
		if len(r.pending) < 2 {
			delete(byAddress, address)
		}
	}
	return byAddress
}

// migrates reports whether a unit runs migrations before it starts.
func migrates(u plan.Unit) bool {
	var spec struct {
		Migrate []any `json:"migrate"`
	}
	return json.Unmarshal(u.Spec, &spec) == nil && len(spec.Migrate) > 0
}

// replicaOf returns the replica to which an action belongs.
func (r *rollingUpdate) replicaOf(address string) string {
	if name, is := r.registers[address]; is {
		return name
	}
	return replica(address)
}

// replica returns the replica of an address.
func replica(address string) string {
	a, _ := graph.ParseAddress(address)
	return a.Replica
}

// begin reports whether an action may start, and if so marks its replica as in progress.
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

// finish records the end of an action.
func (r *rollingUpdate) finish(address string, err error) {
	if r == nil {
		return
	}
	name := r.replicaOf(address)
	if r.pending[name]--; r.pending[name] <= 0 {
		delete(r.active, name)
	}
	if _, unchanged := errors.AsType[*agent.Unhealthy](err); unchanged {
		return // another replica may be the unhealthy one, and updating it the fix
	}
	if err != nil && r.failedAt == "" {
		r.failedAt = address
	}
}

// skip records that an action is skipped. If it would register a replica with its
// load balancer again, the update stops, because otherwise one replica after the
// other would stay removed.
func (r *rollingUpdate) skip(address string) {
	if r != nil && r.registers[address] != "" && r.failedAt == "" {
		r.failedAt = address
	}
}

// haltReason returns why an action must not start any more, or nil.
func (r *rollingUpdate) haltReason(address string) error {
	if r == nil || r.failedAt == "" || r.failedAt == address {
		return nil
	}
	return fmt.Errorf("the rolling update stopped because %s failed", r.failedAt)
}
