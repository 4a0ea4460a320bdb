package compile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/size"
	"github.com/defx-dev/defx/internal/token"
)

// decoder decodes evaluated JSON into Go values, strictly: an unknown field, a wrong type or an
// invalid token is an error at its path, and all errors are collected. null is the same as an
// absent field, and fields whose names start with # are documentation.
//
// The Go types are the schema: json names a field, default sets its value if absent, and
// required, enum, min, max and format check it. Code that walks the types (the reference, the
// random-edit test) therefore cannot forget a field.
type decoder struct {
	subject string
	errs    diag.List
}

// valueDecoder is implemented by types with their own decoding.
type valueDecoder interface {
	decodeValue(d *decoder, v any, path []string)
}

var textType = reflect.TypeFor[token.Text]()

func (d *decoder) errorf(path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(d.subject, format, args...).At(path...)
	d.errs = append(d.errs, e)
	return e
}

// decodeJSON decodes raw into out, which must be a pointer. While decoding, sibling fields
// share the memory of their paths, so a path must not be kept.
func (d *decoder) decodeJSON(raw json.RawMessage, out any, path []string) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		d.errorf(path, "not valid JSON: %v", err)
		return
	}
	d.decode(v, reflect.ValueOf(out).Elem(), slices.Clip(path), "")
}

func (d *decoder) decode(v any, out reflect.Value, path []string, tag reflect.StructTag) {
	if s, ok := out.Addr().Interface().(valueDecoder); ok {
		s.decodeValue(d, v, path)
		return
	}
	if f := customDecoders[out.Type()]; f != nil {
		out.Set(reflect.ValueOf(f(d, v, path)))
		return
	}
	if out.Type() == textType {
		out.Set(reflect.ValueOf(d.decodeText(v, path)))
		return
	}
	if sh, ok := shorthands[out.Type()]; ok {
		if _, isObject := v.(map[string]any); sh.ok(v) {
			v = map[string]any{sh.field: v}
		} else if !isObject {
			d.wrongType(path, sh.want, v)
			return
		}
	}
	switch out.Kind() {
	case reflect.Pointer:
		p := reflect.New(out.Type().Elem())
		d.decode(v, p.Elem(), path, tag)
		out.Set(p)
	case reflect.Struct:
		d.decodeObject(v, out, path)
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			d.wrongType(path, "an object", v)
			return
		}
		res := reflect.MakeMapWithSize(out.Type(), len(m))
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if m[k] == nil || strings.HasPrefix(k, "#") {
				continue
			}
			if token.Reserved(k) {
				d.errorf(path, "a token cannot be the name of a field").WithHint("use the token in a value")
				continue
			}
			e := reflect.New(out.Type().Elem()).Elem()
			d.decode(m[k], e, append(path, k), "")
			res.SetMapIndex(reflect.ValueOf(k), e)
		}
		if res.Len() > 0 {
			out.Set(res)
		}
	case reflect.Slice:
		l, ok := v.([]any)
		if !ok {
			d.wrongType(path, "a list", v)
			return
		}
		for i, x := range l {
			p := append(path, strconv.Itoa(i))
			e := reflect.New(out.Type().Elem()).Elem()
			if x == nil {
				d.errorf(p, "null inside a list").WithHint("remove it: [x for x in list if x != null]")
				continue
			}
			d.decode(x, e, p, "")
			out.Set(reflect.Append(out, e))
		}
	case reflect.String:
		if n, isNumber := v.(float64); isNumber && tag.Get("format") == "memory" && n >= 1 && n <= maxInteger {
			d.errorf(path, "a string is required, not %s", describe(v)).WithHint("write it with its unit: '%s'", size.WithUnit(strconv.FormatInt(int64(n), 10)))
			return
		}
		if hint := stringHint(path, tag, v); hint != "" {
			d.errorf(path, "a string is required, not %s", describe(v)).WithHint("%s", hint)
			return
		}
		s, ok := d.decodeString(v, path)
		if ok {
			d.checkString(s, path, tag)
			out.SetString(s)
		}
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			d.wrongType(path, "true or false", v)
			return
		}
		out.SetBool(b)
	case reflect.Int:
		if n, ok := d.integer(v, path); ok {
			d.checkInt(n, path, tag)
			out.SetInt(n)
		}
	case reflect.Interface:
		d.refuseTokens(v, path)
		d.checkNumbers(v, path)
		out.Set(reflect.ValueOf(withoutNull(v)))
	default:
		panic("decode: no rule for " + out.Type().String())
	}
}

