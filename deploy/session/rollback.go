package session

import (
	"context"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
)

// RollbackTarget chooses the generation to roll back to from a history, newest
// first: the one with the number, or with number 0 the newest one whose plan
// differs from the current plan.
func RollbackTarget(history []*state.Generation, number int) (*state.Generation, error) {
	current := history[0]
	for _, g := range history {
		if number == g.Number || number == 0 && g.Plan != current.Plan {
			return g, nil
		}
	}
	if number == 0 {
		return nil, diag.Errorf("", "no earlier generation differs from the current one").WithHint("defx history lists the generations; choose one with --to")
	}
	return nil, diag.Errorf("", "there is no generation %d", number).WithHint("defx history lists the generations that are kept: %d to %d", history[len(history)-1].Number, current.Number)
}

// Rollback prepares an apply of the plan of an earlier generation, chosen as
// RollbackTarget does.
func (s *Session) Rollback(ctx context.Context, number int) (*state.Generation, *apply.Request, error) {
	store := s.Store()
	history, err := state.History(ctx, store, 0)
	if err != nil {
		return nil, nil, err
	}
	if len(history) == 0 {
		return nil, nil, diag.Errorf("", "%s (%s) was never applied", s.Deployment, s.Environment).WithHint("run defx apply first")
	}
	target, err := RollbackTarget(history, number)
	if err != nil {
		return nil, nil, err
	}
	r := s.Project.NewRequest(s.Deployment, s.Environment, "rollback")
	r.Revision, r.Moved = apply.Recorded(target.Revision), state.AddressAt(history, target.Number)
	r.Machines = slices.Clone(s.DeclaredMachines())
	for _, m := range target.Machines {
		if !slices.ContainsFunc(r.Machines, func(declared *graph.Machine) bool { return declared.Name == m.Name }) {
			r.Machines = append(r.Machines, m)
		}
	}
	if r.Plan, err = state.LoadPlan(ctx, store, target); err != nil {
		return nil, nil, err
	}
	r.LastGood, err = state.LoadLastGood(ctx, store, target)
	return target, r, err
}

// Destroy prepares an apply of an empty plan. There may be no generation: the
// first apply may have been killed.
func (s *Session) Destroy() *apply.Request {
	r := s.Project.NewRequest(s.Deployment, s.Environment, "destroy")
	r.Machines = s.DeclaredMachines()
	r.HostKey = nil // nothing new is trusted for a machine that is about to go
	return r
}
