package eval

import (
	"slices"
	"strconv"
	"sync"

	"github.com/google/go-jsonnet/ast"
)

// compiler turns the syntax tree of one file into code. The code of a unit is
// made when it first runs, under mu; it does not change afterwards, and
// goroutines share it.
type compiler struct {
	mu      sync.Mutex
	file    string // the value of std.thisFile
	from    string // what imports are relative to
	precise bool   // evaluate as go-jsonnet does, activation by activation
	std     bool   // this is the standard library itself
	depth   int    // nesting of the expression that is being compiled
	deepest int
}

// scope is a compile-time view of the frames that code can reach. Variables of
// an inner scope hide those of outer ones.
type scope struct {
	parent *scope
	hop    bool // its variables are in a frame of their own, below the parent's
	object bool // slot 0 of its frame is self
	vars   []variable
}

type variable struct {
	name ast.Identifier
	slot int
	self bool // the variable is bound to self
}

// resolve finds a variable: how many frames up, and in which slot.
func (s *scope) resolve(name ast.Identifier) (hops int, v variable, ok bool) {
	for ; s != nil; s = s.parent {
		for i := len(s.vars) - 1; i >= 0; i-- {
			if s.vars[i].name == name {
				return hops, s.vars[i], true
			}
		}
		if s.hop {
			hops++
		}
	}
	return 0, variable{}, false
}

// self returns how many frames up the frame of the nearest object is.
func (s *scope) self() int {
	hops := 0
	for ; s != nil; s = s.parent {
		if s.object {
			return hops
		}
		if s.hop {
			hops++
		}
	}
	panic("eval: self outside of an object")
}

func (c *compiler) site(n ast.Node) *site { return &site{loc: n.Loc(), ctx: n.Context()} }

func (c *compiler) newUnit(n ast.Node, s *scope) *unit { return &unit{node: n, scope: s, c: c} }

// unitCode compiles the code of a unit.
func (c *compiler) unitCode(u *unit) code {
	c.depth, c.deepest = 0, 0
	var k code
	if u.proto != nil {
		k = c.functionCode(u.proto, u.node, u.scope)
	} else {
		k = c.expr(u.node, u.scope, tailTrue)
	}
	u.weight = c.deepest + 2
	return k
}

// tailness says whether an expression is the last that its activation evaluates.
type tailness uint8

const (
	tailNone tailness = iota
	tailTrue
	// tailTrim is what go-jsonnet takes for a tail position although an operator
	// is still to be applied: the activation is dropped from the stack, but its
	// work is not done.
	tailTrim
)

func (t tailness) trimmed() tailness {
	if t == tailTrue {
		return tailTrim
	}
	return t
}

// expr compiles an expression to code that evaluates it.
func (c *compiler) expr(n ast.Node, s *scope, t tailness) code {
	c.depth++
	c.deepest = max(c.deepest, c.depth)
	k := c.node(n, s, t)
	c.depth--
	return k
}

func constant(v value) code { return func(*machine, *frame) value { return v } }

func (c *compiler) node(n ast.Node, s *scope, t tailness) code {
	switch n := n.(type) {
	case *ast.LiteralNull, *ast.LiteralBoolean, *ast.LiteralString:
		v, _ := literal(n)
		return constant(v)
	case *ast.LiteralNumber:
		if v, ok := literal(n); ok {
			return constant(v)
		}
		at := c.site(n)
		return func(m *machine, _ *frame) value { m.fail(at, "overflow"); return value{} }
	case *ast.Var:
		return c.variable(n, s)
	case *ast.Self:
		return selfCode(s.self())
	case *ast.Local:
		return c.local(n, s, t)
	case *ast.Function:
		p := c.function(n, s)
		return func(m *machine, f *frame) value { return m.closure(p, f) }
	case *ast.Apply:
		return c.apply(n, s, t)
	case *ast.Index:
		return c.index(n, s)
	case *ast.Binary:
		return c.binary(n, s, t)
	case *ast.Unary:
		return c.unary(n, s, t)
	case *ast.Conditional:
		return c.conditional(n, s, t)
	case *ast.Array:
		return c.array(n, s)
	case *ast.DesugaredObject:
		return c.object(n, s)
	case *ast.SuperIndex:
		return c.superIndex(n, s)
	case *ast.InSuper:
		return c.inSuper(n, s)
	case *ast.Error:
		return c.raise(n, s)
	case *ast.Import:
		at, from, path := c.site(n), c.from, n.File.Value
		return func(m *machine, _ *frame) value { return m.importCode(at, from, path) }
	case *ast.ImportStr:
		at, from, path := c.site(n), c.from, n.File.Value
		return func(m *machine, _ *frame) value { return m.importText(at, from, path) }
	case *ast.ImportBin:
		at, from, path := c.site(n), c.from, n.File.Value
		return func(m *machine, _ *frame) value { return m.importBytes(at, from, path) }
	}
	panic("eval: unexpected syntax")
}

// literal returns the value of a literal.
func literal(n ast.Node) (value, bool) {
	switch n := n.(type) {
	case *ast.LiteralNull:
		return nullValue, true
	case *ast.LiteralBoolean:
		return boolean(n.Value), true
	case *ast.LiteralString:
		return staticText(n.Value).value(), true
	case *ast.LiteralNumber:
		f, err := strconv.ParseFloat(n.OriginalString, 64)
		return number(f), err == nil
	}
	return value{}, false
}

func selfCode(hops int) code {
	return func(_ *machine, f *frame) value { return value{h: f.up(hops).slot(0).h} }
}

