package project

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/lang"
)

// ground is what a plan stands on besides the values of its libraries: state,
// lock, versions of secrets, and what earlier plans found out. The entry's own
// value is all that has to be known to lay it, so that it can be laid while
// libraries are evaluated.
type ground struct {
	laid  chan struct{} // closed when the rest may be read
	entry lang.Result   // without libraries
	d     *Desired
	err   error

	base    compile.Baseline
	old     *plan.Plan // what stands
	images  map[string]digest.Digest
	secrets map[string]string
	memory  *memory // nil: nothing can be kept
	moves   bool    // something is renamed
}

// ground begins to lay it.
func (p *Project) ground(ctx context.Context, entry lang.Result, libraries []string) *ground {
	entry.Libraries = nil
	g := &ground{laid: make(chan struct{}), entry: entry, old: &plan.Plan{}, secrets: map[string]string{},
		d: &Desired{Environment: entry.Environment, Entry: entry.Deployment}}
	go func() {
		defer close(g.laid)
		g.err = p.lay(ctx, g, libraries)
	}()
	return g
}

// of tells whether it was laid for this entry: files may have changed in between.
func (g *ground) of(res *lang.Result) bool {
	return g != nil && g.entry.Environment == res.Environment && g.entry.Transforms == res.Transforms && string(g.entry.Deployment) == string(res.Deployment)
}

// drop tells of which units nobody will ask: those of addresses where nothing
// stands. After an interrupted apply, or a rename, that is not so easy to tell.
func (g *ground) drop(p *Project) func(address string) bool {
	journal := ofState + g.d.Name + "/" + g.d.Environment + "/" + apply.JournalName
	quiet := slices.ContainsFunc(g.d.before, func(r lang.ReadRecord) bool { return r.Path == journal && r.Absent })
	if !p.PlanOnly || !quiet || g.moves {
		return nil
	}
	return func(address string) bool { _, stands := g.base.Machines[address]; return !stands }
}

func (p *Project) lay(ctx context.Context, g *ground, libraries []string) (err error) {
	var head struct {
		Name      string                     `json:"name"`
		Resources map[string]json.RawMessage `json:"resources"`
		Machines  map[string]struct {
			Connect string `json:"connect"`
		} `json:"machines"`
		Moved map[string]string `json:"moved"`
	}
	json.Unmarshal(g.entry.Deployment, &head) // compile says what is wrong with it
	d := g.d
	d.Name, d.Moved, g.moves = head.Name, compile.RenameFunc(head.Moved), len(head.Moved) > 0
	var now []*graph.Machine
	for _, name := range slices.Sorted(maps.Keys(head.Machines)) {
		now = append(now, &graph.Machine{Name: name, Connect: head.Machines[name].Connect})
	}
	d.before = p.besides(d)
	if graph.ValidName(d.Name) && graph.ValidName(d.Environment) {
		if g.base, g.old, err = p.baseline(ctx, d, now); err != nil {
			return err
		}
	}
	if g.images, err = p.useLock(d.Environment); err != nil {
		return err
	}
	if err := p.secretVersions(g.secrets); err != nil {
		return err
	}
	if g.entry.Transforms == 0 && len(head.Resources) == 0 {
		g.memory = p.recall(g, libraries)
	}
	return nil
}
