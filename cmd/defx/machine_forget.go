package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

type machineForgetOptions struct {
	*globalOptions
	machine, confirm string
}

func machineForgetCommand(g *globalOptions) *cobra.Command {
	o := &machineForgetOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "forget NAME",
		Short: "Forget what is deployed on a machine that is gone",
		Long: `Remove a machine that will not come back from the state: its units are no longer recorded
there, so that the next apply creates those that the entry file places elsewhere, and
nothing waits for the machine any more. The machine itself is not contacted. If it is
declared again and answers, an apply reports and removes what it still has.`,
		Example: "  defx machine forget web1\n  defx machine forget web1 --confirm web1",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.machine = args[0]
			return runMachineForget(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom((*session.Session).MachineNames),
	}
	cmd.Flags().StringVar(&o.confirm, "confirm", "", "`NAME` of the machine, to confirm without being asked")
	return cmd
}

func runMachineForget(ctx context.Context, o *machineForgetOptions, v view) error {
	if o.confirm != "" && o.confirm != o.machine {
		return diag.Errorf("", "--confirm %s does not name the machine, which is %s", o.confirm, o.machine)
	}
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	f, err := s.ForgetMachine(o.machine)
	if err != nil {
		return err
	}
	doc := machineForgotten{header: newHeader("MachineForgotten"), Machine: o.machine, Units: []string{}, Stateful: append([]string{}, f.Stateful()...), Moved: append([]string{}, f.Moved...),
		environment: fmt.Sprintf("%s (%s)", s.Deployment, s.Environment), declared: f.Declared}
	for _, r := range f.Units {
		doc.Units = append(doc.Units, r.Address)
	}
	doc.names = s.Names()
	if o.confirm == "" {
		v.propose(doc)
		question := fmt.Sprintf("Type the name of the machine, %s, to confirm: ", o.machine)
		if err := v.confirm(ctx, question, o.machine, "--confirm "+shellWord(o.machine)+" confirms in advance"); err != nil {
			return err
		}
	}
	gen, err := s.Forget(ctx, f)
	if err != nil {
		return err
	}
	doc.Generation = gen.Number
	return v.show(doc)
}

// machineForgotten is printed by machine forget.
type machineForgotten struct {
	header
	Machine    string   `json:"machine"`
	Units      []string `json:"units"`    // addresses that were recorded there
	Stateful   []string `json:"stateful"` // those that kept data there
	Moved      []string `json:"moved"`    // addresses that had moved away
	Generation int      `json:"generation"`

	environment string
	declared    bool
	names       *graph.Names
}

func (m machineForgotten) print(p *printer) {
	if m.Generation > 0 {
		p.printf("Generation %d: %s of %s forgotten on %s.\n", m.Generation, plural(len(m.Units)+len(m.Moved), "unit"), m.environment, m.Machine)
		return
	}
	line := func(what string, list []string) {
		if len(list) > 0 {
			p.printf("  %s: %s\n", what, strings.Join(texts(m.names, list), ", "))
		}
	}
	p.printf("%s: forget machine %s\n", m.environment, m.Machine)
	line("recorded there", m.Units)
	line("with data that is given up", m.Stateful)
	line("moved away already", m.Moved)
	if m.declared {
		p.println("  The entry file declares the machine: the next apply deploys there again what it places there.")
	}
	p.println()
}
