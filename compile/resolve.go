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

// resolveAll gives every alias and token its target. A functionality that does
// not resolve is held; since its last good version may have other ports, all
// are resolved again until nothing falls any more.
func (c *compiler) resolveAll() {
	names := c.names()
	for again := true; again; {
		again, c.bare = false, nil
		for _, name := range names {
			c.funcs[name].exports = map[string]*export{} // what they read may have fallen
		}
		for _, name := range names {
			f := c.funcs[name]
			if f.err != nil {
				continue
			}
			if f.sketch != nil {
				if c.stands(f) {
					continue
				}
				whole, err := c.decode(f.lib, f.name, f.value)
				if err != nil { // it was decoded once, and is the same
					c.fallBack(f.lib, f.name, c.in.Baseline.LastGood[f.lib][f.name], err)
					again = true
					continue
				}
				f, c.funcs[name] = whole, whole
			}
			if err := c.resolve(f); err != nil {
				if f.lib == "" { // the entry's own: its mistakes stop the run
					f.err, c.errs = err, append(c.errs, ErrorList(err)...)
					continue
				}
				c.fallBack(f.lib, f.name, c.in.Baseline.LastGood[f.lib][f.name], err)
				again = true
			}
		}
	}
	for _, name := range names {
		if f := c.funcs[name]; f.err != nil && f.fn != nil {
			c.resolve(f) // as far as it goes: what stands is not rendered again
		}
	}
}

// resolve fills the edges and tokens of a functionality from its decoded form.
func (c *compiler) resolve(f *function) *diag.Error {
	d := &decoder{subject: f.full()}
	if c.looked, f.folded = nil, false; c.in.Values != nil {
		c.looked = map[string]bool{}
		defer func() { f.looked, c.looked = c.looked, nil }()
	}
	for _, shape := range f.shapes() {
		for _, p := range shape.parts {
			r := c.resolver(f, shape.fn, p, d)
			r.place(shape.fn.Place)
			p.spec = graph.MapTexts(p.decoded, append(slices.Clone(p.path), "service"), r.text)
			p.requires, p.connects, p.after = edges(r.requires), edges(r.connects), edges(r.after)
		}
	}
	if f.fn.LoadBalancer != nil {
		f.balancer = c.balancer(f, d)
	} else if res := f.fn.Resource; res != nil {
		r := c.resolver(f, f.fn, &part{path: f.path()}, d)
		at := f.path()
		if f.lib != "" {
			at = append(at, "resource")
		}
		doc := token.Doc{V: res.Fields}.Map(at, r.text)
		f.fields, _ = doc.V.(map[string]any)
	}
	for _, name := range slices.Sorted(maps.Keys(f.fn.Exports)) {
		if e := c.export(f, name); e.err != nil {
			d.errs = append(d.errs, e.err)
		}
	}
	return together(dedupe(d.errs))
}

// balancer resolves the names and tokens of a balancer.
func (c *compiler) balancer(f *function, d *decoder) *graph.Balancer {
	at := append(f.path(), "loadBalancer")
	r := c.resolver(f, f.fn, &part{path: f.path()}, d)
	out := &graph.Balancer{Balance: *f.fn.LoadBalancer, Address: graph.Address{Lib: f.lib, Name: f.name}, FQDN: f.fn.FQDN, Path: f.path(), Held: f.err != nil}
	out.Subnets = nil
	for i, s := range f.fn.LoadBalancer.Subnets {
		out.Subnets = append(out.Subnets, r.resolveText(append(slices.Clone(at), "subnets", strconv.Itoa(i)), s, false, nil))
	}
	if len(out.Backends) == 0 {
		d.errorf(append(slices.Clone(at), "backends"), "nothing stands behind it").WithHint("backends: ['web']")
	}
	for i, name := range out.Backends {
		p := append(slices.Clone(at), "backends", strconv.Itoa(i))
		set, err := c.lookup(f, r.p, name)
		if err != nil {
			d.errorf(p, "backend %v", err.Msg).WithHint("%s", err.Hint).Because = err.Because
			continue
		}
		a, _ := graph.ParseAddress(set)
		g := c.look(a.Functionality())
		if len(g.parts) == 0 {
			d.errorf(p, "%s runs nothing", set).WithHint("name services")
			continue
		}
		for _, shape := range g.shapes() {
			if len(g.variants) == 0 || shape.fn != g.fn { // every replica has a shape of its own
				r.targetPort(append(slices.Clone(at), "target"), shape, a, set, token.Token{Arg: out.Target})
			}
		}
		out.Sets = append(out.Sets, portSet(g, a, out.Target))
	}
	slices.Sort(out.Sets)
	out.Sets = slices.Compact(out.Sets)
	if t, err := time.ParseDuration(out.Drain); err == nil && (t%time.Second != 0 || t < time.Second || t > 30*time.Minute) {
		d.errorf(append(slices.Clone(at), "drain"), "%s is no time for it", out.Drain).WithHint("whole seconds, from 1s to 30m")
	}
	return out
}

