package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
)

func gcCommand(o *options) *cobra.Command {
	var keep, history int
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete unreferenced objects",
		Long: `Delete stored files on the machines that no running service and none of the newest
generations needs (so a rollback to those sends nothing again), old versions of the
defx program that no process uses, and packages kept for the uploads of modules. Files
of deployed services are never deleted, even those of other deployments.

In the state, delete objects that no generation references. With --history, older
generations are deleted too: rollback to them is no longer possible.`,
		Example:           "  defx gc --dry-run\n  defx gc --keep 3 --history 100",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keep < 1 {
				return atLeast("keep", keep, 1)
			}
			if history < 0 || cmd.Flags().Changed("history") && history == 0 {
				return fmt.Errorf("--history must be at least 1, not %d\n    hint: without --history all generations are kept", history)
			}
			if history > 0 {
				keep = min(keep, history)
			}
			ctx := cmd.Context()
			g, err := o.ground(ctx)
			if err != nil {
				return err
			}
			store := g.p.Store(g.at.name, g.at.env)
			live, err := leadsTo(ctx, store, keep)
			if err != nil {
				return err
			}
			var mu sync.Mutex
			results := []collected{}
			errs := g.visit(ctx, g.names(), func(name string, c *agent.Client) error {
				freed, gone, err := c.Collect(ctx, slices.Sorted(maps.Keys(live)), dry)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				results = append(results, collected{name, freed, append([]string{}, gone...)})
				return nil
			})
			forgotten, modules, err := g.forget(ctx, store, keep, history, dry)
			if len(modules.Gone) > 0 {
				results = append(results, modules)
			}
			slices.SortFunc(results, func(a, b collected) int { return strings.Compare(a.Machine, b.Machine) })
			end := silent(errs)
			if err != nil {
				if err = fmt.Errorf("the state was not cleaned up: %w", err); end != nil {
					tell(os.Stderr, err)
				} else {
					end = &exit{exitPartly, err}
				}
			}
			for _, name := range slices.Sorted(maps.Keys(errs)) {
				tell(os.Stderr, errs[name])
			}
			if o.json {
				if err := printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Collected", "dryRun": dry, "machines": results, "state": forgotten}); err != nil {
					return err
				}
				return end
			}
			verb := "deleted"
			if dry {
				verb = "would be deleted"
			}
			for _, r := range results {
				if r.Machine == "" {
					r.Machine = "modules"
				}
				fmt.Printf("%s: %s %s, %s\n", r.Machine, plural(len(r.Gone), "object"), verb, size(r.Freed))
				for _, p := range r.Gone {
					if o.verbose {
						fmt.Println("  " + clean(p))
					}
				}
			}
			if forgotten.Objects > 0 {
				fmt.Printf("state: %s %s, %s", plural(forgotten.Objects, "object"), verb, size(uint64(forgotten.Freed)))
				if forgotten.Generations > 0 {
					fmt.Printf(", with %s", plural(forgotten.Generations, "generation"))
				}
				fmt.Println()
			}
			return end
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 5, "keep the files of the newest `NUMBER` generations")
	cmd.Flags().IntVar(&history, "history", 0, "delete all generations but the newest `NUMBER`")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only print what would be deleted")
	return cmd
}

// collected is what gc removed of one place.
type collected struct {
	Machine string   `json:"machine"` // "": of modules, kept in the state's folder
	Freed   uint64   `json:"freed"`
	Gone    []string `json:"gone"`
}

// leadsTo lists the units and artifacts of the newest generations.
func leadsTo(ctx context.Context, store *state.Dir, keep int) (map[digest.Digest]bool, error) {
	list, err := state.History(ctx, store, keep)
	if err != nil {
		return nil, err
	}
	live := map[digest.Digest]bool{}
	return live, state.NewReader(store).Each(ctx, list, func(r plan.Record) error {
		if r.Object == "" || live[r.Object] {
			return nil
		}
		live[r.Object] = true
		var u plan.Unit
		if err := state.Load(ctx, store, r.Object, &u); err != nil {
			return fmt.Errorf("%s: %w", r.Address, err)
		}
		for _, a := range u.Artifacts {
			live[a.Digest] = true
		}
		return nil
	})
}

// forget clears the folder of the state, while nobody applies and if no apply still
// has to say what it left.
func (g *ground) forget(ctx context.Context, store *state.Dir, keep, history int, dry bool) (out state.Pruned, modules collected, err error) {
	clear := func(ctx context.Context) error {
		unfinished, err := apply.ReadUnfinished(store.Path())
		if err == nil && unfinished != nil {
			err = errors.New("an apply was interrupted\n    hint: run defx apply to finish it")
		}
		if err != nil {
			return err
		}
		live, err := leadsTo(ctx, store, keep)
		if err != nil {
			return err
		}
		if modules.Freed, modules.Gone, err = g.p.TerraformRunner(g.at.name, g.at.env).Collect(live, dry); err != nil {
			return err
		}
		out, err = state.Prune(ctx, store, history, dry)
		return err
	}
	if head, err := store.Head(ctx); err != nil || head.Generation == 0 {
		return out, modules, err // nothing is written where nothing was applied
	}
	if dry {
		err = clear(ctx)
	} else {
		err = state.WithLease(ctx, store, "gc", clear)
	}
	return out, modules, err
}
