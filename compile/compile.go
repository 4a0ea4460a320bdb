// Package compile turns evaluated values and a baseline into a graph: it decodes strictly, fills
// in defaults, resolves names, and collects all errors.
//
// It knows the contract that libraries are written against. It refuses to know files, machines and
// time: what it needs of them is part of its input. Invariants: the same input gives the same
// graph; an error of one functionality holds that functionality and those that cannot be compiled
// without it, and nothing else; absence because of an error is never deletion.
package compile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	_ "time/tzdata" // the same zones everywhere

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
)

// LastGood holds the last good value of each functionality: library → name → value.
type LastGood map[string]map[string]json.RawMessage

// Baseline is the part of earlier state that the pure stages read.
type Baseline struct {
	Generation       int
	Machines         map[string]string // address → machine it was placed on
	LastGood         LastGood
	PreviousMachines []*graph.Machine // machines on which earlier generations run
}

// Input is the input of Compile.
type Input struct {
	Result      *lang.Result
	Baseline    Baseline
	Backends    []string                                 // names of the known backends
	Artifact    func(token.Token) (plan.Artifact, error) // returns the content of an artifact; an error may have a Hint() string
	Images      map[string]digest.Digest                 // digests of image tags, as far as they are locked
	Secrets     map[string]string                        // name → version
	Raw         LastGood                                 // values before transforms, of functionalities without errors; nil without transforms
	RawLastGood LastGood                                 // last good values before transforms; Baseline has those after them
	Failed      map[string]*diag.Error                   // functionalities that a later stage refused, by full name
	Summaries   map[string]*Summary                      // memoized summaries of functionalities of an earlier run, by full name; may be nil
	Values      map[string]digest.Digest                 // digest of the inputs of each functionality, by full name; nil: make no summaries
}

// Held is something with an error that is left as it is.
type Held struct {
	Name string // library or lib/name
	Err  *diag.Error
}

// Output is a graph before placement, and what was held.
type Output struct {
	Graph    *graph.Graph
	Held     []Held   // sorted by name
	LastGood LastGood // for the next baseline

	Summaries   map[string]*Summary // of this run, for functionalities in Input.Values
	Invalidated map[string]string   // why a summary of Input.Summaries was not used, by full name

	exports  map[string]map[string]token.Text
	usesSets map[string]bool // full names of functionalities with set expressions
}