func (d *decoder) decodeObject(v any, out reflect.Value, path []string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrongType(path, "an object", v)
		return
	}
	known := fieldsOf(out.Type())
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(k, "#") {
			continue
		}
		i, ok := known[k]
		if !ok {
			names := slices.Sorted(maps.Keys(known))
			hint := diag.Suggest(k, names)
			if hint == "" {
				hint = "known here: " + strings.Join(names, ", ")
			}
			d.errorf(append(slices.Clone(path), k), "unknown field %q", display(k)).WithHint("%s", hint)
			continue
		}
		if m[k] == nil {
			continue
		}
		d.decode(m[k], out.Field(i), append(path, k), out.Type().Field(i).Tag)
	}
	for name, i := range known {
		f := out.Type().Field(i)
		if m[name] != nil {
			continue
		}
		if f.Tag.Get("required") == "true" {
			d.errorf(path, "%q is missing", name).WithHint("add %s: …", name)
		}
		fillDefault(out.Field(i), f.Tag)
	}
}

var fieldCache sync.Map // type → map[string]int

// fieldsOf returns the indexes of a struct's fields by JSON name.
func fieldsOf(t reflect.Type) map[string]int {
	if known, ok := fieldCache.Load(t); ok {
		return known.(map[string]int)
	}
	known := map[string]int{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			known[name] = i
		}
	}
	fieldCache.Store(t, known)
	return known
}

// noErrorAt reports whether there is no error yet at path or below it.
func (d *decoder) noErrorAt(path []string) bool {
	return !slices.ContainsFunc(d.errs, func(e *diag.Error) bool {
		return len(e.Path) >= len(path) && slices.Equal(e.Path[:len(path)], path)
	})
}

// fillDefault sets the default of an absent field, or of each field of an absent object.
func fillDefault(v reflect.Value, tag reflect.StructTag) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(tag.Get("default"))
	case reflect.Struct:
		for i := range v.NumField() {
			fillDefault(v.Field(i), v.Type().Field(i).Tag)
		}
	}
}

func display(s string) string {
	if t, err := token.Split(s); err == nil {
		return t.Shown()
	}
	return s
}

func (d *decoder) wrongType(path []string, want string, got any) {
	d.errorf(path, "%s is required, not %s", want, describe(got)).WithHint("%s", typeHint(path, want, got))
}

// objectForms are examples for fields that hold an object.
var objectForms = map[string]string{
	"service": "service: { command: ['/usr/bin/program'] }", "group": "group: { name: { service: { command: ['/usr/bin/program'] } } }",
	"external": "external: { host: 'db.example.com', ports: { sql: 5432 } }", "resource": "resource: { type: 'aws.s3' }",
	"loadBalancer": "loadBalancer: { listen: 80, target: 'http', backends: ['web'] }",
	"place":        "place: { machine: 'name' }, or { pool: 'prod', replicas: 2 }", "host": "host: { packages: ['nginx'] }",
	"env": "env: { NAME: 'value' }", "secrets": "secrets: { NAME: defx.secret('name') }", "files": "files: { '/etc/x.conf': 'text' }",
	"hostFiles": "hostFiles: { '/etc/x.conf': 'text' }", "dirs": "dirs: { state: 'name' }", "ports": "ports: { http: 8080 }",
	"ready":    "ready: { http: '/health' }, { tcp: true }, { exec: ['/bin/check'] } or { notify: true }",
	"schedule": "schedule: { every: '1h' }, or { cron: '0 3 * * *' }", "sockets": "sockets: { http: { port: 'http' } }",
	"limits": "limits: { memory: '512Mi' }", "reload": "reload: { signal: 'HUP' }", "stop": "stop: { timeout: '30s' }",
	"update": "update: { atOnce: 2 }", "labels": "labels: { name: 'value' }", "exports": "exports: { url: 'http://…' }",
	"sysctl": "sysctl: { 'vm.swappiness': 10 }", "users": "users: { name: { uid: 1000 } }", "machines": "machines: { box: { connect: 'dir:./box' } }",
	"defaults": "defaults: { place: { pool: 'prod' } }", "moved": "moved: { 'lib/old': 'lib/new' }",
}

