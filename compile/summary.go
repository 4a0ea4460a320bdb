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

// A functionality is decoded and resolved again only if one of its inputs changed: its own
// value, or an answer to a question about others. Every question goes through the functions
// below, which record it as a dependency. So a summary is valid if every recorded question
// still has the same answer.
//
// The rest of the entry file is not a recorded dependency: a summary is only valid for one
// entry file, one lock of images and one version of the program. The owner of the memo ensures
// this.

// Summary is the memoized part of a simple functionality (one service without set expressions):
// what others read of it, without what only itself and its backend read.
type Summary struct {
	Value                     digest.Digest // of the value that it was decoded from
	Backend                   string
	Options                   json.RawMessage
	FQDN                      string
	Place                     graph.Place // including the entry's defaults
	With                      string      // the set with which it shares its machine (place.with)
	Interface                 Interface
	Schedule                  *graph.Schedule
	Limits                    *graph.Limits
	Requires, Connects, After []graph.Edge // without To
	Dependencies              []Dependency // sorted
}

// Dependency is a question about another functionality, and its answer.
type Dependency struct{ Question, Answer string }

// Kinds of questions. A question is the kind, a space and its argument.
const (
	aboutInterface = "interface" // lib/name: its interface
	aboutName      = "name"      // a name without library: the functionalities with this name
	aboutSecret    = "secret"    // name of a secret: its version
	aboutArtifact  = "artifact"  // sum and path or URL of an artifact: its content
)

func (c *compiler) recordDep(kind, what string) {
	if c.deps != nil {
		c.deps[kind+" "+what] = true
	}
}

// mergeDeps records dependencies that were recorded before.
func (c *compiler) mergeDeps(deps map[string]bool) {
	if c.deps != nil {
		maps.Copy(c.deps, deps)
	}
}

// dependOn returns a functionality, or nil, and records the dependency on its interface.
func (c *compiler) dependOn(full string) *function {
	c.recordDep(aboutInterface, full)
	return c.funcs[full]
}

// lookupByName returns the full names of all functionalities with a name, sorted.
func (c *compiler) lookupByName(name string) []string {
	c.recordDep(aboutName, name)
	if c.byName == nil {
		c.byName = map[string][]string{}
		for _, full := range c.names() {
			last := full[strings.LastIndexByte(full, '/')+1:]
			c.byName[last] = append(c.byName[last], full)
		}
	}
	return c.byName[name]
}

func (c *compiler) secret(name string) string {
	c.recordDep(aboutSecret, name)
	return c.in.Secrets[name]
}

func (c *compiler) artifact(t token.Token) (plan.Artifact, error) {
	c.recordDep(aboutArtifact, t.Arg+" "+t.Name)
	return c.in.Artifact(t)
}

// unknown is an answer that invalidates a summary: it equals no recorded answer.
const unknown = ""

// currentAnswer returns the answer to a question in this run.
func (c *compiler) currentAnswer(question string) string {
	kind, what, _ := strings.Cut(question, " ")
	switch kind {
	case aboutInterface:
		f := c.funcs[what]
		if f == nil {
			return "none"
		}
		return c.interfaceOf(f)
	case aboutName:
		return "by " + strings.Join(c.lookupByName(what), " ")
	case aboutSecret:
		return "version " + c.in.Secrets[what]
	case aboutArtifact:
		sum, name, _ := strings.Cut(what, " ")
		a, err := c.in.Artifact(token.Token{Kind: token.Artifact, Name: name, Arg: sum})
		if err != nil {
			return unknown
		}
		return mustJSON(a)
	}
	return unknown
}

// interfaceOf encodes what others can read of a functionality. If it is not simple, that can be
// anything, so its whole value counts.
func (c *compiler) interfaceOf(f *function) string {
	switch full := f.fullName(); {
	case f.err != nil || f.fn == nil:
		return unknown
	case f.isSimple():
		return mustJSON(struct {
			Place     graph.Place
			Interface Interface
		}{f.fn.Place, f.members[0].iface})
	case c.in.Values[full] == "":
		return unknown
	default:
		return "value " + string(c.in.Values[full])
	}
}

func mustJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data always encodes
	}
	return string(raw)
}

// summarizedFields are the fields of a functionality that a summary can represent.
var summarizedFields = map[string]bool{"Service": true, "Requires": true, "Connects": true, "After": true, "Place": true, "Backend": true, "FQDN": true, "Systemd": true, "Docker": true, "EC2": true}

// isSimple reports whether f is one service with one configuration and only fields that a
// summary can represent.
func (f *function) isSimple() bool {
	if f.summary != nil {
		return true
	}
	v := reflect.ValueOf(f.fn).Elem()
	for i := range v.NumField() {
		if !summarizedFields[v.Type().Field(i).Name] && !v.Field(i).IsZero() {
			return false
		}
	}
	return len(f.members) == 1 && len(f.patchedReplicas) == 0
}

// function returns the function that replaces decoding and resolving.
func (s *Summary) function(lib, name string, value json.RawMessage) *function {
	f := &function{lib: lib, name: name, value: value, summary: s, fn: &Functionality{Place: s.Place, Backend: s.Backend, FQDN: s.FQDN}}
	f.members = []*memberConfig{{iface: s.Interface, options: s.Options, with: s.With, path: f.path(),
		requires: s.Requires, connects: s.Connects, after: s.After,
		spec: graph.Spec{Ports: s.Interface.Ports, Labels: s.Interface.Labels, Dirs: s.Interface.Dirs, User: s.Interface.User, Schedule: s.Schedule, Limits: s.Limits}}}
	return f
}

// isValid reports whether all recorded questions have the same answers in this run.
func (c *compiler) isValid(f *function) bool {
	i := slices.IndexFunc(f.summary.Dependencies, func(l Dependency) bool { return c.currentAnswer(l.Question) != l.Answer })
	if i < 0 {
		return true
	}
	kind, what, _ := strings.Cut(f.summary.Dependencies[i].Question, " ")
	switch kind {
	case aboutInterface:
		what = "the interface of " + what
	case aboutName:
		what = "the functionalities named " + what
	case aboutSecret:
		what = "the version of secret " + what
	case aboutArtifact:
		_, what, _ = strings.Cut(what, " ")
	}
	c.invalidated[f.fullName()] = what + " changed"
	return false
}

// sharesDir reports whether a directory of another service is among some.
func sharesDir(d graph.Dirs) bool {
	return slices.ContainsFunc(graph.DirKinds, func(kind string) bool { return d.Kind(kind).Of != "" })
}

// summaries returns the summaries of the functionalities that can have one.
func (c *compiler) summaries() map[string]*Summary {
	if c.in.Values == nil {
		return nil
	}
	out := make(map[string]*Summary, len(c.funcs))
	for full, f := range c.funcs {
		if f.summary != nil {
			out[full] = f.summary
			continue
		}
		if f.err != nil || f.fn == nil || f.lib == "" || !f.isSimple() || f.usesSets || f.fn.Backend == "ec2" || c.in.Values[full] == "" {
			continue
		}
		p := f.members[0]
		if len(p.spec.HostFiles) > 0 || sharesDir(p.spec.Dirs) {
			continue
		}
		s := &Summary{Value: c.in.Values[full], Backend: f.fn.Backend, Options: p.options, FQDN: f.fn.FQDN, Place: f.fn.Place, With: p.with, Interface: p.iface,
			Schedule: p.spec.Schedule, Limits: p.spec.Limits, Requires: p.requires, Connects: p.connects, After: p.after}
		for _, q := range slices.Sorted(maps.Keys(f.deps)) {
			s.Dependencies = append(s.Dependencies, Dependency{q, c.currentAnswer(q)})
		}
		if !slices.ContainsFunc(s.Dependencies, func(l Dependency) bool { return l.Answer == unknown }) {
			out[full] = s
		}
	}
	return out
}
