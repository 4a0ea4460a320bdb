package compile

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// resolveAll resolves every alias and token. A functionality with an error is held. Its last
// good version may have other ports, so everything is resolved again until no more
// functionality becomes held.
func (c *compiler) resolveAll() {
	names := c.names()
	for changed := true; changed; {
		changed, c.byName = false, nil
		for _, name := range names {
			c.funcs[name].exports = map[string]*export{} // exports that they read may have changed
		}
		for _, name := range names {
			f := c.funcs[name]
			if f.err != nil {
				continue
			}
			if f.summary != nil {
				if c.isValid(f) {
					continue
				}
				full, err := c.decode(f.lib, f.name, f.value)
				if err != nil { // cannot normally happen: the same value was decoded without errors before
					c.useLastGood(f.lib, f.name, c.in.Baseline.LastGood[f.lib][f.name], err)
					changed = true
					continue
				}
				f, c.funcs[name] = full, full
			}
			if err := c.resolve(f); err != nil {
				if f.lib == "" { // a resource of the entry file: its errors stop the run
					f.err, c.errs = err, append(c.errs, ErrorList(err)...)
					continue
				}
				c.useLastGood(f.lib, f.name, c.in.Baseline.LastGood[f.lib][f.name], err)
				changed = true
			}
		}
	}
	for _, name := range names {
		if f := c.funcs[name]; f.err != nil && f.fn != nil {
			c.resolve(f) // errors do not matter: held services are not rendered again
		}
	}
}

// resolve fills the edges and tokens of a functionality from its decoded form.
func (c *compiler) resolve(f *function) *diag.Error {
	d := &decoder{subject: f.fullName()}
	if c.deps, f.usesSets = nil, false; c.in.Values != nil {
		c.deps = map[string]bool{}
		defer func() { f.deps, c.deps = c.deps, nil }()
	}
	for _, shape := range f.configs() {
		for _, p := range shape.members {
			r := c.resolver(f, shape.fn, p, d)
			r.checkPlace(shape.fn.Place)
			p.spec = graph.MapTexts(p.decoded, append(slices.Clone(p.path), "service"), r.mapText)
			r.resolveDirs()
			p.requires, p.connects, p.after = edges(r.requires), edges(r.connects), edges(r.after)
		}
	}
	if f.fn.LoadBalancer != nil {
		f.balancer = c.resolveBalancer(f, d)
	} else if res := f.fn.Resource; res != nil {
		r := c.resolver(f, f.fn, &memberConfig{path: f.path()}, d)
		at := f.path()
		if f.lib != "" {
			at = append(at, "resource")
		}
		doc := token.Doc{V: res.Fields}.Map(at, r.mapText)
		f.fields, _ = doc.V.(map[string]any)
	}
	for _, name := range slices.Sorted(maps.Keys(f.fn.Exports)) {
		if e := c.resolveExport(f, name); e.err != nil {
			d.errs = append(d.errs, e.err)
		}
	}
	return joinErrors(dedupe(d.errs))
}

// resolveBalancer resolves the names and tokens of a load balancer.
func (c *compiler) resolveBalancer(f *function, d *decoder) *graph.Balancer {
	at := append(f.path(), "loadBalancer")
	r := c.resolver(f, f.fn, &memberConfig{path: f.path()}, d)
	out := &graph.Balancer{Balance: *f.fn.LoadBalancer, Address: graph.Address{Lib: f.lib, Name: f.name}, FQDN: f.fn.FQDN, Path: f.path(), Held: f.err != nil}
	out.Subnets = nil
	for i, s := range f.fn.LoadBalancer.Subnets {
		out.Subnets = append(out.Subnets, r.resolveText(append(slices.Clone(at), "subnets", strconv.Itoa(i)), s, false, nil))
	}
	if len(out.Backends) == 0 {
		d.errorf(append(slices.Clone(at), "backends"), "it has no backends").WithHint("backends: ['web']")
	}
	for i, name := range out.Backends {
		p := append(slices.Clone(at), "backends", strconv.Itoa(i))
		set, err := c.lookup(f, r.member, name)
		if err != nil {
			d.errorf(p, "backend %v", err.Msg).WithHint("%s", err.Hint).Because = err.Because
			continue
		}
		a := set.address
		g := c.dependOn(a.Functionality())
		if len(g.members) == 0 {
			d.errorf(p, "%s has no service", set).WithHint("a backend must be a functionality with a service or a group")
			continue
		}
		for _, shape := range g.configs() {
			if len(g.patchedReplicas) == 0 || shape.fn != g.fn { // every replica has its own configuration
				r.checkTargetPort(append(slices.Clone(at), "target"), shape, a, token.Token{Arg: out.Target})
			}
		}
		out.Sets = append(out.Sets, portSet(g, a, out.Target).Set())
	}
	slices.Sort(out.Sets)
	out.Sets = slices.Compact(out.Sets)
	if t, err := time.ParseDuration(out.Drain); err == nil && (t%time.Second != 0 || t < time.Second || t > 30*time.Minute) {
		d.errorf(append(slices.Clone(at), "drain"), "%s is out of range", out.Drain).WithHint("whole seconds, from 1s to 30m")
	}
	return out
}

