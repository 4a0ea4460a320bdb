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

// balancersOf lists what leads users to a service: it is taken out before the
// service stops, so that nobody is sent to who is not there. What is in doubt
// counts as out; before a restart only if its own state says so, too.
func (r *run) balancersOf(service string) []plan.Record {
	var out []plan.Record
	for _, rec := range r.balancers {
		if !slices.Contains(rec.Follows, service) {
			continue
		}
		in := rec.Digest != ""
		if !in && r.req.Restart == service {
			targets, err := r.req.Modules.Targets(rec.Address)
			in = err != nil || len(targets) > 0
		}
		if in {
			out = append(out, rec)
		}
	}
	return out
}

// loadBalancers remembers what leads users somewhere, as it stood before anything was done.
func (r *run) loadBalancers(records []plan.Record) {
	r.deregistered, r.renames, r.notes = map[string]bool{}, map[string]string{}, map[string]bool{}
	for _, rec := range records {
		if rec.Drain > 0 {
			r.balancers = append(r.balancers, rec)
		}
	}
}

// deregister takes a service out from behind a balancer and waits until what it
// began may have come to its end.
func (r *run) deregister(ctx context.Context, rec plan.Record) error {
	r.mu.Lock()
	r.deregistered[rec.Address] = true
	r.mu.Unlock()
	return r.applySideModule(ctx, plan.Delete, rec, nil)
}

// register puts a service behind a balancer again, as the plan says it. What is
// to go for good stays out.
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

// applySideModule changes a module in the middle of another unit's action. The journal
// knows of it, so that the next apply looks at it.
func (r *run) applySideModule(ctx context.Context, op plan.Op, rec plan.Record, u *plan.Placed) error {
	s := &stepLine{Op: op, Address: rec.Address}
	if err := r.journal.write(journalLine{Begin: s}); err != nil {
		return err
	}
	stands, err := r.applyModule(ctx, rec.Address, u, &rec)
	if err != nil {
		s.Failed = err.Error()
	}
	return errors.Join(err, r.journal.write(journalLine{End: s, Stand: stands}))
}

// waitDrained lets what was taken out finish what it began, until the balancer is done
// with it, or the time is over.
func (r *run) waitDrained(ctx context.Context, seconds int, targets []cloud.Target) error {
	most := time.Duration(seconds) * time.Second
	if len(targets) == 0 { // nobody to ask about
		targets = []cloud.Target{{}}
	}
	begun := time.Now()
	for _, t := range targets {
		if err := cloud.WaitDrained(ctx, t, most-time.Since(begun)); err != nil {
			return err
		}
	}
	return nil
}

// waitHealthy waits until balancers find well what a module has put behind them. Where
// the cloud does not say, nobody waits, and it is noted.
func (r *run) waitHealthy(ctx context.Context, module string) error {
	targets, err := r.req.Modules.Targets(module)
	if err != nil {
		return err
	}
	for _, t := range targets {
		err := cloud.WaitHealthy(ctx, t)
		if silent, is := errors.AsType[*cloud.ErrUnavailable](err); is {
			r.mu.Lock()
			r.notes[fmt.Sprintf("the cloud does not tell whether balancers find their targets well: %v", silent)] = true
			r.mu.Unlock()
		} else if err != nil {
			return err
		}
	}
	return nil
}
