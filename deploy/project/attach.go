package project

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/lang/diag"
)

// Balancer finds a balancer of the deployment by its address, or by its name if
// that is unique.
func (d *Desired) Balancer(name string) (*graph.Balancer, error) {
	var names []string
	var found []*graph.Balancer
	for _, b := range d.Graph.Balancers {
		names = append(names, b.Address.String())
		if b.Address.String() == name || b.Address.Name == name {
			found = append(found, b)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, diag.Errorf("", "several libraries have a balancer %q", name).WithHint("say which: %s", strings.Join(names, ", "))
	case len(names) == 0:
		return nil, diag.Errorf("", "there is no balancer %q: this deployment has none", name).WithHint("loadBalancer: { listen: 80, target: 'http', backends: ['web'] } makes one")
	}
	e := diag.Errorf("", "there is no balancer %q", name)
	if e.WithHint("%s", diag.Suggest(name, names)); e.Hint == "" {
		e.WithHint("there is %s", strings.Join(names, ", "))
	}
	return nil, e
}

// Attaching is the work of putting replicas behind a balancer, or of taking
// them out: this alone, whatever else differs from what stands. The entry was
// evaluated with Attach saying the same of the modules.
func (p *Project) Attaching(ctx context.Context, d *Desired, chosen []graph.Attachment) (*apply.Work, error) {
	w := p.Work(d)
	unfinished, err := apply.ReadUnfinished(w.Dir)
	if err != nil {
		return nil, err
	}
	if d.Generation == nil || unfinished != nil {
		return nil, errors.New("nothing stands for certain: it was never applied, or an apply was interrupted\n    hint: defx apply comes first")
	}
	w.Held, w.Moved, w.Verb = nil, nil, "attach"
	w.Plan = &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: d.Name, Environment: d.Environment, Units: []plan.Placed{}}
	stands := map[string]bool{}
	for _, r := range d.Generation.Records {
		if r.Digest == "" {
			return nil, diag.Errorf(r.Address, "nobody knows what stands of it").WithHint("defx apply finds out, and mends it")
		}
		stands[r.Address] = true
		if is, said := p.Attach[r.Address]; !said || is {
			w.Plan.Units = append(w.Plan.Units, r.Placed())
		}
	}
	w.Good = map[string]map[string]json.RawMessage{}
	for lib, object := range d.Generation.Good {
		funcs := map[string]json.RawMessage{}
		if err := state.Load(ctx, w.Store, object, &funcs); err != nil {
			return nil, err
		}
		w.Good[lib] = funcs
	}
	for _, a := range chosen {
		if !p.Attach[a.Module] || stands[a.Module] {
			continue
		}
		u := d.Rendered.Plan.Find(a.Module)
		if u == nil || !stands[a.Backend.String()] || len(u.Values) < len(u.Binds) {
			return nil, diag.Errorf(a.Backend.String(), "it, its instance or its balancer does not stand yet").WithHint("defx apply makes them; attach it then")
		}
		unit := *u
		unit.Unknown, unit.Binds = nil, nil // what stands is what it is attached to
		w.Plan.Units = append(w.Plan.Units, unit)
	}
	slices.SortFunc(w.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	return w, nil
}
