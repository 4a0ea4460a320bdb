package project

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/place"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// fixpoint compiles, places and renders until nothing more has to be held: what
// cannot be placed or rendered is held like what does not evaluate. It returns
// the last pass.
func (p *Project) fixpoint(ctx context.Context, d *Desired, in compile.Input, deployed *plan.Plan, cache backends.RenderCache) (*pass, error) {
	failed := map[string]*diag.Error{}
	for {
		in.Failed = failed
		r, err := p.pass(ctx, d, in, deployed, cache)
		if err != nil {
			return nil, err
		}
		d.accept(r)
		again := false
		var rest diag.List
		for name, e := range r.failed {
			rest = append(rest, compile.ErrorList(e)...)
			if failed[name] == nil {
				failed[name], again = e, true
			}
		}
		if !again && r.rendered == nil { // not even the last good versions fit
			return nil, rest.Sort()
		}
		if !again {
			if lost := unreported(failed, r.out.Held); len(lost) > 0 {
				return nil, lost.Sort()
			}
			d.keepHeld(deployed)
			return r, nil
		}
	}
}

// unreported returns the errors of what is not held, so that nobody would see them.
func unreported(failed map[string]*diag.Error, held []compile.Held) diag.List {
	var out diag.List
	for name, e := range failed {
		lib, _, _ := strings.Cut(name, "/")
		if !slices.ContainsFunc(held, func(h compile.Held) bool { return h.Name == name || h.Name == lib }) {
			out = append(out, compile.ErrorList(e)...)
		}
	}
	return out
}

// pass is the result of compiling, placing and rendering once.
type pass struct {
	out      *compile.Output
	reasons  place.Reasons
	rendered *backends.Rendered     // nil: placement failed
	failed   map[string]*diag.Error // functionalities that have to be held, by full name
}

// fail records that a functionality has to be held.
func (r *pass) fail(functionality string, errs diag.List) {
	r.failed[functionality] = join(r.failed[functionality], errs)
}

// accept copies the results of a pass into d, if it came to rendering.
func (d *Desired) accept(r *pass) {
	if r.rendered != nil {
		d.Graph, d.Reasons, d.Rendered, d.Held, d.LastGood = r.out.Graph, r.reasons, r.rendered, r.out.Held, r.out.LastGood
	}
}

func (p *Project) pass(ctx context.Context, d *Desired, in compile.Input, deployed *plan.Plan, cache backends.RenderCache) (*pass, error) {
	out, err := compile.Compile(in)
	if err != nil {
		return nil, err
	}
	r := &pass{out: out, failed: map[string]*diag.Error{}}
	if err := p.useProviders(ctx, out.Graph, d); err != nil {
		return nil, err
	}
	packed, unpacked := ec2.Pack(out.Graph, in.Baseline.Machines, ec2.ModuleState{Output: outputsOf(deployed), Attach: p.Attach,
		Deployed: func(m string) bool { _, was := in.Baseline.Machines[m]; return was }})
	reasons, unplaced := place.Place(out.Graph, place.Previous(in.Baseline.Machines))
	if len(unpacked) > 0 { // what has no instance has no place either
		unplaced = unpacked
	}
	var ofEntry diag.List
	for _, e := range unpacked {
		if a, err := graph.ParseAddress(e.Subject); err != nil || a.Lib == "" {
			ofEntry = append(ofEntry, e)
		}
	}
	if len(ofEntry) > 0 {
		return nil, ofEntry
	}
	maps.Copy(reasons, packed)
	r.reasons = reasons
	for _, e := range unplaced {
		a, _ := graph.ParseAddress(e.Subject)
		r.fail(a.Functionality(), diag.List{e})
	}
	if len(r.failed) == 0 {
		for _, e := range out.ExpandSets() {
			a, _ := graph.ParseAddress(e.Subject)
			r.fail(a.Functionality(), diag.List{e})
		}
	}
	if len(r.failed) > 0 {
		return r, nil
	}
	setIdentities(out.Graph, deployed)
	rendered, failures := p.Backends.Render(out.Graph, deployedIn(deployed), p.artifact, cache)
	for _, f := range failures {
		if f.Functionality == "" { // resources of the entry itself
			return nil, f.Errors
		}
		if rendered.Incomplete && in.Failed[f.Functionality] != nil { // not even the last good version can be rendered
			return nil, f.Errors
		}
		r.fail(f.Functionality, f.Errors)
	}
	for _, e := range p.unsafe(out, rendered.Plan, deployed, d.Moved) {
		a, _ := graph.ParseAddress(e.Subject)
		r.fail(a.Functionality(), diag.List{e})
	}
	r.rendered = rendered
	return r, nil
}

