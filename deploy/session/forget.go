package session

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
)

// Forgotten is what the state forgets about a machine.
type Forgotten struct {
	Machine  string        // its name
	Units    []plan.Record // deployed there: they are no longer recorded
	Moved    []string      // addresses of units that had moved away, and would still be removed there
	Declared bool          // the entry file declares the machine: the next apply deploys its units again
}

// Stateful returns the addresses of the units that kept data on the machine.
func (f *Forgotten) Stateful() []string {
	var out []string
	for _, r := range f.Units {
		if r.Stateful {
			out = append(out, r.Address)
		}
	}
	return out
}

// ForgetMachine returns what forgetting a machine would mean, without changing anything.
func (s *Session) ForgetMachine(name string) (*Forgotten, error) {
	f := &Forgotten{Machine: name}
	for _, r := range s.Records {
		if r.Machine == name && name != "" {
			f.Units = append(f.Units, r)
		}
	}
	for _, x := range s.Generation.Removals {
		if x.Machine == name && !x.Forgotten {
			f.Moved = append(f.Moved, x.Address)
		}
	}
	f.Declared = slices.ContainsFunc(s.DeclaredMachines(), func(m *graph.Machine) bool { return m.Name == name })
	switch {
	case len(f.Units)+len(f.Moved) == 0 && s.Machines[name] == nil:
		return nil, s.UnknownMachine(name)
	case len(f.Units)+len(f.Moved) == 0:
		return nil, diag.Errorf("", "nothing of %s (%s) is recorded on machine %s", s.Deployment, s.Environment, name).WithHint("remove it from the entry file")
	}
	return f, nil
}

// Forget writes a generation in which nothing is deployed on a machine any more. What may still be
// there is removed if the machine is declared again and answers.
func (s *Session) Forget(ctx context.Context, f *Forgotten) (*state.Generation, error) {
	store := s.Store()
	var next *state.Generation
	id := state.NewID()
	err := state.WithLease(ctx, store, state.LeaseOptions{Verb: "forget", Apply: id, Wait: time.Minute, TTL: s.Project.LeaseTime}, func(ctx context.Context, l state.Lease) error {
		unfinished, err := apply.ReadUnfinished(ctx, store)
		if err != nil {
			return err
		}
		if unfinished != nil {
			return errUnfinished
		}
		gen, head, err := state.Current(ctx, store)
		if err != nil {
			return err
		}
		if gen == nil || gen.Number != s.Generation.Number {
			return state.ErrHeadMoved
		}
		n := *gen
		n.Apply, n.Token, n.Finished = id, l.Token, nil
		n.Number, n.Parent, n.Verb, n.By = gen.Number+1, head.Object, "forget", state.CurrentOwner("forget").Who
		n.Applied, n.Renamed, n.Failed, n.ChangeSet = time.Now().UTC().Truncate(time.Second), nil, nil, ""
		n.Summary = state.Counts{Deleted: len(f.Units), Unchanged: len(gen.Records) - len(f.Units)}
		leaves := map[string]bool{} // true: with its data
		for _, r := range f.Units {
			leaves[r.Address] = r.Stateful
		}
		n.Records = slices.DeleteFunc(slices.Clone(gen.Records), func(r plan.Record) bool { _, is := leaves[r.Address]; return is })
		n.Machines = slices.DeleteFunc(slices.Clone(gen.Machines), func(m *graph.Machine) bool { return m.Name == f.Machine })
		n.Outcomes = slices.DeleteFunc(slices.Clone(gen.Outcomes), func(o state.Outcome) bool { return o.Machine == f.Machine })
		n.Removals = forgotten(gen.Removals, f.Machine, leaves)
		next = &n
		return state.Commit(ctx, store, head, next)
	})
	return next, err
}

// forgotten returns the removals after a machine was forgotten with its units: address → whether it
// had data.
func forgotten(before []plan.Removal, machine string, units map[string]bool) []plan.Removal {
	units = maps.Clone(units)
	var out []plan.Removal
	for _, x := range before {
		if x.Machine == machine {
			units[x.Address] = units[x.Address] || x.Data
			continue
		}
		out = append(out, x)
	}
	for a, data := range units {
		out = append(out, plan.Removal{Address: a, Machine: machine, Forgotten: true, Data: data})
	}
	slices.SortFunc(out, func(a, b plan.Removal) int { return strings.Compare(a.Address+" "+a.Machine, b.Address+" "+b.Machine) })
	return out
}
