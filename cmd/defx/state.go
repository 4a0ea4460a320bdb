package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/spf13/cobra"
)

func stateCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "state",
		Short:   "Mend the state",
		Long:    "Mend the state of an environment.\n\n" + exitCodes,
		Example: "  defx state rebuild\n  defx state rebuild -e prod",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("defx state wants a verb\n    hint: rebuild")
		},
	}
	cmd.AddCommand(rebuildCommand(o))
	return cmd
}

func rebuildCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Make a lost state anew from what machines hold",
		Long: `Ask every machine that the entry declares what stands there, and make of it the first
generation of a new state. A state that is there is left alone. All machines must
answer: what is not seen would be taken for gone.

` + exitCodes,
		Example:           "  defx state rebuild\n  defx state rebuild -e prod --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			g, err := o.ground(ctx)
			if err != nil {
				return err
			}
			if g.gen.Number > 0 {
				return fmt.Errorf("the state of %s (%s) is there, at generation %d\n    hint: what differs on machines, defx status --refresh tells", g.at.name, g.at.env, g.gen.Number)
			}
			next, err := g.rebuild(ctx)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Rebuilt", "generation": next.Number, "units": len(next.Records), "machines": len(next.Machines)})
			}
			fmt.Printf("Generation %d: %s on %s, as the machines hold them.\n", next.Number, plural(len(next.Records), "unit"), plural(len(next.Machines), "machine"))
			return nil
		},
	}
}

// rebuild asks the machines and writes a generation above all that they remember.
func (g *ground) rebuild(ctx context.Context) (*state.Generation, error) {
	next := &state.Generation{APIVersion: plan.APIVersion, Kind: "Generation", Deployment: g.at.name, Environment: g.at.env, Records: []plan.Record{},
		Machines: []*graph.Machine{}, Verb: "rebuild", Applied: time.Now().UTC().Truncate(time.Second), By: state.CurrentOwner("rebuild").Who}
	p := &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: g.at.name, Environment: g.at.env, Units: []plan.Placed{}}
	var mu sync.Mutex
	var objects [][]byte
	token := int64(0)
	where := map[string]string{}
	errs := g.visit(ctx, g.names(), func(name string, c *agent.Client) error {
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		units, err := c.Units(ctx, g.scope())
		if err != nil {
			return err
		}
		mu.Lock()
		token, next.Number = max(token, info.Tokens[g.scope()]), max(next.Number, info.Numbers[g.scope()])
		if len(units) > 0 {
			next.Machines = append(next.Machines, g.machines[name])
		}
		mu.Unlock()
		for _, address := range slices.Sorted(maps.Keys(units)) {
			e := units[address]
			rec := plan.Record{Address: address, Machine: name, Backend: e.Backend, Digest: e.Digest, Object: e.Object, Values: e.Values}
			var raw []byte
			if e.Digest != "" {
				if raw, err = c.Object(ctx, e.Object); err != nil {
					return fmt.Errorf("%s: %w", address, err)
				}
				var u plan.Unit
				if err := u.Decode(raw); err != nil {
					return fmt.Errorf("%s: %w", address, err)
				}
				rec.Traits = u.Traits
			}
			mu.Lock()
			if other := where[address]; other != "" {
				err = fmt.Errorf("%s stands on %s too: an apply was interrupted in the middle of a move", address, other)
			}
			where[address] = name
			next.Records = append(next.Records, rec)
			if raw != nil {
				objects = append(objects, raw)
				p.Units = append(p.Units, plan.Placed{Address: rec.Address, Machine: name, Backend: rec.Backend, Digest: rec.Digest, Object: rec.Object, Values: rec.Values, Traits: rec.Traits})
			}
			mu.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		return nil, fmt.Errorf("machine %s: %w", name, errs[name])
	}
	if len(next.Records) == 0 {
		return nil, fmt.Errorf("no machine holds anything of %s (%s)\n    hint: defx apply begins anew", g.at.name, g.at.env)
	}
	slices.SortFunc(next.Records, func(a, b plan.Record) int { return strings.Compare(a.Address, b.Address) })
	slices.SortFunc(p.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	slices.SortFunc(next.Machines, func(a, b *graph.Machine) int { return strings.Compare(a.Name, b.Name) })
	next.Number++
	var err error
	if next.Plan, err = p.Digest(); err != nil {
		return nil, err
	}
	store := g.p.Store(g.at.name, g.at.env)
	lease, err := store.Acquire(ctx, nil, state.CurrentOwner("rebuild"), time.Minute)
	if err != nil {
		return nil, err
	}
	defer store.Release(ctx, lease)
	if _, err := store.RaiseToken(ctx, lease, token); err != nil {
		return nil, err
	}
	if err := store.Put(ctx, objects...); err != nil {
		return nil, err
	}
	if next.PlanObject, err = state.PutPlan(ctx, store, p); err != nil {
		return nil, err
	}
	return next, state.Commit(ctx, store, state.Head{}, next)
}
