package project

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/terraform"
	"github.com/defx-dev/defx/internal/diag"
)

// ApplyRequest returns the request to apply d.
func (p *Project) ApplyRequest(d *Desired) *apply.Request {
	w := p.NewRequest(d.Name, d.Environment, "apply")
	w.Plan, w.Objects, w.LastGood = d.Rendered.Plan, d.Rendered.Objects, d.LastGood
	w.Held, w.Moved, w.Machines, w.Revision = d.heldFilter(), d.Moved, d.Graph.Machines, p.Revision
	return w
}

// ArtifactStream returns the content of an artifact in the form in which it is
// sent to a machine.
func (p *Project) ArtifactStream(ctx context.Context, a plan.Artifact) (io.ReadCloser, error) {
	return p.artifacts.Stream(ctx, a)
}

// Changes returns what an apply of w would do, with what is held and the
// position of each changed field.
func (p *Project) Changes(ctx context.Context, d *Desired, w *apply.Request) (*plan.ChangeSet, error) {
	cs, err := apply.Diff(ctx, w)
	if e, ok := errors.AsType[*diag.Error](err); ok {
		if svc := d.find(e.Subject); svc != nil && e.Path == nil {
			e.At(append(slices.Clone(svc.Path), "place")...)
		}
		p.locate(ctx, diag.List{e})
	}
	if err != nil {
		return nil, err
	}
	p.Describe(ctx, d, cs)
	return cs, nil
}

// Refresh asks the cloud for the state of each module whose inputs are known, and
// returns the change set with the answers in it. Modules that others changed
// become part of the changes.
func (p *Project) Refresh(ctx context.Context, d *Desired, w *apply.Request) (*plan.ChangeSet, error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	results, errs := map[string]*plan.RefreshResult{}, diag.List{}
	records, renamed := map[string]*plan.Record{}, map[string]bool{}
	if d.Generation != nil {
		for _, r := range d.Generation.Records {
			records[r.Address] = &r
			renamed[d.Moved(r.Address)] = d.Moved(r.Address) != r.Address
		}
	}
	for _, u := range d.Rendered.Plan.Units {
		if _, module := d.Rendered.Modules[u.Address]; !module || len(u.Unknown) > 0 || renamed[u.Address] {
			continue
		}
		all.Go(func() {
			moved, err := w.MovedIn(ctx, records[u.Address])
			var result *plan.RefreshResult
			if err == nil {
				result, err = w.Modules.Status(ctx, terraform.ModuleRequest{Scope: d.Environment + "/" + d.Name, Address: u.Address, Unit: d.Rendered.Objects[u.Object], Values: u.Values, Moved: moved})
			}
			mu.Lock()
			defer mu.Unlock()
			if e, is := errors.AsType[*diag.Error](err); is {
				errs = append(errs, e)
			} else if err != nil {
				errs = append(errs, diag.Errorf(u.Address, "%v", err))
			} else {
				results[u.Address] = result
			}
		})
	}
	all.Wait()
	if len(errs) > 0 {
		if errs = errs.Sort(); errs[0].Subject == "" { // the same for all modules
			errs = errs[:1]
		}
		return nil, errs
	}
	w.Drifted = map[string]bool{}
	for address, result := range results {
		w.Drifted[address] = len(result.Changes) > 0
	}
	cs, err := p.Changes(ctx, d, w)
	if err != nil {
		return nil, err
	}
	cs.Refresh = results
	return cs, nil
}

// Describe adds to a change set what is held, and where in the source each
// change comes from.
func (p *Project) Describe(ctx context.Context, d *Desired, cs *plan.ChangeSet) {
	cs.Baseline = d.Baseline
	var changes []*plan.Change
	var paths [][]string
	for i := range cs.Actions {
		a := &cs.Actions[i]
		svc := d.find(a.Address)
		var module backends.Module
		if d != nil && d.Rendered != nil {
			module = d.Rendered.Modules[a.Address]
		}
		for j := range a.Changes {
			c := &a.Changes[j]
			var path []string
			if svc != nil {
				path = sourcePath(svc, c.Source)
			}
			if len(c.Source) > 0 && module.Sources[c.Source[0]] != nil {
				path = append(slices.Clone(module.Sources[c.Source[0]]), c.Source[1:]...)
				c.Replaces = c.Before != nil && slices.ContainsFunc(module.Replaces, func(f string) bool { return c.Path == f || strings.HasPrefix(c.Path, f+"/") })
			}
			changes, paths = append(changes, c), append(paths, path)
		}
	}
	for i, pos := range p.Positions(ctx, paths) {
		changes[i].Position = pos
	}
	cs.Held = d.heldItems()
	cs.Summary.Held = len(cs.Held)
}

// heldItems returns an item for each deployed unit of what is held, and one for
// each functionality or library of which nothing is deployed.
func (d *Desired) heldItems() []plan.HeldItem {
	items := []plan.HeldItem{}
	seen := map[string]bool{}
	for _, h := range d.Held {
		item := plan.HeldItem{Address: h.Name, Error: h.Err.Msg, Position: h.Err.Pos}
		found := false
		for _, address := range d.HeldUnits {
			a, _ := graph.ParseAddress(address)
			if (a.Functionality() == h.Name || a.Lib == h.Name) && !seen[address] {
				seen[address], found = true, true
				item.Address = address
				items = append(items, item)
			}
		}
		if !found {
			items = append(items, item)
		}
	}
	return items
}

// find returns the service at an address, or nil.
func (d *Desired) find(address string) *graph.Service {
	if d == nil || d.Graph == nil {
		return nil
	}
	a, err := graph.ParseAddress(address)
	if err != nil {
		return nil
	}
	if svc := d.Graph.Find(a); svc != nil || a.Replica != "" {
		return svc
	}
	a.Replica = graph.FirstReplica // as people write it
	return d.Graph.Find(a)
}
