package project

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang"
)

// An incremental plan decodes, resolves and renders only the functionalities
// that have no valid summary in the memo. It still places, orders and compares
// all of them.
//
// A summary is valid only if the value of the functionality, the answers to its
// questions about others, and its context are those of the run that made it
// (compile.Summary, backends.RenderedSummary), and if its services are deployed
// as they were rendered then. So whatever will change is rendered in this run.
// An incremental plan reports no errors: if anything but a clean plan results, it
// is abandoned, and a full plan decides and reports.

// validSummaries returns the summaries of functionalities that have not changed
// and are deployed as they were rendered.
func (m *memo) validSummaries(deployed *plan.Plan) map[string]*compile.Summary {
	out := make(map[string]*compile.Summary, len(m.values))
	for lib, funcs := range m.entries {
		for name, e := range funcs {
			full := lib + "/" + name
			if m.values[full] != e.summary.Value {
				m.reasons[full] = "its value changed"
				continue
			}
			i := slices.IndexFunc(e.services, func(s memoService) bool {
				u := deployed.Find(graph.Address{Lib: lib, Name: name, Replica: s.replica}.String())
				return u == nil || u.Object != s.rendered.Object || u.Digest != s.rendered.Digest
			})
			if i >= 0 {
				m.reasons[full] = "it is not deployed as it was last rendered"
				continue
			}
			out[full] = &e.summary
		}
	}
	return out
}

// planIncremental plans from memoized summaries. It returns false and leaves d
// unchanged if anything other than a clean plan results.
func (m *memo) planIncremental(ctx context.Context, d *Desired, in compile.Input, deployed *plan.Plan) bool {
	in.Summaries, in.Values = m.validSummaries(deployed), m.values
	m.fullPlanReason = "nothing is cached for this entry, or nothing is deployed as it was last rendered"
	for len(in.Summaries) > 0 {
		m.fullPlanReason = "something is held, moved or refused, or a module creates it"
		r, err := m.p.pass(ctx, d, in, deployed, backends.RenderCache{Lookup: m.lookup, Store: true})
		if err != nil || len(r.failed) > 0 || len(r.out.Held) > 0 || len(r.out.Graph.Resources)+len(r.out.Graph.Balancers) > 0 ||
			slices.ContainsFunc(r.out.Graph.Machines, func(m *graph.Machine) bool { return m.Module != "" }) { // modules depend on state outside of defx
			return false
		}
		if len(r.rendered.Unknown) == 0 {
			d.accept(r)
			m.store(r)
			m.fullPlanReason = ""
			if m.p.Explain {
				d.Uses = m.uses(r)
			}
			return true
		}
		before := len(in.Summaries)
		for _, address := range r.rendered.Unknown {
			a, _ := graph.ParseAddress(address)
			delete(in.Summaries, a.Functionality())
			m.reasons[a.Functionality()] = "its machine, or the placement of what it refers to, changed"
		}
		m.fullPlanReason = "most functionalities changed"
		if len(in.Summaries) < before*3/4 || len(in.Summaries) == before {
			return false // a full plan is faster
		}
	}
	return false
}

// uses returns for each functionality whether its summary was used, and why not.
func (m *memo) uses(r *pass) []lang.CacheUse {
	var out []lang.CacheUse
	for _, s := range r.out.Graph.Services {
		full := s.Address.Functionality()
		if n := len(out); n > 0 && out[n-1].Part == full {
			continue
		}
		u := lang.CacheUse{Part: full, Hit: s.Summary}
		if !s.Summary {
			u.Why = cmp.Or(m.reasons[full], r.out.Invalidated[full], "nothing is cached for it")
		}
		out = append(out, u)
	}
	return out
}

// verify also runs a full plan and returns an error if it differs from d.
func (p *Project) verify(ctx context.Context, d *Desired) error {
	full, err := p.evaluate(ctx, false)
	if err != nil {
		return err
	}
	text := func(d *Desired) string {
		raw, err := json.Marshal([]any{d.Rendered.Plan, d.Reasons, len(d.Held)})
		if err != nil {
			panic(err) // plain data always encodes
		}
		return string(raw)
	}
	if text(d) != text(full) {
		e := diag.Errorf("", "the plan made from cached results differs from the full plan").WithHint("remove %s and report this as a bug in defx", p.Config.Cache)
		e.Cause = lang.ErrCacheMismatch
		return e
	}
	return nil
}
