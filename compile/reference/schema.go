package reference

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/internal/token"
)

// ID identifies the schema. Its version changes when a valid value becomes invalid.
const ID = "https://defx.dev/schema/v1.json"

var textType = reflect.TypeFor[token.Text]()

type object = map[string]any

// Schema returns the contract as JSON Schema, draft 2020-12. Its root is the entry file's value
// as `defx eval` prints it; each type of object is in $defs.
func Schema() ([]byte, error) {
	defs := object{"text": text(), "value": value()}
	for _, t := range Types() {
		s := object{
			"type":                 "object",
			"additionalProperties": false,
			"patternProperties":    object{"^#": true},
		}
		props := object{}
		var required []any
		for _, f := range t.Fields {
			p := of(f.Go, f.Tag, f.Name)
			if f.Required() {
				required = append(required, f.Name)
			} else {
				p = orNull(p)
			}
			if f.Doc != "" {
				p["description"] = f.Doc
			}
			if d := f.Tag.Get("default"); d != "" {
				p["default"] = d
			}
			props[f.Name] = p
		}
		s["properties"] = props
		if required != nil {
			s["required"] = required
		}
		if t.Shorthand != "" {
			s = object{"anyOf": []any{of(fieldType(t, t.Shorthand), fieldTag(t, t.Shorthand), t.Shorthand), s}}
		}
		s["description"] = t.Doc
		defs[t.Name] = s
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(object{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"$id":         ID,
		"title":       "A deployment of defx",
		"description": "The value of an entry file, as defx eval prints it. null is the same as an absent field, and fields whose names start with # are documentation.",
		"$ref":        "#/$defs/deployment",
		"$defs":       defs,
	})
	return b.Bytes(), err
}

func fieldType(t Type, name string) reflect.Type {
	for _, f := range t.Fields {
		if f.Name == name {
			return f.Go
		}
	}
	panic("reference: the shorthand of " + t.Name + " is not a field")
}

func fieldTag(t Type, name string) reflect.StructTag {
	for _, f := range t.Fields {
		if f.Name == name {
			return f.Tag
		}
	}
	return ""
}

// text is the schema of a string, or of the JSON form of a string with tokens.
func text() object {
	return object{
		"description": "Text. Values that are only known later are tokens: invisible in a Jsonnet string, and in JSON an object with the list $text.",
		"anyOf": []any{
			object{"type": "string"},
			object{
				"type": "object", "required": []any{"$text"}, "additionalProperties": false,
				"properties": object{"$text": object{"type": "array", "items": object{"anyOf": []any{
					object{"type": "string"},
					object{"type": "object", "required": []any{"kind"}, "properties": object{
						"kind": object{"enum": []any{string(token.Ref), string(token.Secret), string(token.Lookup), string(token.Artifact)}},
					}},
				}}}},
			},
		},
	}
}

// value is the schema of structured content. null in an object is the same as an absent field.
func value() object {
	return object{
		"description":          "A JSON value, without null in lists and without whole numbers beyond ±(2^53−1), which would have lost digits.",
		"type":                 []any{"string", "number", "boolean", "array", "object"},
		"minimum":              -compile.MaxInteger,
		"maximum":              compile.MaxInteger,
		"items":                ref("value"),
		"additionalProperties": object{"anyOf": []any{ref("value"), object{"type": "null"}}},
	}
}

// of returns the schema of a Go type, as the decoder fills it.
func of(t reflect.Type, tag reflect.StructTag, field string) object {
	if s := compile.Shape(t, field); s != nil {
		return s
	}
	if t == textType {
		return ref("text")
	}
	switch t.Kind() {
	case reflect.Pointer:
		return of(t.Elem(), tag, field)
	case reflect.Struct:
		return ref(nameOf(t))
	case reflect.Map:
		values := any(orNull(of(t.Elem(), "", field)))
		if t.Elem().Kind() == reflect.Interface {
			values = true
		}
		return object{"type": "object", "additionalProperties": values, "patternProperties": object{"^#": true}}
	case reflect.Slice:
		return object{"type": "array", "items": of(t.Elem(), "", field)}
	case reflect.String:
		s := object{"type": "string"}
		if words := (Field{Tag: tag}).enum(); words != nil {
			var list []any
			for _, w := range words {
				list = append(list, w)
			}
			s["enum"] = list
		}
		var all []any
		for _, p := range compile.Patterns(tag.Get("format")) {
			all = append(all, object{"pattern": p})
		}
		if all != nil {
			s["allOf"] = all
		}
		return s
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int:
		s := object{"type": "integer", "minimum": -compile.MaxInteger, "maximum": compile.MaxInteger}
		for key, limit := range map[string]string{"min": "minimum", "max": "maximum"} {
			if n, err := strconv.Atoi(tag.Get(key)); err == nil {
				s[limit] = n
			}
		}
		return s
	case reflect.Interface:
		return object{}
	}
	panic("reference: no rule for " + t.String())
}

func ref(name string) object { return object{"$ref": "#/$defs/" + name} }

// orNull returns a schema that also allows null, which is the same as an absent field.
func orNull(s object) object {
	if t, ok := s["type"].(string); ok {
		s["type"] = []any{t, "null"}
		if words, ok := s["enum"].([]any); ok {
			s["enum"] = append(words, nil)
		}
		return s
	}
	if len(s) == 0 {
		return s
	}
	return object{"anyOf": []any{s, object{"type": "null"}}}
}
