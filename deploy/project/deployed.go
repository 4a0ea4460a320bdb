package project

import (
	"context"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
)

func unfinishedApply() *diag.Error {
	return diag.Errorf("", "what is deployed is not known for certain: nothing was ever applied, or an apply was interrupted").WithHint("run defx apply first")
}

func unknownVersion(address string) *diag.Error {
	return diag.Errorf(address, "its deployed version is unknown").WithHint("defx apply finds it out and repairs it")
}

// DeployedUnits returns a request whose plan is what is deployed in an
// environment, so that it changes nothing until the caller edits it.
//
// Every deployed version must be known. With restart, the address of a unit that
// the caller will restart, only the version of that unit must be: units that
// forward traffic to it (a drain, following it) get their intended version, and
// other units of unknown version are held.
func (p *Project) DeployedUnits(ctx context.Context, deployment, environment string, gen *state.Generation, machines []*graph.Machine, restart string) (*apply.Request, error) {
	store := p.Store(deployment, environment)
	w := p.NewRequest(deployment, environment, "")
	w.Machines = machines
	if unfinished, err := apply.ReadUnfinished(ctx, store); err != nil {
		return nil, err
	} else if unfinished != nil {
		return nil, unfinishedApply()
	}
	unknown := map[string]bool{}
	for _, r := range gen.Records {
		u := r.Placed()
		if r.Digest == "" && restart != "" && r.Drain > 0 && slices.Contains(r.Follows, restart) {
			var err error
			if u, err = intendedVersion(ctx, store, gen, r, restart); err != nil {
				return nil, err
			}
		} else if r.Digest == "" && (restart == "" || r.Address == restart) {
			return nil, unknownVersion(r.Address)
		}
		unknown[r.Address] = u.Digest == ""
		w.Plan.Units = append(w.Plan.Units, u)
	}
	if restart != "" {
		w.Held = func(address string) bool { return unknown[address] }
	}
	slices.SortFunc(w.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	var err error
	w.LastGood, err = state.LoadLastGood(ctx, store, gen)
	return w, err
}

// intendedVersion returns the version that a unit of unknown version, which
// forwards traffic to service, should have. If service is deployed as the
// generation's plan has it, that is the version in the plan; a unit that is not
// in the plan stays unknown. Otherwise it is the last version that was complete.
func intendedVersion(ctx context.Context, store state.Store, gen *state.Generation, r plan.Record, service string) (plan.Placed, error) {
	last, err := state.LoadPlan(ctx, store, gen)
	if err != nil {
		return r.Placed(), err
	}
	i := slices.IndexFunc(gen.Records, func(r plan.Record) bool { return r.Address == service })
	if s := last.Find(service); i >= 0 && s != nil && s.Digest == gen.Records[i].Digest {
		if u := last.Find(r.Address); u != nil {
			return *u, nil
		}
		return r.Placed(), nil
	}
	if r.Object == "" {
		return r.Placed(), unknownVersion(r.Address)
	}
	var u plan.Unit
	if err := state.Load(ctx, store, r.Object, &u); err != nil {
		return r.Placed(), err
	}
	complete := r.Placed()
	complete.Digest, err = u.Digest()
	return complete, err
}
