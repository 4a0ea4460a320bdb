package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/spf13/cobra"
)

func restartCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restart ADDRESS",
		Short: "Restart a unit",
		Long: `Restart the deployed version of a unit and wait until it is ready. A scheduled job is run
now. If an apply is working on the machine, the command waits for it. A unit registered
with a cloud load balancer is deregistered first and registered again when it is ready;
if it does not become ready, it stays deregistered until a restart or an apply succeeds.`,
		Example: "  defx restart shop/web\n  defx restart hydra/hydra-web#0 -e prod",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			g, r, err := o.unit(ctx, args[0])
			if err != nil {
				return err
			}
			begun := time.Now()
			if g.isBehind(r.Address) {
				err = g.restartApart(ctx, r.Address)
			} else {
				err = g.restart(ctx, r)
			}
			if err != nil {
				return fmt.Errorf("%s on %s: %w", r.Address, r.Machine, err)
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Restarted", "address": r.Address, "machine": r.Machine, "seconds": time.Since(begun).Seconds()})
			}
			fmt.Printf("%s restarted on %s in %s\n", r.Address, r.Machine, duration(time.Since(begun)))
			return nil
		},
	}
	o.completeUnits(cmd)
	return cmd
}

// restart starts anew what nobody is led to.
func (g *ground) restart(ctx context.Context, r plan.Record) error {
	c, err := g.dial(ctx, r.Machine)
	if err != nil {
		return err
	}
	defer c.Close()
	limited, cancel := context.WithTimeout(ctx, 11*time.Minute)
	defer cancel()
	return c.Restart(limited, g.scope(), r.Address)
}

// isBehind tells whether a balancer leads users to a unit.
func (g *ground) isBehind(address string) bool {
	return slices.ContainsFunc(g.records, func(r plan.Record) bool { return r.Drain > 0 && slices.Contains(r.Follows, address) })
}

// restartApart starts anew what is taken out from behind its balancers meanwhile: an
// apply of what stands, whose journal tells if it does not come to its end.
func (g *ground) restartApart(ctx context.Context, address string) error {
	w, err := g.p.DeployedUnits(ctx, g.at.name, g.at.env, g.gen, g.at.machines(), address)
	if err != nil {
		return err
	}
	w.Verb, w.Restart, w.LeaseWait, w.Revision = "restart", address, time.Minute, g.gen.Revision
	w.OnEvent = func(e apply.Event) {
		if e.Outcome == apply.Failed {
			err = errors.Join(err, fmt.Errorf("%w\n    hint: restart it again or run defx apply; that registers it with its load balancer again", e.Err))
		}
	}
	res, failed := apply.Run(ctx, w)
	if failed != nil {
		return failed
	}
	if err == nil && res.Stopped {
		err = ctx.Err()
	}
	return err
}
