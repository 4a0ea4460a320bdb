package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/size"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/pflag"
)

// sourceRoot is the directory to which the positions of errors are relative; "" before a
// deployment is opened.
var sourceRoot string

// stateFolder is the folder of the state; "" before a deployment is opened.
var stateFolder string

// colorFlag is --color. Errors are printed outside of any command, too, so it is
// no field of globalOptions.
var colorFlag = "auto"

// globalOptions are the flags that all commands share.
type globalOptions struct {
	dir, file, env, state string
	agents, cache         string
	json, verbose         bool
	jpath                 []string
	tlaStr, tlaCode       []string
	maxMemory             string
	maxTime               time.Duration
	leaseTime             time.Duration // 0 = as the store needs it
}

func (o *globalOptions) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.dir, "directory", "C", ".", "change to `DIR` first")
	f.StringVarP(&o.file, "file", "f", "defx.jsonnet", "entry `FILE` of the deployment")
	f.StringVarP(&o.env, "env", "e", "", "`NAME` of the environment, passed to the entry as parameter env")
	f.StringVar(&o.state, "state", "", "`dir:PATH` of the state, or a path (default .defx next to the entry file)")
	f.StringArrayVarP(&o.jpath, "jpath", "J", nil, "library search `DIR`; repeatable, the right-most wins")
	f.StringArrayVarP(&o.tlaStr, "tla-str", "A", nil, "`NAME=VALUE` passed to the entry as a string")
	f.StringArrayVar(&o.tlaCode, "tla-code", nil, "`NAME=CODE` passed to the entry as Jsonnet")
	f.StringVar(&o.agents, "agent", "", "`DIR` with defx programs for other architectures, named defx-linux-ARCH")
	f.StringVar(&o.cache, "cache", "", "`DIR` of the cache, or off (default defx in the user's cache folder)")
	f.StringVar(&o.maxMemory, "max-memory", "2Gi", "`SIZE` of the memory that the evaluation of a deployment may use")
	f.DurationVar(&o.maxTime, "max-time", 30*time.Second, "`DURATION` that the evaluation of a deployment may take")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringVar(&colorFlag, "color", "auto", "`WHEN` to use colour: auto, always or never")
	f.DurationVar(&o.leaseTime, "lease-time", 0, "`DURATION` after which the lease of a process that does not renew it is taken over")
	f.MarkHidden("lease-time")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "print every action and field in full")
}

// path returns a path of the command line, relative to -C.
func (o *globalOptions) path(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(o.dir, p)
}

// config returns the configuration of evaluation.
func (o *globalOptions) config() (lang.Config, error) {
	c := lang.Config{Env: o.env}
	var err error
	if c.Limits, err = o.limits(); err != nil {
		return c, err
	}
	switch o.cache {
	case "off":
	case "":
		if dir, err := os.UserCacheDir(); err == nil {
			c.Cache = filepath.Join(dir, "defx")
		}
	default:
		c.Cache = o.path(o.cache)
	}
	for _, j := range o.jpath {
		dir, err := lang.ResolveFolder("-J", o.path(j))
		if _, known := errors.AsType[*diag.Error](err); err != nil && !known {
			err = diag.Errorf("", "-J %s: %v", j, err)
		}
		if err != nil {
			return c, err
		}
		c.JPath = append(c.JPath, dir)
	}
	if c.TLAStr, err = nameValues("tla-str", o.tlaStr); err != nil {
		return c, err
	}
	c.TLACode, err = nameValues("tla-code", o.tlaCode)
	return c, err
}

// limits returns the limits of evaluation.
func (o *globalOptions) limits() (lang.Limits, error) {
	memory, err := size.Parse(o.maxMemory)
	if err != nil || memory < lang.MinMemory {
		return lang.Limits{}, diag.Errorf("", "--max-memory %s: not a size of at least %d MiB", o.maxMemory, lang.MinMemory>>20).WithHint("--max-memory 4Gi")
	}
	if o.maxTime <= 0 {
		return lang.Limits{}, diag.Errorf("", "--max-time %s: not a positive duration", o.maxTime).WithHint("--max-time 2m")
	}
	l := lang.Limits{Memory: memory, Time: o.maxTime}
	if l == (lang.Limits{Memory: lang.DefaultMemory, Time: lang.DefaultTime}) { // the defaults depend on how this program was built
		l = lang.Limits{}
	}
	return l, nil
}

// nameValues reads flags of the form NAME=VALUE. Without = the value comes from
// the environment variable NAME, as go-jsonnet's command does it.
func nameValues(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range list {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				return nil, diag.Errorf("", "--%s %s: no value, and no environment variable %s", flag, p, name).WithHint("--%s %s=VALUE", flag, name)
			}
		}
		out[name] = value
	}
	return out, nil
}

// open finds the deployment.
func (o *globalOptions) open() (*project.Project, error) {
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	// The environment names the state and the units, so an argument must not set it.
	_, str := c.TLAStr["env"]
	_, code := c.TLACode["env"]
	if str || code {
		return nil, diag.Errorf("", "the parameter env cannot be set with -A or --tla-code").WithHint("use -e NAME")
	}
	location, err := o.stateLocation()
	if err != nil {
		return nil, err
	}
	p, err := project.Open(o.dir, o.file, location, c, allBackends)
	if err == nil {
		sourceRoot, stateFolder, p.LeaseTime = p.Config.Root, p.StateDir, o.leaseTime
	}
	if err == nil && o.agents != "" {
		p.Builds = o.path(o.agents)
	}
	return p, err
}

