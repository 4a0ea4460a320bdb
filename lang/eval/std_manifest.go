package eval

import (
	"regexp"
	"strconv"
	"strings"
)

func init() {
	define(&builtin{name: "manifestJsonEx", params: []string{"value", "indent", "newline", "key_val_sep"}, optional: 2, basic: true,
		fn: func(m *machine, a []value, at *site) value {
			w := writer{m: m, at: at, indent: m.wantText(a[1], at).string(m), newline: "\n", separator: ": "}
			if a[2].h != nil {
				w.newline = m.wantText(a[2], at).string(m)
			}
			if a[3].h != nil {
				w.separator = m.wantText(a[3], at).string(m)
			}
			w.json(a[0], "", m.limits.MaxStack)
			return m.text(string(w.buf))
		}})
	define(&builtin{name: "manifestYamlDoc", params: []string{"value", "indent_array_in_object", "quote_keys"}, optional: 2, basic: true,
		fn: func(m *machine, a []value, at *site) value { return m.text(m.yamlDoc(a[0], a[1], a[2], at)) }})
	extra("manifestJson", func(m *machine, a []value, at *site) value {
		w := writer{m: m, at: at, indent: "    ", newline: "\n", separator: ": "}
		w.json(a[0], "", m.limits.MaxStack)
		return m.text(string(w.buf))
	}, "value")
	extra("manifestJsonMinified", func(m *machine, a []value, at *site) value {
		w := writer{m: m, at: at, separator: ":"}
		w.json(a[0], "", m.limits.MaxStack)
		return m.text(string(w.buf))
	}, "value")
	define(&builtin{name: "manifestYamlStream", params: []string{"value", "indent_array_in_object", "c_document_end", "quote_keys"}, optional: 3, lazy: 1<<1 | 1<<3,
		fn: func(m *machine, a []value, at *site) value {
			in := m.wantArray(a[0], at)
			docs := make([]string, len(in.elems))
			for i := range in.elems {
				docs[i] = m.yamlDoc(m.elem(in, i, at), a[1], a[3], at)
			}
			end := "\n...\n"
			if a[2].h != nil && !m.wantBool(a[2], at) {
				end = "\n"
			}
			return m.text("---\n" + strings.Join(docs, "\n---\n") + end)
		}})
	extra("manifestPython", func(m *machine, a []value, at *site) value {
		w := writer{m: m, at: at}
		w.python(a[0])
		return m.text(string(w.buf))
	}, "v")
	extra("manifestPythonVars", func(m *machine, a []value, at *site) value {
		w := writer{m: m, at: at}
		o := m.wantObject(a[0], at)
		for _, n := range m.names(o, false) {
			w.buf = append(w.buf, n+" = "...)
			w.python(m.index(o, n, at))
			w.buf = append(w.buf, '\n')
		}
		return m.text(string(w.buf))
	}, "conf")
	extra("manifestIni", func(m *machine, a []value, at *site) value {
		w := writer{m: m, at: at}
		ini := m.wantObject(a[0], at)
		if m.has(ini, "main", false) {
			w.iniBody(m.index(ini, "main", at))
		}
		sections := m.wantObject(m.index(ini, "sections", at), at)
		for _, n := range m.names(sections, false) {
			w.buf = append(w.buf, "["+n+"]\n"...)
			w.iniBody(m.index(sections, n, at))
		}
		return m.text(string(w.buf))
	}, "ini")
	extra("manifestXmlJsonml", func(m *machine, a []value, at *site) value {
		m.wantArray(a[0], at)
		w := writer{m: m, at: at}
		w.xml(a[0])
		return m.text(string(w.buf))
	}, "value")
}

// writer writes values in the formats of std.manifest….
type writer struct {
	m                          *machine
	at                         *site
	buf                        []byte
	charged                    int
	indent, newline, separator string
	path                       []string
	arrayIndent, quoteKeys     bool
}

func (w *writer) account() {
	if n := len(w.buf) - w.charged; n >= 4096 {
		w.charged = len(w.buf)
		w.m.charge(n)
		w.m.checkLength(len(w.buf))
	}
}

func (w *writer) deeper(depth int) {
	if depth <= 0 {
		w.m.fail(w.at, "max manifest depth exceeded, possible infinite recursion")
	}
	w.m.loop(w.at)
	w.m.nest(w.at)
}

// inner returns the indentation one level deeper.
func (w *writer) inner(indent string) string {
	w.m.charge(len(indent) + len(w.indent))
	return indent + w.indent
}

