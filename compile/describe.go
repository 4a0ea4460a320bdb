package compile

import (
	_ "embed"
	"reflect"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

//go:embed schema.go
var source string

// Sources are the Go files that declare the types of the contract. Whoever
// describes a field to users reads its comment here, so that there is one place.
func Sources() []string { return []string{source, graph.Source} }

// MaxInteger bounds whole numbers on both sides of 0.
const MaxInteger = maxInteger

type schema = map[string]any

// shapes are the forms of types that are decoded in their own way, as JSON
// Schema: each says what its decodeValue, or its function in foreign, takes.
// field is the field that holds the value; title is what people read as its type.
var shapes = map[reflect.Type]func(field string) schema{
	reflect.TypeFor[Aliases]():        aliasesShape,
	reflect.TypeFor[Resource]():       resourceShape,
	reflect.TypeFor[token.Doc]():      docShape,
	reflect.TypeFor[graph.Replicas](): replicasShape,
	reflect.TypeFor[graph.Setting]():  settingShape,
}

// Shape is the form of a type that is decoded in its own way; nil if its Go type says it.
func Shape(t reflect.Type, field string) map[string]any {
	if f := shapes[t]; f != nil {
		return f(field)
	}
	return nil
}

// documentation are fields that nobody reads.
var documentation = schema{"^#": true}

func aliasesShape(field string) schema {
	title, target := "list of names, or object alias → name", schema{"type": []any{"string", "null"}}
	if field == "connects" {
		one := func(set, other string) schema {
			return schema{
				"properties":           schema{set: schema{"type": "string", "minLength": 1}, other: schema{"enum": []any{"", nil}}},
				"required":             []any{set},
				"additionalProperties": false, "patternProperties": documentation,
			}
		}
		title = "list of names, or object alias → name or selection"
		target = schema{"anyOf": []any{target, schema{
			"type": "object", "required": []any{"all"}, "additionalProperties": false, "patternProperties": documentation,
			"properties": schema{"all": schema{"type": "object", "anyOf": []any{one("port", "label"), one("label", "port")}}},
		}}}
	}
	return schema{"title": title, "anyOf": []any{
		schema{"type": "array", "items": schema{"type": "string"}},
		schema{"type": "object", "additionalProperties": target, "patternProperties": documentation},
	}}
}

func resourceShape(string) schema {
	return schema{"title": "object of its type and the fields of that", "type": "object", "required": []any{"type"},
		"properties": schema{"type": schema{"type": "string"}}, "patternProperties": documentation,
		"additionalProperties": schema{"anyOf": []any{schema{"$ref": "#/$defs/value"}, schema{"type": "null"}}}}
}

func docShape(string) schema {
	return schema{"title": "value of JSON, its texts may hold tokens", "$ref": "#/$defs/value"}
}

func replicasShape(string) schema {
	return schema{"title": "whole number, or name → patch", "anyOf": []any{
		schema{"type": "integer", "minimum": 0, "maximum": maxReplicas},
		schema{"type": "object", "patternProperties": documentation, "additionalProperties": true},
	}}
}

func settingShape(string) schema {
	return schema{"title": "string of one line, or whole number", "anyOf": []any{
		schema{"type": "integer", "minimum": -maxInteger, "maximum": maxInteger},
		schema{"type": "string", "pattern": `^[^\n\r\x00]+$`},
	}}
}

// Shorthand tells which field of an object a scalar may stand for; "" if none.
func Shorthand(t reflect.Type) string { return shorthands[t].field }

// Patterns are the forms that texts of a format have, as regular expressions
// which Go and JSON Schema read alike; nil if a look at the text alone does not decide.
func Patterns(format string) []string {
	switch format {
	case "duration": // what time.ParseDuration takes; some digit is not 0
		return []string{`^\+?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`, `[1-9]`}
	case "size":
		return []string{sizeRE.String()}
	case "cpu":
		return []string{cpuRE.String()}
	}
	return nil
}
