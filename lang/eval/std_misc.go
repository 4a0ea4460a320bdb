package eval

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-jsonnet"
)

func init() {
	basic("extVar", func(m *machine, a []value, at *site) value {
		name := m.wantText(a[0], at).string(m)
		v, ok := m.extVars[name]
		if !ok {
			m.fail(at, "Undefined external variable: "+name)
		}
		v = m.get(v, at)
		m.extVars[name] = v
		return v
	}, "x")
	define(&builtin{name: "trace", params: []string{"str", "rest"}, basic: true, fn: func(m *machine, a []value, at *site) value {
		s := m.wantText(a[0], at).string(m)
		if m.trace != nil && at.loc.File != nil {
			fmt.Fprintf(m.trace, "TRACE: %s:%d %s\n", at.loc.File.DiagnosticFileName, at.loc.Begin.Line, s)
		}
		return a[1]
	}})
	basic("native", func(m *machine, a []value, at *site) value {
		if f, ok := m.opts.Natives[m.wantText(a[0], at).string(m)]; ok {
			return nativeFunction(f).value()
		}
		return nullValue
	}, "x")
	basic("parseJson", func(m *machine, a []value, at *site) value {
		s := m.wantText(a[0], at).string(m)
		m.step(len(s) / 16)
		m.charge(2 * len(s))
		var v any
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			m.failf(at, "failed to parse JSON: %v", err)
		}
		return m.fromGo(v, at)
	}, "str")
	basic("parseYaml", parseYAML, "str")
}

func parseYAML(m *machine, a []value, at *site) value {
	s := m.wantText(a[0], at).string(m)
	m.step(len(s) / 4)
	m.charge(4 * len(s))
	docs := []any{}
	d := jsonnet.NewYAMLToJSONDecoder(strings.NewReader(s))
	for {
		var doc any
		if err := d.Decode(&doc); err == io.EOF {
			break
		} else if err != nil {
			m.failf(at, "failed to parse YAML: %v", err)
		}
		docs = append(docs, doc)
	}
	switch {
	case len(docs) == 0:
		return nullValue
	case d.IsStream():
		return m.fromGo(docs, at)
	}
	return m.fromGo(docs[0], at)
}

// fromGo returns the value of what encoding/json decodes to.
func (m *machine) fromGo(v any, at *site) value {
	switch v := v.(type) {
	case nil:
		return nullValue
	case bool:
		return boolean(v)
	case float64:
		return m.finite(v, at)
	case int:
		return number(float64(v))
	case int64:
		return number(float64(v))
	case string:
		return m.foreignText(v)
	case []any:
		m.nest(at)
		out := m.newArray(len(v))
		for i, e := range v {
			m.loop(at)
			out.elems[i] = m.fromGo(e, at)
		}
		m.unnest()
		return out.value()
	case map[string]any:
		m.nest(at)
		names := make([]string, 0, len(v))
		for n := range v {
			names = append(names, n)
		}
		slices.Sort(names)
		vals := make([]value, len(names))
		for i, n := range names {
			m.loop(at)
			vals[i] = m.fromGo(v[n], at)
		}
		m.unnest()
		return m.readyObject(names, vals)
	}
	m.failf(at, "Not a json type: %#+v", v)
	return value{}
}

// toGo returns v as encoding/json would decode it.
func (m *machine) toGo(v value, at *site) any {
	switch v.kind() {
	case kindNull:
		return nil
	case kindBool:
		return v.isTrue()
	case kindNumber:
		return v.n
	case kindString:
		return v.text().string(m)
	case kindArray:
		m.nest(at)
		a := v.array()
		out := make([]any, len(a.elems))
		for i := range a.elems {
			m.loop(at)
			out[i] = m.toGo(m.elem(a, i, at), at)
		}
		m.unnest()
		return out
	case kindObject:
		m.nest(at)
		o := v.object()
		m.checkAsserts(o, at)
		out := map[string]any{}
		for _, n := range m.names(o, false) {
			m.loop(at)
			out[n] = m.toGo(m.index(o, n, at), at)
		}
		m.unnest()
		return out
	}
	m.fail(at, "couldn't manifest function as JSON")
	return nil
}

// NativeFunction is a function that programs get from std.native.
type NativeFunction struct {
	Name   string
	Params []string
	Func   func(args []any) (any, error)
}

func nativeFunction(n *NativeFunction) *function {
	b := &builtin{name: n.Name, params: n.Params, fn: func(m *machine, a []value, at *site) value {
		args := make([]any, len(a))
		for i, v := range a {
			args[i] = m.toGo(m.get(v, at), at)
		}
		out, err := n.call(args)
		if err != nil {
			m.fail(at, err.Error())
		}
		return m.fromGo(out, at)
	}}
	b.value = function{header: header{kind: kindFunction}, builtin: b}
	return &b.value
}

func (n *NativeFunction) call(args []any) (out any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("native function %#v panicked: %v", n.Name, r)
		}
	}()
	return n.Func(args)
}
