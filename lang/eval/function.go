package eval

import (
	"slices"

	"github.com/google/go-jsonnet/ast"
)

// function is a function value: a closure, a builtin, or a native function.
type function struct {
	header
	proto   *proto
	env     *frame
	builtin *builtin
}

// proto is the code of a function literal.
type proto struct {
	params   []param
	required int
	body     *unit
	slots    int // the size of a frame: parameters and leading locals; set before body's code
}

type param struct {
	name ast.Identifier
	def  *unit // nil if the parameter is required
}

func (c *compiler) function(n *ast.Function, s *scope) *proto {
	inner := &scope{parent: s, hop: true, vars: make([]variable, 0, len(n.Parameters))}
	p := &proto{params: make([]param, len(n.Parameters))}
	for i, a := range n.Parameters {
		inner.vars = append(inner.vars, variable{name: a.Name, slot: i})
	}
	for i, a := range n.Parameters {
		p.params[i].name = a.Name
		if a.DefaultArg == nil {
			p.required++
		} else {
			p.params[i].def = c.newUnit(a.DefaultArg, inner)
		}
	}
	p.body = &unit{node: n.Body, scope: inner, c: c, proto: p}
	return p
}

// functionCode compiles the body of a function. Locals that it begins with are
// slots of the function's own frame.
func (c *compiler) functionCode(p *proto, n ast.Node, s *scope) code {
	base := len(p.params)
	set, body, slots := c.locals(n, s, base)
	p.slots = slots
	k := c.expr(body.node, body.scope, tailTrue)
	switch len(set) {
	case 0:
		return k
	case 1:
		first := set[0]
		return func(m *machine, f *frame) value {
			*f.slot(base) = first(m, f)
			return k(m, f)
		}
	}
	return func(m *machine, f *frame) value {
		for i, l := range set {
			*f.slot(base + i) = l(m, f)
		}
		return k(m, f)
	}
}

func (m *machine) closure(p *proto, f *frame) value {
	m.charge(closureCost)
	return (&function{header: header{kind: kindFunction}, proto: p, env: f}).value()
}

// parameters returns the number of parameters that have no default.
func (f *function) required() int {
	if f.builtin != nil {
		return len(f.builtin.params) - f.builtin.optional
	}
	return f.proto.required
}

type namedArg struct {
	name  ast.Identifier
	value value
}

// bind makes the frame of a call of a closure.
func (m *machine) bind(fn *function, pos []value, named []namedArg, at *site) *frame {
	p := fn.proto
	p.body.code()
	if len(pos) > len(p.params) {
		m.failf(at, "function expected %v positional argument(s), but got %v", len(p.params), len(pos))
	}
	f := m.newFrame(fn.env, p.slots)
	for i, v := range pos {
		*f.slot(i) = v
	}
	for _, a := range named {
		i := slices.IndexFunc(p.params, func(p param) bool { return p.name == a.name })
		switch {
		case i >= 0 && f.slot(i).h != nil:
			m.failf(at, "Argument %v already provided", a.name)
		case i < 0:
			m.failf(at, "function has no parameter %v", a.name)
		}
		*f.slot(i) = a.value
	}
	for i := range p.params {
		if f.slot(i).h != nil {
			continue
		}
		if p.params[i].def == nil {
			m.failf(at, "Missing argument: %v", p.params[i].name)
		}
		*f.slot(i) = m.delay(p.params[i].def, f)
	}
	return f
}

// bindBuiltin puts the arguments of a call of a builtin in the order of its
// parameters. Absent ones are zero.
func (m *machine) bindBuiltin(b *builtin, pos []value, named []namedArg, at *site) []value {
	if len(pos) > len(b.params) {
		m.failf(at, "function expected %v positional argument(s), but got %v", len(b.params), len(pos))
	}
	if len(pos) == len(b.params) && len(named) == 0 {
		return pos
	}
	args := make([]value, len(b.params))
	copy(args, pos)
	for _, a := range named {
		i := slices.Index(b.params, string(a.name))
		switch {
		case i >= 0 && args[i].h != nil:
			m.failf(at, "Argument %v already provided", a.name)
		case i < 0:
			m.failf(at, "function has no parameter %v", a.name)
		}
		args[i] = a.value
	}
	for i := range len(b.params) - b.optional {
		if args[i].h == nil {
			m.failf(at, "Missing argument: %v", b.params[i])
		}
	}
	return args
}

// call calls a function with positional arguments.
func (m *machine) call(fn *function, at *site, args ...value) value {
	if fn.builtin != nil {
		return fn.builtin.fn(m, m.bindBuiltin(fn.builtin, args, nil, at), at)
	}
	return m.enter(fn.proto, m.bind(fn, args, nil, at), at)
}

// call1 is call with one argument.
func (m *machine) call1(fn *function, at *site, x value) value {
	if p := fn.proto; p != nil && len(p.params) == 1 {
		p.body.code()
		f := m.newFrame(fn.env, p.slots)
		*f.slot(0) = x
		return m.enter(p, f, at)
	}
	return m.call(fn, at, x)
}

// call2 is call with two arguments.
func (m *machine) call2(fn *function, at *site, x, y value) value {
	if p := fn.proto; p != nil && len(p.params) == 2 {
		p.body.code()
		f := m.newFrame(fn.env, p.slots)
		*f.slot(0), *f.slot(1) = x, y
		return m.enter(p, f, at)
	}
	return m.call(fn, at, x, y)
}

