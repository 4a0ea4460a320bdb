// Package compile turns evaluated values and a baseline into a graph: it
// decodes strictly, fills defaults, resolves names, and collects all errors.
//
// It knows the contract that libraries write. It refuses to know files,
// machines and time: what it needs of them comes in as data. Invariants: same
// input, same graph; an error of one functionality holds that functionality
// and what cannot do without it, and nothing else; absence by error is never
// deletion.
package compile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
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

// Baseline is what earlier state may tell the pure stages.
type Baseline struct {
	Generation       int
	Machines         map[string]string // address → machine it was placed on
	LastGood         LastGood
	PreviousMachines []*graph.Machine // machines on which something stands
}

// Input is what a graph is made of.
type Input struct {
	Result      *lang.Result
	Baseline    Baseline
	Backends    []string                                 // names of the backends there are
	Artifact    func(token.Token) (plan.Artifact, error) // content of an artifact; an error may have a Hint() string
	Images      map[string]digest.Digest                 // what tags of images stand for, as far as that is locked
	Secrets     map[string]string                        // name → version
	Raw         LastGood                                 // values before transforms, of what evaluated; nil without transforms
	RawLastGood LastGood                                 // last good values before transforms; those of Baseline are behind them
	Failed      map[string]*diag.Error                   // functionalities that a later stage refused, by full name
	Summaries   map[string]*Summary                      // what an earlier run knew of functionalities, by full name; may be nil
	Values      map[string]digest.Digest                 // what each functionality is made of, by full name; nil: nobody wants sketches
}

// Held is something that did not evaluate and is left as it is.
type Held struct {
	Name string // library or lib/name
	Err  *diag.Error
}

// Output is a graph without machines chosen, and what was left out of it.
type Output struct {
	Graph    *graph.Graph
	Held     []Held   // sorted by name
	LastGood LastGood // what the next baseline should hold

	Summaries   map[string]*Summary // of this run, as far as Input.Values names them
	Invalidated map[string]string   // why a sketch of Input.Sketches could not stand in, by full name

	exports map[string]map[string]token.Text
	folded  map[string]bool // functionalities that say something of sets, by full name
}

