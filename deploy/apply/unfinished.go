package apply

import (
	"context"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/sets"
)

// Unfinished is what the open intents of a state announce: applies that were
// interrupted, or that are still running, and the units whose records are
// uncertain until their machines are asked.
type Unfinished struct {
	Applies  []string                   // IDs, sorted
	Units    map[string]map[string]bool // address → machines on which it may have been changed
	Names    []string                   // of all machines to ask, sorted
	Machines []*graph.Machine           // their connections when the applies began
}

// ReadUnfinished reads the open intents of a state. It returns nil if there are none.
func ReadUnfinished(ctx context.Context, s state.Store) (*Unfinished, error) {
	h, err := s.Head(ctx)
	if err != nil {
		return nil, err
	}
	return unfinishedOf(ctx, s, h)
}

// unfinishedOf reads the open intents of a head.
func unfinishedOf(ctx context.Context, s state.Store, h state.Head) (*Unfinished, error) {
	intents, err := state.LoadIntents(ctx, s, h)
	if err != nil || len(intents) == 0 {
		return nil, err
	}
	u := &Unfinished{Units: map[string]map[string]bool{}}
	for _, i := range intents {
		u.Applies = append(u.Applies, i.Apply)
		u.Machines = append(u.Machines, i.Connections...)
		u.Names = append(u.Names, i.Machines...)
		for address, machines := range i.Units {
			for _, name := range machines {
				if u.Units[address] == nil {
					u.Units[address] = map[string]bool{}
				}
				u.Units[address][name] = true
			}
		}
	}
	slices.Sort(u.Applies)
	u.Names = sets.Union(u.Names)
	return u, nil
}

// fenceInterrupted announces the apply on the machines that interrupted applies were
// going to change, also where nothing is left to do: their processes may be slow, not
// dead, and must change nothing any more. A machine that does not answer is left out.
func (r *run) fenceInterrupted(ctx context.Context, u *Unfinished) {
	if u == nil {
		return
	}
	var names []string
	for _, name := range u.Names {
		if _, answered := r.answer(ctx, name); answered && name != "" {
			names = append(names, name)
		}
	}
	forEachParallel(names, func(name string) error {
		r.prepareWrite(ctx, name) // the actions on it report an error
		return nil
	})
}

// intent describes an apply that is going to execute a change set, after interrupted
// ones, if there are any.
func (r *run) intent(cs *plan.ChangeSet, interrupted *Unfinished) state.IntentDetail {
	units := map[string][]string{}
	add := func(address string, machines ...string) {
		if address != "" {
			units[address] = sets.Union(units[address], machines)
		}
	}
	names := map[string]bool{}
	for i := range cs.Actions {
		a := &cs.Actions[i]
		on := []string{a.Machine}
		if a.From != "" && a.From != a.Machine {
			on = append(on, a.From)
		}
		for _, name := range on {
			names[name] = true
		}
		add(a.Address, on...)
		if a.PreviousAddress != "" {
			from := a.Machine
			if a.From != "" {
				from = a.From
			}
			add(a.PreviousAddress, from)
		}
		for _, service := range []string{a.Address, a.PreviousAddress} {
			for _, rec := range r.balancersOf(service) {
				add(rec.Address, "")
			}
		}
	}
	for _, x := range cs.Removals {
		names[x.Machine] = true
		add(x.Address, x.Machine)
	}
	if interrupted != nil {
		for _, name := range interrupted.Names {
			names[name] = true
		}
	}
	delete(names, "") // of modules
	d := state.IntentDetail{Units: units, Intent: state.Intent{Apply: r.caller.Apply, Token: r.caller.Token, ChangeSet: cs.ChangeSet, Verb: r.req.Verb,
		By: r.caller.By, Started: now(), Machines: sets.Keys(names)}}
	for _, name := range d.Machines {
		if m := r.machines[name]; m != nil {
			d.Connections = append(d.Connections, m.decl)
		}
	}
	return d
}
