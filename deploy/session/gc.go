package session

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// GCOptions say what to keep.
type GCOptions struct {
	Keep    int  // the files of so many of the newest generations stay on machines
	History int  // older generations are deleted; 0 keeps all
	DryRun  bool // delete nothing

	OnWait func(*state.ErrLeaseHeld) // may be nil; called when it waits for an apply
}

// Collected is what was deleted in one place.
type Collected struct {
	Machine string   `json:"machine"` // "" = packages for modules, in the state's folder
	Freed   uint64   `json:"freed"`   // bytes
	Gone    []string `json:"gone"`
}

// GCResult is what a garbage collection deleted.
type GCResult struct {
	Places []Collected // sorted by machine
	State  state.Pruned

	Unreachable map[string]error // machines that were not cleaned up
	StateErr    error            // why the state was not cleaned up; may be nil
}

// GC deletes what neither a deployed unit nor one of the newest generations
// references: files on machines, packages for modules, objects of the state.
func (s *Session) GC(ctx context.Context, o GCOptions) (*GCResult, error) {
	if o.History > 0 {
		o.Keep = min(o.Keep, o.History)
	}
	store := s.Store()
	live, err := referenced(ctx, store, o.Keep)
	if err != nil {
		return nil, err
	}
	res := &GCResult{Places: []Collected{}}
	var mu sync.Mutex
	res.Unreachable = s.Visit(ctx, s.MachineNames(), func(name string, c *agent.Client) error {
		freed, gone, err := c.Collect(ctx, sets.Keys(live), o.DryRun)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		res.Places = append(res.Places, Collected{name, freed, append([]string{}, gone...)})
		return nil
	})
	modules := Collected{}
	if modules, res.State, err = s.pruneState(ctx, store, o); err != nil {
		res.StateErr = fmt.Errorf("the state was not cleaned up: %w", err)
	}
	if len(modules.Gone) > 0 {
		res.Places = append(res.Places, modules)
	}
	slices.SortFunc(res.Places, func(a, b Collected) int { return strings.Compare(a.Machine, b.Machine) })
	return res, nil
}

// referenced returns the units and artifacts of the newest generations.
func referenced(ctx context.Context, store *state.Dir, keep int) (map[digest.Digest]bool, error) {
	list, err := state.History(ctx, store, keep)
	if err != nil {
		return nil, err
	}
	live := map[digest.Digest]bool{}
	return live, state.NewReader(store).Each(ctx, list, func(r plan.Record) error {
		if r.Object == "" || live[r.Object] {
			return nil
		}
		live[r.Object] = true
		var u plan.Unit
		if err := state.Load(ctx, store, r.Object, &u); err != nil {
			return fmt.Errorf("%s: %w", r.Address, err)
		}
		for _, a := range u.Artifacts {
			live[a.Digest] = true
		}
		return nil
	})
}

var errUnfinished = diag.Errorf("", "an apply was interrupted").WithHint("run defx apply to finish it")

// pruneState cleans up the state's folder, under the lease of all addresses. It
// fails if an interrupted apply has still to be finished.
func (s *Session) pruneState(ctx context.Context, store *state.Dir, o GCOptions) (modules Collected, pruned state.Pruned, err error) {
	prune := func(ctx context.Context, _ state.Lease) error {
		unfinished, err := apply.ReadUnfinished(ctx, store)
		if err != nil {
			return err
		}
		if unfinished != nil {
			return errUnfinished
		}
		live, err := referenced(ctx, store, o.Keep)
		if err != nil {
			return err
		}
		runner := s.Project.TerraformRunner(s.Deployment, s.Environment)
		if modules.Freed, modules.Gone, err = runner.Collect(live, o.DryRun); err != nil {
			return err
		}
		pruned, err = state.Prune(ctx, store, o.History, o.DryRun)
		return err
	}
	head, err := store.Head(ctx)
	switch {
	case err != nil || head.Generation == 0: // nothing is written where nothing was applied
	case o.DryRun:
		err = prune(ctx, state.Lease{})
	default:
		err = state.WithLease(ctx, store, state.LeaseOptions{Verb: "gc", Wait: time.Minute, TTL: s.Project.LeaseTime, OnWait: o.OnWait}, prune)
	}
	return modules, pruned, err
}
