package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/internal/diag"
)

// restartTimeout limits a restart, including the wait for an apply on the machine.
const restartTimeout = 11 * time.Minute

// Restart restarts the deployed version of a unit and waits until it is ready.
// A unit that is registered with a load balancer is deregistered meanwhile.
func (s *Session) Restart(ctx context.Context, r plan.Record) error {
	var err error
	if s.isBalanced(r.Address) {
		err = s.restartBalanced(ctx, r.Address)
	} else {
		err = s.restartUnit(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", s.Names().Text(r.Address), r.Machine, err)
	}
	return nil
}

// restartUnit restarts a unit that no balancer sends requests to.
func (s *Session) restartUnit(ctx context.Context, r plan.Record) error {
	c, err := s.Dial(ctx, r.Machine)
	if err != nil {
		return err
	}
	defer c.Close()
	limited, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	return c.Restart(limited, s.Scope(), r.Address)
}

// isBalanced reports whether a balancer sends requests to a unit.
func (s *Session) isBalanced(address string) bool {
	return slices.ContainsFunc(s.Records, func(r plan.Record) bool { return r.Drain > 0 && slices.Contains(r.Follows, address) })
}

// restartBalanced applies the deployed units unchanged except for the restart of
// one. Its journal lets the next apply finish if it does not come to its end.
func (s *Session) restartBalanced(ctx context.Context, address string) error {
	w, err := s.Project.DeployedUnits(ctx, s.Deployment, s.Environment, s.Generation, s.DeclaredMachines(), address)
	if err != nil {
		return err
	}
	var failed error
	w.Verb, w.Restart, w.LeaseWait, w.Revision = "restart", address, time.Minute, apply.Recorded(s.Generation.Revision)
	w.OnEvent = func(e apply.Event) {
		if e.Outcome == apply.Failed {
			failed = errors.Join(failed, diag.Errorf("", "%v", e.Err).WithHint("restart it again or run defx apply; that registers it with its load balancer again"))
		}
	}
	res, err := apply.Run(ctx, w)
	if err != nil {
		return err
	}
	if failed == nil && res.Stopped {
		return ctx.Err()
	}
	return failed
}
