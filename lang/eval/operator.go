package eval

import (
	"cmp"
	"fmt"
	"math"

	"github.com/google/go-jsonnet/ast"
)

func (c *compiler) binary(n *ast.Binary, s *scope, t tailness) code {
	if n.Op == ast.BopPlus {
		if left, ok := n.Left.(*ast.Binary); ok && left.Op == ast.BopPlus {
			return c.sum(n, s, t)
		}
	}
	at := c.site(n)
	x := c.expr(n.Left, s, tailNone)
	if lit, ok := n.Right.(*ast.DesugaredObject); ok && n.Op == ast.BopPlus {
		return c.extension(x, lit, s, at)
	}
	y := c.expr(n.Right, s, t.trimmed())
	switch n.Op {
	case ast.BopAnd:
		return func(m *machine, f *frame) value {
			if !m.wantBool(x(m, f), at) {
				return falseValue
			}
			return boolean(m.wantBool(y(m, f), at))
		}
	case ast.BopOr:
		return func(m *machine, f *frame) value {
			if m.wantBool(x(m, f), at) {
				return trueValue
			}
			return boolean(m.wantBool(y(m, f), at))
		}
	case ast.BopManifestEqual:
		return operator(x, y, at, (*machine).isEqual)
	case ast.BopManifestUnequal:
		return operator(x, y, at, func(m *machine, a, b value, at *site) value { return boolean(!m.equal(a, b, at)) })
	}
	return arithmetic(n.Op, x, y, at)
}

func arithmetic(op ast.BinaryOp, x, y code, at *site) code {
	switch op {
	case ast.BopPlus:
		return func(m *machine, f *frame) value {
			a := x(m, f)
			if a.h == &numberHeader {
				b := y(m, f)
				if b.h == &numberHeader {
					return m.finite(a.n+b.n, at)
				}
				return m.add(a, b, at)
			}
			m.hold(a)
			b := y(m, f)
			m.drop(1)
			return m.add(a, b, at)
		}
	case ast.BopMinus:
		return numeric(x, y, at, func(m *machine, a, b float64, at *site) value { return m.finite(a-b, at) })
	case ast.BopMult:
		return numeric(x, y, at, func(m *machine, a, b float64, at *site) value { return m.finite(a*b, at) })
	case ast.BopDiv:
		return numeric(x, y, at, func(m *machine, a, b float64, at *site) value {
			if b == 0 {
				m.fail(at, "Division by zero.")
			}
			return m.finite(a/b, at)
		})
	case ast.BopLess:
		return comparison(x, y, at, func(c int) bool { return c < 0 }, func(a, b float64) bool { return a < b })
	case ast.BopLessEq:
		return comparison(x, y, at, func(c int) bool { return c <= 0 }, func(a, b float64) bool { return a <= b })
	case ast.BopGreater:
		return comparison(x, y, at, func(c int) bool { return c > 0 }, func(a, b float64) bool { return a > b })
	case ast.BopGreaterEq:
		return comparison(x, y, at, func(c int) bool { return c >= 0 }, func(a, b float64) bool { return a >= b })
	case ast.BopBitwiseAnd:
		return bitwise(x, y, at, false, func(a, b int64) int64 { return a & b })
	case ast.BopBitwiseOr:
		return bitwise(x, y, at, false, func(a, b int64) int64 { return a | b })
	case ast.BopBitwiseXor:
		return bitwise(x, y, at, false, func(a, b int64) int64 { return a ^ b })
	case ast.BopShiftL:
		return bitwise(x, y, at, true, func(a, b int64) int64 { return a << uint(b%64) })
	case ast.BopShiftR:
		return bitwise(x, y, at, true, func(a, b int64) int64 { return a >> uint(b%64) })
	}
	panic("eval: unexpected operator")
}

func operator(x, y code, at *site, op func(m *machine, a, b value, at *site) value) code {
	return func(m *machine, f *frame) value {
		a := x(m, f)
		m.hold(a)
		b := y(m, f)
		m.drop(1)
		return op(m, a, b, at)
	}
}

func numeric(x, y code, at *site, op func(m *machine, a, b float64, at *site) value) code {
	return func(m *machine, f *frame) value {
		a := x(m, f)
		b := y(m, f)
		return op(m, m.wantNumber(a, at), m.wantNumber(b, at), at)
	}
}

func comparison(x, y code, at *site, holds func(int) bool, numbers func(a, b float64) bool) code {
	return func(m *machine, f *frame) value {
		a := x(m, f)
		if a.h == &numberHeader {
			b := y(m, f)
			return boolean(numbers(a.n, m.wantNumber(b, at)))
		}
		m.hold(a)
		b := y(m, f)
		m.drop(1)
		return boolean(holds(m.compare(a, b, at)))
	}
}

const maxSafeInt = 1<<53 - 1

