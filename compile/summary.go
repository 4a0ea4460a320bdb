package compile

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// A functionality is decoded and resolved anew only if something changed that
// this was made of: its own value, or an answer that it got when it looked at
// others. Every look at something else than its own value goes through the few
// functions below, which note it; so a sketch that stands has, question by
// question, the answers of the run that made it.
//
// What the entry says besides its libraries is no question: a sketch holds for
// one entry, one lock of images and one program, and whoever keeps it sees to that.

// Summary is what is left of an ordinary functionality, one service that speaks
// of no sets, when what only itself and its backend read is left out.
type Summary struct {
	Value                     digest.Digest // of what it was decoded from
	Backend                   string
	Options                   json.RawMessage
	FQDN                      string
	Place                     graph.Place // with the defaults of the entry
	With                      string      // the set that it must share its machine with
	Interface                 Interface
	Schedule                  *graph.Schedule
	Requires, Connects, After []graph.Edge // without their ends
	Dependencies              []Dependency // sorted
}

// Dependency is a question that was asked while names and tokens were resolved.
type Dependency struct{ Question, Answer string }

// Kinds of questions, each followed by a blank and what is asked for.
const (
	aboutFace     = "face"     // lib/name: what others see of it
	aboutName     = "name"     // a name without library: who has it
	aboutSecret   = "secret"   // a secret's name: its version
	aboutArtifact = "artifact" // the sum and the path or address of an artifact: what is there
)

func (c *compiler) note(kind, what string) {
	if c.looked != nil {
		c.looked[kind+" "+what] = true
	}
}

// merge notes what was looked at for something that is asked a second time.
func (c *compiler) merge(looked map[string]bool) {
	if c.looked != nil {
		maps.Copy(c.looked, looked)
	}
}

// look gives a functionality to one that reads of it; nil if there is none.
func (c *compiler) look(full string) *function {
	c.note(aboutFace, full)
	return c.funcs[full]
}

// everywhere lists the functionalities of a name in all libraries, sorted.
func (c *compiler) everywhere(name string) []string {
	c.note(aboutName, name)
	if c.bare == nil {
		c.bare = map[string][]string{}
		for _, full := range c.names() {
			last := full[strings.LastIndexByte(full, '/')+1:]
			c.bare[last] = append(c.bare[last], full)
		}
	}
	return c.bare[name]
}

func (c *compiler) secret(name string) string {
	c.note(aboutSecret, name)
	return c.in.Secrets[name]
}

func (c *compiler) artifact(t token.Token) (plan.Artifact, error) {
	c.note(aboutArtifact, t.Arg+" "+t.Name)
	return c.in.Artifact(t)
}

// unknown answers a question that a sketch cannot live with. No answer equals it.
const unknown = ""

// answer tells what a question comes to now.
func (c *compiler) answer(question string) string {
	kind, what, _ := strings.Cut(question, " ")
	switch kind {
	case aboutFace:
		f := c.funcs[what]
		if f == nil {
			return "none"
		}
		return c.faceOf(f)
	case aboutName:
		return "by " + strings.Join(c.everywhere(what), " ")
	case aboutSecret:
		return "version " + c.in.Secrets[what]
	case aboutArtifact:
		sum, name, _ := strings.Cut(what, " ")
		a, err := c.in.Artifact(token.Token{Kind: token.Artifact, Name: name, Arg: sum})
		if err != nil {
			return unknown
		}
		return text(a)
	}
	return unknown
}

// faceOf is all that others can read of a functionality. Of what is more than
// one ordinary service that may be anything.
func (c *compiler) faceOf(f *function) string {
	switch full := f.full(); {
	case f.err != nil || f.fn == nil:
		return unknown
	case f.ordinary():
		return text(struct {
			Place graph.Place
			Face  Interface
		}{f.fn.Place, f.parts[0].face})
	case c.in.Values[full] == "":
		return unknown
	default:
		return "value " + string(c.in.Values[full])
	}
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data always encodes
	}
	return string(raw)
}

// plain are the fields of a functionality that a sketch knows how to stand for.
var plain = map[string]bool{"Service": true, "Requires": true, "Connects": true, "After": true, "Place": true, "Backend": true, "FQDN": true, "Systemd": true, "Docker": true, "EC2": true}

// ordinary tells whether it is one service, of one shape, and says nothing
// besides that a sketch does not know.
func (f *function) ordinary() bool {
	if f.sketch != nil {
		return true
	}
	v := reflect.ValueOf(f.fn).Elem()
	for i := range v.NumField() {
		if !plain[v.Type().Field(i).Name] && !v.Field(i).IsZero() {
			return false
		}
	}
	return len(f.parts) == 1 && len(f.variants) == 0
}

// function is what stands in for the functionality that s was made of.
func (s *Summary) function(lib, name string, value json.RawMessage) *function {
	f := &function{lib: lib, name: name, value: value, sketch: s, fn: &Functionality{Place: s.Place, Backend: s.Backend, FQDN: s.FQDN}}
	f.parts = []*part{{face: s.Interface, options: s.Options, with: s.With, path: f.path(),
		requires: s.Requires, connects: s.Connects, after: s.After,
		spec: graph.Spec{Ports: s.Interface.Ports, Labels: s.Interface.Labels, Dirs: s.Interface.Dirs, Schedule: s.Schedule}}}
	return f
}

// stands tells whether all that was looked at answers as it did.
func (c *compiler) stands(f *function) bool {
	i := slices.IndexFunc(f.sketch.Dependencies, func(l Dependency) bool { return c.answer(l.Question) != l.Answer })
	if i < 0 {
		return true
	}
	kind, what, _ := strings.Cut(f.sketch.Dependencies[i].Question, " ")
	switch kind {
	case aboutFace:
		what = "what others see of " + what
	case aboutName:
		what = "who is called " + what
	case aboutSecret:
		what = "the version of secret " + what
	case aboutArtifact:
		_, what, _ = strings.Cut(what, " ")
	}
	c.fell[f.full()] = what + " changed"
	return false
}

// sketches makes those of what can have one.
func (c *compiler) sketches() map[string]*Summary {
	if c.in.Values == nil {
		return nil
	}
	out := make(map[string]*Summary, len(c.funcs))
	for full, f := range c.funcs {
		if f.sketch != nil {
			out[full] = f.sketch
			continue
		}
		if f.err != nil || f.fn == nil || f.lib == "" || !f.ordinary() || f.folded || f.fn.Backend == "ec2" || c.in.Values[full] == "" {
			continue
		}
		p := f.parts[0]
		if len(p.spec.HostFiles) > 0 {
			continue
		}
		s := &Summary{Value: c.in.Values[full], Backend: f.fn.Backend, Options: p.options, FQDN: f.fn.FQDN, Place: f.fn.Place, With: p.with, Interface: p.face,
			Schedule: p.spec.Schedule, Requires: p.requires, Connects: p.connects, After: p.after}
		for _, q := range slices.Sorted(maps.Keys(f.looked)) {
			s.Dependencies = append(s.Dependencies, Dependency{q, c.answer(q)})
		}
		if !slices.ContainsFunc(s.Dependencies, func(l Dependency) bool { return l.Answer == unknown }) {
			out[full] = s
		}
	}
	return out
}
