package main

import (
	"context"
	"errors"

	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

type stateUpgradeOptions struct{ *globalOptions }

func stateUpgradeCommand(g *globalOptions) *cobra.Command {
	o := &stateUpgradeOptions{g}
	return &cobra.Command{
		Use:   "upgrade",
		Short: "Convert a state of the version before",
		Long: `Convert the state of an environment that an older version of defx has written. Generations
stay as they are. Units have other names now, so the next apply restarts them; machines are
taken over by it if they have exactly what the state records. Units with data are refused:
their directories have other names, too. Older versions of defx cannot change the state any
more.`,
		Example:           "  defx state upgrade -e prod\n  defx state upgrade -e prod --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runStateUpgrade(cmd.Context(), o, g.view()) },
	}
}

func runStateUpgrade(ctx context.Context, o *stateUpgradeOptions, v view) error {
	r, err := o.recovery(ctx)
	if err != nil {
		return err
	}
	head, err := r.Upgrade(ctx)
	if errors.Is(err, state.ErrCurrentFormat) {
		return diag.Errorf("", "%v", err)
	}
	if err != nil {
		return err
	}
	return v.show(stateUpgraded{newHeader("StateUpgraded"), head.Generation, head.Lineage, len(head.Intents) > 0})
}

// stateUpgraded is printed by state upgrade.
type stateUpgraded struct {
	header
	Generation  int    `json:"generation"`
	Lineage     string `json:"lineage"`
	Interrupted bool   `json:"interrupted"` // an apply of the version before was interrupted
}

func (s stateUpgraded) print(p *printer) {
	p.printf("The state is upgraded, at generation %d.\n", s.Generation)
	if s.Interrupted {
		p.println("An apply of the version before was interrupted. defx apply finishes it.")
	}
}
