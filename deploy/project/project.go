// Package project runs the pipeline for one folder with an entry file:
// evaluate, compile, place, render, and compare with the state.
//
// It knows the order of the stages and what each passes to the next. It refuses
// to decide anything that a stage decides. Invariant: everything up to the plan
// is a pure function of the recorded reads and the baseline.
//
// It is longer than most packages because it wires all stages together:
//
//	project.go      opening, the state of environments, Evaluate and Plan
//	inputs.go       what a plan reads in addition to the values of libraries
//	transform.go    the entry's transforms
//	fixpoint.go     compile, place and render until nothing more has to be held
//	request.go      apply requests
//	changes.go      change sets, with what is held and positions
//	positions.go    positions in the source, lint
//	incremental.go  plans from memoized summaries; memo.go stores them
//	unchanged.go    plans without changes, remembered as a whole
//	deployed.go     requests that start from the deployed units; attach.go
//	lock.go         the lock file
//	providers.go    the providers of resources, and their lock file
package project

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/place"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/deploy/revision"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/deploy/terraform"
	"github.com/defx-dev/defx/deploy/transport"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/cache"
)

// Project is one entry file in one environment.
type Project struct {
	Config      lang.Config
	StateDir    string // folder with the state of all environments
	Backends    backends.Set
	AllowMove   map[string]bool // addresses of units with data that may move to another machine
	AllowDelete map[string]bool // addresses of protected units that may be deleted
	GiveUp      map[string]bool // addresses of units whose directories with data may be given up
	Attach      map[string]bool // modules of attachments to create (true) or to remove (false); the others stay as they are
	PlanOnly    bool            // nothing will be applied: the content of units to create need not be kept
	Explain     bool            // record in Desired.Uses what the cache was used for
	LeaseTime   time.Duration   // of the leases of applies; 0 = as the store needs it
	Builds      string          // folder of defx programs for machines of other architectures; "" = there are none

	artifacts *artifact.Source
	stores    sync.Map // path → *state.Dir
}

// Open returns the project whose entry file is file, relative to dir. stateDir is
// the location of the state, see state.ParseLocation; "" means the folder .defx
// beside the entry file.
func Open(dir, file, stateDir string, c lang.Config, b backends.Set) (*Project, error) {
	entry := file
	if !filepath.IsAbs(entry) {
		entry = filepath.Join(dir, file)
	}
	if info, err := os.Stat(entry); err != nil || info.IsDir() {
		if abs, err := filepath.Abs(entry); err == nil {
			entry = abs
		}
		return nil, diag.Errorf("", "there is no deployment here: %s is not a file", entry).
			WithHint("defx init creates one; -C DIR or -f FILE selects another")
	}
	root, err := lang.ResolveFolder("-C", filepath.Dir(entry))
	if err != nil {
		return nil, err
	}
	c.Root, c.Entry = root, filepath.Base(entry)
	if stateDir == "" {
		stateDir = filepath.Join(root, ".defx")
	} else if stateDir, err = state.ParseLocation(stateDir); err != nil {
		return nil, err
	}
	if stateDir, err = filepath.Abs(stateDir); err != nil {
		return nil, err
	}
	p := &Project{Config: c, StateDir: stateDir, Backends: b, artifacts: artifact.NewSource(root, c.JPath, filepath.Join(stateDir, ".cache", "artifacts"))}
	p.artifacts.Exclude(stateDir)
	if c.Cache != "" {
		p.artifacts.Exclude(c.Cache)
	}
	return p, nil
}

// Store returns the state of one environment of one deployment. It returns the
// same store each time, because a store caches what it has read.
func (p *Project) Store(deployment, environment string) *state.Dir {
	path := filepath.Join(p.StateDir, deployment, environment)
	dir := state.OpenDir(path)
	dir.Deployment, dir.Environment = deployment, environment
	if p.Config.Cache != "" {
		dir.VerifiedCache = cache.Open(p.Config.Cache, p.Config.CacheMax)
	}
	s, _ := p.stores.LoadOrStore(path, dir)
	return s.(*state.Dir)
}

// readAhead starts to read the state while sources are evaluated, if the state
// folder has only one environment.
func (p *Project) readAhead(ctx context.Context) {
	if heads, _ := filepath.Glob(filepath.Join(p.StateDir, "*", "*", "head.json")); len(heads) == 1 {
		env := filepath.Dir(heads[0])
		go state.Current(ctx, p.Store(filepath.Base(filepath.Dir(env)), filepath.Base(env)))
	}
}

// Dialer returns what connects to the machines of this project.
func (p *Project) Dialer() transport.Dialer {
	return transport.Dialer{Root: p.Config.Root, Backends: p.Backends, Builds: p.Builds}
}

// TerraformRunner returns what runs the modules of one environment of one deployment.
func (p *Project) TerraformRunner(deployment, environment string) *terraform.Runner {
	return &terraform.Runner{Dir: filepath.Join(p.Store(deployment, environment).Path(), "terraform"), Cache: filepath.Join(p.StateDir, ".cache", "terraform"), Root: p.Config.Root}
}

