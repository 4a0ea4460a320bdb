package eval

import (
	"strconv"
	"strings"
)

func init() {
	define(&builtin{name: "manifestTomlEx", params: []string{"value", "indent"}, basic: true, fn: func(m *machine, a []value, at *site) value {
		return m.toml(a[0], m.wantText(a[1], at).string(m), at)
	}})
	extra("manifestToml", func(m *machine, a []value, at *site) value { return m.toml(a[0], "  ", at) }, "value")
}

func (m *machine) toml(v value, indent string, at *site) value {
	if v.kind() != kindObject {
		m.fail(at, "TOML body must be an object. Got "+v.kind().String())
	}
	w := writer{m: m, at: at, indent: indent}
	w.tomlTable(v.object(), nil, "", m.limits.MaxStack)
	return m.text(string(w.buf))
}

// tomlKey appends a key, quoted if needed.
func tomlKey(b []byte, s string) []byte {
	if s == "" {
		return append(b, "''"...)
	}
	for _, c := range s {
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			continue
		}
		return appendQuoted(b, s)
	}
	return append(b, s...)
}

// tomlSection reports whether v is written as a section: an object, or an array
// of nothing but objects.
func (w *writer) tomlSection(v value) bool {
	switch v.kind() {
	case kindObject:
		return true
	case kindArray:
		for i := range v.array().elems {
			w.m.loop(w.at)
			if w.m.elem(v.array(), i, w.at).kind() != kindObject {
				return false
			}
		}
		return len(v.array().elems) > 0
	}
	return false
}

// tomlTable writes the fields of an object: values first, then sections.
func (w *writer) tomlTable(o *object, path []string, indent string, depth int) {
	m := w.m
	w.deeper(depth)
	start := len(w.buf)
	var sections [][]byte
	for _, name := range m.names(o, false) {
		m.loop(w.at)
		v := m.index(o, name, w.at)
		w.path = append(w.path, name)
		if w.tomlSection(v) {
			sub := writer{m: m, at: w.at, indent: w.indent, path: w.path}
			full := append(path[:len(path):len(path)], name)
			if v.kind() == kindObject {
				sub.tomlHeaded(v.object(), full, indent, depth-1)
			} else {
				sub.tomlArray(v.array(), full, indent, depth-1)
			}
			sections = append(sections, sub.buf)
		} else {
			if len(w.buf) > start {
				w.buf = append(w.buf, '\n')
			}
			w.buf = append(w.buf, indent...)
			sub := writer{m: m, at: w.at, indent: w.indent, path: w.path}
			sub.buf = tomlKey(sub.buf, name)
			sub.buf = append(sub.buf, " = "...)
			sub.tomlValue(v, false, depth-1)
			w.buf = append(w.buf, strings.ReplaceAll(string(sub.buf), "\n", "\n"+indent)...)
		}
		w.path = w.path[:len(w.path)-1]
	}
	for _, s := range sections {
		w.buf = append(w.buf, "\n\n"...)
		w.buf = append(w.buf, s...)
	}
	w.account()
	m.unnest()
}

func (w *writer) tomlHead(open, close string, o *object, path []string, indent string) {
	w.buf = append(w.buf, indent+open...)
	for i, p := range path {
		if i > 0 {
			w.buf = append(w.buf, '.')
		}
		w.buf = tomlKey(w.buf, p)
	}
	w.buf = append(w.buf, close...)
	if w.m.visibleCount(o) > 0 {
		w.buf = append(w.buf, '\n')
	}
}

func (w *writer) tomlHeaded(o *object, path []string, indent string, depth int) {
	w.deeper(depth)
	w.tomlHead("[", "]", o, path, indent)
	w.tomlTable(o, path, indent+w.indent, depth-1)
	w.m.unnest()
}

func (w *writer) tomlArray(a *array, path []string, indent string, depth int) {
	w.deeper(depth)
	for i := range a.elems {
		w.m.loop(w.at)
		o := w.m.elem(a, i, w.at).object()
		if i > 0 {
			w.buf = append(w.buf, "\n\n"...)
		}
		w.tomlHead("[[", "]]", o, path, indent)
		sub := writer{m: w.m, at: w.at, indent: w.indent, path: append(w.path[:len(w.path):len(w.path)], strconv.Itoa(i))}
		sub.tomlTable(o, path, indent+w.indent, depth-1)
		w.buf = append(w.buf, sub.buf...)
	}
	w.m.unnest()
}

// tomlValue writes a value on the right of a key. What is not inline may use
// several lines.
func (w *writer) tomlValue(v value, inline bool, depth int) {
	m := w.m
	w.deeper(depth)
	switch v.kind() {
	case kindNull:
		m.failf(w.at, "Tried to manifest \"null\" at %v", w.path)
	case kindBool:
		w.buf = strconv.AppendBool(w.buf, v.isTrue())
	case kindNumber:
		w.buf = appendNumber(w.buf, v.n)
	case kindString:
		w.buf = appendQuoted(w.buf, v.text().string(m))
	case kindFunction:
		m.failf(w.at, "Tried to manifest function at %v", w.path)
	case kindArray:
		w.tomlList(v.array(), inline, depth)
	case kindObject:
		w.buf = append(w.buf, "{ "...)
		for i, name := range m.names(v.object(), false) {
			m.loop(w.at)
			if i > 0 {
				w.buf = append(w.buf, ", "...)
			}
			e := m.index(v.object(), name, w.at)
			w.path = append(w.path, name)
			w.buf = tomlKey(w.buf, name)
			w.buf = append(w.buf, " = "...)
			w.tomlValue(e, true, depth-1)
			w.path = w.path[:len(w.path)-1]
		}
		w.buf = append(w.buf, " }"...)
	}
	w.account()
	m.unnest()
}

func (w *writer) tomlList(a *array, inline bool, depth int) {
	if len(a.elems) == 0 {
		w.buf = append(w.buf, "[]"...)
		return
	}
	indent, separator := w.indent, "\n"
	if inline {
		indent, separator = "", " "
	}
	w.buf = append(w.buf, "["+separator...)
	for i := range a.elems {
		w.m.loop(w.at)
		e := w.m.elem(a, i, w.at)
		if i > 0 {
			w.buf = append(w.buf, ","+separator...)
		}
		w.buf = append(w.buf, indent...)
		w.path = append(w.path, strconv.Itoa(i))
		w.tomlValue(e, true, depth-1)
		w.path = w.path[:len(w.path)-1]
	}
	w.buf = append(w.buf, separator+"]"...)
}