// Compile returns the graph. The error is a diag.List of the errors that stop the run.
func Compile(in Input) (*Output, error) {
	count := 0
	for _, l := range in.Result.Libraries {
		count += len(l.Functionalities)
	}
	c := &compiler{in: in, funcs: make(map[string]*function, count), invalidated: map[string]string{}}
	c.decodeEntry()
	if len(c.errs) > 0 {
		return nil, c.errs.Err()
	}
	c.decodeLibraries()
	c.resolveAll()
	g := c.expand()
	if len(c.errs) == 0 {
		if err := g.CheckOrder(); err != nil {
			c.errs = append(c.errs, err.(*diag.Error))
		}
	}
	if len(c.errs) > 0 {
		return nil, append(c.errs, c.heldErrors()...).Err()
	}
	out := &Output{Graph: g, LastGood: LastGood{}, exports: c.resolvedExports(), usesSets: map[string]bool{}, Invalidated: c.invalidated}
	for _, name := range c.names() {
		f := c.funcs[name]
		if f.usesSets {
			out.usesSets[name] = true
		}
		if f.err != nil {
			out.Held = append(out.Held, Held{Name: name, Err: f.err})
		}
		value := f.value
		if in.Raw != nil && f.err == nil {
			value = in.Raw[f.lib][f.name]
		} else if in.Raw != nil {
			value = in.RawLastGood[f.lib][f.name]
		}
		if value != nil && f.fn != nil {
			if out.LastGood[f.lib] == nil {
				out.LastGood[f.lib] = map[string]json.RawMessage{}
			}
			out.LastGood[f.lib][f.name] = value
		}
	}
	c.retainDropped(out.LastGood)
	out.Summaries = c.summaries()
	out.Held = append(c.heldLibs, out.Held...)
	slices.SortStableFunc(out.Held, func(a, b Held) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// retainDropped adds to lastGood the values that a transform removed: they must exist when the
// transform runs again while a library is held.
func (c *compiler) retainDropped(lastGood LastGood) {
	retain := func(lib, name string, value json.RawMessage) {
		if value == nil || lastGood[lib][name] != nil || c.funcs[lib+"/"+name] != nil {
			return
		}
		if lastGood[lib] == nil {
			lastGood[lib] = map[string]json.RawMessage{}
		}
		lastGood[lib][name] = value
	}
	for lib, funcs := range c.in.Raw {
		for name, value := range funcs {
			retain(lib, name, value)
		}
	}
	for _, l := range c.in.Result.Libraries {
		for name, value := range c.in.RawLastGood[l.Name] {
			if l.Err != nil || slices.ContainsFunc(l.Functionalities, func(f lang.Functionality) bool { return f.Name == name && f.Err != nil }) {
				retain(l.Name, name, value)
			}
		}
	}
}

// function is one functionality during compilation.
type function struct {
	lib, name       string
	value           json.RawMessage           // the value that it was decoded from: the current or the last good one
	fn              *Functionality            // nil: held without a last good value
	err             *diag.Error               // why it is held
	members         []*memberConfig           // its service, or the services of its group
	patchedReplicas map[string]*replicaConfig // replicas with a patch, by name
	exports         map[string]*export        // resolved on first use
	fields          map[string]any            // of a resource, with tokens resolved
	summary         *Summary                  // not nil: the memoized summary replaces decoding and resolving
	deps            map[string]bool           // dependencies recorded while it was resolved
	usesSets        bool                      // it has set expressions, which are expanded after placement
	balancer        *graph.Balancer           // with names and tokens resolved
}

// replicaConfig is the configuration of a replica with a patch.
type replicaConfig struct {
	fn            *Functionality
	members       []*memberConfig
	patchedFields [][]string // fields that the patch sets, as paths below the functionality
}

// configs returns the configuration of the functionality, then those of its patched replicas.
func (f *function) configs() []replicaConfig {
	out := []replicaConfig{{fn: f.fn, members: f.members}}
	for _, name := range slices.Sorted(maps.Keys(f.patchedReplicas)) {
		out = append(out, *f.patchedReplicas[name])
	}
	return out
}

// forReplica returns the configuration of one replica.
func (f *function) forReplica(replica string) replicaConfig {
	if v := f.patchedReplicas[replica]; v != nil {
		return *v
	}
	return replicaConfig{fn: f.fn, members: f.members}
}

// Interface is the part of a service that other services can read.
type Interface struct {
	Ports  map[string]graph.Port
	Labels map[string]string
	Dirs   graph.Dirs
	User   string
}

// memberConfig is the service of a functionality, or one service of its group, before it is
// expanded into replicas.
type memberConfig struct {
	name                      string
	iface                     Interface  // the part that others can read
	decoded                   graph.Spec // as the library wrote it; only for resolve
	spec                      graph.Spec // with tokens resolved
	options, ec2              json.RawMessage
	with                      string       // the set with which it shares its machine (place.with)
	requires, connects, after []graph.Edge // expand fills To
	path                      []string     // of the functionality or member
}

// fullName returns lib/name. Resources of the entry file have no library.
func (f *function) fullName() string {
	if f.lib == "" {
		return f.name
	}
	return f.lib + "/" + f.name
}

func (f *function) path() []string {
	if f.lib == "" {
		return []string{"resources", f.name}
	}
	return []string{"libs", f.lib, f.name}
}

type compiler struct {
	in       Input
	e        Entry
	funcs    map[string]*function // by full name
	heldLibs []Held
	libHeld  map[string]bool // libraries with an error
	errs     diag.List

	deps        map[string]bool     // dependencies being recorded; nil: not recording
	invalidated map[string]string   // see Output
	sortedNames []string            // see names
	byName      map[string][]string // name → full names in all libraries, sorted; built on first use
}

// names returns the full names of all functionalities, sorted. The list is cached, because
// functionalities are only ever added.
func (c *compiler) names() []string {
	if len(c.sortedNames) != len(c.funcs) {
		c.sortedNames = slices.Sorted(maps.Keys(c.funcs))
	}
	return c.sortedNames
}

// decodeEntry decodes the entry file. Its errors stop the run.
func (c *compiler) decodeEntry() {
	d := &decoder{}
	d.decodeJSON(c.in.Result.Deployment, &c.e, nil)
	if c.e.Name != "" && !graph.ValidName(c.e.Name) {
		d.errorf([]string{"name"}, "%q is not a name", c.e.Name).WithHint(nameHint)
	}
	if !graph.ValidName(c.in.Result.Environment) {
		d.errorf(nil, "environment %q is not a name", c.in.Result.Environment).WithHint(nameHint)
	}
	c.checkEnvironments(d)
	if _, declared := c.e.Environments[c.in.Result.Environment]; !declared {
		checkReserved(d, nil, c.in.Result.Environment)
	}
	seen := map[string]string{} // folder → machine
	for _, name := range slices.Sorted(maps.Keys(c.e.Machines)) {
		p := []string{"machines", name}
		if !graph.ValidName(name) {
			d.errorf(p, "%q is not a name", name).WithHint(nameHint)
		}
		m := c.e.Machines[name]
		checkMachine(d, p, m)
		if dir, ok := strings.CutPrefix(m.Connect, "dir:"); ok {
			if dir == "" || strings.HasPrefix(dir, "//") || strings.HasPrefix(dir, "~") {
				d.errorf(append(p, "connect"), "%q has no valid folder", m.Connect).WithHint("dir:./box is relative to the entry file, dir:/srv/box is absolute")
			}
			if other := seen[path.Clean(dir)]; other != "" {
				d.errorf(append(p, "connect"), "machine %q is the same folder", other).WithHint("each machine needs its own folder, otherwise its services would overwrite each other")
			}
			seen[path.Clean(dir)] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.e.Resources)) {
		if !graph.ValidName(name) {
			d.errorf([]string{"resources", name}, "%q is not a name", name).WithHint(nameHint)
			continue
		}
		r := c.e.Resources[name]
		f := &function{name: name, fn: &Functionality{Resource: &r}, exports: map[string]*export{}}
		c.funcs[f.fullName()] = f
	}
	c.checkBackend(d, c.e.Defaults.Backend, []string{"defaults", "backend"})
	c.errs = append(c.errs, d.errs...)
}

// checkEnvironments checks the declared environments.
func (c *compiler) checkEnvironments(d *decoder) {
	names := slices.Sorted(maps.Keys(c.e.Environments))
	for _, name := range names {
		p := []string{"environments", name}
		if !graph.ValidName(name) {
			d.errorf(p, "%q is not a name", name).WithHint(nameHint)
		}
		checkReserved(d, p, name)
		from := c.e.Environments[name].From
		if _, declared := c.e.Environments[from]; from != "" && !declared {
			d.errorf(append(p, "from"), "there is no environment %q", from).WithHint("%s", suggest(from, names))
			continue
		}
		chain := []string{name}
		for from != "" && from != name && len(chain) <= len(names) {
			chain = append(chain, from)
			from = c.e.Environments[from].From
		}
		if from == name && name == slices.Min(chain) { // reported once for each circle
			d.errorf(append(p, "from"), "the environments come from each other: %s", strings.Join(append(chain, name), " from ")).
				WithHint("remove the from of the environment that tries changes first")
		}
	}
}

// checkReserved checks that the directory of an environment on machines is free for it.
func checkReserved(d *decoder, p []string, environment string) {
	if slices.Contains(machineDirs, environment) {
		d.errorf(p, "an environment cannot be named %q, because /var/lib/defx/%s has another purpose on machines", environment, environment).WithHint("choose another name")
	}
}

// machineDirs are the names in /var/lib/defx that are not those of environments (docs/machine.md).
var machineDirs = []string{"bin", "containers", "done", "edited", "facts", "journal", "packages", "runs", "secrets", "store", "units"}

const nameHint = "names are a-z, 0-9 and -, at most 42 letters, and begin and end with a letter or digit"

func (c *compiler) checkBackend(d *decoder, name string, p []string) {
	if name == "" || slices.Contains(c.in.Backends, name) {
		return
	}
	hint := diag.Suggest(name, c.in.Backends)
	if hint == "" {
		hint = "there is " + strings.Join(c.in.Backends, ", ")
	}
	d.errorf(p, "there is no backend %q", name).WithHint("%s", hint)
}

// decodeLibraries decodes the functionalities of each library and uses the last good value for
// those with an error.
func (c *compiler) decodeLibraries() {
	c.libHeld = map[string]bool{}
	decoded := c.decodeAll()
	for i, lib := range c.in.Result.Libraries {
		lastGood := c.in.Baseline.LastGood[lib.Name]
		if !graph.ValidName(lib.Name) {
			c.errs = append(c.errs, diag.Errorf("", "%q is not a name", lib.Name).At("libs", lib.Name).WithHint(nameHint))
			continue
		}
		if lib.Name == graph.HostLib || lib.Name == graph.ModuleLib {
			hint := "this prefix is reserved for the addresses of host facts"
			if lib.Name == graph.ModuleLib {
				hint = "this prefix is reserved for the addresses of resource modules"
			}
			c.errs = append(c.errs, diag.Errorf("", "a library cannot be named %q", lib.Name).At("libs", lib.Name).WithHint("%s", hint))
			continue
		}
		if lib.Err != nil {
			c.libHeld[lib.Name] = true
			if len(lastGood) == 0 {
				c.heldLibs = append(c.heldLibs, Held{Name: lib.Name, Err: lib.Err})
			}
			for name, value := range lastGood {
				c.useLastGood(lib.Name, name, value, lib.Err)
			}
			continue
		}
		for j, f := range lib.Functionalities {
			if f.Err == nil && string(f.Value) == "null" {
				continue
			}
			err := f.Err
			if err == nil {
				err = c.in.Failed[lib.Name+"/"+f.Name]
			}
			if err == nil {
				var fn *function
				if fn, err = decoded[i][j].fn, decoded[i][j].err; err == nil {
					c.checkDroppedKeys(fn, f)
					c.funcs[fn.fullName()] = fn
					continue
				}
			}
			c.useLastGood(lib.Name, f.Name, lastGood[f.Name], err)
		}
	}
	c.checkMoved()
	c.checkAllow()
	names := c.names()
	for _, o := range c.in.Result.Overrides {
		lib, _, _ := strings.Cut(o, "/")
		if c.funcs[o] == nil && !c.libHeld[lib] && !c.isNull(o) {
			c.errs = append(c.errs, diag.Errorf("", "overrides: no library defines %q", o).
				At("overrides", o).WithHint("%s", suggest(o, names)))
		}
	}
}

// decodeAll decodes all values without errors in parallel, because they are independent.
// Functionalities with a usable summary are not decoded.
func (c *compiler) decodeAll() [][]decodeResult {
	libs := c.in.Result.Libraries
	out := make([][]decodeResult, len(libs))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(libs)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(libs); i = int(next.Add(1)) - 1 {
				lib := libs[i]
				out[i] = make([]decodeResult, len(lib.Functionalities))
				for j, f := range lib.Functionalities {
					full := lib.Name + "/" + f.Name
					if s := c.in.Summaries[full]; s != nil && s.Value == c.in.Values[full] {
						out[i][j].fn = s.function(lib.Name, f.Name, f.Value)
					} else if f.Err == nil && c.in.Failed[full] == nil && string(f.Value) != "null" {
						out[i][j].fn, out[i][j].err = c.decode(lib.Name, f.Name, f.Value)
					}
				}
			}
		})
	}
	wg.Wait()
	return out
}

