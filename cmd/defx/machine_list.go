package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/spf13/cobra"
)

type machineListOptions struct{ *globalOptions }

func machineListCommand(g *globalOptions) *cobra.Command {
	o := &machineListOptions{g}
	return &cobra.Command{
		Use:   "list",
		Short: "List the machines of a deployment",
		Long: `List the machines that the entry file declares, and those that still have deployed units.
No machine is contacted.`,
		Example:           "  defx machine list\n  defx machine list -e prod --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runMachineList(cmd.Context(), o, g.view()) },
	}
}

func runMachineList(ctx context.Context, o *machineListOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	return v.show(machines{newHeader("Machines"), s.Deployment, s.Environment, inspect.Machines(s)})
}

// machines is printed by machine list.
type machines struct {
	header
	Deployment  string            `json:"deployment"`
	Environment string            `json:"environment"`
	Machines    []inspect.Machine `json:"machines"`
}

func (m machines) print(p *printer) {
	rows := [][]string{{"MACHINE", "CONNECT", "POOL", "ROLES", "UNITS"}}
	for _, m := range m.Machines {
		units := fmt.Sprint(m.Units)
		if !m.Declared {
			units += ", no longer declared"
		}
		rows = append(rows, []string{m.Name, m.Connect, orDash(m.Pool), orDash(strings.Join(m.Roles, ",")), units})
	}
	p.table(rows)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
