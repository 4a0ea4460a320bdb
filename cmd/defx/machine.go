package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/spf13/cobra"
)

func machineCommand(o *options) *cobra.Command {
	return commandGroup(&cobra.Command{
		Use:   "machine",
		Short: "Inspect machines",
		Long: `List the machines of a deployment, show one with its units, list the changes made on it,
or show the ssh host keys of machines.`,
		Example: "  defx machine list\n  defx machine show web1",
	}, machineListCommand(o), machineShowCommand(o), machineScanCommand(o), machineHistoryCommand(o))
}

func machineListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the machines of a deployment",
		Long: `List the machines that the entry file declares, and those that still have deployed units.
No machine is contacted.`,
		Example:           "  defx machine list\n  defx machine list -e prod --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := o.ground(cmd.Context())
			if err != nil {
				return err
			}
			count := map[string]int{}
			for _, r := range g.records {
				count[r.Machine]++
			}
			type item struct {
				*graph.Machine
				Units    int  `json:"units"`
				Declared bool `json:"declared"`
			}
			items := []item{}
			for _, name := range g.names() {
				declared := slices.ContainsFunc(g.at.machines(), func(m *graph.Machine) bool { return m.Name == name })
				items = append(items, item{g.machines[name], count[name], declared || g.at.desired == nil})
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Machines", "deployment": g.at.name, "environment": g.at.env, "machines": items})
			}
			rows := [][]string{{"MACHINE", "CONNECT", "POOL", "ROLES", "UNITS"}}
			for _, i := range items {
				units := fmt.Sprint(i.Units)
				if !i.Declared {
					units += ", no longer declared"
				}
				rows = append(rows, []string{i.Name, i.Connect, orDash(i.Pool), orDash(strings.Join(i.Roles, ",")), units})
			}
			table(os.Stdout, rows)
			return nil
		},
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func machineShowCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a machine and the units on it",
		Long: `Connect to a machine and show its system, its free disk space, and the state of the units
of this deployment.`,
		Example: "  defx machine show web1\n  defx machine show web1 --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			g, err := o.ground(ctx)
			if err != nil {
				return err
			}
			c, err := g.dial(ctx, args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			info, looks, err := inspect(ctx, c, g.scope())
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Machine", "machine": g.machines[args[0]], "info": info, "units": looks})
			}
			m := g.machines[args[0]]
			fmt.Printf("%s · %s\n", m.Name, m.Connect)
			row := func(name, value string) {
				if value != "" {
					fmt.Printf("  %s  %s\n", pad(name, 8), clean(value))
				}
			}
			row("host", info.Host)
			row("system", strings.TrimSuffix(strings.Join([]string{orDash(info.System), info.Kernel, info.Arch}, ", "), ", "))
			row("systemd", info.Systemd)
			if !info.Booted.IsZero() {
				row("booted", age(info.Booted)+" ago")
			}
			row("disk", fmt.Sprintf("%s free, %s used by the store", size(info.Free), size(info.Store)))
			for _, scope := range slices.Sorted(maps.Keys(info.Units)) {
				row("units", fmt.Sprintf("%d of %s", info.Units[scope], scope))
			}
			if len(looks) == 0 {
				return nil
			}
			fmt.Println()
			rows := [][]string{{"ADDRESS", "UNIT", "STATE", "SINCE"}}
			for _, a := range slices.Sorted(maps.Keys(looks)) {
				l := looks[a]
				st, since := "-", "-"
				if l.State != nil {
					st = l.State.Active
					if !l.State.Since.IsZero() {
						since = age(l.State.Since)
					}
				}
				if len(l.Drift) > 0 {
					st += "; " + strings.Join(l.Drift, "; ")
				}
				rows = append(rows, []string{a, l.Entry.Unit, st, since})
			}
			table(os.Stdout, rows)
			return nil
		},
	}
	cmd.ValidArgsFunction = o.machineNames
	return cmd
}

// machineNames completes the name of a machine.
func (o *options) machineNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	g, err := o.ground(cmd.Context())
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.names(), cobra.ShellCompDirectiveNoFileComp
}

func inspect(ctx context.Context, c *agent.Client, scope string) (*agent.Info, map[string]*agent.UnitStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	info, err := c.Info(ctx)
	if err != nil {
		return nil, nil, err
	}
	looks, err := c.Status(ctx, scope)
	if looks == nil {
		looks = map[string]*agent.UnitStatus{}
	}
	return info, looks, err
}

// size is a number of bytes for people.
func size(n uint64) string {
	unit, v := "B", float64(n)
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v < 1024 {
			break
		}
		unit, v = u, v/1024
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}
