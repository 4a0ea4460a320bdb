// Package project walks the road for one folder with an entry file: evaluate,
// compile, place, render, and compare with the state.
//
// It knows the order of the stages and what each hands to the next. It refuses
// to decide anything that a stage decides. Invariant: everything up to the
// plan is a pure function of what was read and the baseline.
package project

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	graphlint "github.com/defx-dev/defx/compile/lint"
	"github.com/defx-dev/defx/compile/place"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/deploy/terraform"
	"github.com/defx-dev/defx/deploy/transport"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/lint"
)

// Project is one entry file in one environment.
type Project struct {
	Config    lang.Config
	StateDir  string // folder that holds the state of all environments
	Backends  backends.Set
	AllowMove map[string]bool // addresses with data of their own that may change machines
	Attach    map[string]bool // modules of attachments that are asked for (true), or not any more; the others are as they were
	PlanOnly  bool            // nothing will be applied: units of what is to be created need not be kept
	Explain   bool            // tell what came out of the cache
	Builds    string          // folder of programs for machines of other architectures; "" = there are none

	artifacts *artifact.Source
	stores    sync.Map // path → *state.Dir
}

// Open finds the entry file below dir.
func Open(dir, file, stateDir string, c lang.Config, b backends.Set) (*Project, error) {
	entry := file
	if !filepath.IsAbs(entry) {
		entry = filepath.Join(dir, file)
	}
	entry, err := filepath.Abs(entry)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(entry); err != nil || info.IsDir() {
		return nil, diag.Errorf("", "there is no deployment here: %s is not a file", entry).
			WithHint("defx init makes one; -C DIR or -f FILE says where it is")
	}
	root := filepath.Dir(entry)
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	c.Root, c.Entry = root, filepath.Base(entry)
	if stateDir == "" {
		stateDir = filepath.Join(root, ".defx")
	}
	if stateDir, err = filepath.Abs(stateDir); err != nil {
		return nil, err
	}
	return &Project{Config: c, StateDir: stateDir, Backends: b, artifacts: artifact.NewSource(root, c.JPath, filepath.Join(stateDir, ".cache", "artifacts"))}, nil
}

// Store is the state of one environment of one deployment.
func (p *Project) Store(deployment, environment string) *state.Dir {
	path := filepath.Join(p.StateDir, deployment, environment)
	s, _ := p.stores.LoadOrStore(path, state.OpenDir(path)) // one for all, since it knows what it has read
	return s.(*state.Dir)
}

// readAhead begins to read the state while sources are evaluated, if it can be
// only one that will be asked for.
func (p *Project) readAhead(ctx context.Context) {
	if heads, _ := filepath.Glob(filepath.Join(p.StateDir, "*", "*", "head.json")); len(heads) == 1 {
		env := filepath.Dir(heads[0])
		go state.Current(ctx, p.Store(filepath.Base(filepath.Dir(env)), filepath.Base(env)))
	}
}

// Dialer reaches the machines of this project.
func (p *Project) Dialer() transport.Dialer {
	return transport.Dialer{Root: p.Config.Root, Backends: p.Backends, Builds: p.Builds}
}

// Desired is what the entry file asks for, held against the newest generation.
type Desired struct {
	Name           string
	Environment    string
	Graph          *graph.Graph
	Reasons        place.Reasons
	Rendered       *backends.Rendered
	Held           []compile.Held
	HeldUnits      []string // addresses in the plan that stay because of Held
	LastGood       compile.LastGood
	Libraries      int
	Generation     *state.Generation // nil: nothing was ever applied
	Baseline       digest.Digest
	Reads          []lang.ReadRecord
	Moved          func(address string) string // what was renamed
	Overrides      []string                    // functionalities that the entry overrides, sorted
	Entry          json.RawMessage             // the entry's own value, libraries and overrides apart
	Transforms     int                         // how many the entry has
	Cache          []lang.CacheUse             // what of evaluation came out of the cache
	Uses           []lang.CacheUse             // with Project.Explain: which functionalities were known to earlier plans; nil if Whole is not empty
	FullPlanReason string                      // why nothing that earlier plans found out could be used

	before []lang.ReadRecord // lock, secrets and state, as they were before they were read
}

