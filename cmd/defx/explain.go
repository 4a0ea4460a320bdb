package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/spf13/cobra"
)

type explainOptions struct {
	*globalOptions
	address string
}

func explainCommand(g *globalOptions) *cobra.Command {
	o := &explainOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "Explain a unit's digest and placement",
		Long: `Show where a unit is defined, why it runs on this machine, what changed since the last
apply, and which values it reads.`,
		Example: "  defx explain shop/web\n  defx explain hydra/hydra-web#0 --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.address = args[0]
			return runExplain(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: completeUnits(g),
	}
}

func runExplain(ctx context.Context, o *explainOptions, v view) error {
	p, d, r, err := o.desired(ctx, &planFlags{}, v, (*project.Project).Evaluate)
	if err != nil {
		return err
	}
	defer v.held(d)
	cs, err := p.Changes(ctx, d, r)
	if err != nil {
		return err
	}
	units, err := inspect.Explain(ctx, p, d, cs, o.address)
	if err != nil {
		return err
	}
	for _, e := range units {
		if err := v.show(explanation{e}); err != nil {
			return err
		}
	}
	return nil
}

// explanation is printed by explain.
type explanation struct{ *inspect.Explanation }

func (e explanation) print(p *printer) {
	line := func(name, text string) { p.printf("  %s %s\n", pad(name, 13), clean(text)) }
	if e.Machine == "" {
		p.printf("%s (%s)\n", p.bold(e.Names.Text(e.Address)), e.Backend)
	} else {
		unit := ""
		if e.Unit != "" {
			unit = ", unit " + e.Unit
		}
		p.printf("%s on %s (%s)%s\n", p.bold(e.Names.Text(e.Address)), e.Machine, e.Backend, unit)
	}
	defined := e.Defined.String()
	if e.Digest == "" {
		defined = "no longer"
	}
	if e.Overridden != nil {
		defined += ", overridden " + e.Overridden.String()
	}
	line("defined", defined)
	line("here because", e.Because)
	line("digest", e.digests())
	if e.Protected != "" {
		line("stays because", e.Protected)
	}
	if e.Action != nil {
		line("apply would", actionText(*e.Action))
		p.fields(e.Action.Changes, true)
	}
	if e.Digest == "" {
		return
	}
	if e.Schedule != nil {
		line("next runs", nextRuns(e.Schedule, e.Next))
	}
	if e.Exposure != "" {
		line("hardening", e.Exposure+" (systemd-analyze security: 0 is best, 10 worst)")
	}
	for i, text := range e.Hidden {
		line([]string{"hidden", ""}[min(i, 1)], text)
	}
	var reads []string
	for _, k := range sets.Keys(e.Reads) {
		reads = append(reads, k+" = "+e.Reads[k])
	}
	var readBy []string
	for _, a := range e.ReadBy {
		readBy = append(readBy, e.Names.Text(a))
	}
	line("reads", orNothing(reads))
	line("read by", orNothing(readBy))
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// digests compares the digest with the deployed one.
func (e explanation) digests() string {
	switch {
	case e.Digest == "" && e.Deployed != "":
		return fmt.Sprintf("%s deployed (generation %d)", e.Deployed.Brief(), e.Generation)
	case e.Deployed == "" && e.Generation > 0:
		return "unknown: an apply was interrupted"
	case e.Deployed == "":
		return e.Digest.Brief() + " now, not deployed"
	case e.Deployed == e.Digest:
		return fmt.Sprintf("%s, as deployed (generation %d)", e.Digest.Brief(), e.Generation)
	}
	return fmt.Sprintf("%s now, %s deployed (generation %d)", e.Digest.Brief(), e.Deployed.Brief(), e.Generation)
}