func bitwise(x, y code, at *site, shift bool, op func(a, b int64) int64) code {
	return numeric(x, y, at, func(m *machine, a, b float64, at *site) value {
		for _, n := range [...]float64{a, b} {
			if n < -maxSafeInt || n > maxSafeInt {
				m.failf(at, "Bitwise operator argument %v outside of range [%v, %v]", n, int64(-maxSafeInt), int64(maxSafeInt))
			}
		}
		if shift && b < 0 {
			m.fail(at, "Shift by negative exponent.")
		}
		return m.finite(float64(op(int64(a), int64(b))), at)
	})
}

func (c *compiler) unary(n *ast.Unary, s *scope, t tailness) code {
	at := c.site(n)
	x := c.expr(n.Expr, s, t.trimmed())
	switch n.Op {
	case ast.UopNot:
		return func(m *machine, f *frame) value { return boolean(!m.wantBool(x(m, f), at)) }
	case ast.UopBitwiseNot:
		return func(m *machine, f *frame) value { return number(float64(^int64(m.wantNumber(x(m, f), at)))) }
	case ast.UopPlus:
		return func(m *machine, f *frame) value { return number(m.wantNumber(x(m, f), at)) }
	}
	return func(m *machine, f *frame) value { return number(-m.wantNumber(x(m, f), at)) }
}

// finite returns n, which has to be a number that JSON knows.
func (m *machine) finite(n float64, at *site) value {
	if n-n != 0 {
		if math.IsNaN(n) {
			m.fail(at, "Not a number")
		}
		m.fail(at, "Overflow")
	}
	return number(n)
}

// add returns a + b.
func (m *machine) add(a, b value, at *site) value {
	if b.h.kind == kindString {
		if a.h.kind == kindString {
			return m.concat(a.text(), b.text())
		}
		return m.concat(m.text(m.toString(a, at)).text(), b.text())
	}
	switch a.kind() {
	case kindNumber:
		return m.finite(a.n+m.wantNumber(b, at), at)
	case kindString:
		return m.concat(a.text(), m.text(m.toString(b, at)).text())
	case kindObject:
		return m.join(a.object(), m.wantObject(b, at))
	case kindArray:
		x, y := a.array(), m.wantArray(b, at)
		m.step(len(x.elems) + len(y.elems))
		out := m.newArray(len(x.elems) + len(y.elems))
		copy(out.elems, x.elems)
		copy(out.elems[len(x.elems):], y.elems)
		return out.value()
	}
	m.fail(at, fmt.Sprintf("Unexpected type %v", a.kind()))
	return value{}
}

func (m *machine) isEqual(a, b value, at *site) value { return boolean(m.equal(a, b, at)) }

// equal reports whether a == b.
func (m *machine) equal(a, b value, at *site) bool {
	if a.h.kind != b.h.kind {
		return false
	}
	switch a.h.kind {
	case kindNull:
		return true
	case kindBool:
		return a.h == b.h
	case kindNumber:
		return a.n == b.n
	case kindString:
		x, y := a.text(), b.text()
		if x == y {
			return true
		}
		m.work(int(x.bytes))
		return x.bytes == y.bytes && x.string(m) == y.string(m)
	case kindArray:
		return m.equalArrays(a.array(), b.array(), at)
	case kindObject:
		return m.equalObjects(a.object(), b.object(), at)
	}
	m.fail(at, "Cannot test equality of functions")
	return false
}

func (m *machine) equalArrays(a, b *array, at *site) bool {
	if len(a.elems) != len(b.elems) {
		return false
	}
	m.nest(at)
	same := true
	for i := 0; i < len(a.elems) && same; i++ {
		m.loop(at)
		same = m.equal(m.elem(a, i, at), m.elem(b, i, at), at)
	}
	m.unnest()
	return same
}

func (m *machine) equalObjects(a, b *object, at *site) bool {
	x, y := m.names(a, false), m.names(b, false)
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] != y[i] {
			return false
		}
	}
	m.nest(at)
	same := true
	for i := 0; i < len(x) && same; i++ {
		m.loop(at)
		same = m.equal(m.index(a, x[i], at), m.index(b, x[i], at), at)
	}
	m.unnest()
	return same
}

// compare returns -1, 0 or 1 as a is less than, equal to or greater than b.
func (m *machine) compare(a, b value, at *site) int {
	switch a.kind() {
	case kindNumber:
		y := m.wantNumber(b, at)
		switch {
		case a.n < y:
			return -1
		case a.n > y:
			return 1
		}
		return 0
	case kindString:
		x, y := a.text(), m.wantText(b, at)
		m.work(int(min(x.bytes, y.bytes)))
		return compareStrings(x.string(m), y.string(m))
	case kindArray:
		return m.compareArrays(a.array(), m.wantArray(b, at), at)
	}
	m.failf(at, "Unexpected type %v", a.kind())
	return 0
}

func (m *machine) compareArrays(x, y *array, at *site) int {
	m.nest(at)
	c := 0
	for i := 0; i < min(len(x.elems), len(y.elems)) && c == 0; i++ {
		m.loop(at)
		c = m.compare(m.elem(x, i, at), m.elem(y, i, at), at)
	}
	m.unnest()
	if c == 0 {
		c = cmp.Compare(len(x.elems), len(y.elems))
	}
	return c
}