// dedupe removes errors that several replica configurations have in common.
func dedupe(l diag.List) diag.List {
	seen := map[string]bool{}
	return slices.DeleteFunc(l, func(e *diag.Error) bool {
		key := strings.Join(e.Path, "\x00") + "\x00" + e.Msg
		defer func() { seen[key] = true }()
		return seen[key]
	})
}

// resolver returns the resolver for the names and tokens of one member.
func (c *compiler) resolver(f *function, fn *Functionality, p *memberConfig, d *decoder) *resolver {
	r := &resolver{c: c, f: f, member: p, d: d, reportedAliases: map[string]bool{},
		requires: map[string]setRef{}, connects: map[string]setRef{}, after: map[string]setRef{}}
	m := fn.Group[p.name]
	r.resolveAliases(fn.Requires, "requires", f.path(), r.requires)
	r.resolveAliases(m.Requires, "requires", p.path, r.requires)
	r.resolveAliases(fn.Connects, "connects", f.path(), r.connects)
	r.resolveAliases(m.Connects, "connects", p.path, r.connects)
	r.resolveAfter(fn.After, f.path())
	r.resolveAfter(m.After, p.path)
	return r
}

// checkPlace checks the names in place.machine, place.pool and place.with.
func (r *resolver) checkPlace(pl graph.Place) {
	r.member.with = ""
	if _, ok := r.c.e.Machines[pl.Machine]; !ok && pl.Machine != "" && pl.Machine != r.c.e.Defaults.Place.Machine {
		r.d.errorf(append(r.f.path(), "place", "machine"), "there is no machine %q", pl.Machine).
			WithHint("%s", suggest(pl.Machine, slices.Sorted(maps.Keys(r.c.e.Machines))))
	}
	if pools := r.c.e.pools(); pl.Pool != "" && pl.Every == "" && len(pools) > 0 && !slices.Contains(pools, pl.Pool) {
		at := append(r.f.path(), "place", "pool")
		if pl.Pool == r.c.e.Defaults.Place.Pool {
			at = []string{"defaults", "place", "pool"}
		}
		r.d.errorf(at, "no machine is in pool %q", pl.Pool).WithHint("%s", suggest(pl.Pool, pools))
	}
	if pl.With == "" {
		return
	}
	at := append(r.f.path(), "place", "with")
	set, err := r.c.lookup(r.f, r.member, pl.With)
	switch {
	case err != nil:
		r.d.errorf(at, "runs with %s", err.Msg).WithHint("%s", err.Hint).Because = err.Because
	case set.String() == r.f.fullName():
		r.d.errorf(at, "runs with itself").WithHint("name another functionality")
	default:
		r.member.with = set.String()
	}
}

