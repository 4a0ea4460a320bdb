package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type rollbackOptions struct {
	*globalOptions
	planFlags
	applyFlags
	to int // number of a generation; 0 = the newest that differs
}

func (o *rollbackOptions) addFlags(f *pflag.FlagSet) {
	o.planFlags.addFlags(f)
	o.applyFlags.addFlags(f)
	o.addConfirm(f)
	f.Lookup("yes").Usage = yesUsage
	f.IntVar(&o.to, "to", 0, "`GENERATION` to roll back to")
}

func rollbackCommand(g *globalOptions) *cobra.Command {
	o := &rollbackOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Roll back to an earlier generation",
		Long: `Apply the plan of an earlier generation: by default the newest one whose plan differs from
the current one. It is an apply like any other and makes a new generation. --yes and
--confirm are those of apply.`,
		Example:           "  defx rollback\n  defx rollback --to 12 --yes",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runRollback(cmd.Context(), o, g.view()) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func runRollback(ctx context.Context, o *rollbackOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	target, r, err := s.Rollback(ctx, o.to)
	if err != nil {
		return err
	}
	o.applyTo(r)
	title := fmt.Sprintf("%s (%s): roll back to generation %d", s.Deployment, s.Environment, target.Number)
	return confirmAndExecute(ctx, r, &o.applyFlags, v, confirmation{title, "Roll back? [y/N] ", "y"})
}
