package compile

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/token"
)

// resolveAll gives every alias and token its target. A functionality that does
// not resolve is held; since its last good version may have other ports, all
// are resolved again until nothing falls any more.
func (c *compiler) resolveAll() {
	names := slices.Sorted(maps.Keys(c.funcs))
	for again := true; again; {
		again = false
		for _, name := range names {
			f := c.funcs[name]
			if f.err != nil {
				continue
			}
			if err := c.resolve(f); err != nil {
				c.fallBack(f.lib, f.name, c.in.Baseline.Good[f.lib][f.name], err)
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
	r := &resolver{c: c, f: f, d: &decoder{subject: f.full()}}
	for _, p := range f.parts {
		m := f.fn.Group[p.member]
		r.p, r.broken = p, map[string]bool{}
		r.requires, r.connects, r.after = map[string]string{}, map[string]string{}, map[string]string{}
		r.aliases(f.fn.Requires, "requires", f.path(), r.requires)
		r.aliases(m.Requires, "requires", p.path, r.requires)
		r.aliases(f.fn.Connects, "connects", f.path(), r.connects)
		r.aliases(m.Connects, "connects", p.path, r.connects)
		r.names(f.fn.After, f.path())
		r.names(m.After, p.path)
		p.spec = mapTexts(p.decoded, append(slices.Clone(p.path), "service"), r.text)
		p.requires, p.connects, p.after = edges(r.requires), edges(r.connects), edges(r.after)
	}
	return together(r.d.errs)
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
		set, err := r.c.lookup(r.f, r.p, a[alias])
		if err != nil {
			r.d.errorf(p, "%s %v", field, err.Msg).WithHint("%s", err.Hint)
			r.broken[alias] = true
			continue
		}
		if set == r.set() && field == "requires" {
			r.d.errorf(p, "requires itself").WithHint("defx.me reads its own ports")
			continue
		}
		into[alias] = set
	}
}

func (r *resolver) names(after []string, at []string) {
	for i, name := range after {
		set, err := r.c.lookup(r.f, r.p, name)
		if err != nil {
			r.d.errorf(append(slices.Clone(at), "after", strconv.Itoa(i)), "after %s", err.Msg).WithHint("%s", err.Hint)
		} else if set == r.set() {
			r.d.errorf(append(slices.Clone(at), "after", strconv.Itoa(i)), "after itself")
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
		g := c.funcs[full]
		if g.fn == nil {
			_, e := fail("which is held and has no last good version")
			return "", e.WithHint("mend %s first", full)
		}
		if member == "" {
			return full, nil
		}
		if !g.has(member) {
			_, e := fail("but %s has no member %q", full, member)
			return "", e.WithHint("%s", diag.Suggest(member, slices.Sorted(maps.Keys(g.fn.Group))))
		}
		return full + "/" + member, nil
	}
	parts := strings.Split(name, "/")
	switch len(parts) {
	case 1:
		if p.member != "" && f.has(name) {
			return found(f.full(), name)
		}
		if c.funcs[f.lib+"/"+name] != nil {
			return found(f.lib+"/"+name, "")
		}
		var candidates []string
		for full := range c.funcs {
			if strings.HasSuffix(full, "/"+name) {
				candidates = append(candidates, full)
			}
		}
		slices.Sort(candidates)
		if len(candidates) == 1 {
			return found(candidates[0], "")
		}
		if len(candidates) > 1 {
			_, e := fail("which several libraries define")
			return "", e.WithHint("say which: %s", list(candidates))
		}
	case 2:
		if c.funcs[name] != nil {
			return found(name, "")
		}
		if full := f.lib + "/" + parts[0]; c.funcs[full] != nil && c.funcs[full].has(parts[1]) {
			return found(full, parts[1])
		}
	case 3:
		if full := parts[0] + "/" + parts[1]; c.funcs[full] != nil {
			return found(full, parts[2])
		}
	}
	if len(parts) > 1 && c.libHeld[parts[0]] {
		_, e := fail("and library %s did not evaluate and has no last good version", parts[0])
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
	return "", e.WithHint("%s", diag.Suggest(name, known))
}

func (f *function) has(member string) bool {
	if f.fn == nil {
		return false
	}
	_, ok := f.fn.Group[member]
	return ok
}

// replicas is how many there are, and whether the functionality says so.
func (f *function) replicas() (int, bool) {
	if r := f.fn.Place.Replicas; r != nil {
		return *r, true
	}
	return 1, false
}

// text resolves the tokens of one text and adds the edges that they mean.
func (r *resolver) text(path []string, t token.Text) token.Text {
	for i := 1; i < len(t); i++ {
		if before := t[i-1].Token; before != nil && before.Field == "port" && t[i].Token == nil && t[i].Lit != "" && t[i].Lit[0] >= '0' && t[i].Lit[0] <= '9' {
			r.d.errorf(path, "a digit follows %s, and would make another port of it", before).WithHint("put something between them")
		}
	}
	out, _ := t.Map(func(t token.Token) (token.Text, error) {
		switch t.Kind {
		case token.Ref:
			t = r.ref(path, t)
		case token.Secret:
			t.Version = r.c.in.Secrets[t.Name]
		case token.Artifact:
			a, err := r.c.in.Artifact(t.Name)
			if err != nil {
				r.d.errorf(path, "artifact %q: %v", t.Name, err).WithHint("build it first; the path is relative to the file that names it")
			}
			t.Digest = string(a.Digest)
		}
		return token.Text{{Token: &t}}, nil
	})
	return out
}

func (r *resolver) ref(path []string, t token.Token) token.Token {
	var set string
	switch t.Of {
	case "me":
		if t.Field == "port" {
			r.port(path, "me", r.p.spec.Ports, t.Arg)
		}
		if t.Field == "label" {
			r.choose(path, "label", r.p.spec.Labels[t.Arg] != "", t.Arg, slices.Sorted(maps.Keys(r.p.spec.Labels)))
		}
		if t.Field == "dir" {
			d := r.p.spec.Dirs
			has := map[string]bool{"state": d.State != "", "cache": d.Cache != "", "logs": d.Logs != "", "runtime": d.Runtime != ""}
			r.choose(path, "directory", has[t.Arg], t.Arg, []string{"state", "cache", "logs", "runtime"})
		}
		return t
	case "dep":
		if r.broken[t.Name] {
			return t
		}
		var ok bool
		if set, ok = r.requires[t.Name]; !ok {
			if set, ok = r.connects[t.Name]; !ok {
				aliases := slices.Concat(slices.Collect(maps.Keys(r.requires)), slices.Collect(maps.Keys(r.connects)))
				hint := diag.Suggest(t.Name, aliases)
				if hint == "" {
					hint = fmt.Sprintf("add requires: { %s: 'NAME' }", t.Name)
				}
				r.d.errorf(path, "reads %q, which is neither in requires nor in connects", t.Name).WithHint("%s", hint)
				return t
			}
		}
	case "name":
		var err *diag.Error
		if set, err = r.c.lookup(r.f, r.p, t.Name); err != nil {
			r.d.errorf(path, "reads %s", err.Msg).WithHint("%s", err.Hint)
			return t
		}
		if set == r.set() {
			r.d.errorf(path, "reads itself by name").WithHint("defx.me reads its own values")
			return t
		}
		if !slices.Contains(slices.Collect(maps.Values(r.requires)), set) && !slices.Contains(slices.Collect(maps.Values(r.connects)), set) {
			r.requires[t.Name] = set
		}
	default:
		r.d.errorf(path, "a reference of an unknown form %q", t.Of)
		return t
	}
	a, _ := graph.ParseAddress(set)
	f := r.c.funcs[a.Functionality()]
	if n, _ := f.replicas(); n != 1 {
		r.d.errorf(path, ".%s of %s, which has %d replicas", t.Field, set, n).
			WithHint("one address stands for exactly one replica: give it replicas: 1, or read a name that leads to all")
		return t
	}
	switch t.Field {
	case "port":
		set = r.targetPort(path, f, a, set, t)
	case "output":
		r.d.errorf(path, "%s exports no %q", set, t.Arg)
	case "host", "machine":
	default:
		r.d.errorf(path, "nothing to read by .%s of another functionality", t.Field)
	}
	return token.Token{Kind: token.Ref, Of: "set", Name: set, Field: t.Field, Arg: t.Arg}
}

// targetPort finds which part of the target has the port.
func (r *resolver) targetPort(path []string, f *function, a graph.Address, set string, t token.Token) string {
	var having, ports []string
	for _, p := range f.parts {
		if a.Member != "" && p.member != a.Member {
			continue
		}
		ports = append(ports, slices.Sorted(maps.Keys(p.spec.Ports))...)
		if _, ok := p.spec.Ports[t.Arg]; ok {
			having = append(having, graph.Address{Lib: a.Lib, Name: a.Name, Member: p.member}.Set())
		}
	}
	switch len(having) {
	case 1:
		return having[0]
	case 0:
		r.choose(path, "port", false, t.Arg, ports, set+" has")
	default:
		r.d.errorf(path, "%d members of %s have a port %q", len(having), set, t.Arg).WithHint("require the member itself: %s", list(having))
	}
	return set
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
	hint := diag.Suggest(name, known)
	if hint == "" && len(known) > 0 {
		hint = "there is " + list(known)
	}
	r.d.errorf(path, "%s no %s %q", subject, what, name).WithHint("%s", hint)
}

// mapTexts copies v with every token.Text replaced by what f makes of it. The
// walk is in the order of fields and keys.
func mapTexts[T any](v T, path []string, f func(path []string, t token.Text) token.Text) T {
	return mapValue(reflect.ValueOf(v), path, f).Interface().(T)
}

func mapValue(v reflect.Value, path []string, f func([]string, token.Text) token.Text) reflect.Value {
	if v.Type() == textType {
		if v.IsNil() {
			return v
		}
		return reflect.ValueOf(f(path, v.Interface().(token.Text)))
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out := reflect.New(v.Type().Elem())
		out.Elem().Set(mapValue(v.Elem(), path, f))
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			out.Field(i).Set(mapValue(v.Field(i), append(slices.Clone(path), name), f))
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			out.SetMapIndex(k, mapValue(v.MapIndex(k), append(slices.Clone(path), k.String()), f))
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(mapValue(v.Index(i), append(slices.Clone(path), strconv.Itoa(i)), f))
		}
		return out
	}
	return v
}