// decodeResult is the result of decoding one value.
type decodeResult struct {
	fn  *function
	err *diag.Error
}

func (c *compiler) isNull(full string) bool {
	for _, lib := range c.in.Result.Libraries {
		for _, f := range lib.Functionalities {
			if lib.Name+"/"+f.Name == full {
				return true
			}
		}
	}
	return false
}

// useLastGood holds a functionality: its last good value is used, or it is left out.
func (c *compiler) useLastGood(lib, name string, lastGood json.RawMessage, err *diag.Error) {
	f := &function{lib: lib, name: name, err: err, exports: map[string]*export{}}
	if lastGood != nil {
		if previous, decodeErr := c.decode(lib, name, lastGood); decodeErr == nil {
			f.fn, f.members, f.patchedReplicas, f.value = previous.fn, previous.members, previous.patchedReplicas, lastGood
		}
	}
	c.funcs[f.fullName()] = f
}

// splitReplicas splits a value into the functionality and its patched replicas: {"$value",
// "$replicas"}.
func splitReplicas(raw json.RawMessage) (json.RawMessage, map[string]json.RawMessage) {
	var packed struct {
		Value    json.RawMessage            `json:"$value"`
		Replicas map[string]json.RawMessage `json:"$replicas"`
	}
	if !bytes.Contains(raw, []byte(`"$value"`)) || json.Unmarshal(raw, &packed) != nil || packed.Value == nil {
		return raw, nil
	}
	return packed.Value, packed.Replicas
}