// Evaluate walks the road up to the plan. The error is a diag.List with
// positions, or what reading the state met with.
func (p *Project) Evaluate(ctx context.Context) (*Desired, error) { return p.evaluate(ctx, false) }

// Plan is Evaluate for those who need no more than the plan and what is to
// change: of services that stand as they should the graph may hold what others
// see of them alone, and no unit. What an earlier plan found out is used.
func (p *Project) Plan(ctx context.Context) (*Desired, error) { return p.evaluate(ctx, true) }

func (p *Project) evaluate(ctx context.Context, short bool) (*Desired, error) {
	p.readAhead(ctx)
	var g *ground
	c := p.Config
	c.Known = func(entry lang.Result, libraries []string) { g = p.ground(ctx, entry, libraries) }
	res, err := lang.Evaluate(ctx, c)
	if g != nil {
		<-g.laid
	}
	if err != nil {
		return nil, err
	}
	if !g.of(res) {
		var libraries []string
		for _, l := range res.Libraries {
			libraries = append(libraries, l.Name)
		}
		g = p.ground(ctx, *res, libraries)
		<-g.laid
	}
	if g.err != nil {
		return nil, g.err
	}
	d, base, old := g.d, g.base, g.old
	d.Libraries, d.Reads, d.Overrides, d.Transforms = len(res.Libraries), res.Reads, res.Overrides, res.Transforms
	in := compile.Input{Result: res, Baseline: base, Backends: p.Backends.Names(), Artifact: p.artifacts.Describe, Images: g.images, Secrets: g.secrets}
	d.Cache = res.Cache
	memory := g.memory.of(res)
	switch {
	case g.memory == nil:
		d.FullPlanReason = "nothing is kept of deployments with transforms or resources, or without a cache"
	case memory == nil:
		d.FullPlanReason = "not everything evaluated"
	}
	if memory != nil && short && memory.short(d, in, old) {
		if p.Config.VerifyCache {
			return d, p.verify(ctx, d)
		}
		return d, nil
	}
	if memory != nil {
		d.FullPlanReason = memory.whole
	}
	if err := p.good(ctx, d, base.LastGood); err != nil {
		return nil, err
	}
	if res.Transforms > 0 {
		if err := p.transform(ctx, &in); err != nil {
			var list diag.List
			if errors.As(err, &list) {
				p.locate(ctx, list)
			}
			return nil, err
		}
	}
	m := backends.RenderCache{Discardable: g.drop(p)}
	if memory != nil {
		in.Values, m.Store = memory.values, true
	}
	last, err := p.settle(d, in, old, m)
	if memory != nil && err == nil {
		memory.keep(last)
	}
	if err != nil {
		var list diag.List
		if errors.As(err, &list) {
			p.locate(ctx, list)
			return nil, list.Sort()
		}
		return nil, err
	}
	for _, h := range d.Held {
		p.locate(ctx, compile.ErrorList(h.Err))
	}
	return d, nil
}

