package inspect

import (
	"context"
	"maps"
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
)

// UpcomingRuns is how many future runs of a scheduled job are listed.
const UpcomingRuns = 3

// Explanation is what is known about one unit.
type Explanation struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"` // "Explanation"
	Address    string         `json:"address"`
	Machine    string         `json:"machine"`
	Backend    string         `json:"backend"`
	Unit       string         `json:"unit"` // its name on the machine; "" = known at apply only
	Defined    diag.Position  `json:"defined"`
	Overridden *diag.Position `json:"overridden,omitempty"`
	Because    string         `json:"because"` // why it is on this machine
	Digest     digest.Digest  `json:"digest"`
	Deployed   digest.Digest  `json:"deployed"`            // "" = not deployed
	Generation int            `json:"generation"`          // that is deployed
	Action     *plan.Action   `json:"action"`              // what apply would do; null = nothing
	Reads      plan.Values    `json:"reads"`               //
	ReadBy     []string       `json:"readBy"`              // addresses, sorted
	Protected  string         `json:"protected,omitempty"` // why it is kept although it is no longer defined
	Exposure   string         `json:"hardening,omitempty"` // rating of systemd-analyze security on this machine: 0 is best, 10 worst
	Hidden     []string       `json:"hidden,omitempty"`    // what hardening hides from the service
	Next       []time.Time    `json:"next,omitempty"`      // next runs of a schedule with fixed times

	Schedule *graph.Schedule `json:"-"`
	Names    *graph.Names    `json:"-"` // of all units
}

// Explain describes the units that a person means with a name: one, or those of
// a set or a group. Of a unit that is no longer defined only the record is
// known. The change set is that of an apply of d.
func Explain(ctx context.Context, p *project.Project, d *project.Desired, cs *plan.ChangeSet, name string) ([]*Explanation, error) {
	addresses, candidates := cs.Names.FindAll(name)
	switch {
	case len(candidates) > 0:
		return nil, plan.AmbiguousName(name, candidates)
	case len(addresses) == 0:
		addresses = []string{name} // the error says so
	}
	var out []*Explanation
	for _, a := range addresses {
		e, err := explainUnit(ctx, p, d, cs, a)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// explainUnit describes the unit at an address.
func explainUnit(ctx context.Context, p *project.Project, d *project.Desired, cs *plan.ChangeSet, name string) (*Explanation, error) {
	e := &Explanation{APIVersion: plan.APIVersion, Kind: "Explanation", Reads: plan.Values{}, ReadBy: []string{}, Names: cs.Names}
	if err := e.describe(ctx, p, d, name); err != nil {
		return nil, err
	}
	e.compare(d, cs)
	return e, nil
}

// describe adds what the deployment says about the unit.
func (e *Explanation) describe(ctx context.Context, p *project.Project, d *project.Desired, name string) error {
	if g := d.Generation; g != nil && d.Rendered.Plan.Find(name) == nil {
		for _, r := range g.Records {
			if r.Address == name {
				e.Address, e.Machine, e.Backend, e.Because = r.Address, r.Machine, r.Backend, "it was deployed there"
				return nil
			}
		}
	}
	if m, ok := d.Rendered.Modules[name]; ok {
		e.describeModule(ctx, p, d, m)
		return nil
	}
	svc, err := findService(d, name)
	if err != nil {
		return err
	}
	return e.describeService(ctx, p, d, svc)
}

func (e *Explanation) describeService(ctx context.Context, p *project.Project, d *project.Desired, svc *graph.Service) error {
	e.Address = svc.Address.String()
	placed, u := d.Rendered.Plan.Find(e.Address), d.Rendered.Units[e.Address]
	if placed == nil || u == nil {
		return diag.Errorf(svc.String(), "it is held: its configuration has an error").WithHint("fix the error above")
	}
	e.Machine, e.Backend, e.Because = svc.Machine, svc.Backend, d.Reasons[e.Address]
	if e.Schedule = svc.Spec.Schedule; e.Schedule != nil && svc.Backend == "systemd" {
		e.Next = systemd.Next(e.Schedule, time.Now(), UpcomingRuns)
	}
	if svc.Backend == "systemd" && svc.Fact == nil {
		e.Hidden = systemd.HiddenPaths(svc.Options)
	}
	e.Digest, e.ReadBy = placed.Digest, readers(d, svc)
	if placed.Values != nil {
		e.Reads = placed.Values
	}
	if len(placed.Unknown) == 0 { // else the name of the unit is known at apply only
		instance, err := u.Instance(placed.Values)
		if err != nil {
			return err
		}
		layout, err := p.Backends[svc.Backend].Realize(u.Payload, instance, func(t token.Token) (string, bool) { v, ok := placed.Values[plan.Key(t)]; return v, ok })
		if err != nil {
			return err
		}
		e.Unit, e.Exposure = layout.Unit, exposure(ctx, layout)
	}
	positions := p.Positions(ctx, [][]string{svc.Path, {"overrides", svc.Address.Functionality()}})
	e.Defined = positions[0]
	if slices.Contains(d.Overrides, svc.Address.Functionality()) {
		e.Overridden = &positions[1]
	}
	return nil
}

// describeModule describes a module of resources.
func (e *Explanation) describeModule(ctx context.Context, p *project.Project, d *project.Desired, m backends.Module) {
	e.Address = m.Address.String()
	placed := d.Rendered.Plan.Find(e.Address)
	e.Backend, e.Digest = placed.Backend, placed.Digest
	if placed.Values != nil {
		e.Reads = placed.Values
	}
	resources := slices.Sorted(maps.Keys(m.Sources))
	e.Because = "it contains " + strings.Join(resources, ", ")
	if found := p.Positions(ctx, [][]string{m.Sources[resources[0]]}); len(found) == 1 {
		e.Defined = found[0]
	}
	for address, u := range d.Rendered.Units {
		if slices.Contains(u.Requires, e.Address) {
			e.ReadBy = append(e.ReadBy, address)
		}
	}
	slices.Sort(e.ReadBy)
}

// compare adds what is deployed and what apply would do.
func (e *Explanation) compare(d *project.Desired, cs *plan.ChangeSet) {
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

// Addresses returns the addresses that Explain knows, as people read them.
func Addresses(d *project.Desired) []string {
	var out []string
	for _, s := range d.Graph.Services {
		out = append(out, s.String())
	}
	return append(out, slices.Sorted(maps.Keys(d.Rendered.Modules))...)
}

// findService finds a service by its address.
func findService(d *project.Desired, name string) (*graph.Service, error) {
	for _, s := range d.Graph.Services {
		if s.Address.String() == name {
			return s, nil
		}
	}
	hint := diag.Suggest(name, Addresses(d))
	if hint == "" {
		hint = "defx graph lists the addresses"
	}
	return nil, diag.Errorf("", "unknown unit %q", name).WithHint("%s", hint)
}

// readers returns the addresses of the units that read a value of a service.
func readers(d *project.Desired, svc *graph.Service) []string {
	out := []string{}
	names := []string{svc.Address.String(), svc.Address.Set(), svc.Address.Functionality()} // reads of a set are reads of each replica
	for address, u := range d.Rendered.Units {
		for _, t := range u.Reads {
			if t.Of != "me" && slices.Contains(names, t.Name) && address != svc.Address.String() {
				out = append(out, address)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}
