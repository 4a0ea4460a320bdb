package eval

import (
	"slices"
	"unsafe"

	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/toolutils"
)

// object compiles an object literal.
func (c *compiler) object(n *ast.DesugaredObject, s *scope) code {
	shape := c.shape(n, s)
	return func(m *machine, f *frame) value { return m.newObject(shape(m, f), f).value() }
}

// extension compiles left + { … }.
func (c *compiler) extension(left code, n *ast.DesugaredObject, s *scope, at *site) code {
	shape := c.shape(n, s)
	return func(m *machine, f *frame) value {
		v := left(m, f)
		m.hold(v)
		s := shape(m, f)
		m.drop(1)
		if v.h.kind == kindObject {
			return m.extend(v.object(), s, f)
		}
		return m.add(v, m.newObject(s, f).value(), at)
	}
}

// shape compiles what makes the shape of an object literal.
func (c *compiler) shape(n *ast.DesugaredObject, s *scope) func(*machine, *frame) *shape {
	proto, inner := c.members(n, s)
	names := make([]code, len(n.Fields))
	dynamic := false
	for i := range n.Fields {
		f := &n.Fields[i]
		if lit, ok := f.Name.(*ast.LiteralString); ok {
			proto.fields[i].name = lit.Value
		} else {
			names[i], dynamic = c.expr(f.Name, s, tailNone), true
		}
		c.fieldCode(&proto.fields[i], f, inner)
	}
	at := c.site(n)
	if !dynamic {
		if name, twice := duplicate(proto.fields); twice {
			return func(m *machine, _ *frame) *shape {
				m.fail(at, "Duplicate field name: "+quote(name))
				return nil
			}
		}
		proto.seal()
		return func(*machine, *frame) *shape { return proto }
	}
	return func(m *machine, f *frame) *shape { return m.named(proto, names, f, at) }
}

// members compiles what the fields of an object literal share, and returns the
// scope of their values.
func (c *compiler) members(n *ast.DesugaredObject, s *scope) (*shape, *scope) {
	p := &shape{fields: make([]field, len(n.Fields)), loc: n.Loc()}
	inner := s
	if needsFrame(n) {
		p.framed = true
		inner = &scope{parent: s, hop: true, object: true}
		for i, l := range n.Locals {
			_, self := l.Body.(*ast.Self)
			inner.vars = append(inner.vars, variable{name: l.Variable, slot: i + 1, self: self})
		}
		for i, l := range n.Locals {
			if inner.vars[i].self {
				p.locals = append(p.locals, nil)
			} else {
				p.locals = append(p.locals, c.newUnit(l.Body, inner))
			}
		}
	}
	for _, a := range n.Asserts {
		p.asserts = append(p.asserts, c.newUnit(a, inner))
	}
	return p, inner
}

func (c *compiler) fieldCode(fd *field, n *ast.DesugaredObjectField, s *scope) {
	fd.hide, fd.plus, fd.loc = n.Hide, n.PlusSuper, &n.LocRange
	if fd.plus {
		context := "+:"
		fd.site = &site{loc: n.Body.Loc(), ctx: &context}
	}
	if v, ok := literal(n.Body); ok {
		fd.ready = v
		return
	}
	fd.unit = c.newUnit(n.Body, s)
}

func duplicate(fields []field) (string, bool) {
	seen := make(map[string]bool, len(fields))
	for i := range fields {
		if seen[fields[i].name] {
			return fields[i].name, true
		}
		seen[fields[i].name] = true
	}
	return "", false
}

// named returns the shape of an object literal with computed names: the last
// one, if the names are the same.
func (m *machine) named(proto *shape, names []code, f *frame, at *site) *shape {
	fields := make([]field, 0, len(proto.fields))
	for i := range proto.fields {
		fd := proto.fields[i]
		if names[i] != nil {
			switch v := names[i](m, f); v.kind() {
			case kindString:
				fd.name = v.text().string(m)
			case kindNull:
				continue
			default:
				m.failf(at, "Field name must be string, got %v", v.kind())
			}
		}
		for j := range fields {
			if len(proto.fields) <= smallShape && fields[j].name == fd.name {
				m.fail(at, "Duplicate field name: "+quote(fd.name))
			}
		}
		fields = append(fields, fd)
	}
	if last := m.last[proto]; last != nil && slices.EqualFunc(last.fields, fields, func(a, b field) bool { return a.name == b.name }) {
		return last
	}
	if len(proto.fields) > smallShape {
		if name, twice := duplicate(fields); twice {
			m.fail(at, "Duplicate field name: "+quote(name))
		}
	}
	m.charge(len(fields) * fieldCost)
	s := &shape{fields: fields, locals: proto.locals, asserts: proto.asserts, framed: proto.framed, loc: proto.loc, dynamic: true}
	s.seal()
	m.remember(proto, s)
	return s
}

