package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/spf13/cobra"
)

type machineShowOptions struct {
	*globalOptions
	machine string
}

func machineShowCommand(g *globalOptions) *cobra.Command {
	o := &machineShowOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a machine and the units on it",
		Long: `Connect to a machine and show its system, its free disk space, and the state of the units
of this deployment.`,
		Example: "  defx machine show web1\n  defx machine show web1 --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.machine = args[0]
			return runMachineShow(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom((*session.Session).MachineNames),
	}
}

func runMachineShow(ctx context.Context, o *machineShowOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	info, units, err := inspect.AskMachine(ctx, s, o.machine)
	if err != nil {
		return err
	}
	return v.show(machine{newHeader("Machine"), s.Machines[o.machine], info, units, s.Names()})
}

// machine is printed by machine show.
type machine struct {
	header
	Machine *graph.Machine               `json:"machine"`
	Info    *agent.Info                  `json:"info"`
	Units   map[string]*agent.UnitStatus `json:"units"` // of this environment, by address

	names *graph.Names // of all deployed units
}

func (m machine) print(p *printer) {
	p.printf("%s · %s\n", m.Machine.Name, m.Machine.Connect)
	row := func(name, value string) {
		if value != "" {
			p.printf("  %s  %s\n", pad(name, 8), clean(value))
		}
	}
	info := m.Info
	row("host", info.Host)
	row("system", strings.TrimSuffix(strings.Join([]string{orDash(info.System), info.Kernel, info.Arch}, ", "), ", "))
	row("systemd", info.Systemd)
	if !info.Booted.IsZero() {
		row("booted", age(info.Booted)+" ago")
	}
	row("disk", fmt.Sprintf("%s free, %s used by the store", byteSize(info.Free), byteSize(info.Store)))
	for _, scope := range sets.Keys(info.Units) {
		row("units", fmt.Sprintf("%d of %s", info.Units[scope], scope))
	}
	if len(m.Units) == 0 {
		return
	}
	p.println()
	rows := [][]string{{"ADDRESS", "UNIT", "STATE", "SINCE"}}
	for _, a := range sets.Keys(m.Units) {
		u := m.Units[a]
		state, since := "-", "-"
		if u.State != nil {
			state = u.State.Active
			if !u.State.Since.IsZero() {
				since = age(u.State.Since)
			}
		}
		if len(u.Drift) > 0 {
			state += "; " + strings.Join(u.Drift, "; ")
		}
		rows = append(rows, []string{m.names.Text(a), u.Entry.Unit, state, since})
	}
	p.table(rows)
}

// byteSize writes a number of bytes with a unit.
func byteSize(n uint64) string {
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