// decode decodes the value of a functionality. Several errors are returned as one, with the
// others as its cause.
func (c *compiler) decode(lib, name string, value json.RawMessage) (*function, *diag.Error) {
	f := &function{lib: lib, name: name, value: value, exports: map[string]*export{}}
	d := &decoder{subject: f.fullName()}
	if !graph.ValidName(name) {
		d.errorf(f.path(), "%q is not a name", name).WithHint(nameHint)
	}
	base, replicas := splitReplicas(value)
	f.fn, f.members = c.decodeConfig(d, f, base)
	for _, r := range slices.Sorted(maps.Keys(replicas)) {
		vd := &decoder{subject: f.fullName() + "#" + r}
		v := &replicaConfig{}
		v.fn, v.members = c.decodeConfig(vd, f, replicas[r])
		at := append(f.path(), "place", "replicas", r)
		v.patchedFields = changedPaths(base, replicas[r])
		for _, e := range vd.errs {
			rest := e.Path[min(len(e.Path), len(f.path())):]
			if slices.ContainsFunc(v.patchedFields, func(p []string) bool { return overlap(p, rest) }) { // the others are already reported for the functionality
				e.Path = append(slices.Clone(at), rest...)
				d.errs = append(d.errs, e)
			}
		}
		droppedKeys(base, replicas[r], func(where []string, key string) {
			d.errorf(append(slices.Clone(at), where...), "the patch of replica %q drops %q, which the functionality sets", r, strings.Join(append(slices.Clone(where), key), ".")).
				WithHint("write %s+: to add keys, or %s: null to remove this one", where[len(where)-1], key)
		})
		if f.patchedReplicas == nil {
			f.patchedReplicas = map[string]*replicaConfig{}
		}
		f.patchedReplicas[r] = v
	}
	return f, joinErrors(d.errs)
}

