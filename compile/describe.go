package compile

import (
	_ "embed"
	"reflect"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/size"
	"github.com/defx-dev/defx/internal/token"
)

//go:embed schema.go
var schemaSource string

// Sources returns the Go files that declare the types of the contract. The generated reference
// takes its descriptions from the comments of their fields.
func Sources() []string { return []string{schemaSource, graph.Source} }

// MaxInteger is the largest whole number; the smallest is −MaxInteger.
const MaxInteger = maxInteger

type schema = map[string]any

// schemaForms are the JSON Schemas of types with their own decoding: each describes what the
// type's decodeValue, or its function in customDecoders, accepts. field is the field that holds
// the value; title is the type as people read it.
var schemaForms = map[reflect.Type]func(field string) schema{
	reflect.TypeFor[Aliases]():        aliasesForm,
	reflect.TypeFor[Resource]():       resourceForm,
	reflect.TypeFor[token.Doc]():      docForm,
	reflect.TypeFor[graph.Replicas](): replicasForm,
	reflect.TypeFor[graph.Setting]():  settingForm,
}

// Shape returns the JSON Schema of a type with its own decoding; nil if its Go type is enough.
func Shape(t reflect.Type, field string) map[string]any {
	if f := schemaForms[t]; f != nil {
		return f(field)
	}
	return nil
}

// docFields are documentation fields, which are ignored.
var docFields = schema{"^#": true}

func aliasesForm(field string) schema {
	title, target := "list of names, or object alias → name", schema{"type": []any{"string", "null"}}
	if field == "connects" {
		one := func(set, other string) schema {
			return schema{
				"properties":           schema{set: schema{"type": "string", "minLength": 1}, other: schema{"enum": []any{"", nil}}},
				"required":             []any{set},
				"additionalProperties": false, "patternProperties": docFields,
			}
		}
		title = "list of names, or object alias → name or selection"
		target = schema{"anyOf": []any{target, schema{
			"type": "object", "required": []any{"all"}, "additionalProperties": false, "patternProperties": docFields,
			"properties": schema{"all": schema{"type": "object", "anyOf": []any{one("port", "label"), one("label", "port")}}},
		}}}
	}
	return schema{"title": title, "anyOf": []any{
		schema{"type": "array", "items": schema{"type": "string"}},
		schema{"type": "object", "additionalProperties": target, "patternProperties": docFields},
	}}
}

func resourceForm(string) schema {
	return schema{"title": "object: `type`, and the fields of that type", "type": "object", "required": []any{"type"},
		"properties": schema{"type": schema{"type": "string"}}, "patternProperties": docFields,
		"additionalProperties": schema{"anyOf": []any{schema{"$ref": "#/$defs/value"}, schema{"type": "null"}}}}
}

func docForm(string) schema {
	return schema{"title": "JSON value; its strings may contain tokens", "$ref": "#/$defs/value"}
}

func replicasForm(string) schema {
	return schema{"title": "whole number, or name → patch", "anyOf": []any{
		schema{"type": "integer", "minimum": 0, "maximum": maxReplicas},
		schema{"type": "object", "patternProperties": docFields, "additionalProperties": true},
	}}
}

func settingForm(string) schema {
	return schema{"title": "one-line string, or whole number", "anyOf": []any{
		schema{"type": "integer", "minimum": -maxInteger, "maximum": maxInteger},
		schema{"type": "string", "pattern": `^[^\n\r\x00]+$`},
	}}
}

// Shorthand returns the field that a scalar may replace; "" if there is none.
func Shorthand(t reflect.Type) string { return shorthands[t].field }

// Patterns returns regular expressions that all values of a format match, in the syntax that Go
// and JSON Schema share; nil if a regular expression cannot decide.
func Patterns(format string) []string {
	switch format {
	case "duration": // what time.ParseDuration accepts; at least one digit is not 0
		return []string{`^\+?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`, `[1-9]`}
	case "memory":
		return size.MemoryPatterns()
	case "cpu":
		return size.CoresPatterns()
	}
	return nil
}