// dedupe drops what the variants of one functionality say alike.
func dedupe(l diag.List) diag.List {
	seen := map[string]bool{}
	return slices.DeleteFunc(l, func(e *diag.Error) bool {
		key := strings.Join(e.Path, "\x00") + "\x00" + e.Msg
		defer func() { seen[key] = true }()
		return seen[key]
	})
}

// resolver is what reads the names and tokens of one part.
func (c *compiler) resolver(f *function, fn *Functionality, p *part, d *decoder) *resolver {
	r := &resolver{c: c, f: f, p: p, d: d, broken: map[string]bool{},
		requires: map[string]string{}, connects: map[string]string{}, after: map[string]string{}}
	m := fn.Group[p.member]
	r.aliases(fn.Requires, "requires", f.path(), r.requires)
	r.aliases(m.Requires, "requires", p.path, r.requires)
	r.aliases(fn.Connects, "connects", f.path(), r.connects)
	r.aliases(m.Connects, "connects", p.path, r.connects)
	r.names(fn.After, f.path())
	r.names(m.After, p.path)
	return r
}

// place checks the names that place.machine and place.with say.
func (r *resolver) place(pl graph.Place) {
	r.p.with = ""
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
	set, err := r.c.lookup(r.f, r.p, pl.With)
	switch {
	case err != nil:
		r.d.errorf(at, "runs with %s", err.Msg).WithHint("%s", err.Hint).Because = err.Because
	case set == r.f.full():
		r.d.errorf(at, "runs with itself").WithHint("name another functionality")
	default:
		r.p.with = set
	}
}

func edges(m map[string]string) []graph.Edge {
	var out []graph.Edge
	for _, alias := range slices.Sorted(maps.Keys(m)) {
		out = append(out, graph.Edge{Alias: alias, Set: m[alias]})
	}
	return out
}

type resolver struct {
	c                         *compiler
	f                         *function
	p                         *part
	d                         *decoder
	broken                    map[string]bool   // aliases that were told to be wrong already
	requires, connects, after map[string]string // alias → set
}

func (r *resolver) aliases(a Aliases, field string, at []string, into map[string]string) {
	for _, alias := range slices.Sorted(maps.Keys(a)) {
		p := append(slices.Clone(at), field, alias)
		if sel := a[alias].All; sel != nil {
			into[alias] = allPrefix + sel.Name()
			continue
		}
		set, err := r.c.lookup(r.f, r.p, a[alias].Name)
		if err != nil {
			r.d.errorf(p, "%s %v", field, err.Msg).WithHint("%s", err.Hint).Because = err.Because
			r.broken[alias] = true
			continue
		}
		if set == r.set() && field == "requires" {
			r.d.errorf(p, "requires itself").WithHint("defx.me reads its own ports")
			r.broken[alias] = true
			continue
		}
		into[alias] = set
	}
}

// allPrefix begins the name of a set that is a selection.
const allPrefix = "all "

