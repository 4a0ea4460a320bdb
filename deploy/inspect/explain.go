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
	Next       []time.Time    `json:"next,omitempty"`      // next runs of a schedule with fixed times

	Schedule *graph.Schedule `json:"-"`
}

// Explain describes the unit at an address, or at the only address that ends
// with it. Of a unit that is no longer defined only the record is known. The
// change set is that of an apply of d.
func Explain(ctx context.Context, p *project.Project, d *project.Desired, cs *plan.ChangeSet, name string) (*Explanation, error) {
	e := &Explanation{APIVersion: plan.APIVersion, Kind: "Explanation", Reads: plan.Values{}, ReadBy: []string{}}
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
		return diag.Errorf(e.Address, "it is held: its configuration has an error").WithHint("fix the error above")
	}
	e.Machine, e.Backend, e.Because = svc.Machine, svc.Backend, d.Reasons[e.Address]
	if e.Schedule = svc.Spec.Schedule; e.Schedule != nil && svc.Backend == "systemd" {
		e.Next = systemd.Next(e.Schedule, time.Now(), UpcomingRuns)
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

// Addresses returns the addresses that Explain knows.
func Addresses(d *project.Desired) []string {
	var out []string
	for _, s := range d.Graph.Services {
		out = append(out, s.Address.String())
	}
	return append(out, slices.Sorted(maps.Keys(d.Rendered.Modules))...)
}

// findService finds a service by its address, or by the end of one if only one
// service has it.
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
	hint := diag.Suggest(name, Addresses(d))
	if hint == "" {
		hint = "defx graph lists the addresses"
	}
	return nil, diag.Errorf("", "unknown unit %q", name).WithHint("%s", hint)
}

// readers returns the addresses of the units that read a value of a service.
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
