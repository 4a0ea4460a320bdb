package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/cloud"
)

// balancersOf returns the balancer memberships through which a service receives
// requests, so that they can be removed before the service stops. A membership
// whose record is uncertain counts as removed already; before a restart it does
// so only if its module has no targets.
func (r *run) balancersOf(service string) []plan.Record {
	var out []plan.Record
	for _, rec := range r.balancers {
		if !slices.Contains(rec.Follows, service) {
			continue
		}
		registered := rec.Digest != ""
		if !registered && r.req.Restart == service {
			targets, err := r.req.Modules.Targets(rec.Address)
			registered = err != nil || len(targets) > 0
		}
		if registered {
			out = append(out, rec)
		}
	}
	return out
}

// loadBalancers records the balancer memberships before the first action.
func (r *run) loadBalancers(records []plan.Record) {
	r.deregistered, r.renames, r.notes = map[string]bool{}, map[string]string{}, map[string]bool{}
	for _, rec := range records {
		if rec.Drain > 0 {
			r.balancers = append(r.balancers, rec)
		}
	}
}

// deregister removes a service from its load balancer and waits until its
// requests are drained.
func (r *run) deregister(ctx context.Context, rec plan.Record) error {
	r.mu.Lock()
	r.deregistered[rec.Address] = true
	r.mu.Unlock()
	return r.applySideModule(ctx, plan.Delete, rec, nil)
}

// register adds a service to its load balancer again, as the plan defines it. A
// membership that is not in the plan stays removed.
func (r *run) register(ctx context.Context, rec plan.Record) error {
	u := r.req.Plan.Find(rec.Address)
	if u == nil {
		return nil
	}
	bound, err := u.Bind(r.outputs.get)
	if err != nil {
		return err
	}
	return r.applySideModule(ctx, plan.Update, rec, &bound)
}

// applySideModule changes a module during the action of another unit. It is in the
// intent of the apply, so that an interruption makes it uncertain too.
func (r *run) applySideModule(ctx context.Context, op plan.Op, rec plan.Record, u *plan.Placed) error {
	s := &stepLine{Op: op, Address: rec.Address}
	r.journal.write(journalLine{Begin: s})
	_, err := r.applyModule(ctx, rec.Address, u, &rec)
	if err != nil {
		s.Failed = err.Error()
	}
	r.journal.write(journalLine{End: s})
	return err
}

// waitDrained waits until the load balancer has drained deregistered targets, at
// most for a number of seconds.
func (r *run) waitDrained(ctx context.Context, seconds int, targets []cloud.Target) error {
	limit := time.Duration(seconds) * time.Second
	if len(targets) == 0 { // unknown targets: wait for all of the limit
		targets = []cloud.Target{{}}
	}
	begin := time.Now()
	return r.whileWaiting(ctx, "waiting for its load balancer to drain it", limit, func() error {
		for _, t := range targets {
			if err := cloud.WaitDrained(ctx, t, limit-time.Since(begin)); err != nil {
				return err
			}
		}
		return nil
	})
}

// waitHealthy waits until the load balancers consider the targets of a module
// healthy. If that cannot be queried it does not wait, but adds a note.
func (r *run) waitHealthy(ctx context.Context, module string) error {
	targets, err := r.req.Modules.Targets(module)
	if err != nil {
		return err
	}
	for _, t := range targets {
		err := cloud.WaitHealthy(ctx, t)
		if unavailable, is := errors.AsType[*cloud.ErrUnavailable](err); is {
			r.mu.Lock()
			r.notes[fmt.Sprintf("the health of load balancer targets could not be queried: %v", unavailable)] = true
			r.mu.Unlock()
		} else if err != nil {
			return err
		}
	}
	return nil
}