// decodeConfig decodes one configuration: that of the functionality or that of a patched
// replica.
func (c *compiler) decodeConfig(d *decoder, f *function, value json.RawMessage) (*Functionality, []*memberConfig) {
	fn := &Functionality{}
	d.decodeJSON(value, fn, f.path())
	kinds := 0
	for _, is := range []bool{fn.Service != nil, len(fn.Group) > 0, fn.External != nil, fn.Resource != nil, fn.LoadBalancer != nil} {
		if is {
			kinds++
		}
	}
	if kinds != 1 && len(d.errs) == 0 {
		at, hint := f.path(), "service: { command: ['/usr/bin/program'] }"
		switch {
		case fn.External != nil && kinds > 1:
			at, hint = append(at, "external"), "an external endpoint is not a service of this deployment: remove one of them"
		case fn.Resource != nil && kinds > 1:
			at, hint = append(at, "resource"), "define the resource under its own name"
		case fn.LoadBalancer != nil && kinds > 1:
			at, hint = append(at, "loadBalancer"), "define the load balancer under its own name, and add this name to its backends"
		case kinds > 1:
			at, hint = append(at, "group"), "make the service a member of the group"
		}
		d.errorf(at, "exactly one of \"service\", \"group\", \"external\", \"resource\" and \"loadBalancer\" is required").WithHint("%s", hint)
	}
	if len(fn.Group) == 0 && fn.Service == nil && kinds == 1 {
		for field, set := range map[string]bool{"place": !reflect.ValueOf(fn.Place).IsZero(), "requires": len(fn.Requires) > 0, "connects": len(fn.Connects) > 0,
			"after": len(fn.After) > 0, "host": fn.Host != nil, "backend": fn.Backend != ""} {
			if set && (field != "backend" || fn.External != nil) {
				d.errorf(append(f.path(), field), "%q has no meaning here, because this does not run on a machine", field).WithHint("remove it")
			}
		}
	}
	if fn.External != nil && fn.External.Host != "" {
		checkHost(d, append(f.path(), "external", "host"), fn.External.Host, true)
	}
	if fn.LoadBalancer != nil { // readers treat it as the resource that it becomes
		fn.Resource = &Resource{Type: "aws.loadBalancer"}
	}
	c.checkBackend(d, fn.Backend, append(f.path(), "backend"))
	fn.Place = c.defaultPlace(fn.Place)
	if fn.Backend == "" {
		fn.Backend = c.e.Defaults.Backend
	}
	if pl := fn.Place; pl.Every != "" && (pl.Machine != "" || pl.Replicas != nil || pl.Spread != "") {
		d.errorf(append(f.path(), "place", "every"), "place.every cannot be combined with machine, replicas or spread").WithHint("remove them: every already places one replica on each machine")
	}
	c.checkHost(d, f, fn)
	var parts []*memberConfig
	if fn.Service != nil {
		parts = append(parts, c.decodeService(d, f, fn, "", fn.Service, f.path()))
	}
	for _, member := range slices.Sorted(maps.Keys(fn.Group)) {
		p := append(f.path(), "group", member)
		if !graph.ValidName(member) {
			d.errorf(p, "%q is not a name", member).WithHint(nameHint)
		}
		if s := fn.Group[member].Service; s != nil {
			parts = append(parts, c.decodeService(d, f, fn, member, s, p))
		}
	}
	return fn, parts
}

// checkHost checks the names and values of host settings.
func (c *compiler) checkHost(d *decoder, f *function, fn *Functionality) {
	h := fn.Host
	if h == nil {
		return
	}
	check := func(grammar func(string) (problem, hint string), value string, at ...string) {
		if problem, hint := grammar(value); problem != "" {
			d.errorf(slices.Concat(f.path(), []string{"host"}, at), "%s", problem).WithHint("%s", hint)
		}
	}
	for i, k := range h.Packages {
		check(graph.CheckPackage, k, "packages", strconv.Itoa(i))
	}
	for i, k := range h.Modules {
		check(graph.CheckModule, k, "modules", strconv.Itoa(i))
	}
	for _, k := range slices.Sorted(maps.Keys(h.Sysctl)) {
		check(graph.CheckSetting, k, "sysctl", k)
		check(graph.CheckSettingValue, string(h.Sysctl[k]), "sysctl", k)
	}
	for _, k := range slices.Sorted(maps.Keys(h.Users)) {
		u := h.Users[k]
		check(graph.CheckUser, k, "users", k)
		check(graph.CheckHome, u.Home, "users", k, "home")
		check(graph.CheckHome, u.Shell, "users", k, "shell")
		for i, g := range u.Groups {
			check(graph.CheckGroup, g, "users", k, "groups", strconv.Itoa(i))
		}
	}
}

// heldErrors returns the errors of libraries, so that a run which stops at an error of the
// entry file still reports all errors. Errors that only follow from another one, and errors
// that the entry file's own errors already cover, are left out.
func (c *compiler) heldErrors() diag.List {
	var out diag.List
	for _, h := range c.heldLibs {
		out = append(out, h.Err)
	}
	entrySubjects := map[string]bool{}
	for _, e := range c.errs {
		entrySubjects[e.Subject] = true
	}
	for _, name := range c.names() {
		f := c.funcs[name]
		if f.err == nil || entrySubjects[name] {
			continue
		}
		for _, e := range ErrorList(f.err) {
			if e.Because == "" {
				one := *e
				one.Cause = nil
				out = append(out, &one)
			}
		}
	}
	return out
}

// joinErrors returns the first error, with the others as its cause.
func joinErrors(l diag.List) *diag.Error {
	if len(l) == 0 {
		return nil
	}
	first := l[0]
	if len(l) > 1 {
		first.Cause = l[1:]
	}
	return first
}

