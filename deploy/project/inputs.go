package project

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang"
)

// planInputs is what a plan reads in addition to the values of its libraries:
// the state, the lock file, the versions of secrets, and the memo of earlier
// plans. Loading it needs nothing but the entry's own value, so that it runs
// while the libraries are evaluated.
type planInputs struct {
	loaded chan struct{} // closed when the fields below may be read
	entry  lang.Result   // without libraries
	d      *Desired
	err    error

	baseline   compile.Baseline
	deployed   *plan.Plan // the units of the newest generation
	images     map[string]digest.Digest
	secrets    map[string]string
	memo       *memo // nil: this deployment cannot be planned incrementally
	hasRenames bool
	unfinished bool // an apply was interrupted, or is running
}

// startInputs starts to load the inputs of a plan for an entry.
func (p *Project) startInputs(ctx context.Context, entry lang.Result, libraries []string) *planInputs {
	entry.Libraries = nil
	in := &planInputs{loaded: make(chan struct{}), entry: entry, deployed: &plan.Plan{}, secrets: map[string]string{},
		d: &Desired{Environment: entry.Environment, Entry: entry.Deployment}}
	go func() {
		defer close(in.loaded)
		in.err = p.loadInputs(ctx, in, libraries)
	}()
	return in
}

// isFor reports whether in was loaded for this entry: files may have changed in between.
func (in *planInputs) isFor(res *lang.Result) bool {
	return in != nil && in.entry.Environment == res.Environment && in.entry.Transforms == res.Transforms && string(in.entry.Deployment) == string(res.Deployment)
}

// discardable returns what reports whether the content of the unit at an address
// will not be needed, because nothing is deployed there and nothing will be
// applied. It returns nil after an interrupted apply or with renames, when
// addresses alone do not show what is deployed.
func (in *planInputs) discardable(p *Project) func(address string) bool {
	if !p.PlanOnly || in.unfinished || in.hasRenames {
		return nil
	}
	return func(address string) bool { _, deployed := in.baseline.Machines[address]; return !deployed }
}

func (p *Project) loadInputs(ctx context.Context, in *planInputs, libraries []string) (err error) {
	var head struct {
		Name      string                     `json:"name"`
		Resources map[string]json.RawMessage `json:"resources"`
		Machines  map[string]struct {
			Connect string `json:"connect"`
		} `json:"machines"`
		Moved map[string]string `json:"moved"`
	}
	json.Unmarshal(in.entry.Deployment, &head) // compile reports errors in it
	d := in.d
	d.Name, d.Moved, in.hasRenames = head.Name, compile.RenameFunc(head.Moved), len(head.Moved) > 0
	var machines []*graph.Machine
	for _, name := range sets.Keys(head.Machines) {
		machines = append(machines, &graph.Machine{Name: name, Connect: head.Machines[name].Connect})
		if dir, ok := strings.CutPrefix(head.Machines[name].Connect, "dir:"); ok && dir != "" {
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(p.Config.Root, dir)
			}
			p.artifacts.Exclude(dir)
		}
	}
	d.externalReads = p.recordExternalReads(ctx, d)
	if graph.ValidName(d.Name) && graph.ValidName(d.Environment) {
		if in.baseline, in.deployed, in.unfinished, err = p.loadBaseline(ctx, d, machines); err != nil {
			return err
		}
	}
	if in.images, err = p.useLock(ctx, d.Environment); err != nil {
		return err
	}
	if err := p.secretVersions(ctx, in.secrets); err != nil {
		return err
	}
	if in.entry.Transforms == 0 && len(head.Resources) == 0 {
		in.memo = p.loadMemo(in, libraries)
	}
	return nil
}

const secretsIndex = "secrets/index.json"

// secretVersions reads secrets/index.json: name → version, in clear. A damaged
// file is an error: read as empty, it would restart every service that uses a secret.
func (p *Project) secretVersions(ctx context.Context, into map[string]string) error {
	raw, err := openfile.ReadBelow(ctx, p.Config.Root, secretsIndex, openfile.Small)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if e, refused := errors.AsType[*openfile.Error](err); refused {
		return diag.Errorf("", "the versions of secrets cannot be read: %s %s", secretsIndex, e.Msg).In(diag.Position{File: secretsIndex}).WithHint("%s", e.Hint())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		err = json.Unmarshal(raw, &into)
	}
	if err != nil {
		return diag.Errorf("", "the versions of secrets cannot be read: %v", err).In(diag.Position{File: secretsIndex}).
			WithHint("an object of strings: { \"hydra/db-password\": \"3\" }")
	}
	return nil
}

// loadBaseline reads what the pure stages may know of the newest generation, and
// returns its units as a plan, and whether an apply was interrupted. machines are
// those that the entry names now.
func (p *Project) loadBaseline(ctx context.Context, d *Desired, machines []*graph.Machine) (base compile.Baseline, deployed *plan.Plan, unfinished bool, err error) {
	base = compile.Baseline{Machines: map[string]string{}, LastGood: compile.LastGood{}}
	deployed = &plan.Plan{}
	gen, head, err := state.Current(ctx, p.Store(d.Name, d.Environment))
	unfinished = len(head.Intents) > 0
	if err != nil || gen == nil {
		d.Baseline = digest.Named("baseline/1", nil)
		return base, deployed, unfinished, err
	}
	d.Generation, base.Generation = gen, gen.Number
	base.PreviousMachines = gen.Machines
	taken := map[string]bool{}
	for _, r := range gen.Records {
		taken[r.Address] = true
	}
	deployed.Units, base.Machines = make([]plan.Placed, 0, len(gen.Records)), make(map[string]string, len(gen.Records))
	for _, r := range apply.RenameMachines(gen.Records, gen.Machines, machines) {
		if now := d.Moved(r.Address); now != r.Address && !taken[now] {
			if r.Identity == "" && r.Machine != "" {
				r.Identity = identityOf(d.Environment, d.Name, r.Address)
			}
			r.Address = now
		}
		base.Machines[r.Address] = r.Machine
		if r.Digest == "" {
			continue // its deployed version is unknown
		}
		deployed.Units = append(deployed.Units, r.Placed())
	}
	slices.SortFunc(deployed.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	d.Baseline, err = digest.Of("baseline/1", map[string]any{"machines": base.Machines, "good": gen.LastGood})
	return base, deployed, unfinished, err
}

// loadLastGood reads the last version of each library that evaluated, under the
// names that the entry uses now. It replaces what does not evaluate.
func (p *Project) loadLastGood(ctx context.Context, d *Desired, into compile.LastGood) error {
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