// transform lets the entry's transforms change what evaluated, with the last
// good version in the place of what did not. What was good is transformed by
// itself too: it stands in for what turns out bad later.
func (p *Project) transform(ctx context.Context, in *compile.Input) error {
	values, good := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	in.Raw, in.RawLastGood = compile.LastGood{}, in.Baseline.LastGood
	for lib, funcs := range in.RawLastGood {
		for name, v := range funcs {
			good[lib+"/"+name] = v
		}
	}
	broken := map[string]bool{}
	for _, l := range in.Result.Libraries {
		in.Raw[l.Name] = map[string]json.RawMessage{}
		if l.Err != nil {
			for name := range in.RawLastGood[l.Name] {
				broken[l.Name+"/"+name] = true
			}
		}
		for _, f := range l.Functionalities {
			full := l.Name + "/" + f.Name
			if f.Err != nil {
				broken[full] = true
			} else if string(f.Value) != "null" {
				values[full], in.Raw[l.Name][f.Name] = f.Value, f.Value
			}
		}
	}
	for full := range broken {
		if v, ok := good[full]; ok {
			values[full] = v
		}
	}
	now, err := lang.Transform(ctx, p.Config, values)
	if err != nil {
		return err
	}
	was := map[string]json.RawMessage{}
	if len(good) > 0 {
		if was, err = lang.Transform(ctx, p.Config, good); err != nil {
			was = map[string]json.RawMessage{} // the transforms do not fit what was good: nothing can stand in
		}
	}
	for full := range broken {
		if v, ok := now[full]; ok {
			was[full] = v
		}
	}
	in.Baseline.LastGood = compile.LastGood{}
	for full, v := range was {
		lib, name, _ := strings.Cut(full, "/")
		if in.Baseline.LastGood[lib] == nil {
			in.Baseline.LastGood[lib] = map[string]json.RawMessage{}
		}
		in.Baseline.LastGood[lib][name] = v
	}
	res := *in.Result
	res.Libraries = nil
	for _, l := range in.Result.Libraries {
		funcs := l.Functionalities
		l.Functionalities = nil
		for _, f := range funcs {
			full := l.Name + "/" + f.Name
			if v, ok := now[full]; ok && f.Err == nil {
				f.Value = v
			}
			if _, ok := now[full]; ok || f.Err != nil { // else a transform dropped it
				l.Functionalities = append(l.Functionalities, f)
			}
			delete(now, full)
		}
		res.Libraries = append(res.Libraries, l)
	}
	for _, full := range slices.Sorted(maps.Keys(now)) { // what a transform added
		if broken[full] {
			continue
		}
		lib, name, _ := strings.Cut(full, "/")
		i := slices.IndexFunc(res.Libraries, func(l lang.Library) bool { return l.Name == lib })
		if i < 0 {
			i = len(res.Libraries)
			res.Libraries = append(res.Libraries, lang.Library{Name: lib})
		}
		res.Libraries[i].Functionalities = append(res.Libraries[i].Functionalities, lang.Functionality{Name: name, Value: now[full]})
	}
	in.Result = &res
	return nil
}

// settle compiles, places and renders until nothing more has to be held: what
// cannot be placed or rendered is held like what does not evaluate.
func (p *Project) settle(d *Desired, in compile.Input, old *plan.Plan, memory backends.RenderCache) (*round, error) {
	failed := map[string]*diag.Error{}
	for {
		in.Failed = failed
		r, err := p.round(d, in, old, memory)
		if err != nil {
			return nil, err
		}
		d.take(r)
		again := false
		var rest diag.List
		for name, e := range r.more {
			rest = append(rest, compile.ErrorList(e)...)
			if failed[name] == nil {
				failed[name], again = e, true
			}
		}
		if !again && r.rendered == nil { // not even the last good one fits
			return nil, rest.Sort()
		}
		if !again {
			d.keepHeld(old)
			return r, nil
		}
	}
}

// round is what came of compiling, placing and rendering once.
type round struct {
	out      *compile.Output
	reasons  place.Reasons
	rendered *backends.Rendered     // nil: it did not come to that
	more     map[string]*diag.Error // functionalities that have to be held, by full name
}

// take makes a round's findings the desired ones, if it came to any.
func (d *Desired) take(r *round) {
	if r.rendered != nil {
		d.Graph, d.Reasons, d.Rendered, d.Held, d.LastGood = r.out.Graph, r.reasons, r.rendered, r.out.Held, r.out.LastGood
	}
}

