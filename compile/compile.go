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
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // the same zones everywhere

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/token"
)

// Good holds the last good value of each functionality: library → name → value.
type Good map[string]map[string]json.RawMessage

// Baseline is what earlier state may tell the pure stages.
type Baseline struct {
	Generation int
	Machines   map[string]string // address → machine it was placed on
	Good       Good
	Former     []*graph.Machine // machines on which something stands
}

// Input is what a graph is made of.
type Input struct {
	Result   *lang.Result
	Baseline Baseline
	Backends []string                                 // names of the backends there are
	Artifact func(path string) (plan.Artifact, error) // content of an artifact, path relative to the root
	Secrets  map[string]string                        // name → version
	Failed   map[string]*diag.Error                   // functionalities that a later stage refused, by full name
}

// Held is something that did not evaluate and is left as it is.
type Held struct {
	Name string // library or lib/name
	Err  *diag.Error
}

// Output is a graph without machines chosen, and what was left out of it.
type Output struct {
	Graph *graph.Graph
	Held  []Held // sorted by name
	Good  Good   // what the next baseline should hold
}

// Compile makes the graph. The error is a diag.List: faults that stop the run.
func Compile(in Input) (*Output, error) {
	c := &compiler{in: in, funcs: map[string]*function{}}
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
		return nil, c.errs.Err()
	}
	out := &Output{Graph: g, Good: Good{}}
	for _, name := range slices.Sorted(maps.Keys(c.funcs)) {
		f := c.funcs[name]
		if f.err != nil {
			out.Held = append(out.Held, Held{Name: name, Err: f.err})
		}
		if f.value != nil && f.fn != nil {
			if out.Good[f.lib] == nil {
				out.Good[f.lib] = map[string]json.RawMessage{}
			}
			out.Good[f.lib][f.name] = f.value
		}
	}
	out.Held = append(c.heldLibs, out.Held...)
	slices.SortStableFunc(out.Held, func(a, b Held) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// function is one functionality on its way through the compiler.
type function struct {
	lib, name string
	value     json.RawMessage // what it was decoded from: the new value or the last good one
	fn        *Functionality  // nil: gone (held without a last good value)
	err       *diag.Error     // why it is held
	parts     []*part         // its service, or the members of its group
}

// part is a service of a functionality before replicas are made of it.
type part struct {
	member                    string
	decoded                   graph.Spec // as the library wrote it
	spec                      graph.Spec // tokens resolved
	options                   json.RawMessage
	requires, connects, after []graph.Edge // To is filled by expand
	path                      []string     // of the functionality or member
}

func (f *function) full() string   { return f.lib + "/" + f.name }
func (f *function) path() []string { return []string{"libs", f.lib, f.name} }

type compiler struct {
	in       Input
	e        Entry
	funcs    map[string]*function // by full name
	heldLibs []Held
	libHeld  map[string]bool // libraries that did not evaluate at all
	errs     diag.List
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
	for _, lib := range c.in.Result.Libraries {
		good := c.in.Baseline.Good[lib.Name]
		if !graph.ValidName(lib.Name) {
			c.errs = append(c.errs, diag.Errorf("", "%q is not a name", lib.Name).At("libs", lib.Name).WithHint(nameHint))
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
		for _, f := range lib.Functionalities {
			if f.Err == nil && string(f.Value) == "null" {
				continue
			}
			err := f.Err
			if err == nil {
				err = c.in.Failed[lib.Name+"/"+f.Name]
			}
			if err == nil {
				var fn *function
				if fn, err = c.decode(lib.Name, f.Name, f.Value); err == nil {
					c.checkLost(fn, f)
					c.funcs[fn.full()] = fn
					continue
				}
			}
			c.fallBack(lib.Name, f.Name, good[f.Name], err)
		}
	}
	names := slices.Sorted(maps.Keys(c.funcs))
	for _, o := range c.in.Result.Overrides {
		lib, _, _ := strings.Cut(o, "/")
		if c.funcs[o] == nil && !c.libHeld[lib] && !c.isNull(o) {
			c.errs = append(c.errs, diag.Errorf("", "overrides: no library defines %q", o).
				At("overrides", o).WithHint("%s", diag.Suggest(o, names)))
		}
	}
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
	f := &function{lib: lib, name: name, err: err}
	if good != nil {
		if old, bad := c.decode(lib, name, good); bad == nil {
			f.fn, f.parts, f.value = old.fn, old.parts, good
		}
	}
	c.funcs[f.full()] = f
}

// decode makes a function of a value. Several mistakes come as one error whose
// cause lists them all.
func (c *compiler) decode(lib, name string, value json.RawMessage) (*function, *diag.Error) {
	f := &function{lib: lib, name: name, value: value, fn: &Functionality{}}
	d := &decoder{subject: f.full()}
	if !graph.ValidName(name) {
		d.errorf(f.path(), "%q is not a name", name).WithHint(nameHint)
	}
	d.decodeJSON(value, f.fn, f.path())
	if (f.fn.Service == nil) == (len(f.fn.Group) == 0) && len(d.errs) == 0 {
		d.errorf(f.path(), "exactly one of \"service\" and \"group\" is needed").WithHint("service: { command: ['/usr/bin/program'] }")
	}
	c.checkBackend(d, f.fn.Backend, append(f.path(), "backend"))
	f.fn.Place = c.defaultPlace(f.fn.Place)
	if f.fn.Backend == "" {
		f.fn.Backend = c.e.Defaults.Backend
	}
	if f.fn.Service != nil {
		f.parts = append(f.parts, c.part(d, f, "", f.fn.Service, f.path()))
	}
	for _, member := range slices.Sorted(maps.Keys(f.fn.Group)) {
		p := append(f.path(), "group", member)
		if !graph.ValidName(member) {
			d.errorf(p, "%q is not a name", member).WithHint(nameHint)
		}
		if s := f.fn.Group[member].Service; s != nil {
			f.parts = append(f.parts, c.part(d, f, member, s, p))
		}
	}
	return f, together(d.errs)
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

// All lists an error and those that together put behind it.
func All(e *diag.Error) diag.List {
	out := diag.List{e}
	if rest, ok := e.Cause.(diag.List); ok {
		out = append(out, rest...)
	}
	return out
}

func (c *compiler) defaultPlace(p graph.Place) graph.Place {
	d := c.e.Defaults.Place
	if p.Machine != "" {
		return p
	}
	if p.Machine == "" && p.Pool == "" && len(p.Roles) == 0 && len(p.Labels) == 0 && p.Location == "" {
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
	if p.Spread == "" {
		p.Spread = d.Spread
	}
	if p.Replicas == nil {
		p.Replicas = d.Replicas
	}
	return p
}

// part checks one service by itself and fills what needs no other service.
func (c *compiler) part(d *decoder, f *function, member string, s *graph.Spec, p []string) *part {
	out := &part{member: member, decoded: *s, path: p}
	sp := append(slices.Clone(p), "service")
	at := func(more ...string) []string { return append(slices.Clone(sp), more...) }
	opts := map[string]map[string]any{"systemd": f.fn.Systemd, "docker": f.fn.Docker, "ec2": f.fn.EC2}
	if m, ok := f.fn.Group[member]; ok && member != "" {
		for k, v := range map[string]map[string]any{"systemd": m.Systemd, "docker": m.Docker, "ec2": m.EC2} {
			if v != nil {
				opts[k] = v
			}
		}
	}
	if o := opts[f.fn.Backend]; len(o) > 0 {
		out.options, _ = json.Marshal(o)
	}
	if len(s.Command) == 0 && s.Image == "" && len(d.errs) == 0 { // a misspelt or mistyped one was told already
		d.errorf(sp, "\"command\" is missing").WithHint("command: ['/usr/bin/program', 'argument']")
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
			d.errorf(at("env", name+"_FILE"), "%q is taken by the secret %q", name+"_FILE", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		if !strings.HasPrefix(name, "/") || path.Clean(name) != name || name == "/" {
			d.errorf(at("files", name), "%q is not a clean absolute path", name)
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
		if n != 1 {
			d.errorf(at("ready"), "exactly one of http, tcp, exec and notify is needed")
		}
		if (r.HTTP != "" || r.TCP) && r.Port == "" {
			if len(s.Ports) == 1 {
				cp := *r
				cp.Port = slices.Collect(maps.Keys(s.Ports))[0]
				out.decoded.Ready = &cp
			} else {
				d.errorf(at("ready"), "\"port\" is missing: which of its %d ports?", len(s.Ports))
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
		d.errorf(at("schedule"), "exactly one of cron and every is needed")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sockets)) {
		so := s.Sockets[name]
		if (so.Port == "") == (so.Path == "") {
			d.errorf(at("sockets", name), "exactly one of port and path is needed")
		}
		wantPort(so.Port, "sockets", name, "port")
	}
	if r := s.Reload; r != nil && (r.Signal == "") == (r.Command == nil) {
		d.errorf(at("reload"), "exactly one of signal and command is needed")
	}
	out.spec = out.decoded
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

// checkLost refuses an override that drops keys without saying so: what a map
// of the library held and the overridden one lacks (null says so).
func (c *compiler) checkLost(f *function, lf lang.Functionality) {
	if lf.Base == nil {
		return
	}
	var base, now map[string]any
	if json.Unmarshal(lf.Base, &base) != nil || json.Unmarshal(lf.Value, &now) != nil {
		return
	}
	check := func(where []string) {
		b, _ := dig(base, where).(map[string]any)
		n, ok := dig(now, where).(map[string]any)
		if b == nil || !ok {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(b)) {
			if _, kept := n[k]; !kept && b[k] != nil {
				c.errs = append(c.errs, diag.Errorf(f.full(), "the override drops %q, which the library sets", strings.Join(append(where, k), ".")).
					At(append([]string{"overrides", f.full()}, where...)...).
					WithHint("write %s+: to add, or %s: null to remove", where[len(where)-1], k))
			}
		}
	}
	check([]string{"service"})
	for _, k := range []string{"env", "secrets", "files", "ports", "dirs"} {
		check([]string{"service", k})
	}
	check([]string{"requires"})
	check([]string{"connects"})
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
