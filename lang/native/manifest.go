package native

import (
	"math"
	"slices"
	"strings"
)

func init() {
	register("ini", func(a []any) (any, error) {
		var b strings.Builder
		for _, l := range a[0].([]any) {
			if line := l.([]any); len(line) == 1 {
				b.WriteString("[" + text(line[0]) + "]\n")
			} else {
				b.WriteString(text(line[0]) + " = " + text(line[1]) + "\n")
			}
		}
		return b.String(), nil
	}, "lines")
	eager("mod", mod, "a", "b")
	eager("names", func(a []any) any {
		f := parsed(a[0].(string))
		if f == nil || !f.keyed {
			return nil
		}
		names := make([]any, len(f.keys))
		for i, k := range f.keys {
			names[i] = k.([]any)[0]
		}
		return names
	}, "str")
	eager("ini", ini, "main", "sections")
	eager("python", func(a []any) any {
		var b strings.Builder
		python(&b, a[0])
		return b.String()
	}, "v")
	eager("pythonVars", func(a []any) any {
		var b strings.Builder
		conf := a[0].(map[string]any)
		for _, k := range sorted(conf) {
			b.WriteString(k + " = ")
			python(&b, conf[k])
			b.WriteByte('\n')
		}
		return b.String()
	}, "conf")
	eager("xml", func(a []any) any {
		var b strings.Builder
		if _, ok := a[0].([]any); !ok || !xml(&b, a[0]) {
			return nil
		}
		return b.String()
	}, "value")
	eager("prune", func(a []any) any { return prune(a[0]) }, "a")
	eager("deepJoin", func(a []any) any {
		var b strings.Builder
		if !deepJoin(&b, a[0]) {
			return nil
		}
		return b.String()
	}, "arr")
}

// mod is % on anything but objects, or nil.
func mod(a []any) any {
	switch x := a[0].(type) {
	case string:
		vals, list := a[1].([]any)
		if !list {
			vals = []any{a[1]}
		}
		if f := parsed(x); f != nil {
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

func sorted(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func ini(a []any) any {
	var b strings.Builder
	body := func(v any) bool {
		m, ok := v.(map[string]any)
		for _, k := range sorted(m) {
			list, isList := m[k].([]any)
			if !isList {
				list = []any{m[k]}
			}
			for _, e := range list {
				b.WriteString(k + " = " + text(e) + "\n")
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
	for _, k := range sorted(sections) {
		b.WriteString("[" + k + "]\n")
		if !body(sections[k]) {
			return nil
		}
	}
	return b.String()
}

func python(b *strings.Builder, v any) {
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
			python(b, e)
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		for i, k := range sorted(v) {
			if i > 0 {
				b.WriteString(", ")
			}
			quote(b, k)
			b.WriteString(": ")
			python(b, v[k])
		}
		b.WriteByte('}')
	default:
		writeJSON(b, v)
	}
}

// xml writes JSONML, as far as it is texts and lists that begin with a text.
func xml(b *strings.Builder, v any) bool {
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
			for _, k := range sorted(attrs) {
				b.WriteString(" " + k + `="` + text(attrs[k]) + `"`)
			}
		}
	}
	b.WriteByte('>')
	for _, c := range children {
		if !xml(b, c) {
			return false
		}
	}
	b.WriteString("</" + tag + ">")
	return true
}

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

// prune leaves out what is null or empty, from the inside out.
func prune(v any) any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, x := range v {
			if p := prune(x); content(p) {
				out = append(out, p)
			}
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			if p := prune(x); content(p) {
				out[k] = p
			}
		}
		return out
	}
	return v
}

func content(v any) bool {
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