func (p *Project) round(d *Desired, in compile.Input, old *plan.Plan, memory backends.RenderCache) (*round, error) {
	out, err := compile.Compile(in)
	if err != nil {
		return nil, err
	}
	r := &round{out: out, more: map[string]*diag.Error{}}
	more := r.more
	p.schemas(out.Graph, d)
	packed, unpacked := ec2.Pack(out.Graph, in.Baseline.Machines, ec2.Context{Output: outputsOf(old), Attach: p.Attach,
		Deployed: func(m string) bool { _, was := in.Baseline.Machines[m]; return was }})
	reasons, bad := place.Place(out.Graph, place.Previous(in.Baseline.Machines))
	if len(unpacked) > 0 { // what has no instance has no place either
		bad = unpacked
	}
	var own diag.List
	for _, e := range unpacked {
		if a, err := graph.ParseAddress(e.Subject); err != nil || a.Lib == "" {
			own = append(own, e)
		}
	}
	if len(own) > 0 {
		return nil, own
	}
	maps.Copy(reasons, packed)
	r.reasons = reasons
	for _, e := range bad {
		a, _ := graph.ParseAddress(e.Subject)
		more[a.Functionality()] = join(more[a.Functionality()], diag.List{e})
	}
	if len(more) == 0 {
		for _, e := range out.ExpandSets() {
			a, _ := graph.ParseAddress(e.Subject)
			more[a.Functionality()] = join(more[a.Functionality()], diag.List{e})
		}
	}
	if len(more) > 0 {
		return r, nil
	}
	rendered, failures := p.Backends.Render(out.Graph, deployedIn(old), p.artifact, memory)
	for _, f := range failures {
		if f.Functionality == "" { // resources of the entry itself
			return nil, f.Errors
		}
		if rendered.Incomplete && in.Failed[f.Functionality] != nil { // not even the last good one can be made
			return nil, f.Errors
		}
		more[f.Functionality] = join(more[f.Functionality], f.Errors)
	}
	for _, e := range p.strays(out.Graph, rendered.Plan, old) {
		a, _ := graph.ParseAddress(e.Subject)
		more[a.Functionality()] = join(more[a.Functionality()], diag.List{e})
	}
	r.rendered = rendered
	return r, nil
}

// schemas asks providers for what is not built in. One that does not answer is
// no error here: Terraform checks at apply what could not be checked now.
func (p *Project) schemas(g *graph.Graph, d *Desired) {
	b, ok := p.Backends[ec2.Name].(*ec2.Backend)
	if !ok {
		return
	}
	for source, version := range ec2.RequiredPackages(g) {
		if b.Schemas[source] != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		if s, err := p.TerraformRunner(d.Name, d.Environment).Schema(ctx, source, version); err == nil {
			b.Schemas[source] = s
		}
		cancel()
	}
}

// outputsOf gives what the modules that stand are known to give.
func outputsOf(old *plan.Plan) func(key string) string {
	all := plan.Values{}
	for _, u := range old.Units {
		maps.Copy(all, u.Outputs)
	}
	return func(key string) string { return all[key] }
}

// strays tells which units with data of their own would change machines without
// consent: they are held where they are, and nobody else with them.
func (p *Project) strays(g *graph.Graph, now, old *plan.Plan) diag.List {
	var out diag.List
	for _, u := range now.Units {
		o := old.Find(u.Address)
		if o == nil || u.Held || !o.Stateful || o.Machine == u.Machine || o.Backend != u.Backend || p.AllowMove[u.Address] {
			continue
		}
		e := diag.Errorf(u.Address, "it keeps data of its own on %s and would move to %s without it", o.Machine, u.Machine).
			WithHint("pin it by place: { machine: '%s' }, or allow it by --allow-move %s", o.Machine, u.Address)
		if a, err := graph.ParseAddress(u.Address); err == nil {
			if svc := g.Find(a); svc != nil {
				e.At(append(slices.Clone(svc.Path), "place")...)
			}
		}
		out = append(out, e)
	}
	return out
}

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

func deployedIn(old *plan.Plan) func(string) (plan.Placed, bool) {
	return func(address string) (plan.Placed, bool) {
		u := old.Find(address)
		if u == nil {
			return plan.Placed{}, false
		}
		held := *u
		held.Held = true
		return held, true
	}
}

