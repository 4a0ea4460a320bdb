package project

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
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
func (p *Project) Attaching(ctx context.Context, d *Desired, chosen []graph.Attachment) (*apply.Request, error) {
	if d.Generation == nil {
		return nil, errUncertain
	}
	w, err := p.DeployedUnits(ctx, d.Name, d.Environment, d.Generation, d.Graph.Machines, "")
	if err != nil {
		return nil, err
	}
	w.Verb, w.Revision = "attach", p.Revision()
	maps.Copy(w.Objects, d.Rendered.Objects)
	w.Plan.Units = slices.DeleteFunc(w.Plan.Units, func(u plan.Placed) bool { is, said := p.Attach[u.Address]; return said && !is })
	for _, a := range chosen {
		if !p.Attach[a.Module] || w.Plan.Find(a.Module) != nil {
			continue
		}
		u := d.Rendered.Plan.Find(a.Module)
		if u == nil || w.Plan.Find(a.Backend.String()) == nil || len(u.Values) < len(u.Binds) {
			return nil, diag.Errorf(a.Backend.String(), "it, its instance or its balancer does not stand yet").WithHint("defx apply makes them; attach it then")
		}
		unit := *u
		unit.Unknown, unit.Binds = nil, nil // what stands is what it is attached to
		w.Plan.Units = append(w.Plan.Units, unit)
		slices.SortFunc(w.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	}
	return w, nil
}

var errUncertain = errors.New("nothing stands for certain: it was never applied, or an apply was interrupted\n    hint: defx apply comes first")

// DeployedUnits is the work of making what stands in an environment what it is:
// nothing, until somebody asks for more. Of what stands nothing may be in doubt;
// if a unit is only to start anew, it alone: what leads users there is to be
// what it was meant to be, and the rest stays in doubt.
func (p *Project) DeployedUnits(ctx context.Context, deployment, environment string, gen *state.Generation, machines []*graph.Machine, again string) (*apply.Request, error) {
	store := p.Store(deployment, environment)
	w := p.NewRequest(deployment, environment, "")
	w.Machines = machines
	if unfinished, err := apply.ReadUnfinished(w.Dir); err != nil {
		return nil, err
	} else if unfinished != nil {
		return nil, errUncertain
	}
	doubtful := map[string]bool{}
	for _, r := range gen.Records {
		u := r.Placed()
		if r.Digest == "" && again != "" && r.Drain > 0 && slices.Contains(r.Follows, again) {
			var err error
			if u, err = meant(ctx, store, gen, r, again); err != nil {
				return nil, err
			}
		} else if r.Digest == "" && (again == "" || r.Address == again) {
			return nil, unknown(r.Address)
		}
		doubtful[r.Address] = u.Digest == ""
		w.Plan.Units = append(w.Plan.Units, u)
	}
	if again != "" {
		w.Held = func(address string) bool { return doubtful[address] }
	}
	slices.SortFunc(w.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	var err error
	w.LastGood, err = state.LoadLastGood(ctx, store, gen)
	return w, err
}

func unknown(address string) *diag.Error {
	return diag.Errorf(address, "nobody knows what stands of it").WithHint("defx apply finds out, and mends it")
}

// meant is what leads users to a service and is in doubt, as the plan says it if
// the service is what the plan says, and else as it was when it was last whole.
// What was to go stays in doubt.
func meant(ctx context.Context, store state.Store, gen *state.Generation, r plan.Record, service string) (plan.Placed, error) {
	last, err := state.LoadPlan(ctx, store, gen)
	if err != nil {
		return r.Placed(), err
	}
	i := slices.IndexFunc(gen.Records, func(r plan.Record) bool { return r.Address == service })
	if s := last.Find(service); i >= 0 && s != nil && s.Digest == gen.Records[i].Digest {
		if u := last.Find(r.Address); u != nil {
			return *u, nil
		}
		return r.Placed(), nil
	}
	if r.Object == "" {
		return r.Placed(), unknown(r.Address)
	}
	var u plan.Unit
	if err := state.Load(ctx, store, r.Object, &u); err != nil {
		return r.Placed(), err
	}
	whole := r.Placed()
	whole.Digest, err = u.Digest()
	return whole, err
}