// json writes v as std.manifestJsonEx does.
func (w *writer) json(v value, indent string, depth int) {
	m := w.m
	w.deeper(depth)
	switch v.kind() {
	case kindNull:
		w.buf = append(w.buf, "null"...)
	case kindString:
		w.buf = appendGoJSON(w.buf, v.text().string(m))
	case kindNumber:
		w.buf = strconv.AppendFloat(w.buf, v.n, 'f', -1, 64)
	case kindBool:
		w.buf = strconv.AppendBool(w.buf, v.isTrue())
	case kindFunction:
		m.failf(w.at, "tried to manifest function at %s", w.path)
	case kindArray:
		a := v.array()
		w.buf = append(w.buf, "["+w.newline...)
		inner := w.inner(indent)
		for i := range a.elems {
			m.loop(w.at)
			if i > 0 {
				w.buf = append(w.buf, ","+w.newline...)
			}
			w.buf = append(w.buf, inner...)
			e := m.elem(a, i, w.at)
			w.path = append(w.path, strconv.Itoa(i))
			w.json(e, inner, depth-1)
			w.path = w.path[:len(w.path)-1]
		}
		w.buf = append(w.buf, w.newline+indent+"]"...)
	case kindObject:
		w.jsonObject(v.object(), indent, depth)
	}
	w.account()
	m.unnest()
}

func (w *writer) jsonObject(o *object, indent string, depth int) {
	m := w.m
	w.buf = append(w.buf, "{"+w.newline...)
	inner := w.inner(indent)
	for i, name := range m.names(o, false) {
		m.loop(w.at)
		v := m.index(o, name, w.at)
		if i > 0 {
			w.buf = append(w.buf, ","+w.newline...)
		}
		w.buf = append(w.buf, inner...)
		w.buf = appendGoJSON(w.buf, name)
		w.buf = append(w.buf, w.separator...)
		w.path = append(w.path, name)
		w.json(v, inner, depth-1)
		w.path = w.path[:len(w.path)-1]
	}
	w.buf = append(w.buf, w.newline+indent+"}"...)
}

func (w *writer) iniBody(body value) {
	m := w.m
	o := m.wantObject(body, w.at)
	line := func(k string, v value) {
		w.buf = append(w.buf, k+" = "...)
		w.buf = append(w.buf, m.toString(v, w.at)...)
		w.buf = append(w.buf, '\n')
		w.account()
	}
	for _, n := range m.names(o, false) {
		m.loop(w.at)
		v := m.index(o, n, w.at)
		if v.kind() != kindArray {
			line(n, v)
			continue
		}
		for i := range v.array().elems {
			line(n, m.elem(v.array(), i, w.at))
		}
	}
}

func (w *writer) python(v value) {
	m := w.m
	m.nest(w.at)
	switch v.kind() {
	case kindNull:
		w.buf = append(w.buf, "None"...)
	case kindBool:
		if v.isTrue() {
			w.buf = append(w.buf, "True"...)
		} else {
			w.buf = append(w.buf, "False"...)
		}
	case kindNumber:
		w.buf = appendNumber(w.buf, v.n)
	case kindString:
		w.buf = appendQuoted(w.buf, v.text().string(m))
	case kindArray:
		w.buf = append(w.buf, '[')
		for i := range v.array().elems {
			m.loop(w.at)
			if i > 0 {
				w.buf = append(w.buf, ", "...)
			}
			w.python(m.elem(v.array(), i, w.at))
		}
		w.buf = append(w.buf, ']')
	case kindObject:
		w.buf = append(w.buf, '{')
		for i, n := range m.names(v.object(), false) {
			m.loop(w.at)
			if i > 0 {
				w.buf = append(w.buf, ", "...)
			}
			w.buf = appendQuoted(w.buf, n)
			w.buf = append(w.buf, ": "...)
			w.python(m.index(v.object(), n, w.at))
		}
		w.buf = append(w.buf, '}')
	default:
		m.fail(w.at, "cannot manifest function")
	}
	w.account()
	m.unnest()
}

// xml writes JSONML.
func (w *writer) xml(v value) {
	m := w.m
	if v.kind() == kindString {
		w.buf = append(w.buf, v.text().string(m)...)
		w.account()
		return
	}
	a := m.wantArray(v, w.at)
	if len(a.elems) == 0 {
		m.fail(w.at, "Index 0 out of bounds, not within [0, 0)")
	}
	m.nest(w.at)
	var tag strings.Builder
	m.deepJoin(&tag, m.elem(a, 0, w.at), w.at)
	w.buf = append(w.buf, "<"+tag.String()...)
	children := 1
	if len(a.elems) > 1 {
		if attrs := m.elem(a, 1, w.at); attrs.kind() == kindObject {
			children = 2
			for _, n := range m.names(attrs.object(), false) {
				w.buf = append(w.buf, " "+n+`="`...)
				w.buf = append(w.buf, m.toString(m.index(attrs.object(), n, w.at), w.at)...)
				w.buf = append(w.buf, '"')
			}
		}
	}
	w.buf = append(w.buf, '>')
	for i := children; i < len(a.elems); i++ {
		m.loop(w.at)
		w.xml(m.elem(a, i, w.at))
	}
	w.buf = append(w.buf, "</"+tag.String()+">"...)
	w.account()
	m.unnest()
}

