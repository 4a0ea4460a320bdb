package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/deploy/session"
	"github.com/spf13/cobra"
)

type stateRepairOptions struct{ *globalOptions }

func stateRepairCommand(g *globalOptions) *cobra.Command {
	o := &stateRepairOptions{g}
	return &cobra.Command{
		Use:   "repair",
		Short: "Repair damaged or missing files of the state",
		Long: `Restore the state of an environment from what is left of it. Damaged files are kept aside,
with .damaged-TIME after their names. The newest generation that is complete becomes the
current one. If records may be lost, the next apply compares everything with the machines.`,
		Example:           "  defx state repair -e prod\n  defx state repair -e prod --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runStateRepair(cmd.Context(), o, g.view()) },
	}
}

func runStateRepair(ctx context.Context, o *stateRepairOptions, v view) error {
	r, err := o.recovery(ctx)
	if err != nil {
		return err
	}
	res, err := r.Repair(ctx)
	if err != nil {
		return err
	}
	return v.show(stateRepaired{newHeader("StateRepaired"), res.Generation, append([]string{}, res.Aside...), append([]int{}, res.Lost...), res.Verify})
}

// recovery finds the environment whose state is to be repaired, without reading it.
func (o *globalOptions) recovery(ctx context.Context) (*session.Recovery, error) {
	p, err := o.open()
	if err != nil {
		return nil, err
	}
	return session.Recover(ctx, p, o.env)
}

// stateRepaired is printed by state repair.
type stateRepaired struct {
	header
	Generation int      `json:"generation"` // 0 = none is left
	Aside      []string `json:"aside"`      // files that were kept
	Lost       []int    `json:"lost"`       // generations
	Verify     bool     `json:"verify"`     // the next apply asks every machine
}

func (s stateRepaired) print(p *printer) {
	for _, f := range s.Aside {
		p.printf("kept aside: %s\n", f)
	}
	var lost []string
	for _, n := range s.Lost {
		lost = append(lost, fmt.Sprint(n))
	}
	if len(lost) > 0 {
		p.printf("lost: generation %s\n", strings.Join(lost, ", "))
	}
	switch {
	case s.Generation == 0:
		p.println("No generation is left. defx state rebuild makes a new one from the machines.")
	case s.Verify:
		p.printf("The state is at generation %d. The next defx apply compares it with every machine.\n", s.Generation)
	case len(s.Aside) == 0:
		p.printf("Nothing to repair: the state is intact, at generation %d.\n", s.Generation)
	default:
		p.printf("The state is repaired, at generation %d.\n", s.Generation)
	}
}
