package apply

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/defx-dev/defx/compile/plan"
)

// behind lists what leads users to a service: it is taken out before the
// service stops, so that nobody is sent to who is not there.
func (r *run) behind(service string) []plan.Record {
	var out []plan.Record
	for _, rec := range r.leads {
		if rec.Digest != "" && slices.Contains(rec.Follows, service) {
			out = append(out, rec)
		}
	}
	return out
}

// note remembers what leads users somewhere, as it stood before anything was done.
func (r *run) note(records []plan.Record) {
	r.outside, r.renames = map[string]bool{}, map[string]string{}
	for _, rec := range records {
		if rec.Drain > 0 {
			r.leads = append(r.leads, rec)
		}
	}
}

// takeOut takes a service out from behind a balancer and waits until what it
// began may have come to its end.
func (r *run) takeOut(ctx context.Context, rec plan.Record) error {
	r.mu.Lock()
	r.outside[rec.Address] = true
	r.mu.Unlock()
	return r.aside(ctx, plan.Delete, rec, nil)
}

// putBack puts a service behind a balancer again, as the plan says it. What is
// to go for good stays out.
func (r *run) putBack(ctx context.Context, rec plan.Record) error {
	u := r.w.Plan.Find(rec.Address)
	if u == nil {
		return nil
	}
	bound, err := u.Bind(r.outs.get)
	if err != nil {
		return err
	}
	return r.aside(ctx, plan.Update, rec, &bound)
}

// aside changes a module in the middle of another unit's action. The journal
// knows of it, so that the next apply looks at it.
func (r *run) aside(ctx context.Context, op plan.Op, rec plan.Record, u *plan.Placed) error {
	s := &step{Op: op, Address: rec.Address}
	if err := r.j.write(line{Begin: s}); err != nil {
		return err
	}
	stands, err := r.module(ctx, rec.Address, u, &rec)
	if err != nil {
		s.Failed = err.Error()
	}
	return errors.Join(err, r.j.write(line{End: s, Stand: stands}))
}

// rest lets what was taken out finish what it began.
func rest(ctx context.Context, seconds int) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(seconds) * time.Second):
		return nil
	}
}