// stringForms are examples for fields whose strings have a form of their own.
var stringForms = map[string]string{
	"http": "a path: http: '/health'", "mode": "octal digits in quotes: mode: '0644'", "connect": "connect: 'ssh://user@host'",
	"signal": "the name of a signal: signal: 'HUP'", "cron": "cron: '0 3 * * *'",
}

// stringHint returns a hint for a number or boolean in the place of a string whose form the field
// determines; "" if any string is right, or v is something else.
func stringHint(path []string, tag reflect.StructTag, v any) string {
	n, isNumber := v.(float64)
	if _, isBool := v.(bool); !isNumber && !isBool || len(path) == 0 {
		return ""
	}
	switch form := stringForms[path[len(path)-1]]; {
	case tag.Get("enum") != "":
		return "one of " + strings.ReplaceAll(tag.Get("enum"), ",", ", ")
	case tag.Get("format") == "duration" && isNumber && n > 0:
		return fmt.Sprintf("write it with its unit: '%vs'", n)
	case tag.Get("format") == "duration":
		return "a number with a unit: 500ms, 30s, 5m, 2h"
	case tag.Get("format") == "memory":
		return "a number with a unit: '512Mi'"
	default:
		return form
	}
}

// typeHint returns an example of the wanted type, or how to convert the value.
func typeHint(path []string, want string, got any) string {
	name := ""
	if len(path) > 0 {
		name = path[len(path)-1]
	}
	text, isText := got.(string)
	switch {
	case strings.HasPrefix(want, "a string"):
		switch got.(type) {
		case float64, bool:
			return fmt.Sprintf("write it as a string: '%v'", got)
		case map[string]any:
			return "std.manifestJson(…) converts an object to a string"
		}
		return "std.join(' ', …) converts a list to a string"
	case strings.HasPrefix(want, "a list of names"):
		return "['lib/name'], or { alias: 'lib/name' }"
	case strings.HasPrefix(want, "a list"):
		if isText && !token.Reserved(text) && len(text) < 60 {
			return fmt.Sprintf("put it in brackets: ['%s']", text)
		}
		return "write it in brackets: […]"
	case strings.Contains(want, "number"):
		if _, err := strconv.ParseFloat(text, 64); isText && err == nil {
			return "write " + text + " without quotes"
		}
		return "for example 10, without quotes or a fraction"
	case strings.HasPrefix(want, "true"):
		return "write true or false, without quotes"
	}
	if f := objectForms[name]; f != "" {
		return f
	}
	return "write it in braces: { name: value }"
}

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint(v)
	case float64:
		return "the number " + strconv.FormatFloat(v, 'g', -1, 64)
	case string:
		s := display(v)
		if r := []rune(s); len(r) > 40 {
			s = string(r[:40]) + "…"
		}
		return "the string " + strconv.Quote(s)
	case []any:
		return "a list"
	default:
		return "an object"
	}
}

// decodeText decodes a string that may contain tokens.
func (d *decoder) decodeText(v any, path []string) token.Text {
	s, ok := v.(string)
	if !ok {
		d.wrongType(path, "a string", v)
		return token.Text{}
	}
	t, err := token.Split(s)
	if err != nil {
		d.errorf(path, "%v", err).WithHint("tokens can only be concatenated or formatted (+ and %%); std.length, substrings and == do not work on them")
		return token.Text{}
	}
	return t
}

