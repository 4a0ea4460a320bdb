package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
)

// ground is what stands of one environment, and how its machines are reached.
type ground struct {
	p        *project.Project
	at       place
	gen      *state.Generation // never nil; its number is 0 if nothing was ever applied
	records  []plan.Record
	machines map[string]*graph.Machine
}

func (o *options) ground(ctx context.Context) (*ground, error) {
	p, at, err := o.which(ctx)
	if err != nil {
		return nil, err
	}
	g := &ground{p: p, at: at, machines: map[string]*graph.Machine{}}
	if g.gen, _, err = state.Current(ctx, p.Store(at.name, at.env)); err != nil {
		return nil, err
	}
	if g.gen == nil {
		g.gen = &state.Generation{}
	}
	for _, m := range slices.Concat(g.gen.Machines, at.machines()) {
		g.machines[m.Name] = m
	}
	g.records = g.gen.Records
	if at.desired != nil {
		g.records = apply.RenameMachines(g.gen.Records, g.gen.Machines, at.machines())
	}
	return g, nil
}

// scope names the deployment and its environment on machines.
func (g *ground) scope() string { return g.at.env + "/" + g.at.name }

// unit finds what stands at an address.
func (g *ground) unit(address string) (plan.Record, error) {
	var names []string
	for _, r := range g.records {
		if r.Address == address {
			return r, nil
		}
		names = append(names, r.Address)
	}
	return plan.Record{}, diag.Errorf("", "nothing is deployed at %s in %s (%s)", address, g.at.name, g.at.env).WithHint("%s", orHint(diag.Suggest(address, names), "defx status lists the deployed units"))
}

func orHint(hint, otherwise string) string {
	if hint == "" {
		return otherwise
	}
	return hint
}

// unit opens the ground and finds what stands at an address on it.
func (o *options) unit(ctx context.Context, address string) (*ground, plan.Record, error) {
	g, err := o.ground(ctx)
	if err != nil {
		return nil, plan.Record{}, err
	}
	r, err := g.unit(address)
	return g, r, err
}

// dial reaches a machine.
func (g *ground) dial(ctx context.Context, name string) (*agent.Client, error) {
	m := g.machines[name]
	if name == "" {
		return nil, diag.Errorf("", "it is a module of resources and runs on no machine").WithHint("defx plan --refresh shows its state in the cloud")
	}
	if m == nil {
		return nil, diag.Errorf("", "unknown machine %q", name).WithHint("%s", orHint(diag.Suggest(name, slices.Sorted(maps.Keys(g.machines))), "defx machine list lists the machines"))
	}
	return g.p.Dialer().Dial(ctx, m)
}

// used lists the machines on which something stands.
func (g *ground) used() []string {
	names := map[string]bool{}
	for _, r := range g.records {
		if r.Machine != "" { // modules stand on none
			names[r.Machine] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// visit asks machines at once, a bounded number at a time, and gives the error of each.
func (g *ground) visit(ctx context.Context, names []string, f func(name string, c *agent.Client) error) map[string]error {
	errs := make([]error, len(names))
	room := make(chan struct{}, 20)
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			c, err := g.dial(ctx, name)
			if err == nil {
				err = f(name, c)
				c.Close()
			}
			errs[i] = err
		})
	}
	all.Wait()
	out := map[string]error{}
	for i, err := range errs {
		if err != nil {
			out[names[i]] = err
		}
	}
	return out
}

// names lists the machines.
func (g *ground) names() []string { return slices.Sorted(maps.Keys(g.machines)) }

// silent makes of the errors of machines an error of the verb.
func silent(errs map[string]error) error {
	if len(errs) == 0 {
		return nil
	}
	return &exit{exitPartly, fmt.Errorf("%s unreachable", plural(len(errs), "machine"))}
}
