// Package reference describes the contract of libraries and of the entry file:
// as JSON Schema for programs and as a page for people.
//
// Both come from one walk over the Go types that the decoder of compile fills,
// with their tags and the comments of their fields, which are embedded as
// source. So what is decoded, what the schema says and what the page says is
// written once. It knows types and words. It refuses to know values: whether
// names resolve and whether fields go together, compile alone decides.
package reference

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
)

// Deployment is the whole value of an entry file. It may be a function of env and
// other arguments. A library may be a function without arguments.
type Deployment struct {
	compile.Entry
	Libs       map[string]map[string]compile.Functionality `json:"libs"`       // name → library, which maps names to functionalities; each is evaluated by itself
	Overrides  map[string]any                              `json:"overrides"`  // lib/name → patch, added to the functionality with + inside evaluation
	Transforms []map[string]any                            `json:"transforms"` // each { each: function(f) } or { all: function(map) }, applied in order to what evaluated
}

//go:embed reference.go
var source string

// Type is an object of the contract.
type Type struct {
	Name      string // as the schema and the page call it
	Doc       string
	Go        reflect.Type
	Shorthand string // field that a scalar may stand for; empty if none
	Fields    []Field
}

// Field is one field of an object.
type Field struct {
	Name   string
	Doc    string
	Digest string // run, reload, meta or none, with its exceptions; that of the field that holds the object if it says none
	Go     reflect.Type
	Tag    reflect.StructTag
}

// Required tells whether an object without this field is a mistake.
func (f Field) Required() bool { return f.Tag.Get("required") == "true" }

// Types lists the objects of the contract, each before those that its fields hold.
func Types() []Type {
	docs := comments()
	var out []Type
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(t reflect.Type) {
		t = inner(t)
		if t.Kind() != reflect.Struct || shaped(t) || t == textType || seen[t] {
			return
		}
		seen[t] = true
		d := Type{Name: nameOf(t), Doc: docs[key(t)], Go: t, Shorthand: compile.Shorthand(t), Fields: fields(t, docs)}
		out = append(out, d)
		for _, f := range d.Fields {
			visit(f.Go)
		}
	}
	visit(reflect.TypeFor[Deployment]())
	inherit(out)
	return out
}

// inherit gives fields that say nothing of the digest what is said of the
// field that holds their object. A holder stands before what it holds.
func inherit(types []Type) {
	held := map[string]string{}
	for _, t := range types {
		for i := range t.Fields {
			f := &t.Fields[i]
			if f.Digest == "" {
				f.Digest = held[t.Name]
			}
			if in := inner(f.Go); in.Kind() == reflect.Struct && in != textType && !shaped(in) && held[nameOf(in)] == "" {
				held[nameOf(in)], _, _ = strings.Cut(f.Digest, ", but")
			}
		}
	}
}

// inner is the type of the values that pointers, lists and maps lead to.
func inner(t reflect.Type) reflect.Type {
	for !shaped(t) && t != textType && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
		t = t.Elem()
	}
	return t
}

// shaped tells whether a type is decoded in its own way.
func shaped(t reflect.Type) bool { return compile.Shape(t, "") != nil }

func fields(t reflect.Type, docs map[string]string) []Field {
	var out []Field
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			out = append(out, fields(f.Type, docs)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		digest, doc := word(docs[key(t)+"."+f.Name])
		out = append(out, Field{Name: name, Doc: doc, Digest: digest, Go: f.Type, Tag: f.Tag})
	}
	return out
}

var digestWord = regexp.MustCompile(`^((?:run|reload|meta|none)\b[^:]*): `)

// word takes from a comment what stands before the colon, if that says how the digest knows the field.
func word(comment string) (digest, doc string) {
	m := digestWord.FindStringSubmatch(comment)
	if m == nil {
		return "", comment
	}
	return m[1], comment[len(m[0]):]
}

// nameOf is what the contract calls a Go type.
func nameOf(t reflect.Type) string {
	if t == reflect.TypeFor[graph.Spec]() {
		return "service"
	}
	return strings.ToLower(t.Name()[:1]) + t.Name()[1:]
}

// key names a Go type as the sources of both packages do.
func key(t reflect.Type) string { return path.Base(t.PkgPath()) + "." + t.Name() }

// comments reads what the sources say of types ("graph.Place") and of fields ("graph.Place.Pool").
func comments() map[string]string {
	out := map[string]string{}
	for i, src := range append(compile.Sources(), source) {
		file, err := parser.ParseFile(token.NewFileSet(), fmt.Sprintf("source%d.go", i), src, parser.ParseComments)
		if err != nil {
			panic(err) // it was compiled
		}
		for _, decl := range file.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				t, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				s, ok := t.Type.(*ast.StructType)
				if !ok {
					continue
				}
				name := file.Name.Name + "." + t.Name.Name
				about, _, _ := strings.Cut(g.Doc.Text(), "\n\n") // what follows is for those who read the source
				out[name] = flat(about)
				for _, f := range s.Fields.List {
					for _, n := range f.Names {
						out[name+"."+n.Name] = flat(f.Doc.Text() + f.Comment.Text())
					}
				}
			}
		}
	}
	return out
}

func flat(s string) string { return strings.Join(strings.Fields(s), " ") }

// enum is the list of words that a field may hold; nil if any.
func (f Field) enum() []string {
	if e := f.Tag.Get("enum"); e != "" {
		return slices.Clone(strings.Split(e, ","))
	}
	return nil
}