// ErrorList returns an error and those that joinErrors put into its cause.
func ErrorList(e *diag.Error) diag.List {
	out := diag.List{e}
	if rest, ok := e.Cause.(diag.List); ok {
		out = append(out, rest...)
	}
	return out
}

func (c *compiler) defaultPlace(p graph.Place) graph.Place {
	d := c.e.Defaults.Place
	if p.Machine != "" || p.With != "" && p.Pool == "" { // it names its machine, or uses that of another one
		return p
	}
	if p.Every == "" && p.With == "" && p.Pool == "" && len(p.Roles) == 0 && len(p.Labels) == 0 && p.Location == "" {
		p.Machine = d.Machine
	}
	if p.Machine == "" && p.Pool == "" {
		p.Pool = d.Pool
	}
	if p.Roles == nil {
		p.Roles = d.Roles
	}
	if p.Labels == nil {
		p.Labels = d.Labels
	}
	if p.Location == "" {
		p.Location = d.Location
	}
	if p.Except == nil {
		p.Except = d.Except
	}
	if p.Every != "" {
		return p
	}
	if p.Spread == "" {
		p.Spread = d.Spread
	}
	if p.Replicas == nil {
		p.Replicas = d.Replicas
	}
	return p
}

// decodeService checks one service by itself and fills what depends on no other service.
func (c *compiler) decodeService(d *decoder, f *function, fn *Functionality, memberName string, s *graph.Spec, p []string) *memberConfig {
	out := &memberConfig{name: memberName, decoded: *s, path: p}
	if d, locked := c.in.Images[s.Image]; locked {
		out.decoded.Image += "@" + string(d)
	}
	sp := append(slices.Clone(p), "service")
	at := func(more ...string) []string { return append(slices.Clone(sp), more...) }
	opts := map[string]map[string]any{"systemd": fn.Systemd, "docker": fn.Docker, "ec2": fn.EC2}
	if m, ok := fn.Group[memberName]; ok && memberName != "" {
		for k, v := range map[string]map[string]any{"systemd": m.Systemd, "docker": m.Docker, "ec2": m.EC2} {
			if v != nil {
				opts[k] = v
			}
		}
	}
	runBackend := fn.Backend
	if runBackend == "ec2" { // its instances run it with another backend
		out.ec2, _ = json.Marshal(opts["ec2"])
		if runBackend, _ = opts["ec2"]["run"].(string); runBackend == "" {
			runBackend = "systemd"
		}
	}
	if o := opts[runBackend]; len(o) > 0 {
		if base, _ := o["base"].(string); runBackend == "docker" && c.in.Images[base] != "" { // the base image of a package is pinned like any image
			o = maps.Clone(o)
			o["base"] = base + "@" + string(c.in.Images[base])
		}
		out.options, _ = json.Marshal(o)
	}
	if len(s.Command) == 0 && s.Image == "" && len(d.errs) == 0 { // a misspelt or mistyped command is already reported
		at, what := sp, "is missing"
		if s.Command != nil {
			at, what = append(slices.Clone(sp), "command"), "is empty"
		}
		d.errorf(at, "\"command\" %s", what).WithHint("command: ['/usr/bin/program', 'argument']")
	}
	if len(s.Package) > 0 {
		if t := s.Package.Tokens(); len(s.Package) != 1 || len(t) != 1 || t[0].Kind != token.Artifact {
			d.errorf(at("package"), "a package must be exactly one artifact").WithHint("package: defx.artifact('./path')")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if !validEnv(name) {
			d.errorf(at("env", name), "%q is not a valid name of an environment variable", name).WithHint("letters, digits and _, not starting with a digit")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		t := s.Secrets[name].Tokens()
		switch {
		case !validEnv(name):
			d.errorf(at("secrets", name), "%q is not a valid name of an environment variable", name).WithHint("letters, digits and _, not starting with a digit")
		case len(s.Secrets[name]) != 1 || len(t) != 1 || t[0].Kind != token.Secret:
			d.errorf(at("secrets", name), "the value of a secret cannot be written here, only its name").WithHint("%s: defx.secret('name')", name)
		}
		if _, clash := s.Env[name+"_FILE"]; clash {
			d.errorf(at("env", name+"_FILE"), "%q is already set by the secret %q", name+"_FILE", name).WithHint("remove it: the path of the secret is set automatically")
		}
	}
	for _, kind := range graph.DirKinds {
		checkDir(d, s.Dirs.Kind(kind), kind, s.User, at)
	}
	for field, files := range map[string]map[string]graph.File{"files": s.Files, "hostFiles": s.HostFiles} {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			checkFile(d, files[name], name, at(field, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.HostFiles)) {
		if _, both := s.Files[name]; both {
			d.errorf(at("hostFiles", name), "%q is in files too", name).WithHint("files are visible to the service only, hostFiles to all processes: choose one")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ports)) {
		if !graph.ValidName(name) {
			d.errorf(at("ports", name), "%q is not a name", name).WithHint(nameHint)
		}
	}
	requirePort := func(port string, p ...string) {
		if _, ok := s.Ports[port]; port != "" && !ok {
			names := slices.Sorted(maps.Keys(s.Ports))
			hint := diag.Suggest(port, names)
			if hint == "" {
				hint = "its ports: " + strings.Join(names, ", ")
			}
			d.errorf(at(p...), "there is no port %q", port).WithHint("%s", hint)
		}
	}
	if r := s.Ready; r != nil {
		n := 0
		for _, set := range []bool{r.HTTP != "", r.TCP, r.Exec != nil, r.Notify} {
			if set {
				n++
			}
		}
		if n != 1 && d.noErrorAt(at("ready")) {
			d.errorf(at("ready"), "exactly one of http, tcp, exec and notify is required").WithHint("%s", objectForms["ready"])
		}
		if (r.HTTP != "" || r.TCP) && r.Port == "" {
			if len(s.Ports) == 1 {
				cp := *r
				cp.Port = slices.Collect(maps.Keys(s.Ports))[0]
				out.decoded.Ready = &cp
			} else {
				d.errorf(at("ready"), "\"port\" is missing: which of its %d ports?", len(s.Ports)).WithHint("add port: 'NAME', with a name from ports")
			}
		}
		if r.HTTP != "" && !strings.HasPrefix(r.HTTP, "/") {
			d.errorf(at("ready", "http"), "%q is not a path", r.HTTP).WithHint("it must begin with /")
		}
		requirePort(r.Port, "ready", "port")
		if out.decoded.Ready != nil {
			if name := out.decoded.Ready.Port; (r.HTTP != "" || r.TCP) && s.Ports[name].Protocol == "udp" {
				d.errorf(at("ready"), "port %q is of protocol udp, which cannot be asked whether it is ready", name).WithHint("use ready: { exec: […] } or notify, or name a port of protocol tcp")
			}
		}
	}
	if sc := s.Schedule; sc != nil && sc.Timezone != "" {
		if _, err := time.LoadLocation(sc.Timezone); err != nil || sc.Timezone == "Local" {
			d.errorf(at("schedule", "timezone"), "%q is not a time zone", sc.Timezone).WithHint("use an IANA name: Europe/Berlin, Asia/Singapore, UTC")
		}
	}
	if sc := s.Schedule; sc != nil && (sc.Cron == "") == (sc.Every == "") {
		if d.noErrorAt(at("schedule")) {
			d.errorf(at("schedule"), "exactly one of cron and every is required").WithHint("%s", objectForms["schedule"])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sockets)) {
		socket := s.Sockets[name]
		if (socket.Port == "") == (socket.Path == "") {
			if d.noErrorAt(at("sockets", name)) {
				d.errorf(at("sockets", name), "exactly one of port and path is required").WithHint("%s: { port: 'name of a port' }, or { path: '/run/x.sock' }", name)
			}
		}
		requirePort(socket.Port, "sockets", name, "port")
	}
	if r := s.Reload; r != nil && (r.Signal == "") == (r.Command == nil) {
		if d.noErrorAt(at("reload")) {
			d.errorf(at("reload"), "exactly one of signal and command is required").WithHint("%s", objectForms["reload"])
		}
	}
	out.spec, out.iface = out.decoded, Interface{out.decoded.Ports, out.decoded.Labels, out.decoded.Dirs, out.decoded.User}
	return out
}

// dirRE matches the names of directories.
var dirRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`)

// pathRE matches the literal paths of directories.
var pathRE = regexp.MustCompile(`^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$`)

// checkDir checks the declaration of a directory.
func checkDir(d *decoder, dir *graph.Dir, kind, user string, at func(more ...string) []string) {
	set := 0
	for _, s := range []string{dir.Name, dir.Path, dir.Of} {
		if s != "" {
			set++
		}
	}
	switch {
	case set == 0:
	case set > 1:
		d.errorf(at("dirs", kind), "exactly one of name, path and of is required").WithHint("%s: 'data', { path: '/srv/data' } or { of: 'lib/name' }", kind)
	case dir.Name != "" && (!dirRE.MatchString(dir.Name) || strings.HasSuffix(dir.Name, ".")):
		d.errorf(at("dirs", kind), "%q is not a valid directory name", dir.Name).
			WithHint("letters, digits, '.', '_' and '-', with '/' between parts; the directory belongs to this service only")
	case dir.Path != "" && (!pathRE.MatchString(dir.Path) || path.Clean(dir.Path) != dir.Path):
		d.errorf(at("dirs", kind, "path"), "%q is not a clean absolute path of letters, digits, '.', '_' and '-'", dir.Path).WithHint("path: '/srv/data'")
	case dir.Path != "" && graph.ReservedDir(dir.Path) != "":
		d.errorf(at("dirs", kind, "path"), "%q is in %s, which is not for data of services", dir.Path, graph.ReservedDir(dir.Path)).WithHint("path: '/srv/data'")
	case dir.Path != "" && user == "":
		d.errorf(at("dirs", kind, "path"), "a literal path needs a static user, because the user of this service is made only while it runs").
			WithHint("user: 'name', or let the service have a directory of its own: %s: '%s'", kind, path.Base(dir.Path))
	}
}

func validEnv(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

func checkFile(d *decoder, f graph.File, name string, at []string) {
	if !strings.HasPrefix(name, "/") || path.Clean(name) != name || name == "/" {
		d.errorf(at, "%q is not a clean absolute path", name).WithHint("it must begin with / and contain no //, . or ..")
	}
	if kinds := f.Kinds(); len(kinds) != 1 && d.noErrorAt(at) {
		e := d.errorf(at, "exactly one of text, json, yaml, toml, ini, env and from is required").WithHint("'text', or { json: { … } }")
		if len(kinds) > 1 {
			e.WithHint("%s are set: remove all but one", strings.Join(kinds, " and "))
		}
	}
	if len(f.From) > 0 {
		if t := f.From.Tokens(); len(f.From) != 1 || len(t) != 1 || t[0].Kind != token.Artifact {
			d.errorf(append(slices.Clone(at), "from"), "a file must come from exactly one artifact").WithHint("from: defx.artifact('./file')")
		}
	}
	for kind, doc := range map[string]*token.Doc{"toml": f.TOML, "ini": f.INI} {
		if doc == nil {
			continue
		}
		if _, ok := doc.V.(map[string]any); !ok {
			d.errorf(append(slices.Clone(at), kind), "an object is required").WithHint("%s: { key: 'value' }", kind)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(f.Env)) {
		if !validEnv(k) {
			d.errorf(append(slices.Clone(at), "env", k), "%q is not a valid name of an environment variable", k).WithHint("letters, digits and _, not starting with a digit")
		}
	}
}

// checkDroppedKeys reports overrides that drop keys of a library's maps. An explicit null is
// not a drop.
func (c *compiler) checkDroppedKeys(f *function, lf lang.Functionality) {
	if lf.Base == nil {
		return
	}
	base, _ := splitReplicas(lf.Base)
	now, _ := splitReplicas(lf.Value)
	if raw := c.in.Raw[f.lib][f.name]; raw != nil {
		now, _ = splitReplicas(raw)
	}
	droppedKeys(base, now, func(where []string, key string) {
		c.errs = append(c.errs, diag.Errorf(f.fullName(), "the override drops %q, which the library sets", strings.Join(append(slices.Clone(where), key), ".")).
			At(append([]string{"overrides", f.fullName()}, where...)...).
			WithHint("write %s+: to add keys, or %s: null to remove this one", where[len(where)-1], key))
	})
}

// droppedKeys reports the keys that an object of the contract has in before and not in after.
// Replicas are no such object: a patch of place.replicas names the ones that there are. Neither
// are the contents of files and the values of resource fields.
func droppedKeys(before, after json.RawMessage, report func(where []string, key string)) {
	var base, now any
	if json.Unmarshal(before, &base) != nil || json.Unmarshal(after, &now) != nil {
		return
	}
	var walk func(base, now any, t reflect.Type, where []string)
	walk = func(base, now any, t reflect.Type, where []string) {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		b, isObject := base.(map[string]any)
		n, stillObject := now.(map[string]any)
		if !isObject || !stillObject || customDecoders[t] != nil {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(b)) {
			if _, kept := n[k]; !kept && b[k] != nil && !strings.HasPrefix(k, "#") && len(where) > 0 {
				report(slices.Clone(where), k)
			}
			inner := t
			switch t.Kind() {
			case reflect.Struct:
				i, known := fieldsOf(t)[k]
				if !known {
					continue
				}
				inner = t.Field(i).Type
			case reflect.Map:
				inner = t.Elem()
			}
			walk(b[k], n[k], inner, append(where, k))
		}
	}
	walk(base, now, reflect.TypeFor[Functionality](), nil)
}

// changedPaths returns the paths of the fields in which two values differ.
func changedPaths(a, b json.RawMessage) [][]string {
	var before, after any
	json.Unmarshal(a, &before)
	json.Unmarshal(b, &after)
	var out [][]string
	var walk func(a, b any, path []string)
	walk = func(a, b any, path []string) {
		am, aok := a.(map[string]any)
		bm, bok := b.(map[string]any)
		if aok && bok {
			for _, k := range slices.Sorted(maps.Keys(bm)) {
				walk(am[k], bm[k], append(slices.Clone(path), k))
			}
			return
		}
		if !reflect.DeepEqual(a, b) {
			out = append(out, path)
		}
	}
	walk(before, after, nil)
	return out
}

// overlap reports whether one path is a prefix of the other.
func overlap(a, b []string) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

func joinNames(names []string) string {
	if len(names) > 8 {
		return strings.Join(names[:8], ", ") + fmt.Sprintf(" and %d more", len(names)-8)
	}
	return strings.Join(names, ", ")
}
