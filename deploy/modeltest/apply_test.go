package modeltest

import (
	"context"
	"errors"
	"sync"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
)

// options are those of one command.
type options struct {
	by          operator
	allowDelete map[string]bool
	allowMove   map[string]bool
	giveUp      map[string]bool
	allowEmpty  map[string]bool
	repair      bool
	state       string // folder of the state; "" = the one of the world
	gate        *gate  // through which the machines are reached; nil = none
	dieAt       int64  // the step at which the process dies; 0 = it does not
}

// outcome is what became of a command.
type outcome struct {
	err     error
	held    map[string]bool // functionalities
	why     []string        // of what is held
	changes *plan.ChangeSet // before it was applied
	blocked map[string]bool // addresses whose data is gone: nothing was applied
	left    map[string]bool // addresses that somebody changed, and that were left so
	result  *apply.Result
	failed  map[string]error
	died    bool
	ran     bool // apply.Run was called
}

// clean reports whether everything was made as the deployment asks for.
func (o *outcome) clean() bool {
	return o.err == nil && !o.died && len(o.held)+len(o.blocked)+len(o.left) == 0 && o.result != nil && len(o.result.Failed)+len(o.result.Skipped)+len(o.result.Unflushed)+len(o.result.Unasked) == 0
}

// nothing reports whether an apply said that there is nothing to do.
func (o *outcome) nothing() bool {
	return o.clean() && o.changes.Empty() && o.result.Changes.Empty()
}

// execute does what defx apply --yes does with a deployment.
func (w *world) execute(s *scope, o options) *outcome {
	out := &outcome{held: map[string]bool{}, blocked: map[string]bool{}, left: map[string]bool{}, failed: map[string]error{}}
	ctx := context.Background()
	p := w.project(o.by, s, o)
	if o.state != "" {
		p.StateDir = o.state
	}
	d, err := p.Plan(ctx)
	if err != nil {
		out.err = err
		return out
	}
	out.setHeld(d)
	r := p.ApplyRequest(d)
	w.prepare(r, o)
	w.executeRequest(ctx, r, o, out)
	return out
}

func (o *outcome) setHeld(d *project.Desired) {
	for _, h := range d.Held {
		o.held[h.Name] = true
		o.why = append(o.why, h.Err.Error())
	}
}

// executeRequest asks the machines and applies a request.
func (w *world) executeRequest(ctx context.Context, r *apply.Request, o options, out *outcome) {
	if !o.repair {
		r.Repair = func(_ string, needs plan.Repair) bool { return needs != plan.RepairConsent }
	}
	if out.err = r.RefreshMachines(ctx); out.err != nil {
		return
	}
	defer r.Refreshed.Close()
	if out.changes, out.err = apply.Diff(ctx, r); out.err != nil {
		return
	}
	out.setDrift(out.changes)
	if len(out.blocked) > 0 {
		return
	}
	var mu sync.Mutex
	r.OnEvent = func(e apply.Event) {
		if e.Err != nil && (e.Outcome == apply.Failed || e.Outcome == apply.Skipped) {
			mu.Lock()
			defer mu.Unlock()
			out.failed[e.Action.Address] = e.Err
		}
	}
	out.ran = true
	if out.result, out.err = apply.Run(ctx, r); out.err == nil {
		out.setDrift(out.result.Changes)
	}
}

func (o *outcome) setDrift(cs *plan.ChangeSet) {
	for _, d := range cs.Drifted {
		switch d.Needs {
		case plan.NeedsEmpty:
			o.blocked[d.Address] = true
		case plan.NeedsRepair:
			o.left[d.Address] = true
		}
	}
}

// refused reports whether a command was refused because of the state's ancestry.
func (o *outcome) refused() bool {
	var unknown *apply.ErrUnknownApply
	var other *apply.ErrOtherState
	return errors.As(o.err, &unknown) || errors.As(o.err, &other)
}

// apply applies the deployment of a scope, and checks what became of it.
func (w *world) apply(s *scope, o options) *outcome {
	w.number++
	before := w.look()
	verdict := w.judge(s, before)
	var fingerprint any
	if verdict != mustAccept {
		fingerprint = w.disks.fingerprint()
	}
	var out *outcome
	w.sight = nil
	left := w.runUntil(o.dieAt, func() { out = w.execute(s, o) })
	if left != nil {
		w.disks, out.died = left, true
	}
	after := w.look()
	w.checkApply(s, o, before, after, fingerprint, verdict, out)
	return out
}
