package main

import (
	"context"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/spf13/cobra"
)

type restartOptions struct {
	*globalOptions
	address string
}

func restartCommand(g *globalOptions) *cobra.Command {
	o := &restartOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "restart ADDRESS",
		Short: "Restart a unit",
		Long: `Restart the deployed version of a unit and wait until it is ready. The name of a set or a
group restarts all of its units, one after the other. A scheduled job is run now. If an
apply is working on the machine, the command waits for it. A unit registered with a cloud
load balancer is deregistered first and registered again when it is ready; if it does not
become ready, it stays deregistered until a restart or an apply succeeds.`,
		Example: "  defx restart shop/web\n  defx restart hydra/hydra-web#0 -e prod",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.address = args[0]
			return runRestart(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom(deployedNames),
	}
}

func runRestart(ctx context.Context, o *restartOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	units, err := s.Units(o.address)
	if err != nil {
		return err
	}
	for _, r := range units { // one after the other, so that a set stays up
		if err := restartUnit(ctx, s, r, v); err != nil {
			return err
		}
	}
	return nil
}

func restartUnit(ctx context.Context, s *session.Session, r plan.Record, v view) error {
	started := time.Now()
	if err := s.Restart(ctx, r); err != nil {
		return err
	}
	return v.show(restarted{newHeader("Restarted"), r.Address, r.Machine, time.Since(started).Seconds(), s.Names().Text(r.Address)})
}

// restarted is printed by restart.
type restarted struct {
	header
	Address string  `json:"address"`
	Machine string  `json:"machine"`
	Seconds float64 `json:"seconds"`

	name string // for people
}

func (r restarted) print(p *printer) {
	p.printf("%s restarted on %s in %s\n", r.name, r.Machine, elapsed(time.Duration(r.Seconds*float64(time.Second))))
}
