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
	"strings"
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
	Failed   = "failed"  // it was not created or updated: the version before it, if there is one, is deployed
	Unknown  = "unknown" // an apply was interrupted

	RolledBack  = "rolled back" // its new version did not work, and the one before was restored
	Skipped     = "skipped"     // it was not created or updated, because something that it needs failed
	Interrupted = "interrupted" // the last apply ended before it was created or updated
	Stopped     = "stopped"     // by defx stop
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
	Reason     string                 `json:"reason,omitempty"`  // why it is in this state, in one line
	Wanted     digest.Digest          `json:"wanted,omitempty"`  // of the version that did not become deployed
	Stopped    *plan.Stopped          `json:"stopped,omitempty"` // it was stopped on purpose
	Rejected   *plan.Rejected         `json:"rejected,omitempty"`
	Running    *agent.SupervisorState `json:"running,omitempty"` // with refresh
	Drift      []string               `json:"drift,omitempty"`   // with refresh: differences from the record
	Runs       *agent.Runs            `json:"runs,omitempty"`    // with refresh: of a scheduled job

	Differences []plan.Difference `json:"differences,omitempty"` // with refresh: the drift by field and cause
}

// Status is what is deployed in an environment.
type Status struct {
	Generation  *state.Generation // never nil
	Interrupted bool              // an apply was interrupted
	Units       []Unit            // by address
	Orphans     []string          // with refresh: unreferenced objects on machines, sorted
	Removals    []plan.Removal    // what is still to be removed from machines that units have moved away from
	Unreachable map[string]error  // with refresh: machines that could not be asked
}

// NewStatus reads the status from the state.
func NewStatus(ctx context.Context, s *session.Session) (*Status, error) {
	store := s.Store()
	history, err := state.History(ctx, store, 0)
	if err != nil {
		return nil, err
	}
	unfinished, err := apply.ReadUnfinished(ctx, store)
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
		u.Stopped, u.Rejected = r.Stopped, r.Rejected
		outcome := outcomeAt(gen.Outcomes, r.Address)
		switch {
		case r.Digest == "" || unfinished != nil && unfinished.Units[r.Address] != nil:
			u.State = Unknown
		case outcome != nil:
			u.setOutcome(*outcome)
		case slices.Contains(gen.Failed, r.Address):
			u.State = Failed
		case r.Stopped != nil:
			u.State, u.Reason = Stopped, r.Stopped.Reason
		case slices.Contains(held, r.Address):
			u.State = Held
		}
		st.Units = append(st.Units, u)
	}
	for _, o := range gen.Outcomes {
		if slices.ContainsFunc(gen.Records, func(r plan.Record) bool { return r.Address == o.Address }) || o.Digest == "" {
			continue
		}
		u := Unit{Address: o.Address, Machine: o.Machine, Generation: gen.Number, Since: gen.Applied}
		u.setOutcome(o)
		st.Units = append(st.Units, u)
	}
	slices.SortStableFunc(st.Units, func(a, b Unit) int { return strings.Compare(a.Address, b.Address) })
	st.Removals = gen.Removals
	return st, nil
}

// outcomeAt returns the outcome of the unit at an address, or nil.
func outcomeAt(list []state.Outcome, address string) *state.Outcome {
	for i := range list {
		if list[i].Address == address {
			return &list[i]
		}
	}
	return nil
}

// setOutcome sets the state of a unit that did not become what the last apply wanted.
func (u *Unit) setOutcome(o state.Outcome) {
	u.Reason, u.Wanted = o.Reason, o.Digest
	u.State = map[string]string{state.OutcomeFailed: Failed, state.OutcomeRolledBack: RolledBack, state.OutcomeSkipped: Skipped, state.OutcomeInterrupted: Interrupted}[o.Outcome]
}

// Wrong reports whether something is wrong with a unit, as far as is known.
func (u *Unit) Wrong() bool {
	return len(u.Drift) > 0 || u.State != Deployed && u.State != Held && u.State != Stopped
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
		limited, cancel := context.WithTimeout(ctx, machineTimeout)
		defer cancel()
		answer, err := c.Refresh(limited, agent.RefreshRequest{Scope: s.Scope(), Details: true})
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
				u.compare(answer)
			}
		}
		return nil
	})
	slices.Sort(st.Orphans)
}

// compare adds what a machine reports of a unit.
func (u *Unit) compare(answer *agent.Refreshed) {
	now := answer.Units[u.Address]
	switch {
	case now == nil && u.Digest == "": // it was never created
		return
	case now == nil && !answer.Known && answer.Runs:
		u.differ(plan.CauseReinstalled)
		return
	case now == nil:
		u.differ(plan.CauseNotThere)
		return
	}
	st := now.Status()
	u.Running, u.Drift, u.Runs, u.Differences = st.State, st.Drift, st.Runs, now.Differences
	if now.Entry.Digest != u.Digest && now.Entry.Digest != "" && u.Digest != "" {
		u.Drift = append(u.Drift, "another version is deployed: "+now.Entry.Digest.Brief())
		u.Differences = append(u.Differences, plan.Difference{Field: "version", Cause: plan.CauseReverted, Detail: "it has version " + now.Entry.Digest.Brief()})
	}
}

// differ adds a difference of the unit as a whole.
func (u *Unit) differ(cause plan.Cause) {
	u.Drift = []string{string(cause)}
	u.Differences = []plan.Difference{{Field: "record", Cause: cause}}
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