func (r *resolver) names(after []string, at []string) {
	for i, name := range after {
		set, err := r.c.lookup(r.f, r.p, name)
		if err != nil {
			r.d.errorf(append(slices.Clone(at), "after", strconv.Itoa(i)), "after %s", err.Msg).WithHint("%s", err.Hint).Because = err.Because
		} else if set == r.set() {
			r.d.errorf(append(slices.Clone(at), "after", strconv.Itoa(i)), "after itself").WithHint("leave it out")
		} else {
			r.after[name] = set
		}
	}
}

func (r *resolver) set() string {
	return graph.Address{Lib: r.f.lib, Name: r.f.name, Member: r.p.member}.Set()
}

// lookup finds the set that a name means for a reader: a member of its own
// group, then its own library, then a full name, then the whole deployment.
func (c *compiler) lookup(f *function, p *part, name string) (string, *diag.Error) {
	fail := func(format string, args ...any) (string, *diag.Error) {
		return "", diag.Errorf("", "%q, "+format, append([]any{name}, args...)...)
	}
	found := func(full, member string) (string, *diag.Error) {
		g := c.look(full)
		if g.fn == nil {
			_, e := fail("which is held and has no last good version")
			e.Because = full
			return "", e.WithHint("mend %s first", full)
		}
		if member == "" {
			return full, nil
		}
		if !g.has(member) {
			_, e := fail("but %s has no member %q", full, member)
			return "", e.WithHint("%s", suggest(member, slices.Sorted(maps.Keys(g.fn.Group))))
		}
		return full + "/" + member, nil
	}
	parts := strings.Split(name, "/")
	switch len(parts) {
	case 1:
		if p.member != "" && f.has(name) {
			return found(f.full(), name)
		}
		if c.look(f.lib+"/"+name) != nil {
			return found(f.lib+"/"+name, "")
		}
		if f.lib == "" && c.look(name) != nil { // resources of the entry know each other first
			return found(name, "")
		}
		candidates := c.everywhere(name)
		if len(candidates) == 1 {
			return found(candidates[0], "")
		}
		if len(candidates) > 1 {
			_, e := fail("which several libraries define")
			return "", e.WithHint("say which: %s", list(candidates))
		}
	case 2:
		if c.look(name) != nil {
			return found(name, "")
		}
		if full := f.lib + "/" + parts[0]; c.look(full) != nil && c.look(full).has(parts[1]) {
			return found(full, parts[1])
		}
	case 3:
		if full := parts[0] + "/" + parts[1]; c.look(full) != nil {
			return found(full, parts[2])
		}
	}
	if len(parts) > 1 && c.libHeld[parts[0]] {
		_, e := fail("and library %s did not evaluate and has no last good version", parts[0])
		e.Because = parts[0]
		return "", e.WithHint("mend library %s first", parts[0])
	}
	var known []string
	for full, g := range c.funcs {
		known = append(known, full)
		if g.lib == f.lib || len(parts) == 1 {
			known = append(known, g.name)
		}
	}
	_, e := fail("which no library defines")
	return "", e.WithHint("%s", suggest(name, known))
}

func (f *function) has(member string) bool {
	if f.fn == nil {
		return false
	}
	_, ok := f.fn.Group[member]
	return ok
}

// single tells whether a functionality has exactly one replica, and how many it has in words.
func (f *function) single() (bool, string) {
	pl := f.fn.Place
	if pl.Every != "" {
		return false, "one replica for every machine"
	}
	n := len(pl.Replicas.List())
	return n == 1, fmt.Sprintf("%d replicas", n)
}

// text resolves the tokens of one text and adds the edges that they mean.
func (r *resolver) text(path []string, t token.Text, inList bool) []any {
	out := r.resolveText(path, t, inList, nil)
	for _, s := range out {
		r.f.folded = r.f.folded || s.Token != nil && (s.Token.Set() || s.Token.Here)
	}
	return []any{out}
}

