package session

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
)

// Recovery repairs the state of one environment. It reads nothing of the state
// before that, because it may be damaged, or of another format.
type Recovery struct {
	Project     *project.Project
	Deployment  string
	Environment string
}

// Recover finds the environment of a project without reading its state.
func Recover(ctx context.Context, p *project.Project, environment string) (*Recovery, error) {
	deployment, environment, err := p.Identify(ctx, environment)
	if err != nil {
		return nil, err
	}
	return &Recovery{p, deployment, environment}, nil
}

// Store returns the state of the environment.
func (r *Recovery) Store() *state.Dir { return r.Project.Store(r.Deployment, r.Environment) }

// Repair repairs damaged files of the state.
func (r *Recovery) Repair(ctx context.Context) (*state.Repaired, error) {
	if err := r.exists(); err != nil {
		return nil, err
	}
	return r.Store().Repair(ctx, state.CurrentOwner("state repair"))
}

// Upgrade converts a state that the version before has written.
func (r *Recovery) Upgrade(ctx context.Context) (state.Head, error) {
	if err := r.exists(); err != nil {
		return state.Head{}, err
	}
	return r.Store().Upgrade(ctx)
}

// exists fails if there is no state.
func (r *Recovery) exists() error {
	if entries, err := os.ReadDir(r.Store().Path()); err != nil || len(entries) == 0 {
		return diag.Errorf("", "%s (%s) has no state: %s", r.Deployment, r.Environment, r.Store().Path()).
			WithHint("--state chooses the folder of the state; defx state rebuild makes a new state from the machines")
	}
	return nil
}

// Pull takes over the state at a location: the state of all environments, or the
// folder of this one. It calls onWait if it has to wait for a lease.
func (r *Recovery) Pull(ctx context.Context, location string, replace bool, onWait func(*state.ErrLeaseHeld)) (*state.Pulled, error) {
	path, err := state.ParseLocation(location)
	if err != nil {
		return nil, err
	}
	folder := path
	if !isEnvironment(folder) {
		folder = filepath.Join(path, r.Deployment, r.Environment)
	}
	if !isEnvironment(folder) {
		return nil, diag.Errorf("", "%s has no state of %s (%s)", path, r.Deployment, r.Environment).WithHint("give the folder of a state, as --state takes it, or of one environment in it")
	}
	if same, err := sameFolder(folder, r.Store().Path()); err == nil && same {
		return nil, diag.Errorf("", "%s is the state of %s (%s) itself", path, r.Deployment, r.Environment)
	}
	from := state.OpenDir(folder)
	from.Deployment, from.Environment = r.Deployment, r.Environment
	return r.Store().Pull(ctx, from, state.LeaseOptions{Verb: "state pull", Wait: time.Minute, OnWait: onWait}, replace)
}

// isEnvironment reports whether a folder has the state of an environment.
func isEnvironment(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "head.json"))
	return err == nil
}

// sameFolder reports whether two paths lead to one folder.
func sameFolder(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y), err
}

// RepairMachine repairs the records of a machine, see apply.RepairMachine.
func (s *Session) RepairMachine(ctx context.Context, name string, onWait func(apply.Event)) (*apply.MachineRepair, error) {
	if s.Machines[name] == nil {
		return nil, s.UnknownMachine(name)
	}
	r := s.Project.NewRequest(s.Deployment, s.Environment, "machine repair")
	r.Machines, r.LeaseWait, r.OnEvent = s.DeclaredMachines(), time.Minute, onWait
	return apply.RepairMachine(ctx, r, name)
}
