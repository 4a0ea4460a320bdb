package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/spf13/cobra"
)

type machineHistoryOptions struct {
	*globalOptions
	machine string
}

func machineHistoryCommand(g *globalOptions) *cobra.Command {
	o := &machineHistoryOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "history NAME",
		Short: "List the changes made on a machine",
		Long: `List the generations that changed something on a machine, and what they changed, newest
first. Only the state is read; the machine is not contacted.`,
		Example: "  defx machine history web1\n  defx machine history web1 --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.machine = args[0]
			return runMachineHistory(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom((*session.Session).MachineNames),
	}
}

func runMachineHistory(ctx context.Context, o *machineHistoryOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	changes, since, err := inspect.MachineHistory(ctx, s, o.machine)
	if err != nil {
		return err
	}
	return v.show(machineHistory{newHeader("MachineHistory"), o.machine, changes, since, s.Deployment, s.Environment, s.Names()})
}

// machineHistory is printed by machine history.
type machineHistory struct {
	header
	Machine     string                  `json:"machine"`
	Generations []inspect.MachineChange `json:"generations"` // newest first

	since                   int // older generations were deleted; 0 = none was
	deployment, environment string
	names                   *graph.Names // of all deployed units
}

func (h machineHistory) print(p *printer) {
	switch {
	case len(h.Generations) == 0 && h.since > 0:
		p.printf("Nothing changed on %s since generation %d; older generations were deleted.\n", h.Machine, h.since)
		return
	case len(h.Generations) == 0:
		p.printf("No unit of %s (%s) was ever deployed on %s.\n", h.deployment, h.environment, h.Machine)
		return
	}
	for _, c := range h.Generations {
		for _, a := range slices.Concat(c.Came, c.Changed, c.Went) {
			h.names.Add(a)
		}
	}
	rows := [][]string{{"GENERATION", "WHEN", "BY", "VERB", "CHANGES"}}
	for _, c := range h.Generations {
		var texts []string
		for _, l := range []struct {
			symbol    string
			addresses []string
		}{{"+", c.Came}, {"~", c.Changed}, {"-", c.Went}} {
			for _, a := range l.addresses[:min(3, len(l.addresses))] {
				texts = append(texts, l.symbol+" "+h.names.Text(a))
			}
			if more := len(l.addresses) - 3; more > 0 {
				texts = append(texts, fmt.Sprintf("%s %d more", l.symbol, more))
			}
		}
		rows = append(rows, []string{fmt.Sprint(c.Generation), c.Applied.Local().Format(timeFormat), c.By, c.Verb, strings.Join(texts, ", ")})
	}
	p.table(rows)
}
