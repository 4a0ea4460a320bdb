package eval

import (
	"math"

	"github.com/google/go-jsonnet/ast"
)

// lazy compiles an expression to code that does not evaluate it, but returns a
// value or a thunk. What costs no more than a thunk and cannot fail is
// evaluated at once: literals, variables, functions, small literal objects and
// arrays, arithmetic of numbers that are known. In precise mode only what
// go-jsonnet could not list in a stack trace is.
func (c *compiler) lazy(n ast.Node, s *scope) code {
	if v, ok := literal(n); ok {
		return constant(v)
	}
	switch n := n.(type) {
	case *ast.Function:
		p := c.function(n, s)
		return func(m *machine, f *frame) value { return m.closure(p, f) }
	case *ast.Self:
		return selfCode(s.self())
	}
	if !c.precise {
		switch n := n.(type) {
		case *ast.Var:
			if k := c.lazyVariable(n, s); k != nil {
				return k
			}
		case *ast.DesugaredObject:
			if staticNames(n) {
				return c.object(n, s)
			}
		case *ast.Array:
			if len(n.Elements) <= 8 {
				return c.array(n, s)
			}
		case *ast.Binary:
			if k := c.lazyArithmetic(n, s); k != nil {
				return k
			}
		}
	}
	u := c.newUnit(n, s)
	return func(m *machine, f *frame) value { return m.delay(u, f) }
}

func (c *compiler) lazyVariable(n *ast.Var, s *scope) code {
	hops, v, ok := s.resolve(n.Id)
	switch {
	case !ok:
		return nil
	case v.self:
		return selfCode(hops)
	}
	i, u := v.slot, c.newUnit(n, s)
	return func(m *machine, f *frame) value {
		p := f.up(hops).slot(i)
		v := *p
		if v.h == nil {
			return m.delay(u, f) // a local that is not bound yet
		}
		if v.h.kind == kindThunk && v.thunk().done() {
			v = v.thunk().result()
			*p = v
		}
		return v
	}
}

// lazyArithmetic compiles an operation on two numbers, each a literal or a
// variable, that is done at once if both are evaluated and the result is a
// number.
func (c *compiler) lazyArithmetic(n *ast.Binary, s *scope) code {
	switch n.Op {
	case ast.BopPlus, ast.BopMinus, ast.BopMult:
	default:
		return nil
	}
	x, y := c.known(n.Left, s), c.known(n.Right, s)
	if x == nil || y == nil {
		return nil
	}
	op := n.Op
	u := c.newUnit(n, s)
	return func(m *machine, f *frame) value {
		a, b := x(f), y(f)
		if a.h == &numberHeader && b.h == &numberHeader {
			r := a.n
			switch op {
			case ast.BopPlus:
				r += b.n
			case ast.BopMinus:
				r -= b.n
			default:
				r *= b.n
			}
			if !math.IsInf(r, 0) {
				return number(r)
			}
		}
		return m.delay(u, f)
	}
}

// known returns a function that returns the value of a number literal or of an
// evaluated variable, or something that is no number.
func (c *compiler) known(n ast.Node, s *scope) func(*frame) value {
	switch n := n.(type) {
	case *ast.LiteralNumber:
		if v, ok := literal(n); ok {
			return func(*frame) value { return v }
		}
	case *ast.Var:
		hops, v, ok := s.resolve(n.Id)
		if !ok || v.self {
			return nil
		}
		i := v.slot
		return func(f *frame) value {
			v := *f.up(hops).slot(i)
			if v.h != nil && v.h.kind == kindThunk && v.thunk().done() {
				v = v.thunk().result()
			}
			return v
		}
	}
	return nil
}

// staticNames reports whether creating an object cannot fail: all its names are
// literal strings, and no two are equal.
func staticNames(n *ast.DesugaredObject) bool {
	if len(n.Fields) > 16 {
		return false
	}
	for i, f := range n.Fields {
		s, ok := f.Name.(*ast.LiteralString)
		if !ok {
			return false
		}
		for _, g := range n.Fields[:i] {
			if g.Name.(*ast.LiteralString).Value == s.Value {
				return false
			}
		}
	}
	return true
}