// resolveDirs resolves the services whose directories a member shares. The member is placed with
// them and runs as their user.
func (r *resolver) resolveDirs() {
	p := r.member
	for _, kind := range graph.DirKinds {
		d := p.spec.Dirs.Kind(kind)
		if d.Of == "" {
			continue
		}
		at := append(slices.Clone(p.path), "service", "dirs", kind, "of")
		set, err := r.c.lookup(r.f, p, d.Of)
		if err != nil {
			r.d.errorf(at, "shares a directory of %s", err.Msg).WithHint("%s", err.Hint).Because = err.Because
			continue
		}
		f := r.c.dependOn(set.address.Functionality())
		var owners []*memberConfig
		for _, m := range f.members {
			if set.address.Member == "" || m.name == set.address.Member {
				owners = append(owners, m)
			}
		}
		switch {
		case set == r.set():
			r.d.errorf(at, "shares a directory of itself").WithHint("name another service, or give the directory a name: %s: 'data'", kind)
			continue
		case len(owners) == 0:
			r.d.errorf(at, "%s runs no process, so it has no directories", set).WithHint("name a service")
			continue
		case len(owners) > 1:
			r.d.errorf(at, "%s is a group: whose directory?", set).WithHint("name the member: %s/MEMBER", set)
			continue
		case !owners[0].decoded.Dirs.Kind(kind).Own():
			r.d.errorf(at, "%s has no directory %q of its own", set, kind).WithHint("declare it there: dirs: { %s: 'data' }", kind)
			continue
		}
		owner := owners[0]
		switch user := owner.decoded.User; {
		case p.decoded.User != "" && p.decoded.User != "root" && p.decoded.User != user:
			r.d.errorf(append(slices.Clone(p.path), "service", "user"), "runs as %q, but the directory belongs to the user of %s", p.decoded.User, set).
				WithHint("remove user: a service that shares a directory runs as the user of its owner")
		case p.decoded.User == "" && user == "root":
			r.d.errorf(at, "the directory belongs to root").WithHint("user: 'root' lets this service use it; or give %s a user", set)
		case p.decoded.User == "":
			p.spec.User = user
		}
		d.Of = graph.Address{Lib: f.lib, Name: f.name, Member: owner.name}.Set()
		if p.with == "" && f.fullName() != r.f.fullName() {
			p.with = f.fullName()
		}
	}
	p.iface.Dirs = p.spec.Dirs
}

func edges(m map[string]setRef) []graph.Edge {
	var out []graph.Edge
	for _, alias := range slices.Sorted(maps.Keys(m)) {
		out = append(out, graph.Edge{Alias: alias, Set: m[alias].String()})
	}
	return out
}

type resolver struct {
	c                         *compiler
	f                         *function
	member                    *memberConfig
	d                         *decoder
	reportedAliases           map[string]bool   // aliases whose errors are already reported
	requires, connects, after map[string]setRef // alias → set
}

func (r *resolver) resolveAliases(a Aliases, field string, at []string, into map[string]setRef) {
	for _, alias := range slices.Sorted(maps.Keys(a)) {
		p := append(slices.Clone(at), field, alias)
		if sel := a[alias].All; sel != nil {
			into[alias] = setRef{selection: sel.Name()}
			continue
		}
		set, err := r.c.lookup(r.f, r.member, a[alias].Name)
		if err != nil {
			r.d.errorf(p, "%s %v", field, err.Msg).WithHint("%s", err.Hint).Because = err.Because
			r.reportedAliases[alias] = true
			continue
		}
		if set == r.set() && field == "requires" {
			r.d.errorf(p, "requires itself").WithHint("defx.me reads its own ports")
			r.reportedAliases[alias] = true
			continue
		}
		into[alias] = set
	}
}

// allPrefix marks the name of a set that is a selection.
const allPrefix = "all "

func (r *resolver) resolveAfter(after []string, at []string) {
	for i, name := range after {
		set, err := r.c.lookup(r.f, r.member, name)
		if err != nil {
			r.d.errorf(append(slices.Clone(at), "after", strconv.Itoa(i)), "after %s", err.Msg).WithHint("%s", err.Hint).Because = err.Because
		} else if set == r.set() {
			r.d.errorf(append(slices.Clone(at), "after", strconv.Itoa(i)), "after itself").WithHint("remove it")
		} else {
			r.after[name] = set
		}
	}
}

// setRef is a set of replicas: those of a functionality or of a group's member, or the services that
// a selection selects.
type setRef struct {
	address   graph.Address // without replica; zero for a selection
	selection string        // name of the selection; "" for an address
}

// String returns the name of the set in edges.
func (s setRef) String() string {
	if s.selection != "" {
		return allPrefix + s.selection
	}
	return s.address.Set()
}

// set returns the set of the reader.
func (r *resolver) set() setRef {
	return setRef{address: graph.Address{Lib: r.f.lib, Name: r.f.name, Member: r.member.name}}
}

