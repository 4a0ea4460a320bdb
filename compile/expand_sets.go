package compile

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// ExpandSets replaces every set expression with one value for each replica. It runs after
// placement, because .here needs machines. It also adds the host facts that the services
// require of their machines. Errors have the address of the service with the mistake as their
// subject.
func (o *Output) ExpandSets() diag.List {
	u := &setExpander{g: o.Graph, exports: o.exports}
	fillEdges(o.Graph) // placement may have dropped replicas
	u.findDirOwners()
	for _, s := range o.Graph.Services {
		if s.Held || !o.usesSets[s.Address.Functionality()] {
			continue // held services are not rendered again, and most services have no set expressions
		}
		u.reader = s
		s.Spec = graph.MapTexts(s.Spec, s.SpecPath, u.text)
	}
	for _, r := range o.Graph.Resources {
		if r.Held {
			continue
		}
		u.reader = &graph.Service{Address: r.Address, SpecPath: r.Path}
		doc := token.Doc{V: r.Fields}.Map(r.Path, u.text)
		r.Fields, _ = doc.V.(map[string]any)
	}
	u.addFacts()
	return u.errs
}

type setExpander struct {
	g       *graph.Graph
	exports map[string]map[string]token.Text // functionality → export
	reader  *graph.Service                   // the service whose texts are being expanded
	errs    diag.List
}

func selection(name string) *graph.Selection {
	sel := &graph.Selection{}
	json.Unmarshal([]byte(name), sel) // cannot fail: the name is an encoded selection
	return sel
}

func (u *setExpander) fail(path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(u.reader.String(), format, args...).At(path...)
	u.errs = append(u.errs, e)
	return e
}

// replicas returns the services of a set that a token means, one for each replica: of a group's
// replica, any one member.
func (u *setExpander) replicas(t token.Token) []*graph.Service {
	var out []*graph.Service
	for _, s := range u.g.Services {
		a := s.Address
		if a.Machine != "" || t.Here && s.Machine != u.reader.Machine {
			continue
		}
		if t.Of == "all" {
			if selection(t.Name).Selects(s) {
				out = append(out, s)
			}
			continue
		}
		if a.Set() == t.Name || a.Functionality() == t.Name && !slices.ContainsFunc(out, func(b *graph.Service) bool { return b.Address.Replica == a.Replica }) {
			out = append(out, s)
		}
	}
	return out
}

func (u *setExpander) text(path []string, t token.Text, inList bool) []any {
	if len(t) == 1 && t[0].Token != nil && t[0].Token.Field == "each" {
		return u.each(path, *t[0].Token)
	}
	out, _ := t.Map(func(t token.Token) (token.Text, error) {
		switch {
		case t.Set():
			var all token.Text
			for i, x := range u.each(path, t) {
				if i > 0 {
					all = append(all, token.Segment{Lit: t.Arg})
				}
				body, _ := x.(token.Text)
				all = append(all, body...)
			}
			return all, nil
		case t.Here:
			return u.onSameMachine(path, t), nil
		}
		return tokenText(t), nil
	})
	return []any{out}
}

// each returns the set expression's value for every replica.
func (u *setExpander) each(path []string, t token.Token) []any {
	doc, err := t.BodyDoc()
	if err != nil {
		u.fail(path, "invalid token: %v", err)
		return []any{token.Text{}}
	}
	id := token.SetID(t.Of, t.Name)
	out := []any{}
	bind := func(s *graph.Service, ext string) {
		expanded := doc.Map(path, func(p []string, text token.Text, inList bool) []any {
			m := substituteReplica(text, id, func(tok token.Token) token.Text { return u.replica(path, tok, s, ext) })
			return u.text(p, m, inList) // a set expression may contain another one
		})
		out = append(out, expanded.V)
	}
	if u.g.Externals[t.Name] != nil {
		bind(nil, t.Name)
		return out
	}
	for _, s := range u.replicas(t) {
		bind(s, "")
	}
	return out
}

