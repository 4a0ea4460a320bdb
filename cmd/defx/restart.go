package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/spf13/cobra"
)

func restartCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restart ADDRESS",
		Short: "Start a unit anew, as it stands",
		Long: `Restart what runs, without changing what it is, and wait until it is ready. A unit that
has its times runs now. While an apply is at work on the machine, it waits for that.

` + exitCodes,
		Example: "  defx restart shop/web\n  defx restart hydra/hydra-web#0 -e prod",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			g, r, err := o.unit(ctx, args[0])
			if err != nil {
				return err
			}
			c, err := g.dial(ctx, r.Machine)
			if err != nil {
				return err
			}
			defer c.Close()
			limited, cancel := context.WithTimeout(ctx, 11*time.Minute)
			defer cancel()
			begun := time.Now()
			if err := c.Restart(limited, g.scope(), r.Address); err != nil {
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