// lookup returns the set that a name means for a reader. It looks for a member of the reader's
// group, then in its own library, then for a full name, then in the whole deployment.
func (c *compiler) lookup(f *function, p *memberConfig, name string) (setRef, *diag.Error) {
	fail := func(format string, args ...any) (setRef, *diag.Error) {
		return setRef{}, diag.Errorf("", "%q, "+format, append([]any{name}, args...)...)
	}
	found := func(full, member string) (setRef, *diag.Error) {
		g := c.dependOn(full)
		if g.fn == nil {
			_, e := fail("which has an error and no last good version")
			e.Because = full
			return setRef{}, e.WithHint("fix %s first", full)
		}
		if member != "" && !g.has(member) {
			_, e := fail("but %s has no member %q", full, member)
			return setRef{}, e.WithHint("%s", suggest(member, slices.Sorted(maps.Keys(g.fn.Group))))
		}
		return setRef{address: graph.Address{Lib: g.lib, Name: g.name, Member: member}}, nil
	}
	parts := strings.Split(name, "/")
	switch len(parts) {
	case 1:
		if p.name != "" && f.has(name) {
			return found(f.fullName(), name)
		}
		if c.dependOn(f.lib+"/"+name) != nil {
			return found(f.lib+"/"+name, "")
		}
		if f.lib == "" && c.dependOn(name) != nil { // resources of the entry file find each other first
			return found(name, "")
		}
		candidates := c.lookupByName(name)
		if len(candidates) == 1 {
			return found(candidates[0], "")
		}
		if len(candidates) > 1 {
			_, e := fail("which is defined in several libraries")
			return setRef{}, e.WithHint("use the full name: %s", joinNames(candidates))
		}
	case 2:
		if c.dependOn(name) != nil {
			return found(name, "")
		}
		if full := f.lib + "/" + parts[0]; c.dependOn(full) != nil && c.dependOn(full).has(parts[1]) {
			return found(full, parts[1])
		}
	case 3:
		if full := parts[0] + "/" + parts[1]; c.dependOn(full) != nil {
			return found(full, parts[2])
		}
	}
	if len(parts) > 1 && c.libHeld[parts[0]] {
		_, e := fail("but library %s has an error and no last good version", parts[0])
		e.Because = parts[0]
		return setRef{}, e.WithHint("fix library %s first", parts[0])
	}
	var known []string
	for full, g := range c.funcs {
		known = append(known, full)
		if g.lib == f.lib || len(parts) == 1 {
			known = append(known, g.name)
		}
	}
	_, e := fail("which no library defines")
	return setRef{}, e.WithHint("%s", suggest(name, known))
}

func (f *function) has(member string) bool {
	if f.fn == nil {
		return false
	}
	_, ok := f.fn.Group[member]
	return ok
}

// singleReplica reports whether a functionality has exactly one replica, and describes how many
// it has.
func (f *function) singleReplica() (bool, string) {
	pl := f.fn.Place
	if pl.Every != "" {
		return false, "one replica for every machine"
	}
	n := len(pl.Replicas.List())
	return n == 1, fmt.Sprintf("%d replicas", n)
}

// mapText resolves the tokens of one text and adds the edges that they imply.
func (r *resolver) mapText(path []string, t token.Text, inList bool) []any {
	out := r.resolveText(path, t, inList, nil)
	for _, s := range out {
		r.f.usesSets = r.f.usesSets || s.Token != nil && (s.Token.Set() || s.Token.Here)
	}
	return []any{out}
}

// resolveText resolves the tokens of a text. Inside a set expression, scope maps the id of each
// enclosing set to the sets that its replica belongs to.
func (r *resolver) resolveText(path []string, t token.Text, inList bool, scope map[string][]setRef) token.Text {
	for i := range t {
		tok := t[i].Token
		if tok == nil {
			if before := max(i, 1) - 1; i > 0 && t[before].Token != nil && t[before].Token.Field == "port" && t[i].Lit != "" && t[i].Lit[0] >= '0' && t[i].Lit[0] <= '9' {
				r.d.errorf(path, "%s is followed by a digit, which would become part of the port number", t[before].Token).WithHint("put something between them")
			}
			continue
		}
		if tok.Field == "each" && (!inList || len(t) > 1) {
			r.d.errorf(path, "%s is a list, but a single string is required", tok).
				WithHint("use it as the only content of a list element, or use join(separator, function(r) …)")
			return t
		}
	}
	out, _ := t.Map(func(t token.Token) (token.Text, error) {
		switch t.Kind {
		case token.Ref:
			return r.ref(path, t, scope), nil
		case token.Secret:
			t.Version = r.c.secret(t.Name)
			if at := len(r.member.path) + 1; at < len(path) && path[at-1] == "service" && !slices.Contains([]string{"secrets", "files", "hostFiles"}, path[at]) {
				r.d.errorf(path, "a secret cannot be part of text that others can read").
					WithHint("secrets: { NAME: defx.secret('%s') } creates a file, and $NAME_FILE has its path", t.Name)
			}
		case token.Artifact:
			a, err := r.c.artifact(t)
			if err != nil {
				hint := "build it first; the path is relative to the Jsonnet file that names it"
				if h, ok := err.(interface{ Hint() string }); ok {
					hint = h.Hint()
				}
				r.d.errorf(path, "artifact %q: %v", t.Name, err).WithHint("%s", hint)
			}
			t.Digest = string(a.Digest)
		}
		return token.Text{{Token: &t}}, nil
	})
	return out
}

