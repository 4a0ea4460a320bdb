package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/spf13/cobra"
)

func logsCommand(o *options) *cobra.Command {
	var n int
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs ADDRESS",
		Short: "Show the logs of a unit",
		Long: `Show the last log lines of a unit, of its earlier versions and of its scripts, from the
journal of its machine.`,
		Example: "  defx logs shop/web\n  defx logs shop/web#0 --follow -n 100",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 0 {
				return atLeast("lines", n, 0)
			}
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
			err = c.Logs(ctx, g.scope(), r.Address, n, follow, func(l agent.Line) {
				if o.json {
					printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Line", "address": r.Address, "machine": r.Machine,
						"time": l.Time, "pid": l.PID, "text": l.Text})
					return
				}
				fmt.Println(l.Time.Local().Format("2006-01-02 15:04:05.000"), clean(l.Text))
			})
			if follow && errors.Is(err, context.Canceled) {
				return &exit{code: exitStopped}
			}
			return err
		},
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 20, "`NUMBER` of lines")
	cmd.Flags().BoolVar(&follow, "follow", false, "keep printing new lines")
	o.completeUnits(cmd)
	return cmd
}

// completeUnits completes the address of what stands.
func (o *options) completeUnits(cmd *cobra.Command) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		g, err := o.ground(cmd.Context())
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, r := range g.records {
			out = append(out, r.Address)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
