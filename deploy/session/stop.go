package session

import (
	"context"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
)

// StopRequest prepares an apply of the deployed units that stops one of them, for a reason, and
// leaves all others as they are.
func (s *Session) StopRequest(ctx context.Context, r plan.Record, reason string) (*apply.Request, error) {
	text := s.Names().Text(r.Address)
	switch {
	case r.Machine == "":
		return nil, diag.Errorf(text, "it is a module of resources, which cannot be stopped")
	case r.Stopped != nil:
		return nil, diag.Errorf(text, "it was stopped already by %s (%s)", r.Stopped.By, r.Stopped.Reason).WithHint("defx start %s starts it", text)
	case s.isBalanced(r.Address):
		return nil, diag.Errorf(text, "it is registered with a load balancer, which would send requests to it").WithHint("deregister it first: defx detach BALANCER %s", text)
	}
	w, err := s.deployedRequest(ctx, "stop", r.Address)
	if err != nil {
		return nil, err
	}
	w.Stop = map[string]*plan.Stopped{r.Address: {Reason: reason, By: state.CurrentOwner("stop").Who, At: time.Now().UTC().Truncate(time.Second)}}
	return w, nil
}

// StartRequest prepares an apply of the deployed units that starts one that was stopped, and leaves
// all others as they are.
func (s *Session) StartRequest(ctx context.Context, r plan.Record) (*apply.Request, error) {
	if text := s.Names().Text(r.Address); r.Stopped == nil {
		return nil, diag.Errorf(text, "it was not stopped by defx stop").WithHint("defx restart %s restarts it; defx apply starts what others stopped", text)
	}
	w, err := s.deployedRequest(ctx, "start", r.Address)
	if err != nil {
		return nil, err
	}
	w.Start = map[string]bool{r.Address: true}
	return w, nil
}

// deployedRequest returns a request whose plan is what is deployed. Units of unknown version, except
// the one at an address, are held.
func (s *Session) deployedRequest(ctx context.Context, verb, address string) (*apply.Request, error) {
	w, err := s.Project.DeployedUnits(ctx, s.Deployment, s.Environment, s.Generation, s.DeclaredMachines(), address)
	if err != nil {
		return nil, err
	}
	w.Verb, w.Revision = verb, apply.Recorded(s.Generation.Revision)
	return w, nil
}