func tokenText(t token.Token) token.Text { return token.Text{{Token: &t}} }

// ref resolves one reference. For scope see resolveText.
func (r *resolver) ref(path []string, t token.Token, scope map[string][]setRef) token.Text {
	switch t.Of {
	case "me":
		r.checkSelfReference(path, t)
		return tokenText(t)
	case "each":
		sets, ok := scope[t.Name]
		if !ok {
			r.d.errorf(path, "a replica is used outside of its function").WithHint("use r only inside each(function(r) …) or join(separator, function(r) …)")
			return tokenText(t)
		}
		for _, set := range sets {
			r.checkReadable(path, set, t)
		}
		return tokenText(t)
	}
	set, ok := r.targetSet(path, t)
	if !ok {
		return tokenText(t)
	}
	if t.Set() {
		return r.resolveSetBody(path, t, set, scope)
	}
	if set.selection != "" {
		r.d.errorf(path, ".%s of a selection, which can be any number of services", t.Field).WithHint("each(function(r) …) or join(separator, function(r) …) reads all of them")
		return tokenText(t)
	}
	a := set.address
	f := r.c.dependOn(a.Functionality())
	if t.Field == "output" {
		return r.readExport(path, f, set, t)
	}
	if one, many := f.singleReplica(); !one && !t.Here {
		r.d.errorf(path, ".%s of %s, which has %s", t.Field, set, many).
			WithHint("use each(function(r) …) or join(separator, function(r) …) for all of them, here.%s for the one on the same machine, or a DNS name (fqdn) that resolves to all of them", t.Field)
		return tokenText(t)
	}
	r.checkReadable(path, set, t)
	if t.Field == "port" {
		a = portSet(f, a, t.Arg)
	}
	return tokenText(token.Token{Kind: token.Ref, Of: "set", Name: a.Set(), Field: t.Field, Arg: t.Arg, Here: t.Here})
}

// checkSelfReference checks what a service reads of itself.
func (r *resolver) checkSelfReference(path []string, t token.Token) {
	switch t.Field {
	case "port":
		r.checkPort(path, "me", r.member.iface.Ports, t.Arg)
	case "label":
		_, ok := r.member.iface.Labels[t.Arg]
		r.requireKnown(path, "label", ok, t.Arg, slices.Sorted(maps.Keys(r.member.iface.Labels)))
	case "dir":
		r.checkDir(path, r.member.iface.Dirs, t.Arg)
	case "output":
		r.d.errorf(path, "reads its own export").WithHint("use the values of the export directly")
	}
}

func (r *resolver) checkDir(path []string, d graph.Dirs, kind string, who ...string) {
	dir := d.Kind(kind)
	r.requireKnown(path, "directory", dir != nil && *dir != graph.Dir{}, kind, graph.DirKinds, who...)
}

