package main

import (
	"context"

	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type statePullOptions struct {
	*globalOptions
	from    string // location of the other state
	replace bool
}

func (o *statePullOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.from, "from", "", "`LOCATION` of the state to take over, as dir:PATH")
	f.BoolVar(&o.replace, "replace", false, "also give up generations that the other state does not have")
}

func statePullCommand(g *globalOptions) *cobra.Command {
	o := &statePullOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "pull --from LOCATION",
		Short: "Take over a newer copy of the state",
		Long: `Make the state of an environment equal to another copy of it that went on. Machines refuse
a copy that fell behind, so this is the way out. Generations that only this state has are
not given up without --replace; then its head is kept aside.`,
		Example:           "  defx state pull -e prod --from dir:/mnt/team/.defx\n  defx state pull -e prod --from dir:../other/.defx --replace",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runStatePull(cmd.Context(), o, g.view()) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func runStatePull(ctx context.Context, o *statePullOptions, v view) error {
	if o.from == "" {
		return diag.Errorf("", "--from is missing: the location of the state to take over").WithHint("defx state pull --from dir:PATH")
	}
	path, err := state.ParseLocation(o.from)
	if err != nil {
		return err
	}
	r, err := o.recovery(ctx)
	if err != nil {
		return err
	}
	res, err := r.Pull(ctx, "dir:"+o.path(path), o.replace, func(held *state.ErrLeaseHeld) { v.note("waiting", held.Error()) })
	if err != nil {
		return err
	}
	return v.show(statePulled{newHeader("StatePulled"), res.From, res.Generation, append([]string{}, res.Aside...)})
}

// statePulled is printed by state pull.
type statePulled struct {
	header
	From       int      `json:"from"` // generation before; 0 = none
	Generation int      `json:"generation"`
	Aside      []string `json:"aside"` // files that were replaced and kept
}

func (s statePulled) print(p *printer) {
	for _, f := range s.Aside {
		p.printf("kept aside: %s\n", f)
	}
	if s.From == s.Generation {
		p.printf("The state is up to date, at generation %d.\n", s.Generation)
		return
	}
	p.printf("The state is at generation %d now; it was at %d.\n", s.Generation, s.From)
}
