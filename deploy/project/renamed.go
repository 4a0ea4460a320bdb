package project

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// CheckRenamed returns an error if d was never applied but resembles another deployment of the same
// state and environment: that one was probably renamed. Its units would go on running beside those
// of d, which would start with empty directories.
func (p *Project) CheckRenamed(ctx context.Context, d *Desired) error {
	if d.Generation != nil {
		return nil
	}
	known := p.Deployments()
	for _, name := range sets.Keys(known) {
		if name == d.Name || !slices.Contains(known[name], d.Environment) {
			continue
		}
		gen, _, err := state.Current(ctx, p.Store(name, d.Environment))
		if err != nil || gen == nil { // the damage of another deployment is no reason to refuse this one
			continue
		}
		same := p.sameUnits(ctx, p.Store(name, d.Environment), gen, d)
		if same == 0 || 2*same < len(gen.Records) {
			continue
		}
		return diag.Errorf("", "deployment %s was never applied, but %s, at generation %d, has %d of its units on the same machines: it was probably renamed",
			d.Name, name, gen.Number, same).
			WithHint("name: '%s' keeps its units and their data, whose names contain it; if this is another deployment: --new-deployment", name)
	}
	return nil
}

// sameUnits returns how many units of a generation are desired at the same address on the same
// machine, whatever the machine is called, and keep the same data or run the same command.
func (p *Project) sameUnits(ctx context.Context, store state.Store, gen *state.Generation, d *Desired) int {
	connections := map[string]string{}
	for _, m := range gen.Machines {
		connections[m.Name] = m.Connect
	}
	now := map[string]string{}
	for _, m := range d.Graph.Machines {
		now[m.Name] = m.Connect
	}
	n := 0
	for _, r := range gen.Records {
		u := d.Rendered.Plan.Find(r.Address)
		if u == nil || now[u.Machine] != connections[r.Machine] {
			continue
		}
		if len(u.Kept) > 0 && slices.Equal(u.Kept, r.Kept) || runsSame(ctx, store, r, findService(d.Graph, r.Address)) {
			n++
		}
	}
	return n
}

// runsSame reports whether a deployed unit runs the command of a service.
func runsSame(ctx context.Context, store state.Store, r plan.Record, svc *graph.Service) bool {
	var was plan.Unit
	if svc == nil || len(svc.Spec.Command) == 0 || r.Object == "" || state.Load(ctx, store, r.Object, &was) != nil {
		return false
	}
	var spec struct {
		Command json.RawMessage `json:"command"`
	}
	now, err := json.Marshal(svc.Spec.Command)
	return err == nil && json.Unmarshal(was.Spec, &spec) == nil && bytes.Equal(spec.Command, now)
}
