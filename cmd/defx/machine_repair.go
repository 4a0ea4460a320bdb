package main

import (
	"context"

	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/spf13/cobra"
)

type machineRepairOptions struct {
	*globalOptions
	machine string
}

func machineRepairCommand(g *globalOptions) *cobra.Command {
	o := &machineRepairOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "repair NAME",
		Short: "Repair damaged or missing records on a machine",
		Long: `Make the records that defx keeps on a machine readable again, and record there the units
that the state knows. Damaged files are kept aside, with .damaged-TIME after their names.
Nothing is started, stopped or changed; units that differ from the state become uncertain,
and the next apply makes them what they should be.`,
		Example: "  defx machine repair web1\n  defx machine repair web1 -e prod --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.machine = args[0]
			return runMachineRepair(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom((*session.Session).MachineNames),
	}
}

func runMachineRepair(ctx context.Context, o *machineRepairOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	res, err := s.RepairMachine(ctx, o.machine, func(e apply.Event) { v.note("waiting", e.Err.Error()) })
	if err != nil {
		return err
	}
	return v.show(machineRepaired{newHeader("MachineRepaired"), o.machine, res.Generation, append([]string{}, res.Aside...), append([]string{}, res.Missing...), append([]string{}, res.Adopted...), append([]string{}, res.Uncertain...)})
}

// machineRepaired is printed by machine repair.
type machineRepaired struct {
	header
	Machine    string   `json:"machine"`
	Generation int      `json:"generation"`
	Aside      []string `json:"aside"`     // files on the machine that were kept
	Missing    []string `json:"missing"`   // files on the machine that were missing
	Adopted    []string `json:"adopted"`   // units that were recorded again
	Uncertain  []string `json:"uncertain"` // units that the next apply makes what they should be
}

func (m machineRepaired) print(p *printer) {
	for _, f := range m.Aside {
		p.printf("kept aside on %s: %s\n", m.Machine, f)
	}
	for _, f := range m.Missing {
		p.printf("made again on %s: %s\n", m.Machine, f)
	}
	if len(m.Aside)+len(m.Missing)+len(m.Adopted)+len(m.Uncertain) == 0 {
		p.printf("Nothing to repair on %s: its records are intact.\n", m.Machine)
		return
	}
	p.printf("The records of %s are repaired: %s recorded again.\n", m.Machine, plural(len(m.Adopted), "unit"))
	for _, a := range m.Uncertain {
		p.printf("  ? %s  the next defx apply makes it what it should be\n", a)
	}
}