// Compile makes the graph. The error is a diag.List: faults that stop the run.
func Compile(in Input) (*Output, error) {
	count := 0
	for _, l := range in.Result.Libraries {
		count += len(l.Functionalities)
	}
	c := &compiler{in: in, funcs: make(map[string]*function, count), fell: map[string]string{}}
	c.entry()
	if len(c.errs) > 0 {
		return nil, c.errs.Err()
	}
	c.libraries()
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
	out := &Output{Graph: g, LastGood: LastGood{}, exports: c.outputs(), folded: map[string]bool{}, Invalidated: c.fell}
	for _, name := range c.names() {
		f := c.funcs[name]
		if f.folded {
			out.folded[name] = true
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
	c.keepDropped(out.LastGood)
	out.Summaries = c.sketches()
	out.Held = append(c.heldLibs, out.Held...)
	slices.SortStableFunc(out.Held, func(a, b Held) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// keepDropped adds to what is good what a transform dropped: it must be there
// when the transform runs again with a library held.
func (c *compiler) keepDropped(good LastGood) {
	keep := func(lib, name string, value json.RawMessage) {
		if value == nil || good[lib][name] != nil || c.funcs[lib+"/"+name] != nil {
			return
		}
		if good[lib] == nil {
			good[lib] = map[string]json.RawMessage{}
		}
		good[lib][name] = value
	}
	for lib, funcs := range c.in.Raw {
		for name, value := range funcs {
			keep(lib, name, value)
		}
	}
	for _, l := range c.in.Result.Libraries {
		for name, value := range c.in.RawLastGood[l.Name] {
			if l.Err != nil || slices.ContainsFunc(l.Functionalities, func(f lang.Functionality) bool { return f.Name == name && f.Err != nil }) {
				keep(l.Name, name, value)
			}
		}
	}
}

// function is one functionality on its way through the compiler.
type function struct {
	lib, name string
	value     json.RawMessage     // what it was decoded from: the new value or the last good one
	fn        *Functionality      // nil: gone (held without a last good value)
	err       *diag.Error         // why it is held
	parts     []*part             // its service, or the members of its group
	variants  map[string]*variant // replicas that have a patch, by name
	exports   map[string]*export  // resolved when they are read
	fields    map[string]any      // of a resource, tokens resolved
	sketch    *Summary            // not nil: what an earlier run knew of it stands in for the rest
	looked    map[string]bool     // what was looked at while it was resolved
	folded    bool                // it says something of sets, which placement unfolds
	balancer  *graph.Balancer     // names and tokens resolved
}

// variant is a replica with a patch.
type variant struct {
	fn     *Functionality
	parts  []*part
	differ [][]string // fields that the patch sets, below the functionality
}

// shapes gives the functionality and each of its variants.
func (f *function) shapes() []variant {
	out := []variant{{fn: f.fn, parts: f.parts}}
	for _, name := range slices.Sorted(maps.Keys(f.variants)) {
		out = append(out, *f.variants[name])
	}
	return out
}

// of gives the shape of one replica.
func (f *function) of(replica string) variant {
	if v := f.variants[replica]; v != nil {
		return *v
	}
	return variant{fn: f.fn, parts: f.parts}
}

// Interface is what others see of a service when they read of it.
type Interface struct {
	Ports  map[string]graph.Port
	Labels map[string]string
	Dirs   graph.Dirs
}

// part is a service of a functionality before replicas are made of it.
type part struct {
	member                    string
	face                      Interface  // what others see of it
	decoded                   graph.Spec // as the library wrote it; for resolve alone
	spec                      graph.Spec // tokens resolved
	options, ec2              json.RawMessage
	with                      string       // the set that it must share its machine with
	requires, connects, after []graph.Edge // To is filled by expand
	path                      []string     // of the functionality or member
}

// full is lib/name; what the entry itself defines has no library.
func (f *function) full() string {
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
	libHeld  map[string]bool // libraries that did not evaluate at all
	errs     diag.List

	looked map[string]bool     // what is looked at just now; nil: nobody wants to know
	fell   map[string]string   // see Output
	sorted []string            // see names
	bare   map[string][]string // name → functionalities of that name in all libraries, sorted; made when it is asked for
}

// names lists all functionalities, sorted. They are only ever added.
func (c *compiler) names() []string {
	if len(c.sorted) != len(c.funcs) {
		c.sorted = slices.Sorted(maps.Keys(c.funcs))
	}
	return c.sorted
}

// entry decodes the central file; its errors stop the run.
func (c *compiler) entry() {
	d := &decoder{}
	d.decodeJSON(c.in.Result.Deployment, &c.e, nil)
	if c.e.Name != "" && !graph.ValidName(c.e.Name) {
		d.errorf([]string{"name"}, "%q is not a name", c.e.Name).WithHint(nameHint)
	}
	if !graph.ValidName(c.in.Result.Environment) {
		d.errorf(nil, "environment %q is not a name", c.in.Result.Environment).WithHint(nameHint)
	}
	seen := map[string]string{} // folder → machine
	for _, name := range slices.Sorted(maps.Keys(c.e.Machines)) {
		p := []string{"machines", name}
		if !graph.ValidName(name) {
			d.errorf(p, "%q is not a name", name).WithHint(nameHint)
		}
		m := c.e.Machines[name]
		if k, _, _ := strings.Cut(m.Connect, ":"); m.Connect != "" && m.Connect != "local" && k != "ssh" && k != "dir" {
			d.errorf(append(p, "connect"), "%q leads nowhere", m.Connect).
				WithHint("local, dir:FOLDER or ssh://user@host:port")
		}
		if dir, ok := strings.CutPrefix(m.Connect, "dir:"); ok {
			if dir == "" || strings.HasPrefix(dir, "//") || strings.HasPrefix(dir, "~") {
				d.errorf(append(p, "connect"), "%q names no folder", m.Connect).WithHint("dir:./box is relative to the entry file, dir:/srv/box is absolute")
			}
			if other := seen[path.Clean(dir)]; other != "" {
				d.errorf(append(p, "connect"), "machine %q is the same folder", other).WithHint("two names for one machine would undo each other's work")
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
		c.funcs[f.full()] = f
	}
	c.checkBackend(d, c.e.Defaults.Backend, []string{"defaults", "backend"})
	c.errs = append(c.errs, d.errs...)
}

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

// libraries decodes what each library exports, putting the last good value in
// the place of what failed.
func (c *compiler) libraries() {
	c.libHeld = map[string]bool{}
	decoded := c.decodeAll()
	for i, lib := range c.in.Result.Libraries {
		good := c.in.Baseline.LastGood[lib.Name]
		if !graph.ValidName(lib.Name) {
			c.errs = append(c.errs, diag.Errorf("", "%q is not a name", lib.Name).At("libs", lib.Name).WithHint(nameHint))
			continue
		}
		if lib.Name == graph.HostLib || lib.Name == graph.ModuleLib {
			hint := "facts of machines have addresses that begin so"
			if lib.Name == graph.ModuleLib {
				hint = "modules of resources have addresses that begin so"
			}
			c.errs = append(c.errs, diag.Errorf("", "a library cannot be called %q", lib.Name).At("libs", lib.Name).WithHint("%s", hint))
			continue
		}
		if lib.Err != nil {
			c.libHeld[lib.Name] = true
			if len(good) == 0 {
				c.heldLibs = append(c.heldLibs, Held{Name: lib.Name, Err: lib.Err})
			}
			for name, value := range good {
				c.fallBack(lib.Name, name, value, lib.Err)
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
					c.checkLost(fn, f)
					c.funcs[fn.full()] = fn
					continue
				}
			}
			c.fallBack(lib.Name, f.Name, good[f.Name], err)
		}
	}
	c.checkMoved()
	names := c.names()
	for _, o := range c.in.Result.Overrides {
		lib, _, _ := strings.Cut(o, "/")
		if c.funcs[o] == nil && !c.libHeld[lib] && !c.isNull(o) {
			c.errs = append(c.errs, diag.Errorf("", "overrides: no library defines %q", o).
				At("overrides", o).WithHint("%s", suggest(o, names)))
		}
	}
}

// decodeAll decodes what evaluated, on all cores: no value knows another. What a
// sketch stands in for is not decoded.
func (c *compiler) decodeAll() [][]decoded {
	libs := c.in.Result.Libraries
	out := make([][]decoded, len(libs))
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(libs)) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(libs); i = int(next.Add(1)) - 1 {
				lib := libs[i]
				out[i] = make([]decoded, len(lib.Functionalities))
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
	all.Wait()
	return out
}

// decoded is what came of decoding a value.
type decoded struct {
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

// fallBack holds a functionality: its last good value stands in, or it is gone.
func (c *compiler) fallBack(lib, name string, good json.RawMessage, err *diag.Error) {
	f := &function{lib: lib, name: name, err: err, exports: map[string]*export{}}
	if good != nil {
		if old, bad := c.decode(lib, name, good); bad == nil {
			f.fn, f.parts, f.variants, f.value = old.fn, old.parts, old.variants, good
		}
	}
	c.funcs[f.full()] = f
}

// unpack parts a value from those of its patched replicas: {"$value", "$replicas"}.
func unpack(raw json.RawMessage) (json.RawMessage, map[string]json.RawMessage) {
	var packed struct {
		Value    json.RawMessage            `json:"$value"`
		Replicas map[string]json.RawMessage `json:"$replicas"`
	}
	if !bytes.Contains(raw, []byte(`"$value"`)) || json.Unmarshal(raw, &packed) != nil || packed.Value == nil {
		return raw, nil
	}
	return packed.Value, packed.Replicas
}

// decode makes a function of a value. Several mistakes come as one error whose
// cause lists them all.
func (c *compiler) decode(lib, name string, value json.RawMessage) (*function, *diag.Error) {
	f := &function{lib: lib, name: name, value: value, exports: map[string]*export{}}
	d := &decoder{subject: f.full()}
	if !graph.ValidName(name) {
		d.errorf(f.path(), "%q is not a name", name).WithHint(nameHint)
	}
	base, replicas := unpack(value)
	f.fn, f.parts = c.shape(d, f, base)
	for _, r := range slices.Sorted(maps.Keys(replicas)) {
		vd := &decoder{subject: f.full() + "#" + r}
		v := &variant{}
		v.fn, v.parts = c.shape(vd, f, replicas[r])
		at := append(f.path(), "place", "replicas", r)
		v.differ = differences(base, replicas[r])
		for _, e := range vd.errs {
			rest := e.Path[min(len(e.Path), len(f.path())):]
			if slices.ContainsFunc(v.differ, func(p []string) bool { return overlap(p, rest) }) { // else it was told already
				e.Path = append(slices.Clone(at), rest...)
				d.errs = append(d.errs, e)
			}
		}
		lost(base, replicas[r], func(where []string, key string) {
			d.errorf(append(slices.Clone(at), where...), "the patch of replica %q drops %q, which the functionality sets", r, strings.Join(append(slices.Clone(where), key), ".")).
				WithHint("write %s+: to add, or %s: null to remove", where[len(where)-1], key)
		})
		if f.variants == nil {
			f.variants = map[string]*variant{}
		}
		f.variants[r] = v
	}
	return f, together(d.errs)
}

// shape decodes one value of a functionality: its own, or that of a replica.
func (c *compiler) shape(d *decoder, f *function, value json.RawMessage) (*Functionality, []*part) {
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
			at, hint = append(at, "external"), "what stands elsewhere is no service of this deployment: leave one out"
		case fn.Resource != nil && kinds > 1:
			at, hint = append(at, "resource"), "give the resource a name of its own"
		case fn.LoadBalancer != nil && kinds > 1:
			at, hint = append(at, "loadBalancer"), "give the balancer a name of its own, and name this in its backends"
		case kinds > 1:
			at, hint = append(at, "group"), "make the service a member of the group"
		}
		d.errorf(at, "exactly one of \"service\", \"group\", \"external\", \"resource\" and \"loadBalancer\" is needed").WithHint("%s", hint)
	}
	if len(fn.Group) == 0 && fn.Service == nil && kinds == 1 {
		for field, set := range map[string]bool{"place": !reflect.ValueOf(fn.Place).IsZero(), "requires": len(fn.Requires) > 0, "connects": len(fn.Connects) > 0,
			"after": len(fn.After) > 0, "host": fn.Host != nil, "backend": fn.Backend != ""} {
			if set && (field != "backend" || fn.External != nil) {
				d.errorf(append(f.path(), field), "%q says nothing of what runs on no machine", field).WithHint("leave it out")
			}
		}
	}
	if fn.LoadBalancer != nil { // its readers read it as what it becomes
		fn.Resource = &Resource{Type: "aws.loadBalancer"}
	}
	c.checkBackend(d, fn.Backend, append(f.path(), "backend"))
	fn.Place = c.defaultPlace(fn.Place)
	if fn.Backend == "" {
		fn.Backend = c.e.Defaults.Backend
	}
	if pl := fn.Place; pl.Every != "" && (pl.Machine != "" || pl.Replicas != nil || pl.Spread != "") {
		d.errorf(append(f.path(), "place", "every"), "one for every machine leaves machine, replicas and spread nothing to say").WithHint("leave them out")
	}
	c.checkHost(d, f, fn)
	var parts []*part
	if fn.Service != nil {
		parts = append(parts, c.part(d, f, fn, "", fn.Service, f.path()))
	}
	for _, member := range slices.Sorted(maps.Keys(fn.Group)) {
		p := append(f.path(), "group", member)
		if !graph.ValidName(member) {
			d.errorf(p, "%q is not a name", member).WithHint(nameHint)
		}
		if s := fn.Group[member].Service; s != nil {
			parts = append(parts, c.part(d, f, fn, member, s, p))
		}
	}
	return fn, parts
}

// checkHost checks the names of facts.
func (c *compiler) checkHost(d *decoder, f *function, fn *Functionality) {
	if fn.Host == nil {
		return
	}
	bad := func(kind, key, at string) {
		if !graph.ValidKey(key) {
			d.errorf(append(f.path(), "host", kind, at), "%q is no name of this kind", key).WithHint("letters, digits and _ . + : ~ - /, no blank")
		}
	}
	for i, k := range fn.Host.Packages {
		name, _, _ := strings.Cut(k, "=")
		bad("packages", name, strconv.Itoa(i))
	}
	for i, k := range fn.Host.Modules {
		bad("modules", k, strconv.Itoa(i))
	}
	for _, k := range slices.Sorted(maps.Keys(fn.Host.Sysctl)) {
		bad("sysctl", k, k)
	}
	for _, k := range slices.Sorted(maps.Keys(fn.Host.Users)) {
		bad("users", k, k)
		u := fn.Host.Users[k]
		for field, dir := range map[string]string{"home": u.Home, "shell": u.Shell} {
			if dir != "" && (!path.IsAbs(dir) || path.Clean(dir) != dir || strings.ContainsAny(dir, " \t\n:\"")) {
				d.errorf(append(f.path(), "host", "users", k, field), "%q is not a clean absolute path", dir).WithHint("it begins with / and has no // and no . or .. in it")
			}
		}
	}
}

// heldErrors lists what is wrong with the libraries, for a run that the entry's
// own mistakes end: all of a run is told at once. What only follows from
// another mistake is left out, and so is what the entry has in hand.
func (c *compiler) heldErrors() diag.List {
	var out diag.List
	for _, h := range c.heldLibs {
		out = append(out, h.Err)
	}
	entrys := map[string]bool{}
	for _, e := range c.errs {
		entrys[e.Subject] = true
	}
	for _, name := range c.names() {
		f := c.funcs[name]
		if f.err == nil || entrys[name] {
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

// together makes one error of several: the first in order, the others behind it.
func together(l diag.List) *diag.Error {
	if len(l) == 0 {
		return nil
	}
	first := l[0]
	if len(l) > 1 {
		first.Cause = l[1:]
	}
	return first
}

// ErrorList lists an error and those that together put behind it.
func ErrorList(e *diag.Error) diag.List {
	out := diag.List{e}
	if rest, ok := e.Cause.(diag.List); ok {
		out = append(out, rest...)
	}
	return out
}

func (c *compiler) defaultPlace(p graph.Place) graph.Place {
	d := c.e.Defaults.Place
	if p.Machine != "" || p.With != "" && p.Pool == "" { // it has its place, or takes that of another
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

// part checks one service by itself and fills what needs no other service.
func (c *compiler) part(d *decoder, f *function, fn *Functionality, member string, s *graph.Spec, p []string) *part {
	out := &part{member: member, decoded: *s, path: p}
	if d, locked := c.in.Images[s.Image]; locked {
		out.decoded.Image += "@" + string(d)
	}
	sp := append(slices.Clone(p), "service")
	at := func(more ...string) []string { return append(slices.Clone(sp), more...) }
	opts := map[string]map[string]any{"systemd": fn.Systemd, "docker": fn.Docker, "ec2": fn.EC2}
	if m, ok := fn.Group[member]; ok && member != "" {
		for k, v := range map[string]map[string]any{"systemd": m.Systemd, "docker": m.Docker, "ec2": m.EC2} {
			if v != nil {
				opts[k] = v
			}
		}
	}
	runs := fn.Backend
	if runs == "ec2" { // its instances run it by another backend
		out.ec2, _ = json.Marshal(opts["ec2"])
		if runs, _ = opts["ec2"]["run"].(string); runs == "" {
			runs = "systemd"
		}
	}
	if o := opts[runs]; len(o) > 0 {
		if base, _ := o["base"].(string); runs == "docker" && c.in.Images[base] != "" { // the image below a package is pinned as any other
			o = maps.Clone(o)
			o["base"] = base + "@" + string(c.in.Images[base])
		}
		out.options, _ = json.Marshal(o)
	}
	if len(s.Command) == 0 && s.Image == "" && len(d.errs) == 0 { // a misspelt or mistyped one was told already
		at, what := sp, "is missing"
		if s.Command != nil {
			at, what = append(slices.Clone(sp), "command"), "is empty"
		}
		d.errorf(at, "\"command\" %s", what).WithHint("command: ['/usr/bin/program', 'argument']")
	}
	if len(s.Package) > 0 {
		if t := s.Package.Tokens(); len(s.Package) != 1 || len(t) != 1 || t[0].Kind != token.Artifact {
			d.errorf(at("package"), "a package is an artifact and nothing else").WithHint("package: defx.artifact('./path')")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if !validEnv(name) {
			d.errorf(at("env", name), "%q cannot name an environment variable", name).WithHint("letters, digits and _, no digit first")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		t := s.Secrets[name].Tokens()
		switch {
		case !validEnv(name):
			d.errorf(at("secrets", name), "%q cannot name an environment variable", name).WithHint("letters, digits and _, no digit first")
		case len(s.Secrets[name]) != 1 || len(t) != 1 || t[0].Kind != token.Secret:
			d.errorf(at("secrets", name), "a secret is named, never written").WithHint("%s: defx.secret('name')", name)
		}
		if _, clash := s.Env[name+"_FILE"]; clash {
			d.errorf(at("env", name+"_FILE"), "%q is taken by the secret %q", name+"_FILE", name).WithHint("leave it out: the secret's path is put there")
		}
	}
	for field, files := range map[string]map[string]graph.File{"files": s.Files, "hostFiles": s.HostFiles} {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			checkFile(d, files[name], name, at(field, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.HostFiles)) {
		if _, both := s.Files[name]; both {
			d.errorf(at("hostFiles", name), "%q is in files too", name).WithHint("files are seen by the service alone, hostFiles by all: choose one")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ports)) {
		if !graph.ValidName(name) {
			d.errorf(at("ports", name), "%q is not a name", name).WithHint(nameHint)
		}
	}
	wantPort := func(port string, p ...string) {
		if _, ok := s.Ports[port]; port != "" && !ok {
			names := slices.Sorted(maps.Keys(s.Ports))
			hint := diag.Suggest(port, names)
			if hint == "" {
				hint = "its ports: " + strings.Join(names, ", ")
			}
			d.errorf(at(p...), "it has no port %q", port).WithHint("%s", hint)
		}
	}
	if r := s.Ready; r != nil {
		n := 0
		for _, set := range []bool{r.HTTP != "", r.TCP, r.Exec != nil, r.Notify} {
			if set {
				n++
			}
		}
		if n != 1 && d.clean(at("ready")) {
			d.errorf(at("ready"), "exactly one of http, tcp, exec and notify is needed").WithHint("%s", objects["ready"])
		}
		if (r.HTTP != "" || r.TCP) && r.Port == "" {
			if len(s.Ports) == 1 {
				cp := *r
				cp.Port = slices.Collect(maps.Keys(s.Ports))[0]
				out.decoded.Ready = &cp
			} else {
				d.errorf(at("ready"), "\"port\" is missing: which of its %d ports?", len(s.Ports)).WithHint("add port: 'name', and the name to ports")
			}
		}
		if r.HTTP != "" && !strings.HasPrefix(r.HTTP, "/") {
			d.errorf(at("ready", "http"), "%q is not a path", r.HTTP).WithHint("it begins with /")
		}
		wantPort(r.Port, "ready", "port")
	}
	if sc := s.Schedule; sc != nil && sc.Timezone != "" {
		if _, err := time.LoadLocation(sc.Timezone); err != nil || sc.Timezone == "Local" {
			d.errorf(at("schedule", "timezone"), "there is no time zone %q", sc.Timezone).WithHint("an IANA name: Europe/Berlin, Asia/Singapore, UTC")
		}
	}
	if sc := s.Schedule; sc != nil && (sc.Cron == "") == (sc.Every == "") {
		if d.clean(at("schedule")) {
			d.errorf(at("schedule"), "exactly one of cron and every is needed").WithHint("%s", objects["schedule"])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sockets)) {
		so := s.Sockets[name]
		if (so.Port == "") == (so.Path == "") {
			if d.clean(at("sockets", name)) {
				d.errorf(at("sockets", name), "exactly one of port and path is needed").WithHint("%s: { port: 'name of a port' }, or { path: '/run/x.sock' }", name)
			}
		}
		wantPort(so.Port, "sockets", name, "port")
	}
	if r := s.Reload; r != nil && (r.Signal == "") == (r.Command == nil) {
		if d.clean(at("reload")) {
			d.errorf(at("reload"), "exactly one of signal and command is needed").WithHint("%s", objects["reload"])
		}
	}
	out.spec, out.face = out.decoded, Interface{out.decoded.Ports, out.decoded.Labels, out.decoded.Dirs}
	return out
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
		d.errorf(at, "%q is not a clean absolute path", name).WithHint("it begins with / and has no // and no . or .. in it")
	}
	if kinds := f.Kinds(); len(kinds) != 1 && d.clean(at) {
		e := d.errorf(at, "exactly one of text, json, yaml, toml, ini, env and from is needed").WithHint("'text', or { json: { … } }")
		if len(kinds) > 1 {
			e.WithHint("there are %s", strings.Join(kinds, " and "))
		}
	}
	if len(f.From) > 0 {
		if t := f.From.Tokens(); len(f.From) != 1 || len(t) != 1 || t[0].Kind != token.Artifact {
			d.errorf(append(slices.Clone(at), "from"), "a file comes from one artifact").WithHint("from: defx.artifact('./file')")
		}
	}
	for kind, doc := range map[string]*token.Doc{"toml": f.TOML, "ini": f.INI} {
		if doc == nil {
			continue
		}
		if _, ok := doc.V.(map[string]any); !ok {
			d.errorf(append(slices.Clone(at), kind), "an object is needed here").WithHint("%s: { key: 'value' }", kind)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(f.Env)) {
		if !validEnv(k) {
			d.errorf(append(slices.Clone(at), "env", k), "%q cannot name an environment variable", k).WithHint("letters, digits and _, no digit first")
		}
	}
}

// checkLost refuses an override that drops keys without saying so: what a map
// of the library held and the overridden one lacks (null says so).
func (c *compiler) checkLost(f *function, lf lang.Functionality) {
	if lf.Base == nil {
		return
	}
	base, _ := unpack(lf.Base)
	now, _ := unpack(lf.Value)
	if raw := c.in.Raw[f.lib][f.name]; raw != nil {
		now, _ = unpack(raw)
	}
	lost(base, now, func(where []string, key string) {
		c.errs = append(c.errs, diag.Errorf(f.full(), "the override drops %q, which the library sets", strings.Join(append(slices.Clone(where), key), ".")).
			At(append([]string{"overrides", f.full()}, where...)...).
			WithHint("write %s+: to add, or %s: null to remove", where[len(where)-1], key))
	})
}

// lost tells which keys of the maps in which users write names are in one value and not in the other.
func lost(before, after json.RawMessage, tell func(where []string, key string)) {
	var base, now map[string]any
	if json.Unmarshal(before, &base) != nil || json.Unmarshal(after, &now) != nil {
		return
	}
	check := func(where ...string) {
		b, _ := dig(base, where).(map[string]any)
		n, ok := dig(now, where).(map[string]any)
		if b == nil || !ok {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(b)) {
			if _, kept := n[k]; !kept && b[k] != nil {
				tell(where, k)
			}
		}
	}
	service := func(at ...string) {
		check(append(at, "service")...)
		for _, k := range []string{"env", "secrets", "files", "hostFiles", "ports", "dirs", "labels"} {
			check(append(slices.Clone(at), "service", k)...)
		}
	}
	service()
	group, _ := base["group"].(map[string]any)
	check("group")
	for _, member := range slices.Sorted(maps.Keys(group)) {
		service("group", member)
	}
	check("requires")
	check("connects")
	check("exports")
}

// differences lists the fields in which two values differ.
func differences(a, b json.RawMessage) [][]string {
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

// overlap tells whether one path leads through the other.
func overlap(a, b []string) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

func dig(v any, where []string) any {
	for _, k := range where {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func list(names []string) string {
	if len(names) > 8 {
		return strings.Join(names[:8], ", ") + fmt.Sprintf(" and %d more", len(names)-8)
	}
	return strings.Join(names, ", ")
}