// targetSet returns the set that a reference names. A functionality that is read by its name
// becomes a requirement.
func (r *resolver) targetSet(path []string, t token.Token) (setRef, bool) {
	switch t.Of {
	case "peers":
		return r.set(), true
	case "all":
		var sel graph.Selection
		if json.Unmarshal([]byte(t.Name), &sel) != nil || !sel.Valid() {
			r.d.errorf(path, "exactly one of port and label is required, as a string").WithHint("defx.all({ port: 'metrics' })")
			return setRef{}, false
		}
		return setRef{selection: sel.Name()}, true
	case "dep":
		if r.reportedAliases[t.Name] {
			return setRef{}, false
		}
		set, ok := r.requires[t.Name]
		if !ok {
			if set, ok = r.connects[t.Name]; !ok {
				aliases := slices.Concat(slices.Collect(maps.Keys(r.requires)), slices.Collect(maps.Keys(r.connects)))
				hint := diag.Suggest(t.Name, aliases)
				if hint == "" {
					hint = fmt.Sprintf("add requires: { %s: 'NAME' }", t.Name)
				}
				r.d.errorf(path, "reads %q, which is neither in requires nor in connects", t.Name).WithHint("%s", hint).Word = t.Name
			}
		}
		return set, ok
	case "name":
		set, err := r.c.lookup(r.f, r.member, t.Name)
		if err != nil {
			r.d.errorf(path, "reads %s", err.Msg).WithHint("%s", err.Hint).Because = err.Because
			r.d.errs[len(r.d.errs)-1].Word = t.Name
			return setRef{}, false
		}
		if set == r.set() {
			r.d.errorf(path, "reads itself by its name").WithHint("use defx.me for its own values, or defx.peers for those of all its replicas")
			return setRef{}, false
		}
		if !slices.Contains(slices.Collect(maps.Values(r.requires)), set) && !slices.Contains(slices.Collect(maps.Values(r.connects)), set) {
			r.requires[t.Name] = set
		}
		return set, true
	}
	r.d.errorf(path, "unknown kind of reference %q", t.Of)
	return setRef{}, false
}

// resolveSetBody resolves the function of each or join.
func (r *resolver) resolveSetBody(path []string, t token.Token, set setRef, scope map[string][]setRef) token.Text {
	doc, err := t.BodyDoc()
	if err != nil {
		r.d.errorf(path, "invalid token: %v", err)
		return tokenText(t)
	}
	id := token.SetID(t.Of, t.Name)
	if _, nested := scope[id]; nested {
		r.d.errorf(path, "reads a set inside a function of its own replicas").
			WithHint("read another set there, or give the set a second alias in connects")
		return tokenText(t)
	}
	inner := maps.Clone(scope)
	if inner == nil {
		inner = map[string][]setRef{}
	}
	inner[id] = []setRef{set}
	before := len(r.d.errs)
	doc = doc.Map(path, func(_ []string, text token.Text, inList bool) []any {
		return []any{r.resolveText(path, text, inList, inner)} // only the first error is kept: all have the same position
	})
	if len(r.d.errs) > before {
		r.d.errs = r.d.errs[:before+1]
	}
	out := token.Token{Kind: token.Ref, Of: "set", Name: set.String(), Field: t.Field, Arg: t.Arg, Here: t.Here}
	if set.selection != "" {
		out.Of, out.Name = "all", set.selection
	}
	// Inside the function, the replica is identified by the resolved set.
	setID := token.SetID(out.Of, out.Name)
	return tokenText(out.WithBody(doc.Map(nil, func(_ []string, text token.Text, _ bool) []any {
		return []any{substituteReplica(text, id, func(tok token.Token) token.Text {
			tok.Name = setID
			return tokenText(tok)
		})}
	})))
}

// substituteReplica replaces the references to a replica of a set in a text, also inside nested
// set expressions.
func substituteReplica(text token.Text, id string, f func(token.Token) token.Text) token.Text {
	out, _ := text.Map(func(tok token.Token) (token.Text, error) {
		switch {
		case tok.Of == "each" && tok.Name == id:
			return f(tok), nil
		case tok.Set():
			if doc, err := tok.BodyDoc(); err == nil {
				tok = tok.WithBody(doc.Map(nil, func(_ []string, t token.Text, _ bool) []any { return []any{substituteReplica(t, id, f)} }))
			}
		}
		return tokenText(tok), nil
	})
	return out
}

