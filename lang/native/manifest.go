package native

import (
	"math"
	"strings"

	"github.com/defx-dev/defx/internal/sets"
)

func init() {
	register("ini", func(a []any) (any, error) {
		var b strings.Builder
		for _, l := range a[0].([]any) {
			if line := l.([]any); len(line) == 1 {
				b.WriteString("[" + toString(line[0]) + "]\n")
			} else {
				b.WriteString(toString(line[0]) + " = " + toString(line[1]) + "\n")
			}
		}
		return b.String(), nil
	}, "lines")
	registerFast("mod", modulo, "a", "b")
	registerFast("names", func(a []any) any {
		f := parseCached(a[0].(string))
		if f == nil || !f.keyed {
			return nil
		}
		names := make([]any, len(f.keys))
		for i, k := range f.keys {
			names[i] = k.([]any)[0]
		}
		return names
	}, "str")
	registerFast("ini", manifestIni, "main", "sections")
	registerFast("python", func(a []any) any {
		var b strings.Builder
		writePython(&b, a[0])
		return b.String()
	}, "v")
	registerFast("pythonVars", func(a []any) any {
		var b strings.Builder
		conf := a[0].(map[string]any)
		for _, k := range sets.Keys(conf) {
			b.WriteString(k + " = ")
			writePython(&b, conf[k])
			b.WriteByte('\n')
		}
		return b.String()
	}, "conf")
	registerFast("xml", func(a []any) any {
		var b strings.Builder
		if _, ok := a[0].([]any); !ok || !writeXML(&b, a[0]) {
			return nil
		}
		return b.String()
	}, "value")
	registerFast("prune", func(a []any) any { return prune(a[0]) }, "a")
	registerFast("deepJoin", func(a []any) any {
		var b strings.Builder
		if !deepJoin(&b, a[0]) {
			return nil
		}
		return b.String()
	}, "arr")
}

// modulo implements % for anything but objects, and returns nil otherwise.
func modulo(a []any) any {
	switch x := a[0].(type) {
	case string:
		vals, list := a[1].([]any)
		if !list {
			vals = []any{a[1]}
		}
		if f := parseCached(x); f != nil {
			return f.fill(vals)
		}
	case float64:
		if y, ok := a[1].(float64); ok && y != 0 {
			if m := math.Mod(x, y); !math.IsNaN(m) {
				return m
			}
		}
	}
	return nil
}

// manifestIni implements std.manifestIni; the first argument is a list with the
// main section, or without. It returns nil if a section is not an object.
func manifestIni(a []any) any {
	var b strings.Builder
	body := func(v any) bool {
		m, ok := v.(map[string]any)
		for _, k := range sets.Keys(m) {
			list, isList := m[k].([]any)
			if !isList {
				list = []any{m[k]}
			}
			for _, e := range list {
				b.WriteString(k + " = " + toString(e) + "\n")
			}
		}
		return ok
	}
	for _, m := range a[0].([]any) {
		if !body(m) {
			return nil
		}
	}
	sections, ok := a[1].(map[string]any)
	if !ok {
		return nil
	}
	for _, k := range sets.Keys(sections) {
		b.WriteString("[" + k + "]\n")
		if !body(sections[k]) {
			return nil
		}
	}
	return b.String()
}

// writePython writes a value as std.manifestPython does.
func writePython(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			writePython(b, e)
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		for i, k := range sets.Keys(v) {
			if i > 0 {
				b.WriteString(", ")
			}
			writeQuoted(b, k)
			b.WriteString(": ")
			writePython(b, v[k])
		}
		b.WriteByte('}')
	default:
		writeJSON(b, v)
	}
}

// writeXML writes JSONML as std.manifestXmlJsonml does, if it consists of strings
// and lists that begin with a string; otherwise it returns false.
func writeXML(b *strings.Builder, v any) bool {
	if s, ok := v.(string); ok {
		b.WriteString(s)
		return true
	}
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return false
	}
	tag, ok := list[0].(string)
	if !ok {
		return false
	}
	b.WriteString("<" + tag)
	children := list[1:]
	if len(children) > 0 {
		if attrs, ok := children[0].(map[string]any); ok {
			children = children[1:]
			for _, k := range sets.Keys(attrs) {
				b.WriteString(" " + k + `="` + toString(attrs[k]) + `"`)
			}
		}
	}
	b.WriteByte('>')
	for _, c := range children {
		if !writeXML(b, c) {
			return false
		}
	}
	b.WriteString("</" + tag + ">")
	return true
}

// deepJoin writes the strings in nested lists, and returns false for other values.
func deepJoin(b *strings.Builder, v any) bool {
	switch v := v.(type) {
	case string:
		b.WriteString(v)
		return true
	case []any:
		for _, e := range v {
			if !deepJoin(b, e) {
				return false
			}
		}
		return true
	}
	return false
}

// prune removes null values and empty lists and objects, innermost first.
func prune(v any) any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, x := range v {
			if p := prune(x); hasContent(p) {
				out = append(out, p)
			}
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			if p := prune(x); hasContent(p) {
				out[k] = p
			}
		}
		return out
	}
	return v
}

// hasContent reports whether prune keeps a value.
func hasContent(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}
