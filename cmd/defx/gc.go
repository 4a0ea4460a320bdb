package main

import (
	"context"

	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/spf13/cobra"
)

type gcOptions struct {
	*globalOptions
	keep, history int
	historySet    bool
	dryRun        bool
}

func gcCommand(g *globalOptions) *cobra.Command {
	o := &gcOptions{globalOptions: g}
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
			o.historySet = cmd.Flags().Changed("history")
			return runGC(cmd.Context(), o, g.view())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.keep, "keep", 5, "keep the files of the newest `NUMBER` generations")
	f.IntVar(&o.history, "history", 0, "delete all generations but the newest `NUMBER`")
	f.BoolVar(&o.dryRun, "dry-run", false, "only print what would be deleted")
	return cmd
}

func runGC(ctx context.Context, o *gcOptions, v view) error {
	if err := atLeast("keep", o.keep, 1); err != nil {
		return err
	}
	if o.history < 0 || o.historySet && o.history == 0 {
		return withHint(atLeast("history", o.history, 1), "without --history all generations are kept")
	}
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	res, err := s.GC(ctx, session.GCOptions{Keep: o.keep, History: o.history, DryRun: o.dryRun})
	if err != nil {
		return err
	}
	if err := v.show(collected{newHeader("Collected"), o.dryRun, res.Places, res.State}); err != nil {
		return err
	}
	warnAll(v, res.Unreachable)
	end := unreachableError(res.Unreachable)
	switch {
	case res.StateErr != nil && end != nil:
		v.warn(res.StateErr)
	case res.StateErr != nil:
		return &exitError{exitPartial, res.StateErr}
	}
	return end
}

// collected is printed by gc.
type collected struct {
	header
	DryRun   bool                `json:"dryRun"`
	Machines []session.Collected `json:"machines"`
	State    state.Pruned        `json:"state"`
}

func (c collected) print(p *printer) {
	verb := "deleted"
	if c.DryRun {
		verb = "would be deleted"
	}
	for _, m := range c.Machines {
		name := m.Machine
		if name == "" {
			name = "modules"
		}
		p.printf("%s: %s %s, %s\n", name, plural(len(m.Gone), "object"), verb, byteSize(m.Freed))
		if p.verbose {
			for _, f := range m.Gone {
				p.println("  " + clean(f))
			}
		}
	}
	if c.State.Objects > 0 {
		p.printf("state: %s %s, %s", plural(c.State.Objects, "object"), verb, byteSize(uint64(c.State.Freed)))
		if c.State.Generations > 0 {
			p.printf(", with %s", plural(c.State.Generations, "generation"))
		}
		p.println()
	}
}
