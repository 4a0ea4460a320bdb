package main

import (
	"context"
	"encoding/json"
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
	return commandGroup(&cobra.Command{
		Use:     "state",
		Short:   "Repair the state",
		Long:    "Repair the state of an environment.",
		Example: "  defx state rebuild\n  defx state rebuild -e prod",
	}, rebuildCommand(o))
}

func rebuildCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Rebuild a lost state from the machines",
		Long: `Ask every machine that the entry file declares for its deployed units, and make them the
first generation of a new state. Works only if there is no state. Every machine must be
reachable, otherwise its services would count as deleted.`,
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
				return fmt.Errorf("the state of %s (%s) exists, at generation %d\n    hint: defx status --refresh shows what differs on the machines", g.at.name, g.at.env, g.gen.Number)
			}
			next, err := g.rebuild(ctx)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Rebuilt", "generation": next.Number, "units": len(next.Records), "machines": len(next.Machines)})
			}
			fmt.Printf("Generation %d: rebuilt from %s on %s.\n", next.Number, plural(len(next.Records), "unit"), plural(len(next.Machines), "machine"))
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
				if err := json.Unmarshal(raw, &u); err != nil {
					return fmt.Errorf("%s: %w", address, err)
				}
				rec.Requires, rec.After, rec.Protect, rec.Stateful = u.Requires, u.After, u.Protect, u.Stateful
			}
			mu.Lock()
			if other := where[address]; other != "" {
				err = fmt.Errorf("%s is also on %s: an apply was interrupted while moving it", address, other)
			}
			where[address] = name
			next.Records = append(next.Records, rec)
			if raw != nil {
				objects = append(objects, raw)
				p.Units = append(p.Units, plan.Placed{Address: rec.Address, Machine: name, Backend: rec.Backend, Digest: rec.Digest, Object: rec.Object, Values: rec.Values,
					Requires: rec.Requires, After: rec.After, Protect: rec.Protect, Stateful: rec.Stateful})
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
		return nil, fmt.Errorf("no machine has units of %s (%s)\n    hint: run defx apply to start a new state", g.at.name, g.at.env)
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