// decodeString decodes a string without tokens.
func (d *decoder) decodeString(v any, path []string) (string, bool) {
	s, ok := v.(string)
	if !ok {
		d.wrongType(path, "a string", v)
		return "", false
	}
	if token.Reserved(s) {
		d.errorf(path, "a value that is only known later (%s) cannot be used here", display(s)).
			WithHint("this must be known at plan time: write the value itself")
		return "", false
	}
	return s, true
}

// refuseTokens reports tokens anywhere in the options of a backend.
func (d *decoder) refuseTokens(v any, path []string) {
	switch v := v.(type) {
	case string:
		d.decodeString(v, path)
	case []any:
		for i, x := range v {
			d.refuseTokens(x, append(slices.Clone(path), strconv.Itoa(i)))
		}
	case map[string]any:
		for k, x := range v {
			if token.Reserved(k) {
				d.errorf(path, "a token cannot be the name of a field").WithHint("use the token in a value")
			}
			d.refuseTokens(x, append(slices.Clone(path), k))
		}
	}
}

const maxInteger = 1<<53 - 1

func (d *decoder) integer(v any, path []string) (int64, bool) {
	f, ok := v.(float64)
	if !ok {
		if s, isText := v.(string); isText && token.Reserved(s) {
			d.decodeString(v, path)
			return 0, false
		}
		d.wrongType(path, "a whole number", v)
		return 0, false
	}
	if f != math.Trunc(f) {
		d.wrongType(path, "a whole number", v)
		return 0, false
	}
	if math.Abs(f) > maxInteger {
		d.errorf(path, "%.0f is beyond ±(2^53−1) and has lost digits", f).WithHint("write large numbers as strings")
		return 0, false
	}
	return int64(f), true
}

// withoutNull returns a value without the fields of its objects that are null, which are the same
// as absent ones.
func withoutNull(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = withoutNull(x)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			if x != nil {
				out[k] = withoutNull(x)
			}
		}
		return out
	}
	return v
}

func (d *decoder) checkInt(n int64, path []string, tag reflect.StructTag) {
	lo, hasLo := tag.Lookup("min")
	hi, hasHi := tag.Lookup("max")
	l, _ := strconv.ParseInt(lo, 10, 64)
	h, _ := strconv.ParseInt(hi, 10, 64)
	switch {
	case hasLo && hasHi && (n < l || n > h):
		d.errorf(path, "%d is not between %s and %s", n, lo, hi).WithHint("a number from %s to %s", lo, hi)
	case hasLo && n < l:
		d.errorf(path, "%d is less than %s", n, lo).WithHint("%s or more", lo)
	}
}

func (d *decoder) checkString(s string, path []string, tag reflect.StructTag) {
	if enum := tag.Get("enum"); enum != "" {
		words := strings.Split(enum, ",")
		if !slices.Contains(words, s) {
			hint := diag.Suggest(s, words)
			if hint == "" {
				hint = "one of " + strings.Join(words, ", ")
			}
			d.errorf(path, "%q is not allowed here", s).WithHint("%s", hint)
		}
	}
	switch tag.Get("format") {
	case "duration":
		if t, err := time.ParseDuration(s); err != nil || t <= 0 {
			d.errorf(path, "%q is not a duration", s).WithHint("a number with a unit: 500ms, 30s, 5m, 2h")
		}
	case "memory":
		_, err := size.ParseMemory(s)
		d.checkSize(path, err)
	case "cpu":
		_, err := size.ParseCores(s)
		d.checkSize(path, err)
	}
}

// checkSize reports the error of a size, if any, with its hint.
func (d *decoder) checkSize(path []string, err error) {
	if err == nil {
		return
	}
	e := d.errorf(path, "%v", err)
	if s, ok := errors.AsType[*size.Error](err); ok {
		e.WithHint("%s", s.Hint())
	}
}