// replica binds a set expression's reference to one replica, or to an external endpoint.
func (u *setExpander) replica(path []string, t token.Token, s *graph.Service, external string) token.Text {
	out := token.Token{Kind: token.Ref, Of: "set", Name: external, Field: t.Field, Arg: t.Arg}
	full := external
	if s != nil {
		out.Name, full = s.Address.String(), s.Address.Functionality()
	}
	switch t.Field {
	case "host":
		out.Field = "address"
	case "port":
		if s != nil {
			if s = u.serviceWithPort(s, t.Arg); s == nil {
				u.fail(path, "%s has no port %q", out.Name, t.Arg).WithHint("add the port to this service, or select another set")
				return token.Text{}
			}
			out.Name = s.Address.String()
		}
	case "label":
		if s != nil {
			if _, ok := s.Spec.Labels[t.Arg]; !ok {
				u.fail(path, "%s has no label %q", out.Name, t.Arg).WithHint("add the label to this service: labels: { %s: '…' }", t.Arg)
			}
		}
	case "dir":
		d := &graph.Dir{}
		if s != nil {
			d = s.Spec.Dirs.Kind(t.Arg)
		}
		if d == nil || *d == (graph.Dir{}) {
			u.fail(path, "%s has no directory %q", out.Name, t.Arg)
		}
	case "output":
		text, _ := u.exports[full][t.Arg].Map(func(tok token.Token) (token.Text, error) {
			if tok.Of == "me" && s != nil {
				tok.Of, tok.Name = "set", s.Address.String()
				if tok.Field == "host" {
					tok.Field = "address"
				}
			}
			return tokenText(tok), nil
		})
		return text
	}
	return tokenText(out)
}

// serviceWithPort returns the service of a replica that has a port: s itself, or another member
// of its group.
func (u *setExpander) serviceWithPort(s *graph.Service, port string) *graph.Service {
	if _, ok := s.Spec.Ports[port]; ok {
		return s
	}
	for _, m := range u.g.Services {
		if m.Address.Functionality() == s.Address.Functionality() && m.Address.Replica == s.Address.Replica {
			if _, ok := m.Spec.Ports[port]; ok {
				return m
			}
		}
	}
	return nil
}

// onSameMachine resolves .here to the only replica on the reader's machine.
func (u *setExpander) onSameMachine(path []string, t token.Token) token.Text {
	list := u.replicas(t)
	if len(list) == 1 {
		s := list[0]
		if t.Field == "port" {
			s = u.serviceWithPort(s, t.Arg)
		}
		if s != nil {
			return tokenText(token.Token{Kind: token.Ref, Of: "set", Name: s.Address.String(), Field: t.Field, Arg: t.Arg})
		}
	}
	e := u.fail(path, "%s: machine %s has %d replicas of %s, but exactly one is required", t, u.reader.Machine, len(list), t.Name)
	if len(list) == 0 {
		e.WithHint("place: { every: 'machine' } runs one on every machine; place: { with: '%s' } runs this service only where one is", t.Name)
	} else {
		e.WithHint("here.each(function(r) …) reads all of them")
	}
	return token.Text{}
}

// findDirOwners finds the services whose directories others share.
func (u *setExpander) findDirOwners() {
	for _, s := range u.g.Services {
		for _, kind := range graph.DirKinds {
			d := s.Spec.Dirs.Kind(kind)
			if d.Of == "" || s.Held || s.Machine == "" {
				continue
			}
			var owners []graph.Address
			for _, o := range u.g.Services {
				sameGroup := o.Address.Functionality() == s.Address.Functionality()
				if o.Machine == s.Machine && o.Address.Set() == d.Of && o.Spec.Dirs.Kind(kind).Own() && (!sameGroup || o.Address.Replica == s.Address.Replica) {
					owners = append(owners, o.Address)
				}
			}
			if len(owners) != 1 {
				u.reader = s
				u.fail(append(slices.Clone(s.SpecPath), "dirs", kind, "of"), "machine %s has %d replicas of %s, but exactly one must have the directory that is shared", s.Machine, len(owners), d.Of).
					WithHint("spread the replicas: place: { spread: 'machine' }")
				continue
			}
			if s.Shares == nil {
				s.Shares = map[string]graph.Address{}
			}
			s.Shares[kind] = owners[0]
		}
	}
}

