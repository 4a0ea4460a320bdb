package reference

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/defx-dev/defx/compile"
)

// step is a field that leads from one object to another.
type step struct {
	in    string // object
	field string
	to    string // the object it leads to
	maps  int    // number of maps in between: each is a name in the path
	list  bool
}

// String returns the step as part of a path.
func (s step) String() string {
	out := s.field
	for range s.maps {
		out += ".NAME"
	}
	if s.list {
		out += "[]"
	}
	return out
}

// steps returns all fields that lead from one object to another.
func steps(types []Type) []step {
	var out []step
	for _, t := range types {
		for _, f := range t.Fields {
			s := step{in: t.Name, field: f.Name}
			g := f.Go
			for !hasForm(g) && g != textType && (g.Kind() == reflect.Pointer || g.Kind() == reflect.Slice || g.Kind() == reflect.Map) {
				switch g.Kind() {
				case reflect.Map:
					s.maps++
				case reflect.Slice:
					s.list = true
				}
				g = g.Elem()
			}
			if g.Kind() == reflect.Struct && !hasForm(g) && g != textType {
				s.to = nameOf(g)
				out = append(out, s)
			}
		}
	}
	return out
}

// paths returns all paths from the deployment to an object.
func paths(name string, all []step) [][]step {
	if name == "deployment" {
		return [][]step{nil}
	}
	var out [][]step
	for _, s := range all {
		if s.to != name {
			continue
		}
		for _, before := range paths(s.in, all) {
			out = append(out, append(before[:len(before):len(before)], s))
		}
	}
	return out
}

func pathString(p []step) string {
	parts := make([]string, len(p))
	for i, s := range p {
		parts[i] = s.String()
	}
	return strings.Join(parts, ".")
}

// Page returns the reference of all fields in Markdown.
func Page() []byte {
	types := Types()
	all := steps(types)
	var b strings.Builder
	b.WriteString(`# The fields

All fields of a deployment. ` + "`defx schema`" + ` prints the same as JSON Schema. This page is generated from
the types that defx decodes into, and a test evaluates each example (` + "`defx` is\n`import 'defx/v1.libsonnet'`" + `).

` + "`null`" + ` is the same as an absent field, fields whose names start with ` + "`#`" + ` are documentation, and an
unknown field is an error. A *text* may contain values that are only known later
(` + "`defx.dep('db').host`" + `); a *string* may not.

*Digest* is what a change of the field does: **run** restarts the service, **reload** makes it read its
files again, **meta** is recorded without touching the process, **none** has no effect on running
services.
`)
	for _, t := range types {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", t.Name, doc(t))
		if ps := paths(t.Name, all); len(ps[0]) > 0 {
			var at []string
			for _, p := range ps {
				at = append(at, "`"+pathString(p)+"`")
			}
			fmt.Fprintf(&b, "At %s.\n\n", strings.Join(at, ", "))
		}
		if t.Shorthand != "" {
			fmt.Fprintf(&b, "A single value is short for `{ %s: value }`.\n\n", t.Shorthand)
		}
		b.WriteString("| field | type | default | digest | meaning | example |\n|---|---|---|---|---|---|\n")
		for _, f := range t.Fields {
			def := f.Tag.Get("default")
			if f.Required() {
				def = "*required*"
			} else if def != "" {
				def = "`" + def + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | `%s` |\n", f.Name, cell(f.typeWords()), def, cell(f.Digest), cell(f.Doc), cell(examples[t.Name+"."+f.Name].value))
		}
	}
	return []byte(b.String())
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// doc returns a type's comment without the Go name at its start.
func doc(t Type) string {
	s := strings.TrimPrefix(t.Doc, t.Go.Name()+" ")
	for _, verb := range []string{"is ", "are "} {
		if rest, ok := strings.CutPrefix(s, verb); ok {
			s = rest
			break
		}
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// typeWords returns a field's type for people, with unit, range and allowed values.
func (f Field) typeWords() string {
	if words := f.enum(); words != nil {
		return "`'" + strings.Join(words, "'` or `'") + "'`"
	}
	switch f.Tag.Get("format") {
	case "duration":
		return "duration: `500ms`, `30s`, `2h`"
	case "memory":
		return "bytes: `512Mi`, `2G`"
	case "cpu":
		return "cores: `0.5`"
	case "cron":
		return "cron: five fields"
	}
	w := typeWords(f.Go, f.Name)
	lo, hi := f.Tag.Get("min"), f.Tag.Get("max")
	switch {
	case lo != "" && hi != "":
		w += " from " + lo + " to " + hi
	case lo != "":
		w += " from " + lo
	}
	return w
}

func typeWords(t reflect.Type, field string) string {
	if s := compile.Shape(t, field); s != nil {
		w, _ := s["title"].(string)
		return w
	}
	if t == textType {
		return "text"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeWords(t.Elem(), field)
	case reflect.Struct:
		return "[" + nameOf(t) + "](#" + strings.ToLower(nameOf(t)) + ")"
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return "object"
		}
		return "name → " + typeWords(t.Elem(), field)
	case reflect.Slice:
		return "list of " + typeWords(t.Elem(), field)
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "whole number"
	}
	return "anything"
}