// outputsOf returns the known outputs of deployed modules by their key.
func outputsOf(deployed *plan.Plan) func(key string) string {
	all := plan.Values{}
	for _, u := range deployed.Units {
		maps.Copy(all, u.Outputs)
	}
	return func(key string) string { return all[key] }
}

// unconsentedMoves returns an error for each unit with data that would move to
// another machine without --allow-move. Only its functionality is held, on the
// machine where it is.
func (p *Project) unconsentedMoves(g *graph.Graph, desired, deployed *plan.Plan, names *graph.Names) diag.List {
	var out diag.List
	for _, u := range desired.Units {
		o := deployed.Find(u.Address)
		if o == nil || u.Held || !o.Stateful || o.Machine == u.Machine || o.Backend != u.Backend || p.AllowMove[u.Address] || p.AllowMove[names.Text(u.Address)] {
			continue
		}
		e := diag.Errorf(names.Text(u.Address), "it keeps data on %s and would move to %s without it", o.Machine, u.Machine).
			WithHint("pin it with place: { machine: '%s' }, or allow the move: --allow-move %s", o.Machine, names.Text(u.Address))
		if a, err := graph.ParseAddress(u.Address); err == nil {
			if svc := g.Find(a); svc != nil {
				e.At(append(slices.Clone(svc.Path), "place")...)
			}
		}
		out = append(out, e)
	}
	return out
}

// join adds the errors of l to e, which may be nil, as causes.
func join(e *diag.Error, l diag.List) *diag.Error {
	if e == nil {
		e, l = l[0], l[1:]
	}
	if len(l) > 0 {
		rest, _ := e.Cause.(diag.List)
		e.Cause = append(rest, l...)
	}
	return e
}

// deployedIn returns a lookup of deployed units, marked as held.
func deployedIn(deployed *plan.Plan) func(string) (plan.Placed, bool) {
	return func(address string) (plan.Placed, bool) {
		u := deployed.Find(address)
		if u == nil {
			return plan.Placed{}, false
		}
		held := *u
		held.Held = true
		return held, true
	}
}

// keepHeld keeps every deployed unit of what is held in the plan: a unit that is
// absent because of an error must not be deleted.
func (d *Desired) keepHeld(deployed *plan.Plan) {
	held := d.heldFilter()
	if held == nil {
		return
	}
	for _, u := range deployed.Units {
		if !held(u.Address) {
			continue
		}
		if d.Rendered.Plan.Find(u.Address) == nil {
			u.Held = true
			d.Rendered.Plan.Units = append(d.Rendered.Plan.Units, u)
			slices.SortFunc(d.Rendered.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
		}
	}
	for _, u := range d.Rendered.Plan.Units {
		if u.Held {
			d.HeldUnits = append(d.HeldUnits, u.Address)
		}
	}
}

// heldFilter returns what reports whether an address is held, or nil if nothing is.
func (d *Desired) heldFilter() func(string) bool {
	if len(d.Held) == 0 {
		return nil
	}
	held := map[string]bool{}
	for _, h := range d.Held {
		held[h.Name] = true
	}
	return func(address string) bool {
		a, err := graph.ParseAddress(d.Moved(address))
		return err == nil && (held[a.Functionality()] || held[a.Lib])
	}
}

func (p *Project) artifact(t token.Token) (plan.Artifact, bool) {
	a, err := p.artifacts.Describe(t)
	return a, err == nil
}
