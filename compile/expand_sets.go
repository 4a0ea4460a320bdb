package compile

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// ExpandSets says what is said of sets of each of their replicas. It comes after
// placement, since .here asks for machines; then it adds the facts that
// machines must have for the services on them. Errors carry the address of the
// service that is at fault.
func (o *Output) ExpandSets() diag.List {
	u := &unfolder{g: o.Graph, exports: o.exports}
	fillEdges(o.Graph) // placement may have dropped replicas
	for _, s := range o.Graph.Services {
		if s.Held || !o.folded[s.Address.Functionality()] {
			continue // what stands is not rendered again, and most speak of no sets
		}
		u.s = s
		s.Spec = graph.MapTexts(s.Spec, s.SpecPath, u.text)
	}
	for _, r := range o.Graph.Resources {
		if r.Held {
			continue
		}
		u.s = &graph.Service{Address: r.Address, SpecPath: r.Path}
		doc := token.Doc{V: r.Fields}.Map(r.Path, u.text)
		r.Fields, _ = doc.V.(map[string]any)
	}
	u.facts()
	return u.errs
}

type unfolder struct {
	g       *graph.Graph
	exports map[string]map[string]token.Text // functionality → export
	s       *graph.Service                   // the reader
	errs    diag.List
}

func selection(name string) *graph.Selection {
	sel := &graph.Selection{}
	json.Unmarshal([]byte(name), sel) // the name was made of one
	return sel
}

func (u *unfolder) fail(path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(u.s.Address.String(), format, args...).At(path...)
	u.errs = append(u.errs, e)
	return e
}

// replicas lists those of a set that a token means, one address each: of a group's replica a member stands for all.
func (u *unfolder) replicas(t token.Token) []*graph.Service {
	var out []*graph.Service
	for _, s := range u.g.Services {
		a := s.Address
		if a.Machine != "" || t.Here && s.Machine != u.s.Machine {
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

func (u *unfolder) text(path []string, t token.Text, inList bool) []any {
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
			return u.here(path, t), nil
		}
		return just(t), nil
	})
	return []any{out}
}

// each gives the body for every replica.
func (u *unfolder) each(path []string, t token.Token) []any {
	doc, err := t.BodyDoc()
	if err != nil {
		u.fail(path, "a broken token: %v", err)
		return []any{token.Text{}}
	}
	id := token.SetID(t.Of, t.Name)
	out := []any{}
	name := func(s *graph.Service, ext string) {
		said := doc.Map(path, func(p []string, text token.Text, inList bool) []any {
			m := ofReplica(text, id, func(tok token.Token) token.Text { return u.replica(path, tok, s, ext) })
			return u.text(p, m, inList) // a body may speak of another set
		})
		out = append(out, said.V)
	}
	if u.g.Externals[t.Name] != nil {
		name(nil, t.Name)
		return out
	}
	for _, s := range u.replicas(t) {
		name(s, "")
	}
	return out
}

// replica binds what a body reads to one replica, or to what stands without defx.
func (u *unfolder) replica(path []string, t token.Token, s *graph.Service, external string) token.Text {
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
			if s = u.having(s, t.Arg); s == nil {
				u.fail(path, "%s has no port %q", out.Name, t.Arg).WithHint("it is in the set, so give it one, or choose another set")
				return token.Text{}
			}
			out.Name = s.Address.String()
		}
	case "label":
		if s != nil {
			if _, ok := s.Spec.Labels[t.Arg]; !ok {
				u.fail(path, "%s has no label %q", out.Name, t.Arg).WithHint("it is in the set, so give it one: labels: { %s: '…' }", t.Arg)
			}
		}
	case "dir":
		d := graph.Dirs{}
		if s != nil {
			d = s.Spec.Dirs
		}
		if (map[string]string{"state": d.State, "cache": d.Cache, "logs": d.Logs, "runtime": d.Runtime})[t.Arg] == "" {
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
			return just(tok), nil
		})
		return text
	}
	return just(out)
}

