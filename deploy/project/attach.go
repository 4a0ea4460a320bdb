package project

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/digest"
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
	if d.Generation == nil {
		return nil, errUncertain
	}
	w, err := p.Standing(ctx, d.Name, d.Environment, d.Generation, d.Graph.Machines)
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

// Standing is the work of making what stands in an environment what it is:
// nothing, until somebody asks for more.
func (p *Project) Standing(ctx context.Context, deployment, environment string, gen *state.Generation, machines []*graph.Machine) (*apply.Work, error) {
	store := p.Store(deployment, environment)
	w := &apply.Work{Store: store, Dir: store.Path(), Objects: map[digest.Digest][]byte{}, Good: map[string]map[string]json.RawMessage{}, Machines: machines,
		Dial: p.Dialer().Dial, HostKey: p.Dialer().HostKey, Artifact: p.artifacts.Stream, Modules: p.Shop(deployment, environment),
		Plan: &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: deployment, Environment: environment, Units: []plan.Placed{}}}
	if unfinished, err := apply.ReadUnfinished(w.Dir); err != nil {
		return nil, err
	} else if unfinished != nil {
		return nil, errUncertain
	}
	for _, r := range gen.Records {
		if r.Digest == "" {
			return nil, diag.Errorf(r.Address, "nobody knows what stands of it").WithHint("defx apply finds out, and mends it")
		}
		w.Plan.Units = append(w.Plan.Units, r.Placed())
	}
	slices.SortFunc(w.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	for lib, object := range gen.Good {
		funcs := map[string]json.RawMessage{}
		if err := state.Load(ctx, store, object, &funcs); err != nil {
			return nil, err
		}
		w.Good[lib] = funcs
	}
	return w, nil
}