func (c *compiler) variable(n *ast.Var, s *scope) code {
	hops, v, ok := s.resolve(n.Id)
	if !ok {
		return c.stdValue()
	}
	if v.self {
		return selfCode(hops)
	}
	at, i := c.site(n), v.slot
	switch hops {
	case 0:
		return func(m *machine, f *frame) value { return m.read(f.slot(i), at) }
	case 1:
		return func(m *machine, f *frame) value { return m.read(f.parent.slot(i), at) }
	case 2:
		return func(m *machine, f *frame) value { return m.read(f.parent.parent.slot(i), at) }
	}
	return func(m *machine, f *frame) value { return m.read(f.up(hops).slot(i), at) }
}

// read evaluates a slot.
func (m *machine) read(p *value, at *site) value {
	v := *p
	if v.h.kind == kindThunk {
		v = m.force(v.thunk(), at)
		*p = v
	}
	return v
}

// local compiles a chain of locals: their variables share one frame.
func (c *compiler) local(n *ast.Local, s *scope, t tailness) code {
	if unused(n) {
		return c.expr(n.Body, s, t)
	}
	inner := &scope{parent: s, hop: true}
	set, body, slots := c.locals(n, inner, 0)
	k := c.expr(body.node, body.scope, t)
	if len(set) == 1 {
		first := set[0]
		return func(m *machine, f *frame) value {
			f = m.newFrame(f, slots)
			*f.slot(0) = first(m, f)
			return k(m, f)
		}
	}
	return func(m *machine, f *frame) value {
		f = m.newFrame(f, slots)
		for i, l := range set {
			*f.slot(i) = l(m, f)
		}
		return k(m, f)
	}
}

// unused reports whether the body of a local uses none of its variables.
func unused(n *ast.Local) bool {
	free := n.Body.FreeVariables()
	for _, b := range n.Binds {
		if slices.Contains(free, b.Variable) {
			return false
		}
	}
	return true
}

type scoped struct {
	node  ast.Node
	scope *scope
}

// locals compiles the bindings of a chain of locals into slots from base on of
// the frame of s. It returns what sets them, and the expression behind.
func (c *compiler) locals(n ast.Node, s *scope, base int) (set []code, body scoped, slots int) {
	for {
		l, ok := n.(*ast.Local)
		if !ok {
			return set, scoped{n, s}, base + len(set)
		}
		if unused(l) {
			n = l.Body
			continue
		}
		if len(s.vars) > 0 {
			s = &scope{parent: s}
		}
		for i, b := range l.Binds {
			s.vars = append(s.vars, variable{name: b.Variable, slot: base + len(set) + i})
		}
		for _, b := range l.Binds {
			set = append(set, c.lazy(b.Body, s))
		}
		n = l.Body
	}
}

func (c *compiler) conditional(n *ast.Conditional, s *scope, t tailness) code {
	at := c.site(n)
	cond := c.expr(n.Cond, s, tailNone)
	yes, no := c.expr(n.BranchTrue, s, t), c.expr(n.BranchFalse, s, t)
	return func(m *machine, f *frame) value {
		switch v := cond(m, f); v.h {
		case &trueHeader:
			return yes(m, f)
		case &falseHeader:
			return no(m, f)
		default:
			m.wantType(v, kindBool, at)
			return value{}
		}
	}
}

func (c *compiler) raise(n *ast.Error, s *scope) code {
	at := c.site(n)
	msg := c.expr(n.Expr, s, tailNone)
	return func(m *machine, f *frame) value {
		v := msg(m, f)
		m.fail(at, m.toString(v, at))
		return value{}
	}
}

func (c *compiler) array(n *ast.Array, s *scope) code {
	elems := make([]code, len(n.Elements))
	for i, e := range n.Elements {
		elems[i] = c.lazy(e.Expr, s)
	}
	if len(elems) == 0 {
		return constant((&array{header: header{kind: kindArray}}).value())
	}
	return func(m *machine, f *frame) value {
		out := m.newArray(len(elems))
		for i, e := range elems {
			out.elems[i] = e(m, f)
		}
		return out.value()
	}
}

func (m *machine) newArray(n int) *array {
	m.checkElems(n)
	m.charge(arrayCost + n*valueCost)
	return &array{header: header{kind: kindArray}, elems: make([]value, n)}
}

func (m *machine) arrayOf(elems []value) value {
	m.checkElems(len(elems))
	return (&array{header: header{kind: kindArray}, elems: elems}).value()
}

func (c *compiler) superIndex(n *ast.SuperIndex, s *scope) code {
	at, hops := c.site(n), s.self()
	index := c.expr(n.Index, s, tailNone)
	return func(m *machine, f *frame) value {
		name := m.wantText(index(m, f), at)
		self := f.up(hops).slot(0)
		o, depth := value{h: self.h}.object(), int(self.n)+1
		if o.flags&flagAsserts != 0 {
			m.checkAsserts(o, at)
		}
		if depth >= o.size() {
			m.fail(at, "Attempt to use super when there is no super class.")
		}
		l, d, i := m.find(o, depth, name.string(m))
		if l == nil {
			m.fail(at, "Field does not exist: "+name.string(m))
		}
		return m.field(o, l, d, i, at)
	}
}

func (c *compiler) inSuper(n *ast.InSuper, s *scope) code {
	at, hops := c.site(n), s.self()
	index := c.expr(n.Index, s, tailNone)
	return func(m *machine, f *frame) value {
		name := m.wantText(index(m, f), at)
		self := f.up(hops).slot(0)
		l, _, _ := m.find(value{h: self.h}.object(), int(self.n)+1, name.string(m))
		return boolean(l != nil)
	}
}
