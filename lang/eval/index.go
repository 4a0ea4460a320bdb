package eval

import (
	"strings"
	"sync/atomic"

	"github.com/google/go-jsonnet/ast"
)

// lookup is what an index expression remembers of the last object it met.
type lookup struct {
	shape *shape
	i     int
}

func (c *compiler) index(n *ast.Index, s *scope) code {
	if k := c.indexStd(n, s); k != nil {
		return k
	}
	at := c.site(n)
	target := c.expr(n.Target, s, tailNone)
	if lit, ok := n.Index.(*ast.LiteralString); ok {
		return indexField(target, strings.Clone(lit.Value), at)
	}
	index := c.expr(n.Index, s, tailNone)
	return func(m *machine, f *frame) value {
		v := target(m, f)
		m.hold(v)
		i := index(m, f)
		m.drop(1)
		return m.indexValue(v, i, at)
	}
}

// indexField compiles target.name.
func indexField(target code, name string, at *site) code {
	var last atomic.Pointer[lookup]
	index := staticText(name).value()
	return func(m *machine, f *frame) value {
		v := target(m, f)
		if v.h.kind != kindObject {
			return m.indexValue(v, index, at)
		}
		o := v.object()
		if o.flags&flagAsserts != 0 {
			m.checkAsserts(o, at)
		}
		if o.comp != nil {
			return m.index(o, name, at)
		}
		p := last.Load()
		if p == nil || p.shape != o.shape {
			i := o.shape.find(name)
			if i < 0 {
				m.fail(at, "Field does not exist: "+name)
			}
			p = &lookup{o.shape, i}
			if !o.shape.dynamic {
				last.Store(p)
			}
		}
		if o.vals != nil {
			if v := *o.cell(m, p.i); v.h != nil {
				return v
			}
		}
		return m.field(o, &o.layer, 0, p.i, at)
	}
}

// indexValue returns v[i].
func (m *machine) indexValue(v, i value, at *site) value {
	switch v.kind() {
	case kindObject:
		return m.index(v.object(), m.wantText(i, at).string(m), at)
	case kindArray:
		a, n := v.array(), int(m.wantNumber(i, at))
		if n < 0 || n >= len(a.elems) {
			m.failf(at, "Index %d out of bounds, not within [0, %v)", n, len(a.elems))
		}
		return m.elem(a, n, at)
	case kindString:
		t, n := v.text(), int(m.wantNumber(i, at))
		if n < 0 || n >= t.length() {
			m.failf(at, "Index %d out of bounds, not within [0, %v)", n, t.runes)
		}
		return m.charAt(t, n)
	}
	m.fail(at, "Value non indexable: "+goTypes[v.kind()])
	return value{}
}

// goTypes are the names of go-jsonnet's own types, which one of its messages shows.
var goTypes = [...]string{kindNull: "*jsonnet.valueNull", kindBool: "*jsonnet.valueBoolean", kindNumber: "*jsonnet.valueNumber", kindFunction: "*jsonnet.valueFunction"}

// wantType fails because v is not of kind k.
func (m *machine) wantType(v value, k kind, at *site) {
	m.failf(at, "Unexpected type %v, expected %v", v.kind(), k)
}

func (m *machine) wantNumber(v value, at *site) float64 {
	if v.h != &numberHeader {
		m.wantType(v, kindNumber, at)
	}
	return v.n
}

func (m *machine) wantText(v value, at *site) *text {
	if v.h.kind != kindString {
		m.wantType(v, kindString, at)
	}
	return v.text()
}

func (m *machine) wantBool(v value, at *site) bool {
	if v.h.kind != kindBool {
		m.wantType(v, kindBool, at)
	}
	return v.isTrue()
}

func (m *machine) wantArray(v value, at *site) *array {
	if v.h.kind != kindArray {
		m.wantType(v, kindArray, at)
	}
	return v.array()
}

func (m *machine) wantObject(v value, at *site) *object {
	if v.h.kind != kindObject {
		m.wantType(v, kindObject, at)
	}
	return v.object()
}

func (m *machine) wantFunction(v value, at *site) *function {
	if v.h.kind != kindFunction {
		m.wantType(v, kindFunction, at)
	}
	return v.function()
}

// wantInt returns v as an integer of 32 bits, as go-jsonnet's indices are.
func (m *machine) wantInt(v value, at *site) int {
	n := m.wantNumber(v, at)
	i := int(int32(n))
	if float64(i) != n {
		m.failf(at, "Expected an integer, but got %v", n)
	}
	return i
}
