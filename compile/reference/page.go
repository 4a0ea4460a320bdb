package reference

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/defx-dev/defx/compile"
)

// step leads from an object to one that a field of it holds.
type step struct {
	in    string // object
	field string
	to    string // the object it leads to
	maps  int    // how many maps lie between: each is a name in the path
	list  bool
}

// String is the step as a path has it.
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

// steps lists how the fields of the contract lead from object to object.
func steps(types []Type) []step {
	var out []step
	for _, t := range types {
		for _, f := range t.Fields {
			s := step{in: t.Name, field: f.Name}
			g := f.Go
			for !shaped(g) && g != textType && (g.Kind() == reflect.Pointer || g.Kind() == reflect.Slice || g.Kind() == reflect.Map) {
				switch g.Kind() {
				case reflect.Map:
					s.maps++
				case reflect.Slice:
					s.list = true
				}
				g = g.Elem()
			}
			if g.Kind() == reflect.Struct && !shaped(g) && g != textType {
				s.to = nameOf(g)
				out = append(out, s)
			}
		}
	}
	return out
}

// paths are the ways from the deployment to an object, the first ones shortest.
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

// Page is the reference of all fields in Markdown.
func Page() []byte {
	types := Types()
	all := steps(types)
	var b strings.Builder
	b.WriteString(`# The fields

What a deployment may say, field by field. ` + "`defx schema`" + ` says the same to programs. The page is made of the types that
defx decodes into, and each example is evaluated by a test (` + "`defx` is `import 'defx/v1.libsonnet'`" + `).

` + "`null`" + ` is absence everywhere, fields whose names begin with ` + "`#`" + ` are documentation, and an unknown field is an error. In *text* a value may
stand that is known only later (` + "`defx.dep('db').host`" + `); a *string* must be known.

*Digest* tells what a change of the field does: **run** restarts the service, **reload** lets it read its files again, **meta** is taken over in
silence, **none** concerns no running service.
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
			fmt.Fprintf(&b, "A lone value stands for `{ %s: value }`.\n\n", t.Shorthand)
		}
		b.WriteString("| field | type | default | digest | meaning | example |\n|---|---|---|---|---|---|\n")
		for _, f := range t.Fields {
			def := f.Tag.Get("default")
			if f.Required() {
				def = "*required*"
			} else if def != "" {
				def = "`" + def + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | `%s` |\n", f.Name, cell(f.words()), def, cell(f.Digest), cell(f.Doc), cell(examples[t.Name+"."+f.Name].value))
		}
	}
	return []byte(b.String())
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// doc is a type's comment without the Go name that it begins with.
func doc(t Type) string {
	s := strings.TrimPrefix(t.Doc, t.Go.Name()+" ")
	for _, verb := range []string{"is ", "says ", "are "} {
		if rest, ok := strings.CutPrefix(s, verb); ok {
			s = rest
			break
		}
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// words is a field's type as people say it, with unit, range and words allowed.
func (f Field) words() string {
	if words := f.enum(); words != nil {
		return "`'" + strings.Join(words, "'` or `'") + "'`"
	}
	switch f.Tag.Get("format") {
	case "duration":
		return "duration: `500ms`, `30s`, `2h`"
	case "size":
		return "bytes: `512Mi`, `2G`"
	case "cpu":
		return "cores: `0.5`"
	case "cron":
		return "cron: five fields"
	}
	w := words(f.Go, f.Name)
	lo, hi := f.Tag.Get("min"), f.Tag.Get("max")
	switch {
	case lo != "" && hi != "":
		w += " from " + lo + " to " + hi
	case lo != "":
		w += " from " + lo
	}
	return w
}

func words(t reflect.Type, field string) string {
	if s := compile.Shape(t, field); s != nil {
		w, _ := s["title"].(string)
		return w
	}
	if t == textType {
		return "text"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return words(t.Elem(), field)
	case reflect.Struct:
		return "[" + nameOf(t) + "](#" + strings.ToLower(nameOf(t)) + ")"
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return "object"
		}
		return "name → " + words(t.Elem(), field)
	case reflect.Slice:
		return "list of " + words(t.Elem(), field)
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "whole number"
	}
	return "anything"
}