// needsFrame reports whether the members of an object use self, super, or a
// local of the object.
func needsFrame(n *ast.DesugaredObject) bool {
	uses := func(b ast.Node) bool {
		for _, l := range n.Locals {
			if slices.Contains(b.FreeVariables(), l.Variable) {
				return true
			}
		}
		return usesSelf(b)
	}
	for i := range n.Fields {
		if uses(n.Fields[i].Body) {
			return true
		}
	}
	return slices.ContainsFunc(n.Asserts, uses)
}

// usesSelf reports whether an expression uses the self or super of the object
// around it.
func usesSelf(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.LiteralNull, *ast.LiteralBoolean, *ast.LiteralNumber, *ast.LiteralString, *ast.Var,
		*ast.Import, *ast.ImportStr, *ast.ImportBin:
		return false
	case *ast.Self, *ast.SuperIndex, *ast.InSuper:
		return true
	case *ast.Index:
		return usesSelf(n.Target) || usesSelf(n.Index)
	case *ast.Binary:
		return usesSelf(n.Left) || usesSelf(n.Right)
	case *ast.Function:
		for _, p := range n.Parameters {
			if p.DefaultArg != nil && usesSelf(p.DefaultArg) {
				return true
			}
		}
		return usesSelf(n.Body)
	case *ast.DesugaredObject:
		return slices.ContainsFunc(n.Fields, func(f ast.DesugaredObjectField) bool { return usesSelf(f.Name) })
	case *ast.Local:
		if unused(n) {
			return usesSelf(n.Body)
		}
		return usesSelf(n.Body) || slices.ContainsFunc(n.Binds, func(b ast.LocalBind) bool { return usesSelf(b.Body) })
	}
	return slices.ContainsFunc(toolutils.Children(n), usesSelf)
}

// Comprehensions are desugared to calls of a function for each element. They
// are compiled to loops that append to a list.

// emitter appends what the inside of a comprehension produces in a frame.
type emitter func(m *machine, f *frame, out *[]value)

// loopOf returns the parts of a desugared for: its function and its list.
func loopOf(n ast.Node) (*ast.Function, ast.Node, *ast.Apply) {
	a, ok := n.(*ast.Apply)
	if !ok || stdName(a.Target) != "$flatMapArray" || len(a.Arguments.Positional) != 2 {
		return nil, nil, nil
	}
	fn, ok := a.Arguments.Positional[0].Expr.(*ast.Function)
	if !ok {
		return nil, nil, nil
	}
	return fn, a.Arguments.Positional[1].Expr, a
}

// stdName returns the name of a function of std that only desugared syntax calls.
func stdName(n ast.Node) string {
	if i, ok := n.(*ast.Index); ok {
		if v, ok := i.Target.(*ast.Var); ok && v.Id == "$std" {
			if s, ok := i.Index.(*ast.LiteralString); ok {
				return s.Value
			}
		}
	}
	return ""
}

func (c *compiler) arrayComprehension(n ast.Node, s *scope) code {
	e := c.emit(n, s, func(inside *ast.Array, s *scope) emitter {
		elem := c.lazy(inside.Elements[0].Expr, s)
		return func(m *machine, f *frame, out *[]value) {
			m.charge(valueCost)
			*out = append(*out, elem(m, f))
		}
	})
	return func(m *machine, f *frame) value {
		var out []value
		e(m, f, &out)
		return m.arrayOf(out)
	}
}