// having finds the service of a replica that has a port: itself, or another member of its group.
func (u *unfolder) having(s *graph.Service, port string) *graph.Service {
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

// here finds the one replica on the reader's machine.
func (u *unfolder) here(path []string, t token.Token) token.Text {
	list := u.replicas(t)
	if len(list) == 1 {
		s := list[0]
		if t.Field == "port" {
			s = u.having(s, t.Arg)
		}
		if s != nil {
			return just(token.Token{Kind: token.Ref, Of: "set", Name: s.Address.String(), Field: t.Field, Arg: t.Arg})
		}
	}
	e := u.fail(path, "%s: on machine %s there are %d replicas of %s, and exactly one is needed", t, u.s.Machine, len(list), t.Name)
	if len(list) == 0 {
		e.WithHint("place: { every: 'machine' } puts one everywhere, or keep this one where it runs: place: { with: '%s' }", t.Name)
	} else {
		e.WithHint("here.each(function(r) …) reads all of them")
	}
	return token.Text{}
}

// facts adds what machines must have for the services on them: equal claims
// are one, unequal ones are refused and held at both owners.
func (u *unfolder) facts() {
	type claim struct {
		owner *graph.Service
		fact  *graph.Service
		path  []string
	}
	u.hostFiles()
	claims := map[graph.Address]*claim{}
	for _, s := range slices.Clone(u.g.Services) {
		if s.Host == nil || s.Machine == "" || u.g.Machine(s.Machine) == nil {
			continue
		}
		owner := functionalityPath(s)
		say := func(kind, key, at string, value any) {
			raw, err := json.Marshal(value)
			if err != nil {
				panic(err) // plain data always encodes
			}
			a := graph.Address{Lib: graph.HostLib, Name: kind, Member: key, Machine: s.Machine}
			path := append(slices.Clone(owner), "host", kind, at)
			before := claims[a]
			if before == nil {
				before = &claim{owner: s, path: path, fact: &graph.Service{Address: a, Backend: "systemd", Machine: s.Machine,
					Fact: &graph.Fact{Kind: kind, Key: key, Value: raw}, Path: path, SpecPath: path}}
				claims[a] = before
				u.g.Services = append(u.g.Services, before.fact)
			} else if string(before.fact.Fact.Value) != string(raw) {
				hint := "a machine has one value of it: say the same, or place them apart"
				u.s = s
				u.fail(path, "asks for %s %s = %s on machine %s, and %s asks for %s", kind, key, raw, s.Machine, before.owner.Address, before.fact.Fact.Value).WithHint("%s", hint)
				u.s = before.owner
				u.fail(before.path, "asks for %s %s = %s on machine %s, and %s asks for %s", kind, key, before.fact.Fact.Value, s.Machine, s.Address, raw).WithHint("%s", hint)
			}
			s.After = append(s.After, graph.Edge{Alias: a.String(), Set: a.String(), To: []graph.Address{a}})
		}
		for i, p := range s.Host.Packages {
			name, version, _ := strings.Cut(p, "=")
			say("packages", name, strconv.Itoa(i), version)
		}
		for i, m := range s.Host.Modules {
			say("modules", m, strconv.Itoa(i), true)
		}
		for _, k := range sortedKeys(s.Host.Sysctl) {
			say("sysctl", k, k, s.Host.Sysctl[k])
		}
		for _, k := range sortedKeys(s.Host.Users) {
			say("users", k, k, s.Host.Users[k])
		}
	}
	u.g.Sort()
}

// hostFiles refuses a path of a machine that two services would write.
func (u *unfolder) hostFiles() {
	type at struct{ machine, path string }
	owners := map[at]*graph.Service{}
	for _, s := range u.g.Services {
		for _, p := range sortedKeys(s.Spec.HostFiles) {
			key := at{s.Machine, p}
			first := owners[key]
			if first == nil || s.Machine == "" {
				owners[key] = s
				continue
			}
			for _, pair := range [][2]*graph.Service{{s, first}, {first, s}} {
				if u.s = pair[0]; !u.s.Held {
					u.fail(append(slices.Clone(u.s.SpecPath), "hostFiles", p), "writes %s on machine %s, and so does %s", p, s.Machine, pair[1].Address).
						WithHint("a file of a machine has one owner: name it otherwise, place them apart, or use files, which each sees alone")
				}
			}
		}
	}
}

// functionalityPath is where the functionality of a service stands; its Path may be that of a group's member.
func functionalityPath(s *graph.Service) []string { return slices.Clone(s.Path[:min(len(s.Path), 3)]) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