// resolveText resolves the tokens of a text; inside says of which set its replica is, if it is a body.
func (r *resolver) resolveText(path []string, t token.Text, inList bool, inside map[string][]string) token.Text {
	for i := range t {
		tok := t[i].Token
		if tok == nil {
			if before := max(i, 1) - 1; i > 0 && t[before].Token != nil && t[before].Token.Field == "port" && t[i].Lit != "" && t[i].Lit[0] >= '0' && t[i].Lit[0] <= '9' {
				r.d.errorf(path, "a digit follows %s, and would make another port of it", t[before].Token).WithHint("put something between them")
			}
			continue
		}
		if tok.Field == "each" && (!inList || len(t) > 1) {
			r.d.errorf(path, "%s is a list, and stands where one text is needed", tok).
				WithHint("put it into a list alone, or use join(separator, function(r) …)")
			return t
		}
	}
	out, _ := t.Map(func(t token.Token) (token.Text, error) {
		switch t.Kind {
		case token.Ref:
			return r.ref(path, t, inside), nil
		case token.Secret:
			t.Version = r.c.secret(t.Name)
			if at := len(r.p.path) + 1; at < len(path) && path[at-1] == "service" && !slices.Contains([]string{"secrets", "files", "hostFiles"}, path[at]) {
				r.d.errorf(path, "a secret cannot stand in text that others can read").
					WithHint("secrets: { NAME: defx.secret('%s') } gives a file whose path is in $NAME_FILE", t.Name)
			}
		case token.Artifact:
			a, err := r.c.artifact(t)
			if err != nil {
				hint := "build it first; the path is relative to the file that names it"
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

func just(t token.Token) token.Text { return token.Text{{Token: &t}} }

// ref resolves one ref. inside leads from the id of each set around it to the addresses that it means.
func (r *resolver) ref(path []string, t token.Token, inside map[string][]string) token.Text {
	switch t.Of {
	case "me":
		r.own(path, t)
		return just(t)
	case "each":
		sets, ok := inside[t.Name]
		if !ok {
			r.d.errorf(path, "a replica is read outside of the function that it was given to").WithHint("use r inside each(function(r) …) or join(sep, function(r) …) only")
			return just(t)
		}
		for _, set := range sets {
			r.readable(path, set, t)
		}
		return just(t)
	}
	set, ok := r.target(path, t)
	if !ok {
		return just(t)
	}
	if t.Set() {
		return r.body(path, t, set, inside)
	}
	if strings.HasPrefix(set, allPrefix) {
		r.d.errorf(path, ".%s of a selection, which may be any number of services", t.Field).WithHint("each(function(r) …) or join(separator, function(r) …) reads all of them")
		return just(t)
	}
	a, _ := graph.ParseAddress(set)
	f := r.c.look(a.Functionality())
	if t.Field == "output" {
		return r.output(path, f, set, t)
	}
	if one, many := f.single(); !one && !t.Here {
		r.d.errorf(path, ".%s of %s, which has %s", t.Field, set, many).
			WithHint("each(function(r) …) or join(sep, function(r) …) reads all of them, here.%s the one on the same machine; or give it an fqdn that leads to all, and write that", t.Field)
		return just(t)
	}
	r.readable(path, set, t)
	if t.Field == "port" {
		set = portSet(f, a, t.Arg)
	}
	return just(token.Token{Kind: token.Ref, Of: "set", Name: set, Field: t.Field, Arg: t.Arg, Here: t.Here})
}

// own checks what a service reads of itself.
func (r *resolver) own(path []string, t token.Token) {
	switch t.Field {
	case "port":
		r.port(path, "me", r.p.face.Ports, t.Arg)
	case "label":
		_, ok := r.p.face.Labels[t.Arg]
		r.choose(path, "label", ok, t.Arg, slices.Sorted(maps.Keys(r.p.face.Labels)))
	case "dir":
		r.dir(path, r.p.face.Dirs, t.Arg)
	case "output":
		r.d.errorf(path, "reads an export of its own").WithHint("use what it is made of")
	}
}

func (r *resolver) dir(path []string, d graph.Dirs, kind string, who ...string) {
	has := map[string]bool{"state": d.State != "", "cache": d.Cache != "", "logs": d.Logs != "", "runtime": d.Runtime != ""}
	r.choose(path, "directory", has[kind], kind, []string{"state", "cache", "logs", "runtime"}, who...)
}

// target finds the set that a ref names, and requires what is read by its name.
func (r *resolver) target(path []string, t token.Token) (string, bool) {
	switch t.Of {
	case "peers":
		return r.set(), true
	case "all":
		var sel graph.Selection
		if json.Unmarshal([]byte(t.Name), &sel) != nil || !sel.Valid() {
			r.d.errorf(path, "exactly one of port and label selects, and each is a text").WithHint("defx.all({ port: 'metrics' })")
			return "", false
		}
		return allPrefix + sel.Name(), true
	case "dep":
		if r.broken[t.Name] {
			return "", false
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
		set, err := r.c.lookup(r.f, r.p, t.Name)
		if err != nil {
			r.d.errorf(path, "reads %s", err.Msg).WithHint("%s", err.Hint).Because = err.Because
			r.d.errs[len(r.d.errs)-1].Word = t.Name
			return "", false
		}
		if set == r.set() {
			r.d.errorf(path, "reads itself by name").WithHint("defx.me reads its own values, defx.peers those of all its replicas")
			return "", false
		}
		if !slices.Contains(slices.Collect(maps.Values(r.requires)), set) && !slices.Contains(slices.Collect(maps.Values(r.connects)), set) {
			r.requires[t.Name] = set
		}
		return set, true
	}
	r.d.errorf(path, "a reference of an unknown form %q", t.Of)
	return "", false
}

// body resolves what each and join say of a replica.
func (r *resolver) body(path []string, t token.Token, set string, inside map[string][]string) token.Text {
	doc, err := t.BodyDoc()
	if err != nil {
		r.d.errorf(path, "a broken token: %v", err)
		return just(t)
	}
	id := token.SetID(t.Of, t.Name)
	if _, again := inside[id]; again {
		r.d.errorf(path, "reads a set inside a function of one of its own replicas").
			WithHint("read another set inside, or give the set a second alias in connects")
		return just(t)
	}
	deeper := maps.Clone(inside)
	if deeper == nil {
		deeper = map[string][]string{}
	}
	deeper[id] = []string{set}
	before := len(r.d.errs)
	doc = doc.Map(path, func(_ []string, text token.Text, inList bool) []any {
		return []any{r.resolveText(path, text, inList, deeper)} // one place is written, whatever is inside
	})
	if len(r.d.errs) > before {
		r.d.errs = r.d.errs[:before+1]
	}
	out := token.Token{Kind: token.Ref, Of: "set", Name: set, Field: t.Field, Arg: t.Arg, Here: t.Here}
	if sel, ok := strings.CutPrefix(set, allPrefix); ok {
		out.Of, out.Name = "all", sel
	}
	// Inside, the replica is known by the name of the resolved set.
	now := token.SetID(out.Of, out.Name)
	return just(out.WithBody(doc.Map(nil, func(_ []string, text token.Text, _ bool) []any {
		return []any{ofReplica(text, id, func(tok token.Token) token.Text {
			tok.Name = now
			return just(tok)
		})}
	})))
}

// ofReplica replaces what a text says of a replica of a set, also inside what it says of other sets.
func ofReplica(text token.Text, id string, f func(token.Token) token.Text) token.Text {
	out, _ := text.Map(func(tok token.Token) (token.Text, error) {
		switch {
		case tok.Of == "each" && tok.Name == id:
			return f(tok), nil
		case tok.Set():
			if doc, err := tok.BodyDoc(); err == nil {
				tok = tok.WithBody(doc.Map(nil, func(_ []string, t token.Text, _ bool) []any { return []any{ofReplica(t, id, f)} }))
			}
		}
		return just(tok), nil
	})
	return out
}

// readable checks that a field can be read of every replica of a set.
func (r *resolver) readable(path []string, set string, t token.Token) {
	if sel, ok := strings.CutPrefix(set, allPrefix); ok {
		if t.Field == "output" {
			r.d.errorf(path, "a selection has no outputs in common").WithHint("read .host, .port(name), .name, .label(name)")
		}
		_ = sel // which services it selects, and what they have, shows when all are known
		return
	}
	a, _ := graph.ParseAddress(set)
	f := r.c.look(a.Functionality())
	if e := f.fn.External; e != nil {
		switch t.Field {
		case "port":
			r.choose(path, "port", e.Ports[t.Arg].Port != 0, t.Arg, slices.Sorted(maps.Keys(e.Ports)), set+" has")
		case "label":
			_, ok := e.Labels[t.Arg]
			r.choose(path, "label", ok, t.Arg, slices.Sorted(maps.Keys(e.Labels)), set+" has")
		case "machine", "dir":
			r.d.errorf(path, "%s stands without defx: it has no %s", set, t.Field)
		}
		return
	}
	if res := f.fn.Resource; res != nil {
		if t.Field != "output" && t.Field != "name" {
			r.d.errorf(path, "%s is a resource: it has no %s", set, t.Field).WithHint("read .output(name)")
		}
		return
	}
	for _, shape := range f.shapes() {
		if len(f.variants) > 0 && shape.fn == f.fn {
			continue // every replica has a shape of its own
		}
		switch t.Field {
		case "port":
			r.targetPort(path, shape, a, set, t)
		case "label", "dir":
			if len(shape.parts) != 1 && a.Member == "" {
				r.d.errorf(path, "%s is a group: whose %s?", set, t.Field).WithHint("name the member: %s/MEMBER", set)
				return
			}
			for _, p := range shape.parts {
				if a.Member != "" && p.member != a.Member {
					continue
				}
				if t.Field == "dir" {
					r.dir(path, p.face.Dirs, t.Arg, set+" has")
				} else {
					_, ok := p.face.Labels[t.Arg]
					r.choose(path, "label", ok, t.Arg, slices.Sorted(maps.Keys(p.face.Labels)), set+" has")
				}
			}
		case "output":
			e := r.c.export(f, t.Arg)
			if e == nil {
				r.choose(path, "export", false, t.Arg, slices.Sorted(maps.Keys(f.fn.Exports)), set+" has")
			}
			return
		case "host", "machine", "name", "index":
		default:
			r.d.errorf(path, "nothing to read by .%s of another functionality", t.Field)
		}
	}
}

// targetPort checks that exactly one part of the target has the port.
func (r *resolver) targetPort(path []string, f variant, a graph.Address, set string, t token.Token) {
	var having, ports []string
	for _, p := range f.parts {
		if a.Member != "" && p.member != a.Member {
			continue
		}
		ports = append(ports, slices.Sorted(maps.Keys(p.face.Ports))...)
		if _, ok := p.face.Ports[t.Arg]; ok {
			having = append(having, graph.Address{Lib: a.Lib, Name: a.Name, Member: p.member}.Set())
		}
	}
	switch len(having) {
	case 1:
	case 0:
		r.choose(path, "port", false, t.Arg, ports, set+" has")
	default:
		r.d.errorf(path, "%d members of %s have a port %q", len(having), set, t.Arg).WithHint("require the member itself: %s", list(having))
	}
}

// portSet is the set of the part that has a port.
func portSet(f *function, a graph.Address, port string) string {
	for _, p := range f.parts {
		if _, ok := p.face.Ports[port]; ok && (a.Member == "" || p.member == a.Member) {
			return graph.Address{Lib: a.Lib, Name: a.Name, Member: p.member}.Set()
		}
	}
	return a.Set()
}

func (r *resolver) port(path []string, who string, ports map[string]graph.Port, name string) {
	_, ok := ports[name]
	r.choose(path, "port", ok, name, slices.Sorted(maps.Keys(ports)))
}

func (r *resolver) choose(path []string, what string, ok bool, name string, known []string, who ...string) {
	if ok {
		return
	}
	subject := "it has"
	if len(who) > 0 {
		subject = who[0]
	}
	hint := suggest(name, known)
	if hint == "" {
		hint = "it has none: declare it there"
	}
	r.d.errorf(path, "%s no %s %q", subject, what, name).WithHint("%s", hint).Word = name
}

// suggest names what was probably meant, or else what there is.
func suggest(name string, known []string) string {
	if hint := diag.Suggest(name, known); hint != "" || len(known) == 0 {
		return hint
	}
	known = slices.Clone(known)
	slices.Sort(known)
	return "there is " + list(slices.Compact(known))
}