// yamlDoc is std.manifestYamlDoc.
func (m *machine) yamlDoc(v, arrayIndent, quoteKeys value, at *site) string {
	w := writer{m: m, at: at, quoteKeys: true}
	if arrayIndent.h != nil {
		w.arrayIndent = m.wantBool(m.get(arrayIndent, at), at)
	}
	if quoteKeys.h != nil {
		w.quoteKeys = m.wantBool(m.get(quoteKeys, at), at)
	}
	w.yaml(v, "", m.limits.MaxStack)
	return string(w.buf)
}

const yamlIndent = "  "

func (w *writer) yaml(v value, indent string, depth int) {
	w.deeper(depth)
	switch v.kind() {
	case kindNull:
		w.buf = append(w.buf, "null"...)
	case kindBool:
		w.buf = strconv.AppendBool(w.buf, v.isTrue())
	case kindNumber:
		w.buf = strconv.AppendFloat(w.buf, v.n, 'f', -1, 64)
	case kindString:
		w.yamlString(v.text().string(w.m), indent)
	case kindArray:
		w.yamlArray(v.array(), indent, depth)
	case kindObject:
		w.yamlObject(v.object(), indent, depth)
	}
	w.account()
	w.m.unnest()
}

func (w *writer) yamlString(s, indent string) {
	switch {
	case s == "":
		w.buf = append(w.buf, `""`...)
	case strings.HasSuffix(s, "\n"):
		w.buf = append(w.buf, '|')
		for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
			w.buf = append(w.buf, "\n"+indent+yamlIndent+line...)
		}
	default:
		w.buf = appendQuoted(w.buf, s)
	}
}

func (w *writer) yamlArray(a *array, indent string, depth int) {
	m := w.m
	if len(a.elems) == 0 {
		w.buf = append(w.buf, "[]"...)
		return
	}
	for i := range a.elems {
		m.loop(w.at)
		if i > 0 {
			w.buf = append(w.buf, "\n"+indent...)
		}
		v := m.elem(a, i, w.at)
		w.buf = append(w.buf, '-')
		if v.kind() == kindArray && len(v.array().elems) > 0 {
			w.buf = append(w.buf, "\n"+indent+yamlIndent...)
		} else {
			w.buf = append(w.buf, ' ')
		}
		inner := indent
		if v.kind() == kindArray || v.kind() == kindObject {
			inner += yamlIndent
		}
		w.yaml(v, inner, depth-1)
	}
}

func (w *writer) yamlObject(o *object, indent string, depth int) {
	m := w.m
	names := m.names(o, false)
	if len(names) == 0 {
		w.buf = append(w.buf, "{}"...)
		return
	}
	for i, name := range names {
		m.loop(w.at)
		v := m.index(o, name, w.at)
		if i > 0 {
			w.buf = append(w.buf, "\n"+indent...)
		}
		if w.quoteKeys || !yamlBareSafe(name) {
			w.buf = appendQuoted(w.buf, name)
		} else {
			w.buf = append(w.buf, name...)
		}
		w.buf = append(w.buf, ':')
		inner := indent
		switch {
		case v.kind() == kindArray && len(v.array().elems) > 0:
			w.buf = append(w.buf, "\n"+indent...)
			if w.arrayIndent {
				w.buf = append(w.buf, yamlIndent...)
				inner += yamlIndent
			}
		case v.kind() == kindObject && m.visibleCount(v.object()) > 0:
			w.buf = append(w.buf, "\n"+indent+yamlIndent...)
			inner += yamlIndent
		default:
			w.buf = append(w.buf, ' ')
		}
		w.yaml(v, inner, depth-1)
	}
}

var (
	yamlReserved = []string{
		"true", "false", "yes", "no", "on", "off", "y", "n",
		".nan", "-.inf", "+.inf", ".inf", "null", "-", "---", "''",
	}
	yamlTimestamp = regexp.MustCompile(`^(?:[0-9]*-){2}[0-9]*$`)
	yamlBinary    = regexp.MustCompile(`^[-+]?0b[0-1_]+$`)
	yamlHex       = regexp.MustCompile(`[-+]?0x[0-9a-fA-F_]+`)
)

// yamlBareSafe reports whether a key needs no quotes, by go-jsonnet's rules.
func yamlBareSafe(s string) bool {
	if s == "" {
		return false
	}
	for _, c := range s {
		alnum := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && c != '_' && c != '-' && c != '/' && c != '.' {
			return false
		}
	}
	for _, r := range yamlReserved {
		if strings.EqualFold(s, r) {
			return false
		}
	}
	if yamlTimestamp.MatchString(s) || yamlBinary.MatchString(s) || yamlHex.MatchString(s) {
		return false
	}
	if _, err := strconv.Atoi(s); err == nil {
		return false
	}
	_, err := strconv.ParseFloat(s, 64)
	return err != nil
}
