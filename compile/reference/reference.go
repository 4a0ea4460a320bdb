// Package reference describes the contract of libraries and the entry file, as JSON Schema for
// programs and as a page for people.
//
// Both are generated from the Go types that package compile decodes into, with their tags and
// field comments, which are embedded as source. So the decoder, the schema and the page cannot
// disagree. It knows types and their descriptions. It refuses to know values: only package
// compile decides whether names resolve and whether fields go together.
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

// Deployment is the value of an entry file. An entry file may be a function of env and other
// arguments. A library may be a function without arguments.
type Deployment struct {
	compile.Entry
	Libs       map[string]map[string]compile.Functionality `json:"libs"`       // name → library, which maps names to functionalities; each library is evaluated separately
	Overrides  map[string]any                              `json:"overrides"`  // lib/name → patch, added to the functionality with + during evaluation
	Transforms []map[string]any                            `json:"transforms"` // list of { each: function(f) } or { all: function(map) }, applied in order to the functionalities without errors
}

//go:embed reference.go
var source string

// Type is an object of the contract.
type Type struct {
	Name      string // name in the schema and on the page
	Doc       string
	Go        reflect.Type
	Shorthand string // field that a scalar may replace; empty if none
	Fields    []Field
}

// Field is one field of an object.
type Field struct {
	Name   string
	Doc    string
	Digest string // run, reload, meta or none, with exceptions; inherited from the field that holds the object
	Go     reflect.Type
	Tag    reflect.StructTag
}

// Required reports whether an object without this field is an error.
func (f Field) Required() bool { return f.Tag.Get("required") == "true" }

// Types returns the objects of the contract, each before those in its fields.
func Types() []Type {
	docs := comments()
	var out []Type
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(t reflect.Type) {
		t = inner(t)
		if t.Kind() != reflect.Struct || hasForm(t) || t == textType || seen[t] {
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

// inherit sets Digest of fields that do not set it to that of the field that holds their
// object. Types must be sorted so that holders come first.
func inherit(types []Type) {
	holderDigest := map[string]string{}
	for _, t := range types {
		for i := range t.Fields {
			f := &t.Fields[i]
			if f.Digest == "" {
				f.Digest = holderDigest[t.Name]
			}
			if in := inner(f.Go); in.Kind() == reflect.Struct && in != textType && !hasForm(in) && holderDigest[nameOf(in)] == "" {
				holderDigest[nameOf(in)], _, _ = strings.Cut(f.Digest, ", but")
			}
		}
	}
}

// inner returns the element type behind pointers, lists and maps.
func inner(t reflect.Type) reflect.Type {
	for !hasForm(t) && t != textType && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
		t = t.Elem()
	}
	return t
}

// hasForm reports whether a type has its own decoding.
func hasForm(t reflect.Type) bool { return compile.Shape(t, "") != nil }

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
		digest, doc := splitDigest(docs[key(t)+"."+f.Name])
		out = append(out, Field{Name: name, Doc: doc, Digest: digest, Go: f.Type, Tag: f.Tag})
	}
	return out
}

var digestWord = regexp.MustCompile(`^((?:run|reload|meta|none)\b[^:]*): `)

// splitDigest splits a comment at the colon into what a change does to the digest, and the
// description.
func splitDigest(comment string) (digest, doc string) {
	m := digestWord.FindStringSubmatch(comment)
	if m == nil {
		return "", comment
	}
	return m[1], comment[len(m[0]):]
}

// nameOf returns the contract's name of a Go type.
func nameOf(t reflect.Type) string {
	if t == reflect.TypeFor[graph.Spec]() {
		return "service"
	}
	return strings.ToLower(t.Name()[:1]) + t.Name()[1:]
}

// key returns the name of a Go type, as comments returns it.
func key(t reflect.Type) string { return path.Base(t.PkgPath()) + "." + t.Name() }

// comments returns the comments of types ("graph.Place") and fields ("graph.Place.Pool").
func comments() map[string]string {
	out := map[string]string{}
	for i, src := range append(compile.Sources(), source) {
		file, err := parser.ParseFile(token.NewFileSet(), fmt.Sprintf("source%d.go", i), src, parser.ParseComments)
		if err != nil {
			panic(err) // the source was compiled
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
				about, _, _ := strings.Cut(g.Doc.Text(), "\n\n") // later paragraphs are for readers of the source
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

// enum returns the allowed values of a field; nil if any value is allowed.
func (f Field) enum() []string {
	if e := f.Tag.Get("enum"); e != "" {
		return slices.Clone(strings.Split(e, ","))
	}
	return nil
}