// checkReadable checks that a field can be read of every replica of a set.
func (r *resolver) checkReadable(path []string, set setRef, t token.Token) {
	if set.selection != "" { // the selected services are only known when all are compiled
		if t.Field == "output" {
			r.d.errorf(path, "a selection has no common outputs").WithHint("read .host, .port(name), .name or .label(name)")
		}
		return
	}
	a := set.address
	f := r.c.dependOn(a.Functionality())
	if e := f.fn.External; e != nil {
		switch t.Field {
		case "port":
			r.requireKnown(path, "port", e.Ports[t.Arg].Port != 0, t.Arg, slices.Sorted(maps.Keys(e.Ports)), set.String()+" has")
		case "label":
			_, ok := e.Labels[t.Arg]
			r.requireKnown(path, "label", ok, t.Arg, slices.Sorted(maps.Keys(e.Labels)), set.String()+" has")
		case "machine", "dir":
			r.d.errorf(path, "%s is an external endpoint: it has no %s", set, t.Field)
		}
		return
	}
	if res := f.fn.Resource; res != nil {
		if t.Field != "output" && t.Field != "name" {
			r.d.errorf(path, "%s is a resource: it has no %s", set, t.Field).WithHint("read .output(name)")
		}
		return
	}
	for _, shape := range f.configs() {
		if len(f.patchedReplicas) > 0 && shape.fn == f.fn {
			continue // every replica has its own configuration
		}
		switch t.Field {
		case "port":
			r.checkTargetPort(path, shape, a, t)
		case "label", "dir":
			if len(shape.members) != 1 && a.Member == "" {
				r.d.errorf(path, "%s is a group: whose %s?", set, t.Field).WithHint("name the member: %s/MEMBER", set)
				return
			}
			for _, p := range shape.members {
				if a.Member != "" && p.name != a.Member {
					continue
				}
				if t.Field == "dir" {
					r.checkDir(path, p.iface.Dirs, t.Arg, set.String()+" has")
				} else {
					_, ok := p.iface.Labels[t.Arg]
					r.requireKnown(path, "label", ok, t.Arg, slices.Sorted(maps.Keys(p.iface.Labels)), set.String()+" has")
				}
			}
		case "output":
			e := r.c.resolveExport(f, t.Arg)
			if e == nil {
				r.requireKnown(path, "export", false, t.Arg, slices.Sorted(maps.Keys(f.fn.Exports)), set.String()+" has")
			}
			return
		case "host", "machine", "name", "index":
		default:
			r.d.errorf(path, "there is no field .%s to read of another functionality", t.Field)
		}
	}
}

// checkTargetPort checks that exactly one member of the target has the port.
func (r *resolver) checkTargetPort(path []string, f replicaConfig, a graph.Address, t token.Token) {
	var having, ports []string
	for _, p := range f.members {
		if a.Member != "" && p.name != a.Member {
			continue
		}
		ports = append(ports, slices.Sorted(maps.Keys(p.iface.Ports))...)
		if _, ok := p.iface.Ports[t.Arg]; ok {
			having = append(having, graph.Address{Lib: a.Lib, Name: a.Name, Member: p.name}.Set())
		}
	}
	switch len(having) {
	case 1:
	case 0:
		r.requireKnown(path, "port", false, t.Arg, ports, a.Set()+" has")
	default:
		r.d.errorf(path, "%d members of %s have a port %q", len(having), a.Set(), t.Arg).WithHint("require the member: %s", joinNames(having))
	}
}

// portSet returns the address of the member that has a port.
func portSet(f *function, a graph.Address, port string) graph.Address {
	for _, p := range f.members {
		if _, ok := p.iface.Ports[port]; ok && (a.Member == "" || p.name == a.Member) {
			return graph.Address{Lib: a.Lib, Name: a.Name, Member: p.name}
		}
	}
	return a
}

func (r *resolver) checkPort(path []string, who string, ports map[string]graph.Port, name string) {
	_, ok := ports[name]
	r.requireKnown(path, "port", ok, name, slices.Sorted(maps.Keys(ports)))
}

func (r *resolver) requireKnown(path []string, what string, ok bool, name string, known []string, who ...string) {
	if ok {
		return
	}
	subject := "it has"
	if len(who) > 0 {
		subject = who[0]
	}
	hint := suggest(name, known)
	if hint == "" {
		hint = "it has none: define it there"
	}
	r.d.errorf(path, "%s no %s %q", subject, what, name).WithHint("%s", hint).Word = name
}

// suggest returns a hint with the nearest known name, or else with the known names.
func suggest(name string, known []string) string {
	if hint := diag.Suggest(name, known); hint != "" || len(known) == 0 {
		return hint
	}
	known = slices.Clone(known)
	slices.Sort(known)
	return "there is " + joinNames(slices.Compact(known))
}
