package project

import (
	"fmt"
	"slices"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
)

// identityOf returns the name under which the user and the volumes of the unit at an address are
// made, unless it was renamed.
func identityOf(environment, deployment, address string) string {
	a, err := graph.ParseAddress(address)
	if err != nil {
		return ""
	}
	return spec.BaseName(spec.NamePrefix(environment, deployment), a)
}

// setIdentities gives each service the name under which its user and volumes were made. A unit that
// was renamed keeps its former one, and one that is new at an address that another unit left gets
// another one.
func setIdentities(g *graph.Graph, deployed *plan.Plan) {
	taken := map[string]bool{}
	for _, u := range deployed.Units {
		if u.Identity != "" {
			taken[u.Identity] = true
		}
	}
	for _, s := range g.Services {
		if s.Fact != nil {
			continue
		}
		address := s.Address.String()
		own := identityOf(g.Environment, g.Name, address)
		if u := deployed.Find(address); u != nil {
			if u.Identity != own { // of one that was renamed back
				s.Identity = u.Identity
			}
			continue
		}
		free := own
		for n := 2; taken[free]; n++ {
			free = fmt.Sprintf("%s-%d", own, n)
		}
		if free != own {
			s.Identity = free
			taken[free] = true
		}
	}
}

// unsafe returns an error for each desired unit that would move away from its data or give it up
// without consent, that claims what another unit on its machine has, or whose name is not free for
// the unit that was renamed to it. Only their functionalities are held, as they are deployed.
func (p *Project) unsafe(out *compile.Output, desired, deployed *plan.Plan, moved func(string) string) diag.List {
	names := desired.Names()
	for _, u := range deployed.Units {
		names.Add(u.Address)
	}
	errs := p.unconsentedMoves(out.Graph, desired, deployed, names)
	for _, u := range deployed.Units {
		if now := moved(u.Address); now != u.Address && u.Stateful && desired.Find(u.Address) == nil && desired.Find(now) != nil {
			errs = append(errs, diag.Errorf(names.Text(now), "%s, which keeps data, cannot become %s, because another unit of that name is deployed", names.Text(u.Address), names.Text(now)).
				WithHint("remove or rename that one first, in an apply of its own"))
		}
	}
	giveUp, allowDelete := fullNames(names, p.GiveUp), fullNames(names, p.AllowDelete)
	for _, u := range desired.Units {
		o := deployed.Find(u.Address)
		if o == nil || u.Held || giveUp[u.Address] {
			continue
		}
		if lost := plan.LostData(*o, u); len(lost) > 0 {
			e := plan.LostDataError(names, *o, u, lost)
			if svc := findService(out.Graph, u.Address); svc != nil {
				e.At(append(slices.Clone(svc.SpecPath), "dirs")...)
			}
			errs = append(errs, e)
		}
	}
	held := map[string]bool{}
	for _, h := range out.Held {
		held[h.Name] = true
	}
	check := plan.ClaimCheck{Desired: desired, Deployed: deployed.Units, Stays: map[string]string{}, Names: names}
	for _, u := range deployed.Units {
		a, err := graph.ParseAddress(moved(u.Address)) // what is renamed is held with its new name
		switch {
		case err != nil || desired.Find(u.Address) != nil:
		case held[a.Lib] || held[a.Functionality()]:
			check.Stays[u.Address] = "its configuration has an error"
		case allowDelete[u.Address]:
		case u.Stateful:
			check.Stays[u.Address] = plan.KeepsData
		case u.Protect:
			check.Stays[u.Address] = plan.WasProtected
		}
	}
	for _, e := range plan.CheckClaims(check) {
		if u := desired.Find(names.Full(e.Subject)); u == nil || !u.Held {
			errs = append(errs, e)
		}
	}
	return errs
}

func fullNames(names *graph.Names, typed map[string]bool) map[string]bool {
	out := map[string]bool{}
	for a, is := range typed {
		out[names.Full(a)] = is
	}
	return out
}

// findService returns the service at an address, or nil.
func findService(g *graph.Graph, address string) *graph.Service {
	a, err := graph.ParseAddress(address)
	if err != nil {
		return nil
	}
	return g.Find(a)
}