// enter runs the body of a function in its frame.
func (m *machine) enter(p *proto, f *frame, at *site) value {
	sp := m.sp
	m.push(at, f)
	v := m.run(p.body, f, at)
	m.sp = sp
	return v
}

// enterStrict is enter for a tail-strict call: the arguments are evaluated
// first, and a call that the body ends with takes the place of its activation.
func (m *machine) enterStrict(p *proto, f *frame, at *site) value {
	m.forceSlots(f, len(p.params), at)
	sp, trim := m.sp, m.trim
	m.push(at, f)
	m.trim = m.sp
	for {
		v := m.run(p.body, f, at)
		if v.h != &tailHeader {
			m.sp, m.trim = sp, trim
			return v
		}
		next := m.tail
		m.sp, m.trim = sp, 0
		p, f, at = next.proto, next.frame, next.site
		if next.strict {
			m.forceSlots(f, len(p.params), at)
		}
		m.push(at, f)
		if next.strict {
			m.trim = m.sp
		}
	}
}

func (m *machine) forceSlots(f *frame, n int, at *site) {
	for i := range n {
		m.read(f.slot(i), at)
	}
}

// call compiled from the syntax.
type callSite struct {
	at     *site
	target code
	pos    []code
	named  []namedCode
	strict bool
	tail   tailness
}

type namedCode struct {
	name ast.Identifier
	code code
}

func (c *compiler) apply(n *ast.Apply, s *scope, t tailness) code {
	if k := c.applyStd(n, s, t); k != nil {
		return k
	}
	k := &callSite{at: c.site(n), target: c.expr(n.Target, s, tailNone), strict: n.TailStrict, tail: t}
	for _, a := range n.Arguments.Positional {
		k.pos = append(k.pos, c.lazy(a.Expr, s))
	}
	for _, a := range n.Arguments.Named {
		k.named = append(k.named, namedCode{a.Name, c.lazy(a.Arg, s)})
	}
	if len(k.named) == 0 && !k.strict {
		switch len(k.pos) {
		case 1:
			return k.one()
		case 2:
			return k.two()
		}
	}
	return k.run
}

// run evaluates a call.
func (k *callSite) run(m *machine, f *frame) value {
	v := k.target(m, f)
	if v.h.kind != kindFunction {
		m.wantType(v, kindFunction, k.at)
	}
	fn := v.function()
	base := len(m.args)
	var named []namedArg
	for _, a := range k.pos {
		m.args = append(m.args, a(m, f))
	}
	pos := m.args[base:len(m.args):len(m.args)]
	for _, a := range k.named {
		named = append(named, namedArg{a.name, a.code(m, f)})
	}
	if fn.builtin != nil {
		args := m.bindBuiltin(fn.builtin, pos, named, k.at)
		k.trim(m)
		r := fn.builtin.fn(m, args, k.at)
		m.args = m.args[:base]
		return r
	}
	g := m.bind(fn, pos, named, k.at)
	m.args = m.args[:base]
	return k.finish(m, fn.proto, g)
}

// finish runs the body of a closure, or leaves it to the caller if the
// activation is that of a tail-strict call whose last act this is.
func (k *callSite) finish(m *machine, p *proto, g *frame) value {
	if k.tail != tailNone && m.trim == m.sp {
		if k.tail == tailTrue {
			m.tail = tailCall{p, g, k.at, k.strict}
			return value{h: &tailHeader}
		}
		m.sp--
		m.trim = 0
	}
	if k.strict {
		return m.enterStrict(p, g, k.at)
	}
	return m.enter(p, g, k.at)
}

// trim drops the activation of a tail-strict call whose last act this is.
func (k *callSite) trim(m *machine) {
	if k.tail != tailNone && m.trim == m.sp {
		m.sp--
		m.trim = 0
	}
}

// one is run for one positional argument.
func (k *callSite) one() code {
	target, x, at := k.target, k.pos[0], k.at
	return func(m *machine, f *frame) value {
		v := target(m, f)
		if v.h.kind == kindFunction {
			if fn := v.function(); fn.proto != nil && len(fn.proto.params) == 1 {
				p := fn.proto
				p.body.code()
				g := m.newFrame(fn.env, p.slots)
				*g.slot(0) = x(m, f)
				if m.trim == m.sp {
					return k.finish(m, p, g)
				}
				return m.enter(p, g, at)
			}
		}
		return k.general(m, f, v)
	}
}

// two is run for two positional arguments.
func (k *callSite) two() code {
	target, x, y, at := k.target, k.pos[0], k.pos[1], k.at
	return func(m *machine, f *frame) value {
		v := target(m, f)
		if v.h.kind == kindFunction {
			if fn := v.function(); fn.proto != nil && len(fn.proto.params) == 2 {
				p := fn.proto
				p.body.code()
				g := m.newFrame(fn.env, p.slots)
				*g.slot(0) = x(m, f)
				*g.slot(1) = y(m, f)
				if m.trim == m.sp {
					return k.finish(m, p, g)
				}
				return m.enter(p, g, at)
			}
		}
		return k.general(m, f, v)
	}
}

// general is run for a target that is already evaluated.
func (k *callSite) general(m *machine, f *frame, v value) value {
	rest := *k
	rest.target = constant(v)
	return rest.run(m, f)
}
