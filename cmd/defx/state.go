package main

import (
	"context"

	"github.com/spf13/cobra"
)

func stateCommand(g *globalOptions) *cobra.Command {
	return commandGroup(&cobra.Command{
		Use:     "state",
		Short:   "Repair the state, or take over a newer one",
		Long:    "Repair the state of an environment, convert an older one, or take over a newer copy.",
		Example: "  defx state repair -e prod\n  defx state pull -e prod --from dir:/mnt/team/.defx",
	}, statePullCommand(g), stateRebuildCommand(g), stateRepairCommand(g), stateUpgradeCommand(g))
}

type stateRebuildOptions struct{ *globalOptions }

func stateRebuildCommand(g *globalOptions) *cobra.Command {
	o := &stateRebuildOptions{g}
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Rebuild a lost state from the machines",
		Long: `Ask every machine that the entry file declares for its deployed units, and make them the
first generation of a new state. Works only if there is no state. Every machine must be
reachable, otherwise its services would count as deleted.`,
		Example:           "  defx state rebuild\n  defx state rebuild -e prod --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runStateRebuild(cmd.Context(), o, g.view()) },
	}
}

func runStateRebuild(ctx context.Context, o *stateRebuildOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	gen, err := s.Rebuild(ctx)
	if err != nil {
		return err
	}
	return v.show(rebuilt{newHeader("Rebuilt"), gen.Number, len(gen.Records), len(gen.Machines)})
}

// rebuilt is printed by state rebuild.
type rebuilt struct {
	header
	Generation int `json:"generation"`
	Units      int `json:"units"`
	Machines   int `json:"machines"`
}

func (r rebuilt) print(p *printer) {
	p.printf("Generation %d: rebuilt from %s on %s.\n", r.Generation, plural(r.Units, "unit"), plural(r.Machines, "machine"))
}
