package main

import (
	"context"
	"fmt"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type destroyOptions struct {
	*globalOptions
	planFlags
	applyFlags
}

func (o *destroyOptions) addFlags(f *pflag.FlagSet) {
	o.planFlags.addFlags(f)
	o.applyFlags.addFlags(f)
	o.addConfirm(f)
	f.Lookup("yes").Usage = "not enough here: --confirm is needed"
}

func destroyCommand(g *globalOptions) *cobra.Command {
	o := &destroyOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "destroy",
		Short: "Delete everything deployed in an environment",
		Long: `Delete every unit of the environment, in reverse order of dependencies. Units that hold
data or were deployed with protect are kept and listed. The history is kept.

The name of the environment confirms it: typed when asked, or given with --confirm. --yes
alone is refused.`,
		Example:           "  defx destroy -e dev\n  defx destroy -e dev --confirm dev",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runDestroy(cmd.Context(), o, g.view()) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func runDestroy(ctx context.Context, o *destroyOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	if err := o.checkConfirm(s.Environment); err != nil {
		return err
	}
	if o.confirm == "" && o.yes {
		return diag.Errorf("", "destroy is not confirmed by --yes").WithHint("use --confirm %s", s.Environment)
	}
	r := s.Destroy()
	o.applyTo(r)
	title := fmt.Sprintf("%s (%s): destroy everything", s.Deployment, s.Environment)
	question := fmt.Sprintf("Type the name of the environment, %s, to confirm: ", s.Environment)
	return confirmAndExecute(ctx, r, &o.applyFlags, v, confirmation{title, question, s.Environment})
}
