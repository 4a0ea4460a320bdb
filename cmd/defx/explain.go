package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/spf13/cobra"
)

// explanation is all that defx knows of one unit.
type explanation struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"` // "Explanation"
	Address    string         `json:"address"`
	Machine    string         `json:"machine"`
	Backend    string         `json:"backend"`
	Unit       string         `json:"unit"` // its name on the machine
	Defined    diag.Position  `json:"defined"`
	Overridden *diag.Position `json:"overridden,omitempty"`
	Because    string         `json:"because"` // why it is on this machine
	Digest     digest.Digest  `json:"digest"`
	Deployed   digest.Digest  `json:"deployed"`   // empty: not deployed
	Generation int            `json:"generation"` // that holds what is deployed
	Action     *plan.Action   `json:"action"`     // what apply would do; null = nothing
	Reads      plan.Values    `json:"reads"`
	ReadBy     []string       `json:"readBy"`
	Protected  string         `json:"protected,omitempty"` // why it stays though nothing defines it any more
	Exposure   string         `json:"hardening,omitempty"` // what systemd-analyze security says of the unit, if this machine has that: 0 is best, 10 worst
	Next       []time.Time    `json:"next,omitempty"`      // of a schedule with fixed times: when it comes due

	schedule *graph.Schedule
}

func explainCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "Explain a unit's digest and placement",
		Long: `Show where a unit is defined, why it runs on this machine, what changed since the last
apply, and which values it reads.`,
		Example: "  defx explain shop/web\n  defx explain hydra/hydra-web#0 --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, d, w, err := o.desired(cmd.Context(), &consent{}, (*project.Project).Evaluate)
			if err != nil {
				return err
			}
			defer printHeld(d)
			cs, err := p.Changes(cmd.Context(), d, w)
			if err != nil {
				return err
			}
			e, err := explain(cmd.Context(), p, d, args[0])
			if err != nil {
				return err
			}
			e.stands(d, cs)
			if o.json {
				return printJSON(os.Stdout, e)
			}
			e.print()
			return nil
		},
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		p, err := o.open()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		d, err := p.Evaluate(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return addresses(d), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// explain tells what the deployment knows of a unit. One that only the state
// knows has nothing but its address and place.
func explain(ctx context.Context, p *project.Project, d *project.Desired, name string) (*explanation, error) {
	e := &explanation{APIVersion: plan.APIVersion, Kind: "Explanation", Reads: plan.Values{}, ReadBy: []string{}}
	if g := d.Generation; g != nil && d.Rendered.Plan.Find(name) == nil {
		for _, r := range g.Records {
			if r.Address == name {
				e.Address, e.Machine, e.Backend, e.Because = r.Address, r.Machine, r.Backend, "it was deployed there"
				return e, nil
			}
		}
	}
	if m, ok := d.Rendered.Modules[name]; ok {
		return explainModule(ctx, p, d, m, e), nil
	}
	svc, err := findService(d, name)
	if err != nil {
		return nil, err
	}
	e.Address = svc.Address.String()
	placed, u := d.Rendered.Plan.Find(e.Address), d.Rendered.Units[e.Address]
	if placed == nil || u == nil {
		return nil, diag.Errorf(e.Address, "it is held: its configuration has an error").WithHint("fix the error above")
	}
	e.Machine, e.Backend, e.Because = svc.Machine, svc.Backend, d.Reasons[e.Address]
	if e.schedule = svc.Spec.Schedule; e.schedule != nil && svc.Backend == "systemd" {
		e.Next = systemd.Next(e.schedule, time.Now(), soonest)
	}
	e.Digest, e.ReadBy = placed.Digest, readers(d, svc)
	if placed.Values != nil {
		e.Reads = placed.Values
	}
	if len(placed.Unknown) == 0 { // else its name is known at apply only
		instance, err := u.Instance(placed.Values)
		if err != nil {
			return nil, err
		}
		layout, err := all[svc.Backend].Realize(u.Payload, instance, func(t token.Token) (string, bool) { v, ok := placed.Values[plan.Key(t)]; return v, ok })
		if err != nil {
			return nil, err
		}
		e.Unit = layout.Unit
		e.Exposure = exposure(ctx, layout)
	}
	at := p.Positions(ctx, [][]string{svc.Path, {"overrides", svc.Address.Functionality()}})
	e.Defined = at[0]
	if slices.Contains(d.Overrides, svc.Address.Functionality()) {
		e.Overridden = &at[1]
	}
	return e, nil
}

// stands adds what is deployed, and what apply would make of it.
func (e *explanation) stands(d *project.Desired, cs *plan.ChangeSet) {
	if g := d.Generation; g != nil {
		for _, r := range g.Records {
			if r.Address == e.Address {
				e.Deployed, e.Generation = r.Digest, g.Number
			}
		}
	}
	for i := range cs.Actions {
		if cs.Actions[i].Address == e.Address {
			e.Action = &cs.Actions[i]
		}
	}
	for _, p := range cs.Protected {
		if p.Address == e.Address {
			e.Protected = p.Reason
		}
	}
}

// explainModule tells what the deployment knows of a module of resources.
func explainModule(ctx context.Context, p *project.Project, d *project.Desired, m backends.Module, e *explanation) *explanation {
	e.Address = m.Address.String()
	placed := d.Rendered.Plan.Find(e.Address)
	e.Backend, e.Digest = placed.Backend, placed.Digest
	if placed.Values != nil {
		e.Reads = placed.Values
	}
	list := slices.Sorted(maps.Keys(m.Sources))
	e.Because = "it contains " + strings.Join(list, ", ")
	if found := p.Positions(ctx, [][]string{m.Sources[list[0]]}); len(found) == 1 {
		e.Defined = found[0]
	}
	for address, u := range d.Rendered.Units {
		if slices.Contains(u.Requires, e.Address) {
			e.ReadBy = append(e.ReadBy, address)
		}
	}
	slices.Sort(e.ReadBy)
	return e
}

func addresses(d *project.Desired) []string {
	var out []string
	for _, s := range d.Graph.Services {
		out = append(out, s.Address.String())
	}
	return append(out, slices.Sorted(maps.Keys(d.Rendered.Modules))...)
}

// findService takes an address, or the end of one if that is unique.
func findService(d *project.Desired, name string) (*graph.Service, error) {
	var found []*graph.Service
	for _, s := range d.Graph.Services {
		if a := s.Address.String(); a == name {
			return s, nil
		} else if strings.HasSuffix(a, "/"+name) {
			found = append(found, s)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	hint := diag.Suggest(name, addresses(d))
	if hint == "" {
		hint = "defx graph lists the addresses"
	}
	return nil, diag.Errorf("", "unknown unit %q", name).WithHint("%s", hint)
}

func readers(d *project.Desired, svc *graph.Service) []string {
	out := []string{}
	for address, u := range d.Rendered.Units {
		for _, t := range u.Reads {
			if t.Of != "me" && (t.Name == svc.Address.Set() || t.Name == svc.Address.Functionality()) && address != svc.Address.String() {
				out = append(out, address)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

func (e *explanation) print() {
	s := styleFor(os.Stdout, colorFlag)
	line := func(name, text string) { fmt.Printf("  %s %s\n", pad(name, 13), clean(text)) }
	unit := ""
	if e.Unit != "" {
		unit = ", unit " + e.Unit
	}
	if e.Machine == "" {
		fmt.Printf("%s (%s)\n", s.bold(e.Address), e.Backend)
	} else {
		fmt.Printf("%s on %s (%s)%s\n", s.bold(e.Address), e.Machine, e.Backend, unit)
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
	switch {
	case e.Digest == "" && e.Deployed != "":
		line("digest", fmt.Sprintf("%s deployed (generation %d)", e.Deployed.Brief(), e.Generation))
	case e.Deployed == "" && e.Generation > 0:
		line("digest", "unknown: an apply was interrupted")
	case e.Deployed == "":
		line("digest", e.Digest.Brief()+" now, not deployed")
	case e.Deployed == e.Digest:
		line("digest", fmt.Sprintf("%s, as deployed (generation %d)", e.Digest.Brief(), e.Generation))
	default:
		line("digest", fmt.Sprintf("%s now, %s deployed (generation %d)", e.Digest.Brief(), e.Deployed.Brief(), e.Generation))
	}
	if e.Protected != "" {
		line("stays because", e.Protected)
	}
	if e.Action != nil {
		line("apply would", does(*e.Action))
		s.printFields(os.Stdout, e.Action.Changes, true)
	}
	if e.Digest == "" {
		return
	}
	reads := "nothing"
	if len(e.Reads) > 0 {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(e.Reads)) {
			parts = append(parts, k+" = "+e.Reads[k])
		}
		reads = strings.Join(parts, ", ")
	}
	if e.schedule != nil {
		line("next runs", nextRuns(e.schedule, e.Next))
	}
	if e.Exposure != "" {
		line("hardening", e.Exposure+" (systemd-analyze security: 0 is best, 10 worst)")
	}
	line("reads", reads)
	by := "nothing"
	if len(e.ReadBy) > 0 {
		by = strings.Join(e.ReadBy, ", ")
	}
	line("read by", by)
}