// addFacts adds the facts that services require of their machines. Equal claims become one
// fact; for unequal ones both owners get an error and are held.
func (u *setExpander) addFacts() {
	type claim struct {
		owner *graph.Service
		fact  *graph.Service
		path  []string
	}
	u.checkHostFiles()
	claims := map[graph.Address]*claim{}
	for _, s := range slices.Clone(u.g.Services) {
		if s.Host == nil || s.Machine == "" || u.g.Machine(s.Machine) == nil {
			continue
		}
		owner := functionalityPath(s)
		addClaim := func(kind, key, at string, value any) {
			raw, err := json.Marshal(value)
			if err != nil {
				panic(err) // plain data always encodes
			}
			a := graph.Address{Lib: graph.HostLib, Name: kind, Member: key, Machine: s.Machine}
			path := append(slices.Clone(owner), "host", kind, at)
			before := claims[a]
			if before == nil {
				before = &claim{owner: s, path: path, fact: &graph.Service{Address: a, Backend: "systemd", Machine: s.Machine,
					Fact: &graph.Fact{Kind: kind, Key: key, Value: raw, AskedBy: map[string][]string{}}, Path: path, SpecPath: path}}
				claims[a] = before
				u.g.Services = append(u.g.Services, before.fact)
			} else if string(before.fact.Fact.Value) != string(raw) {
				hint := "a machine has only one value for it: use the same value, or place the services on different machines"
				u.reader = s
				u.fail(path, "asks for %s %s = %s on machine %s, and %s asks for %s", kind, key, raw, s.Machine, before.owner, before.fact.Fact.Value).WithHint("%s", hint)
				u.reader = before.owner
				u.fail(before.path, "asks for %s %s = %s on machine %s, and %s asks for %s", kind, key, before.fact.Fact.Value, s.Machine, s, raw).WithHint("%s", hint)
			}
			if f := s.Address.Functionality(); before.fact.Fact.AskedBy[f] == nil {
				before.fact.Fact.AskedBy[f] = path
			}
			s.After = append(s.After, graph.Edge{Alias: a.String(), Set: a.String(), To: []graph.Address{a}})
		}
		for i, p := range s.Host.Packages {
			name, version, _ := strings.Cut(p, "=")
			addClaim("packages", name, strconv.Itoa(i), version)
		}
		for i, m := range s.Host.Modules {
			addClaim("modules", m, strconv.Itoa(i), true)
		}
		for _, k := range sets.Keys(s.Host.Sysctl) {
			addClaim("sysctl", k, k, s.Host.Sysctl[k])
		}
		for _, k := range sets.Keys(s.Host.Users) {
			addClaim("users", k, k, s.Host.Users[k])
		}
	}
	u.g.Sort()
}

// checkHostFiles reports host files that two services on a machine would write.
func (u *setExpander) checkHostFiles() {
	type at struct{ machine, path string }
	owners := map[at]*graph.Service{}
	for _, s := range u.g.Services {
		for _, p := range sets.Keys(s.Spec.HostFiles) {
			key := at{s.Machine, p}
			first := owners[key]
			if first == nil || s.Machine == "" {
				owners[key] = s
				continue
			}
			for _, pair := range [][2]*graph.Service{{s, first}, {first, s}} {
				if u.reader = pair[0]; !u.reader.Held {
					u.fail(append(slices.Clone(u.reader.SpecPath), "hostFiles", p), "writes %s on machine %s, and so does %s", p, s.Machine, pair[1]).
						WithHint("a file of the machine has one owner: choose another path, place the services on different machines, or use files, which only the service itself sees")
				}
			}
		}
	}
}

// functionalityPath returns the path of a service's functionality; s.Path may be that of a
// group's member.
func functionalityPath(s *graph.Service) []string { return slices.Clone(s.Path[:min(len(s.Path), 3)]) }