// stateLocation returns --state, relative to -C.
func (o *globalOptions) stateLocation() (string, error) {
	if o.state == "" {
		return "", nil
	}
	path, err := state.ParseLocation(o.state)
	if err != nil {
		return "", err
	}
	return "dir:" + o.path(path), nil
}

// session opens the environment as the state records it.
func (o *globalOptions) session(ctx context.Context, warn func(error)) (*session.Session, error) {
	p, err := o.open()
	if err != nil {
		return nil, err
	}
	return session.Open(ctx, p, o.env, warn)
}

// planFlags are the flags of commands that make a plan.
type planFlags struct {
	strict, refresh        bool
	allowDelete, allowMove []string
	allowEmpty             []string
	giveUp                 []string
	newDeployment          bool
}

func (f *planFlags) addFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&f.strict, "strict", false, "fail if anything is held (has an error)")
	fs.StringArrayVar(&f.allowDelete, "allow-delete", nil, "`ADDRESS` of a protected unit that may be deleted; repeatable")
	fs.StringArrayVar(&f.allowEmpty, "allow-empty", nil, "`ADDRESS` or @MACHINE of units that may start although their data is gone")
	fs.StringArrayVar(&f.allowMove, "allow-move", nil, "`ADDRESS` of a unit with data that may move to another machine; repeatable")
	fs.BoolVar(&f.newDeployment, "new-deployment", false, "it is no former deployment under a new name, although it resembles one")
	fs.StringArrayVar(&f.giveUp, "give-up-data", nil, "`ADDRESS` of a unit that may start without its former data; repeatable")
}

// addRefresh adds the flag of commands that may ask the cloud.
func (f *planFlags) addRefresh(fs *pflag.FlagSet, text string) {
	fs.BoolVar(&f.refresh, "refresh", false, text)
}

// applyTo sets what the request may do.
func (f *planFlags) applyTo(r *apply.Request) {
	r.AllowDelete, r.AllowMove, r.AllowEmpty, r.GiveUp = setOf(f.allowDelete), setOf(f.allowMove), setOf(f.allowEmpty), setOf(f.giveUp)
}

func setOf(list []string) map[string]bool {
	out := map[string]bool{}
	for _, a := range list {
		out[a] = true
	}
	return out
}

// validate fails if a flag that gives consent names an unknown unit.
func (f *planFlags) validate(d *project.Desired) error {
	var names []string
	if d.Generation != nil {
		for _, r := range d.Generation.Records {
			names = append(names, r.Address)
		}
	}
	for _, u := range d.Rendered.Plan.Units {
		names = append(names, u.Address)
	}
	known, all := setOf(names), graph.NamesOf(names...)
	for _, flag := range []struct {
		name string
		list []string
	}{{"--allow-delete", f.allowDelete}, {"--allow-move", f.allowMove}, {"--allow-empty", f.allowEmpty}, {"--give-up-data", f.giveUp}} {
		for _, a := range flag.list {
			if flag.name == "--allow-empty" && strings.HasPrefix(a, "@") {
				if !slices.ContainsFunc(d.Graph.Machines, func(m *graph.Machine) bool { return "@"+m.Name == a }) {
					return diag.Errorf("", "%s %s: unknown machine", flag.name, a).WithHint("%s", oneOf(machineNames(d)))
				}
				continue
			}
			if found, _ := all.FindAll(a); !known[all.Full(a)] && len(found) > 0 {
				return diag.Errorf("", "%s %s: name the unit in full", flag.name, a).WithHint("%s %s", flag.name, strings.Join(texts(all, found), " "+flag.name+" "))
			}
			if !known[all.Full(a)] {
				return diag.Errorf("", "%s %s: unknown unit", flag.name, a).WithHint("%s", diag.Suggest(a, texts(all, names)))
			}
		}
	}
	return nil
}

func machineNames(d *project.Desired) []string {
	out := []string{"@MACHINE"}
	for i, m := range d.Graph.Machines {
		out = append(out[:i], "@"+m.Name)
	}
	return out
}

// texts returns addresses as people read them.
func texts(names *graph.Names, addresses []string) []string {
	out := make([]string, len(addresses))
	for i, a := range addresses {
		out[i] = names.Text(a)
	}
	return out
}

// changes returns the changes that an apply of the request would make.
func (f *planFlags) changes(ctx context.Context, p *project.Project, d *project.Desired, r *apply.Request) (*plan.ChangeSet, error) {
	if f.refresh {
		return p.Refresh(ctx, d, r)
	}
	return p.Changes(ctx, d, r)
}

// desired evaluates the deployment and prepares the request to apply it. evaluate
// is (*project.Project).Evaluate, or Plan where that is enough.
func (o *globalOptions) desired(ctx context.Context, f *planFlags, v view, evaluate func(*project.Project, context.Context) (*project.Desired, error)) (*project.Project, *project.Desired, *apply.Request, error) {
	p, err := o.open()
	if err != nil {
		return nil, nil, nil, err
	}
	p.AllowMove, p.AllowDelete, p.GiveUp = setOf(f.allowMove), setOf(f.allowDelete), setOf(f.giveUp)
	d, err := evaluate(p, ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if !f.newDeployment {
		if err := p.CheckRenamed(ctx, d); err != nil {
			return nil, nil, nil, err
		}
	}
	if f.strict && len(d.Held) > 0 {
		v.held(d)
		return nil, nil, nil, diag.Errorf("", "%d held, and --strict allows none", len(d.Held))
	}
	r := p.ApplyRequest(d)
	f.applyTo(r)
	return p, d, r, nil
}

// heldError is the end of a command without another error.
func heldError(d *project.Desired) error {
	if len(d.Held) > 0 {
		return &exitError{code: exitPartial}
	}
	return nil
}
