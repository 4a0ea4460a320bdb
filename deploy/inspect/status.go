// Package inspect reports on one environment of a deployment: what is deployed,
// how it got there, what is running, and why a unit is what it is.
//
// It refuses to change anything, and to know how a report is displayed.
// Invariant: the state and the machines are only read.
package inspect

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
)

// States of a deployed unit.
const (
	Deployed = "deployed"
	Held     = "held"    // its configuration has an error
	Failed   = "failed"  // its update failed: the version before it is deployed
	Unknown  = "unknown" // an apply was interrupted
)

// Unit is one deployed unit.
type Unit struct {
	Address    string                 `json:"address"`
	Machine    string                 `json:"machine"` // "" = a module of resources
	Backend    string                 `json:"backend"`
	Digest     digest.Digest          `json:"digest"`
	State      string                 `json:"state"`
	Generation int                    `json:"generation"` // that deployed it as it is
	Since      time.Time              `json:"since"`
	Earlier    bool                   `json:"earlier,omitempty"` // deployed before Since, by a generation that gc deleted
	Protected  bool                   `json:"protected,omitempty"`
	Running    *agent.SupervisorState `json:"running,omitempty"` // with refresh
	Drift      []string               `json:"drift,omitempty"`   // with refresh: differences from the record
	Runs       *agent.Runs            `json:"runs,omitempty"`    // with refresh: of a scheduled job
}

// Status is what is deployed in an environment.
type Status struct {
	Generation  *state.Generation // never nil
	Interrupted bool              // an apply was interrupted
	Units       []Unit            // by address
	Orphans     []string          // with refresh: unreferenced objects on machines, sorted
	Unreachable map[string]error  // with refresh: machines that could not be asked
}

// NewStatus reads the status from the state.
func NewStatus(ctx context.Context, s *session.Session) (*Status, error) {
	store := s.Store()
	history, err := state.History(ctx, store, 0)
	if err != nil {
		return nil, err
	}
	unfinished, err := apply.ReadUnfinished(store.Path())
	if err != nil {
		return nil, err
	}
	gen := s.Generation
	since, err := state.NewReader(store).Since(ctx, history)
	if err != nil {
		return nil, err
	}
	var held []string
	if s.Desired != nil {
		held = s.Desired.HeldUnits
	}
	st := &Status{Generation: gen, Interrupted: unfinished != nil, Units: []Unit{}}
	for _, r := range gen.Records {
		by := cmp.Or(since[r.Address], gen) // an apply may have ended since the state was opened
		u := Unit{Address: r.Address, Machine: r.Machine, Backend: r.Backend, Digest: r.Digest, State: Deployed,
			Generation: by.Number, Since: by.Applied, Earlier: OldestKept(history) == by, Protected: r.Protect || r.Stateful}
		switch {
		case r.Digest == "" || unfinished != nil && unfinished.Units[r.Address] != nil:
			u.State = Unknown
		case slices.Contains(gen.Failed, r.Address):
			u.State = Failed
		case slices.Contains(held, r.Address):
			u.State = Held
		}
		st.Units = append(st.Units, u)
	}
	return st, nil
}

// OldestKept returns the oldest generation of a history, newest first, if gc
// deleted those before it, so that it is unknown what it changed; else nil.
func OldestKept(history []*state.Generation) *state.Generation {
	if n := len(history); n > 0 && history[n-1].Parent != "" {
		return history[n-1]
	}
	return nil
}

// Refresh asks the machines for the state of the units, and for orphans.
func (st *Status) Refresh(ctx context.Context, s *session.Session) {
	var mu sync.Mutex
	st.Unreachable = s.Visit(ctx, s.UsedMachines(), func(name string, c *agent.Client) error {
		units, err := c.Status(ctx, s.Scope())
		if err != nil {
			return err
		}
		orphans, err := c.Orphans(ctx, s.Scope())
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, o := range orphans {
			st.Orphans = append(st.Orphans, o+" on "+name)
		}
		for i := range st.Units {
			if u := &st.Units[i]; u.Machine == name {
				u.compare(units[u.Address])
			}
		}
		return nil
	})
	slices.Sort(st.Orphans)
}

// compare adds what a machine reports of a unit; nil = nothing.
func (u *Unit) compare(now *agent.UnitStatus) {
	if now == nil {
		u.Drift = []string{"missing on the machine"}
		return
	}
	u.Running, u.Drift, u.Runs = now.State, now.Drift, now.Runs
	if now.Entry.Digest != u.Digest && now.Entry.Digest != "" {
		u.Drift = append(u.Drift, "another version is deployed: "+now.Entry.Digest.Brief())
	}
}

// recordsOn returns the records of the units on a machine, by address.
func recordsOn(machine string, records []plan.Record) map[string]plan.Record {
	out := map[string]plan.Record{}
	for _, r := range records {
		if r.Machine == machine {
			out[r.Address] = r
		}
	}
	return out
}