// emit compiles the inside of a comprehension. leaf compiles the innermost part.
func (c *compiler) emit(n ast.Node, s *scope, leaf func(*ast.Array, *scope) emitter) emitter {
	if fn, list, a := loopOf(n); fn != nil {
		at := c.site(a)
		from := c.expr(list, s, tailNone)
		inner := &scope{parent: s, hop: true, vars: []variable{{name: fn.Parameters[0].Name}}}
		body := c.emit(fn.Body, inner, leaf)
		return func(m *machine, f *frame, out *[]value) {
			v := from(m, f)
			if v.kind() != kindArray {
				m.wantType(v, kindArray, at)
			}
			a := v.array()
			m.hold(v)
			if *out == nil {
				*out = make([]value, 0, len(a.elems))
			}
			for i := range a.elems {
				g := m.newFrame(f, 1)
				*g.slot(0) = a.elems[i]
				m.loop(at)
				body(m, g, out)
			}
			m.drop(1)
		}
	}
	if cond, ok := n.(*ast.Conditional); ok {
		if e, ok := cond.BranchFalse.(*ast.Array); ok && len(e.Elements) == 0 {
			at := c.site(cond)
			test := c.expr(cond.Cond, s, tailNone)
			body := c.emit(cond.BranchTrue, s, leaf)
			return func(m *machine, f *frame, out *[]value) {
				if m.wantBool(test(m, f), at) {
					body(m, f, out)
				}
			}
		}
	}
	if l, ok := n.(*ast.Array); ok && len(l.Elements) == 1 {
		return leaf(l, s)
	}
	k := c.expr(n, s, tailNone)
	at := c.site(n)
	return func(m *machine, f *frame, out *[]value) {
		a := m.wantArray(k(m, f), at)
		m.charge(len(a.elems) * valueCost)
		*out = append(*out, a.elems...)
	}
}

// objectComprehension compiles { [name]: value for … }. The value of each field
// runs in the frame of its iteration.
func (c *compiler) objectComprehension(n ast.Node, s *scope, at *site) code {
	var proto shape
	ok := true
	e := c.emit(n, s, func(inside *ast.Array, s *scope) emitter {
		lit, isObject := inside.Elements[0].Expr.(*ast.DesugaredObject)
		if !isObject || len(lit.Fields) != 1 || len(lit.Locals)+len(lit.Asserts) > 0 {
			ok = false
			return nil
		}
		name := c.expr(lit.Fields[0].Name, s, tailNone)
		inner := s
		proto.each = true
		proto.fields = make([]field, 1)
		if usesSelf(lit.Fields[0].Body) {
			proto.framed = true
			inner = &scope{parent: s, hop: true, object: true}
		}
		c.fieldCode(&proto.fields[0], &lit.Fields[0], inner)
		nameAt := c.site(lit)
		return func(m *machine, f *frame, out *[]value) {
			switch v := name(m, f); v.kind() {
			case kindString:
				m.charge(2 * valueCost)
				*out = append(*out, v, value{h: (*header)(unsafe.Pointer(f))})
			case kindNull:
			default:
				m.failf(nameAt, "Field name must be string, got %v", v.kind())
			}
		}
	})
	if !ok {
		return nil
	}
	return func(m *machine, f *frame) value {
		var out []value
		e(m, f, &out)
		n := len(out) / 2
		s := m.comprehended(&proto, out, at)
		env := m.newFrame(f, n)
		for i := range n {
			*env.slot(i) = out[2*i+1]
		}
		return m.newObject(s, env).value()
	}
}

// comprehended returns the shape of an object comprehension with some names:
// the last one, if the names are the same.
func (m *machine) comprehended(proto *shape, out []value, at *site) *shape {
	n := len(out) / 2
	last := m.last[proto]
	if last != nil && len(last.fields) == n {
		same := true
		for i := range n {
			if last.fields[i].name != out[2*i].text().string(m) {
				same = false
				break
			}
		}
		if same {
			return last
		}
	}
	s := &shape{fields: make([]field, n), framed: proto.framed, each: true, dynamic: true}
	m.charge(n * fieldCost)
	for i := range n {
		s.fields[i] = proto.fields[0]
		s.fields[i].name = out[2*i].text().string(m)
	}
	if name, twice := duplicate(s.fields); twice {
		m.fail(at, "Duplicate field name: "+quote(name))
	}
	s.seal()
	m.remember(proto, s)
	return s
}

// remember keeps the last shape that was made for a literal: the next object may
// have the same names.
func (m *machine) remember(proto, s *shape) {
	if m.last == nil {
		m.last = map[*shape]*shape{}
	}
	m.last[proto] = s
}