// Deployments returns what the state folder has: deployment → environments, sorted.
func (p *Project) Deployments() map[string][]string {
	out := map[string][]string{}
	names, _ := filepath.Glob(filepath.Join(p.StateDir, "*", "*", "head.json"))
	for _, n := range names {
		env := filepath.Dir(n)
		d := filepath.Base(filepath.Dir(env))
		out[d] = append(out[d], filepath.Base(env))
	}
	for d := range out {
		slices.Sort(out[d])
	}
	return out
}

// Revision returns the git commit of the folder, with a + if files differ from
// it, or "" if there is no git. It reads files and runs no program.
func (p *Project) Revision(ctx context.Context) string { return revision.Of(ctx, p.Config.Root) }

// Desired is what the entry file asks for, compared with the newest generation.
type Desired struct {
	Name           string
	Environment    string
	Graph          *graph.Graph
	Reasons        place.Reasons
	Rendered       *backends.Rendered
	Held           []compile.Held
	HeldUnits      []string // addresses in the plan that stay deployed because of Held
	LastGood       compile.LastGood
	Libraries      int
	Generation     *state.Generation // nil: nothing was ever applied
	Baseline       digest.Digest
	Reads          []lang.ReadRecord
	Moved          func(address string) string // returns the new address of a renamed unit, else its argument
	Overrides      []string                    // functionalities that the entry overrides, sorted
	Entry          json.RawMessage             // the entry's own value, without libraries and overrides
	Transforms     int                         // number of transforms in the entry
	Cache          []lang.CacheUse             // which parts of the evaluation came out of the cache
	Uses           []lang.CacheUse             // with Project.Explain: which functionalities came from earlier plans; nil if FullPlanReason is not empty
	FullPlanReason string                      // why results of earlier plans could not be used; "" if they were

	Unlocked diag.List // providers that differ from the lock file: they do not run

	externalReads []lang.ReadRecord // lock, secrets and state as they were just before they were read
}

// Evaluate runs the pipeline up to the plan. The error is a diag.List with
// positions, or the error of reading the state.
func (p *Project) Evaluate(ctx context.Context) (*Desired, error) { return p.evaluate(ctx, false) }

// Plan is like Evaluate for callers that need only the plan and the units that
// will change. It uses results of earlier plans: a service that is deployed
// unchanged may be in the graph only as its interface, and without a unit.
func (p *Project) Plan(ctx context.Context) (*Desired, error) { return p.evaluate(ctx, true) }

func (p *Project) evaluate(ctx context.Context, incremental bool) (*Desired, error) {
	ctx = lang.WithBudget(ctx, p.Config.Limits)
	p.readAhead(ctx)
	var in *planInputs
	c := p.Config
	c.Known = func(entry lang.Result, libraries []string) { in = p.startInputs(ctx, entry, libraries) }
	res, err := lang.Evaluate(ctx, c)
	if in != nil {
		<-in.loaded
	}
	if err != nil {
		return nil, err
	}
	if !in.isFor(res) {
		var libraries []string
		for _, l := range res.Libraries {
			libraries = append(libraries, l.Name)
		}
		in = p.startInputs(ctx, *res, libraries)
		<-in.loaded
	}
	if in.err != nil {
		return nil, in.err
	}
	d := in.d
	d.Libraries, d.Reads, d.Overrides, d.Transforms, d.Cache = len(res.Libraries), res.Reads, res.Overrides, res.Transforms, res.Cache
	ci := compile.Input{Result: res, Baseline: in.baseline, Backends: p.Backends.Names(), Artifact: p.artifacts.Describe, Images: in.images, Secrets: in.secrets}
	m := in.memo.forResult(res)
	switch {
	case in.memo == nil:
		d.FullPlanReason = "deployments with transforms or resources, or without a cache, are always planned in full"
	case m == nil:
		d.FullPlanReason = "not everything evaluated"
	}
	if m != nil && incremental && m.planIncremental(ctx, d, ci, in.deployed) {
		if p.Config.VerifyCache {
			return d, p.verify(ctx, d)
		}
		return d, nil
	}
	if m != nil {
		d.FullPlanReason = m.fullPlanReason
	}
	if err := p.planFull(ctx, d, in, ci, m); err != nil {
		return nil, err
	}
	return d, nil
}

// planFull plans without results of earlier plans, and stores what it finds in
// m unless that is nil.
func (p *Project) planFull(ctx context.Context, d *Desired, in *planInputs, ci compile.Input, m *memo) error {
	if err := p.loadLastGood(ctx, d, ci.Baseline.LastGood); err != nil {
		return err
	}
	if ci.Result.Transforms > 0 {
		if err := p.transform(ctx, &ci); err != nil {
			var list diag.List
			if errors.As(err, &list) {
				p.locate(ctx, list)
			}
			return err
		}
	}
	render := backends.RenderCache{Discardable: in.discardable(p)}
	if m != nil {
		ci.Values, render.Store = m.values, true
	}
	last, err := p.fixpoint(ctx, d, ci, in.deployed, render)
	if m != nil && err == nil {
		m.store(last)
	}
	if err != nil {
		var list diag.List
		if errors.As(err, &list) {
			p.locate(ctx, list)
			return list.Sort()
		}
		return err
	}
	var held diag.List
	for _, h := range d.Held {
		held = append(held, compile.ErrorList(h.Err)...)
	}
	p.locate(ctx, held) // all at once: each search evaluates the entry in a child process
	return nil
}