// keepHeld keeps every deployed unit of what is held in the plan: absence by
// error is never deletion.
func (d *Desired) keepHeld(old *plan.Plan) {
	held := d.holds()
	if held == nil {
		return
	}
	for _, u := range old.Units {
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

// holds tells which addresses are left as they are.
func (d *Desired) holds() func(string) bool {
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

const secretsIndex = "secrets/index.json"

// secretVersions reads secrets/index.json: name → version, in clear. A damaged
// one is an error: taken for empty, it would restart whoever uses a secret.
func (p *Project) secretVersions(into map[string]string) error {
	raw, err := os.ReadFile(filepath.Join(p.Config.Root, secretsIndex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &into)
	}
	if err != nil {
		return diag.Errorf("", "the versions of secrets cannot be read: %v", err).In(diag.Position{File: secretsIndex}).
			WithHint("an object of texts: { \"hydra/db-password\": \"3\" }")
	}
	return nil
}

// baseline reads what the newest generation may tell the pure stages, and what
// stands as a plan.
func (p *Project) baseline(ctx context.Context, d *Desired, now []*graph.Machine) (compile.Baseline, *plan.Plan, error) {
	base := compile.Baseline{Machines: map[string]string{}, LastGood: compile.LastGood{}}
	stands := &plan.Plan{}
	store := p.Store(d.Name, d.Environment)
	gen, _, err := state.Current(ctx, store)
	if err != nil || gen == nil {
		d.Baseline = digest.Named("baseline/1", nil)
		return base, stands, err
	}
	d.Generation, base.Generation = gen, gen.Number
	base.PreviousMachines = gen.Machines
	stands.Units, base.Machines = make([]plan.Placed, 0, len(gen.Records)), make(map[string]string, len(gen.Records))
	for _, r := range apply.RenameMachines(gen.Records, gen.Machines, now) {
		r.Address = d.Moved(r.Address)
		base.Machines[r.Address] = r.Machine
		if r.Digest == "" {
			continue // nobody knows what stands there
		}
		stands.Units = append(stands.Units, r.Placed())
	}
	d.Baseline, err = digest.Of("baseline/1", map[string]any{"machines": base.Machines, "good": gen.LastGood})
	return base, stands, err
}

// good reads the last good version of each library: what may stand in for it.
func (p *Project) good(ctx context.Context, d *Desired, into compile.LastGood) error {
	if d.Generation == nil {
		return nil
	}
	good, err := state.LoadLastGood(ctx, p.Store(d.Name, d.Environment), d.Generation)
	if err != nil {
		return err
	}
	for lib, funcs := range good {
		for name, value := range funcs {
			a, err := graph.ParseAddress(d.Moved(lib + "/" + name))
			if err != nil {
				continue
			}
			if into[a.Lib] == nil {
				into[a.Lib] = map[string]json.RawMessage{}
			}
			into[a.Lib][a.Name] = value
		}
	}
	return nil
}

// ApplyRequest is the apply of what is desired.
func (p *Project) ApplyRequest(d *Desired) *apply.Request {
	w := p.NewRequest(d.Name, d.Environment, "apply")
	w.Plan, w.Objects, w.LastGood = d.Rendered.Plan, d.Rendered.Objects, d.LastGood
	w.Held, w.Moved, w.Machines, w.Revision = d.holds(), d.Moved, d.Graph.Machines, p.Revision()
	return w
}

// TerraformRunner is where the modules of one environment of one deployment are made.
func (p *Project) TerraformRunner(deployment, environment string) *terraform.Runner {
	return &terraform.Runner{Dir: filepath.Join(p.Store(deployment, environment).Path(), "terraform"), Cache: filepath.Join(p.StateDir, ".cache", "terraform"), Root: p.Config.Root}
}

// Changes is what an apply of w would do, with what is held and where each
// changed field stands.
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

// Refresh asks the cloud what it holds of each module whose inputs are known,
// and adds to the change set what only that tells. Modules that others changed
// become part of the work.
func (p *Project) Refresh(ctx context.Context, d *Desired, w *apply.Request) (*plan.ChangeSet, error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	looks, errs := map[string]*plan.RefreshResult{}, diag.List{}
	stands, former := map[string]*plan.Record{}, map[string]bool{}
	if d.Generation != nil {
		for _, r := range d.Generation.Records {
			stands[r.Address] = &r
			former[d.Moved(r.Address)] = d.Moved(r.Address) != r.Address
		}
	}
	for _, u := range d.Rendered.Plan.Units {
		if _, module := d.Rendered.Modules[u.Address]; !module || len(u.Unknown) > 0 || former[u.Address] {
			continue
		}
		all.Go(func() {
			moved, err := w.MovedIn(ctx, stands[u.Address])
			var look *plan.RefreshResult
			if err == nil {
				look, err = w.Modules.Status(ctx, terraform.ModuleRequest{Scope: d.Environment + "/" + d.Name, Address: u.Address, Unit: d.Rendered.Objects[u.Object], Values: u.Values, Moved: moved})
			}
			mu.Lock()
			defer mu.Unlock()
			if e, is := errors.AsType[*diag.Error](err); is {
				errs = append(errs, e)
			} else if err != nil {
				errs = append(errs, diag.Errorf(u.Address, "%v", err))
			} else {
				looks[u.Address] = look
			}
		})
	}
	all.Wait()
	if len(errs) > 0 {
		if errs = errs.Sort(); errs[0].Subject == "" { // the same for all
			errs = errs[:1]
		}
		return nil, errs
	}
	w.Drifted = map[string]bool{}
	for address, look := range looks {
		w.Drifted[address] = len(look.Changes) > 0
	}
	cs, err := p.Changes(ctx, d, w)
	if err != nil {
		return nil, err
	}
	cs.Refresh = looks
	return cs, nil
}

// Describe adds to a change set what is held and where changes come from.
func (p *Project) Describe(ctx context.Context, d *Desired, cs *plan.ChangeSet) {
	cs.Baseline = d.Baseline
	var paths [][]string
	for i := range cs.Actions {
		for range cs.Actions[i].Changes {
			paths = append(paths, nil)
		}
	}
	n := 0
	for i := range cs.Actions {
		a := &cs.Actions[i]
		svc := d.find(a.Address)
		var module backends.Module
		if d != nil && d.Rendered != nil {
			module = d.Rendered.Modules[a.Address]
		}
		for j := range a.Changes {
			c := &a.Changes[j]
			if svc != nil {
				paths[n] = source(svc, c.Source)
			}
			if len(c.Source) > 0 && module.Sources[c.Source[0]] != nil {
				paths[n] = append(slices.Clone(module.Sources[c.Source[0]]), c.Source[1:]...)
				c.Replaces = c.Before != nil && slices.ContainsFunc(module.Replaces, func(f string) bool { return c.Path == f || strings.HasPrefix(c.Path, f+"/") })
			}
			n++
		}
	}
	positions := p.positions(ctx, paths)
	n = 0
	for i := range cs.Actions {
		for j := range cs.Actions[i].Changes {
			cs.Actions[i].Changes[j].Position = positions[n]
			n++
		}
	}
	cs.Held = []plan.HeldItem{}
	seen := map[string]bool{}
	for _, h := range d.Held {
		item := plan.HeldItem{Address: h.Name, Error: h.Err.Msg, Position: h.Err.Pos}
		any := false
		for _, address := range d.HeldUnits {
			a, _ := graph.ParseAddress(address)
			if (a.Functionality() == h.Name || a.Lib == h.Name) && !seen[address] {
				seen[address], any = true, true
				item.Address = address
				cs.Held = append(cs.Held, item)
			}
		}
		if !any {
			cs.Held = append(cs.Held, item)
		}
	}
	cs.Summary.Held = len(cs.Held)
}

func (d *Desired) find(address string) *graph.Service {
	if d == nil || d.Graph == nil {
		return nil
	}
	a, err := graph.ParseAddress(address)
	if err != nil {
		return nil
	}
	return d.Graph.Find(a)
}

// source leads from a field of the normalized service to the entry's value.
func source(svc *graph.Service, field []string) []string {
	if len(field) == 0 {
		return svc.Path
	}
	switch field[0] {
	case svc.Backend:
		return append(slices.Clone(svc.Path), field...)
	case "requires", "after":
		return append(slices.Clone(svc.Path), field[0])
	}
	return append(slices.Clone(svc.SpecPath), field...)
}

// locate finds the positions of errors that know only their path.
func (p *Project) locate(ctx context.Context, list diag.List) {
	var paths [][]string
	var which []*diag.Error
	for _, e := range list {
		if !e.Pos.Known() && e.Path != nil {
			paths, which = append(paths, e.Path), append(which, e)
		}
	}
	for i, pos := range p.positions(ctx, paths) {
		which[i].Pos = p.sharpen(pos, which[i].Word)
	}
}

// far is how many lines below the beginning of a value its words are looked for.
const far = 60

// sharpen leads from the beginning of a value of several lines to the line of the
// word at fault, if it is quoted there.
func (p *Project) sharpen(pos diag.Position, word string) diag.Position {
	if word == "" || !pos.Known() {
		return pos
	}
	file := pos.File
	if !filepath.IsAbs(file) {
		file = filepath.Join(p.Config.Root, file)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return pos
	}
	lines := strings.Split(string(raw), "\n")
	for i := pos.Line - 1; i >= 0 && i < min(len(lines), pos.Line+far); i++ {
		for _, quoted := range []string{"'" + word + "'", `"` + word + `"`} {
			col := strings.Index(lines[i], quoted)
			if col < 0 {
				continue
			}
			if i > pos.Line-1 {
				pos.Line, pos.Col = i+1, col+1
			}
			return pos
		}
	}
	return pos
}

// Lint looks for what is legal and wrong, in the source and in what it gives.
// What the line above a place silences is left out.
func (p *Project) Lint(ctx context.Context, d *Desired) ([]lint.Finding, error) {
	found, err := lang.Lint(ctx, p.Config)
	if err != nil {
		return nil, err
	}
	found = append(found, graphlint.Graph(graphlint.Input{Graph: d.Graph, Deployment: d.Entry})...)
	paths := make([][]string, len(found))
	for i, f := range found {
		if !f.Position.Known() {
			paths[i] = f.Path
		}
	}
	for i, pos := range p.positions(ctx, paths) {
		if paths[i] != nil {
			found[i].Position = pos
		}
	}
	sources := map[string]string{}
	return slices.DeleteFunc(lint.Sort(found), func(f lint.Finding) bool {
		src, read := sources[f.Position.File]
		if !read {
			name := filepath.FromSlash(f.Position.File)
			if !filepath.IsAbs(name) {
				name = filepath.Join(p.Config.Root, name)
			}
			raw, _ := os.ReadFile(name) // without its text nothing is silenced
			src = string(raw)
			sources[f.Position.File] = src
		}
		// What depends on the environment may well be idle in one of them.
		return lint.IsSilenced(src, f) || f.Rule == lint.UnusedOverride && !lint.IsConstant(src, f.Position)
	}), nil
}

// Positions finds where fields of the entry's value are written. What cannot
// be found has no position; that is never an error.
func (p *Project) Positions(ctx context.Context, paths [][]string) []diag.Position {
	return p.positions(ctx, paths)
}

func (p *Project) positions(ctx context.Context, paths [][]string) []diag.Position {
	out := make([]diag.Position, len(paths))
	var ask [][]string
	at := map[string]int{}
	for _, path := range paths {
		key := strings.Join(path, "\x00")
		if _, known := at[key]; !known && path != nil {
			at[key] = len(ask)
			ask = append(ask, path)
		}
	}
	if len(ask) == 0 {
		return out
	}
	found, err := lang.Locate(ctx, p.Config, ask)
	if err != nil || len(found) != len(ask) {
		return out
	}
	for i, path := range paths {
		if path != nil {
			out[i] = found[at[strings.Join(path, "\x00")]]
		}
	}
	return out
}

// Revision is the commit of the folder, with + if files differ; "" without git.
func (p *Project) Revision() string {
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", append([]string{"-C", p.Config.Root, "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0")
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	rev, err := git("rev-parse", "--short=12", "HEAD")
	if err != nil {
		return ""
	}
	if changed, err := git("status", "--porcelain", "--untracked-files=no", "."); err == nil && changed != "" {
		rev += "+"
	}
	return rev
}

// Deployments lists what the state folder holds: deployment → environments, both sorted.
func (p *Project) Deployments() map[string][]string {
	out := map[string][]string{}
	names, _ := filepath.Glob(filepath.Join(p.StateDir, "*", "*", "head.json"))
	for _, n := range names {
		env := filepath.Dir(n)
		d := filepath.Base(filepath.Dir(env))
		out[d] = append(out[d], filepath.Base(env))
	}
	for _, d := range slices.Collect(maps.Keys(out)) {
		slices.Sort(out[d])
	}
	return out
}
