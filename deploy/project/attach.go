package project

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/internal/diag"
)

// Balancer returns the balancer with an address, or with a name that is unique
// in the deployment.
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
		return nil, diag.Errorf("", "several libraries have a balancer %q", name).WithHint("use one of %s", strings.Join(names, ", "))
	case len(names) == 0:
		return nil, diag.Errorf("", "there is no balancer %q: this deployment has none", name).WithHint("add one: loadBalancer: { listen: 80, target: 'http', backends: ['web'] }")
	}
	e := diag.Errorf("", "there is no balancer %q", name)
	if e.WithHint("%s", diag.Suggest(name, names)); e.Hint == "" {
		e.WithHint("there is %s", strings.Join(names, ", "))
	}
	return nil, e
}

// AttachRequest returns the request to register the chosen replicas with their
// balancers, or to deregister them, and to change nothing else. d must have been
// evaluated with p.Attach set accordingly.
func (p *Project) AttachRequest(ctx context.Context, d *Desired, chosen []graph.Attachment) (*apply.Request, error) {
	if d.Generation == nil {
		return nil, unfinishedApply()
	}
	w, err := p.DeployedUnits(ctx, d.Name, d.Environment, d.Generation, d.Graph.Machines, "")
	if err != nil {
		return nil, err
	}
	w.Verb, w.Revision = "attach", p.Revision
	maps.Copy(w.Objects, d.Rendered.Objects)
	w.Plan.Units = slices.DeleteFunc(w.Plan.Units, func(u plan.Placed) bool { attach, named := p.Attach[u.Address]; return named && !attach })
	for _, a := range chosen {
		if !p.Attach[a.Module] || w.Plan.Find(a.Module) != nil {
			continue
		}
		u := d.Rendered.Plan.Find(a.Module)
		if u == nil || w.Plan.Find(a.Backend.String()) == nil || len(u.Values) < len(u.Binds) {
			return nil, diag.Errorf(a.Backend.String(), "it, its instance or its balancer is not deployed yet").WithHint("run defx apply first")
		}
		unit := *u
		unit.Unknown, unit.Binds = nil, nil // it is attached to what is deployed now
		w.Plan.Units = append(w.Plan.Units, unit)
		slices.SortFunc(w.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	}
	return w, nil
}
