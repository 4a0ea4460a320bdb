package eval

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/astgen"
)

// builtin is a function of std that is written in Go.
//
// Those that go-jsonnet writes in Go too are basic: they fail with its words.
// The others replace functions that it writes in Jsonnet. These may fail with
// any words, since an evaluation that fails is repeated in precise mode, where
// only basic ones are used.
type builtin struct {
	name     string
	params   []string
	optional int  // the number of trailing parameters that have a default
	lazy     uint // a bit for each parameter that may remain delayed
	basic    bool
	fn       func(m *machine, args []value, at *site) value
	value    function
}

var builtins = map[string]*builtin{}

func define(b *builtin) {
	b.value = function{header: header{kind: kindFunction}, builtin: b}
	if strict := b.fn; b.lazy != 1<<len(b.params)-1 {
		lazy := b.lazy
		b.fn = func(m *machine, args []value, at *site) value {
			for i := range args {
				if v := args[i]; lazy&(1<<i) == 0 && v.h != nil && v.h.kind == kindThunk {
					args[i] = m.force(v.thunk(), at)
				}
			}
			return strict(m, args, at)
		}
	}
	builtins[b.name] = b
}

type goFunc = func(m *machine, args []value, at *site) value

// basic defines a function that go-jsonnet writes in Go.
func basic(name string, fn goFunc, params ...string) {
	define(&builtin{name: name, params: params, basic: true, fn: fn})
}

// extra defines a function that go-jsonnet writes in Jsonnet.
func extra(name string, fn goFunc, params ...string) {
	define(&builtin{name: name, params: params, fn: fn})
}

// stdMember returns the name of the member of std that an expression is, if
// std is the standard library here.
func (c *compiler) stdMember(n ast.Node, s *scope) (string, bool) {
	i, ok := n.(*ast.Index)
	if !ok {
		return "", false
	}
	v, ok := i.Target.(*ast.Var)
	if !ok {
		return "", false
	}
	if _, _, bound := s.resolve(v.Id); bound {
		return "", false
	}
	name, ok := i.Index.(*ast.LiteralString)
	if !ok {
		return "", false
	}
	return name.Value, true
}

func (c *compiler) builtin(name string) *builtin {
	b := builtins[name]
	if b == nil || c.precise && !b.basic {
		return nil
	}
	return b
}

// indexStd compiles std.name to a constant, if it is one.
func (c *compiler) indexStd(n *ast.Index, s *scope) code {
	name, ok := c.stdMember(n, s)
	if !ok {
		return nil
	}
	if b := c.builtin(name); b != nil {
		return constant(b.value.value())
	}
	if name == "thisFile" {
		return constant(staticText(c.file).value())
	}
	return nil
}

// applyStd compiles a call of a builtin, without a function value and, where it
// needs its arguments evaluated, without thunks.
func (c *compiler) applyStd(n *ast.Apply, s *scope, t tailness) code {
	name, ok := c.stdMember(n.Target, s)
	if !ok {
		return nil
	}
	if !c.precise {
		switch name {
		case "$flatMapArray":
			if fn, _, _ := loopOf(n); fn != nil {
				return c.arrayComprehension(n, s)
			}
		case "$objectFlatMerge":
			if fn, _, _ := loopOf(n.Arguments.Positional[0].Expr); fn != nil {
				if k := c.objectComprehension(n.Arguments.Positional[0].Expr, s, c.site(n)); k != nil {
					return k
				}
			}
		}
	}
	b := c.builtin(name)
	pos := n.Arguments.Positional
	if b == nil || len(n.Arguments.Named) > 0 || len(pos) > len(b.params) || len(pos) < len(b.params)-b.optional {
		return nil
	}
	if n.TailStrict && c.precise {
		return nil
	}
	return c.callBuiltin(b, pos, s, c.site(n), t)
}

func (c *compiler) callBuiltin(b *builtin, pos []ast.CommaSeparatedExpr, s *scope, at *site, t tailness) code {
	args := make([]code, len(pos))
	for i, a := range pos {
		if c.precise || b.lazy&(1<<i) != 0 {
			args[i] = c.lazy(a.Expr, s)
		} else {
			args[i] = c.expr(a.Expr, s, tailNone)
		}
	}
	n, fn := len(b.params), b.fn
	return func(m *machine, f *frame) value {
		base := len(m.args)
		for _, a := range args {
			m.args = append(m.args, a(m, f))
		}
		for i := len(args); i < n; i++ {
			m.args = append(m.args, value{})
		}
		m.steps++
		if t != tailNone && m.trim == m.sp {
			m.sp--
			m.trim = 0
		}
		r := fn(m, m.args[base:base+n:base+n], at)
		m.args = m.args[:base]
		return r
	}
}

// stdValue compiles std itself.
func (c *compiler) stdValue() code {
	if c.std {
		return func(m *machine, _ *frame) value { return m.stdObject().value() }
	}
	file := c.file
	return func(m *machine, _ *frame) value { return m.stdOf(file).value() }
}

// stdShapes are the shapes of the object that is std: one whose functions are
// all in Go, and one with the originals of those that go-jsonnet writes in
// Jsonnet. The second has a precise form.
type stdShapes struct {
	once  sync.Once
	shape *shape
}

var fastStd, originalStd, preciseStd stdShapes

func (s *stdShapes) get(precise, originals bool) *shape {
	s.once.Do(func() {
		c := &compiler{precise: precise, std: true}
		lit := astgen.StdAst
		p, inner := c.members(lit, nil)
		index := map[string]int{}
		for i := range lit.Fields {
			name := lit.Fields[i].Name.(*ast.LiteralString).Value
			p.fields[i].name = name
			index[name] = i
			c.fieldCode(&p.fields[i], &lit.Fields[i], inner)
		}
		for name, b := range builtins {
			if originals && !b.basic {
				continue
			}
			fd := field{name: name, hide: ast.ObjectFieldHidden, ready: b.value.value()}
			if i, ok := index[name]; ok {
				p.fields[i] = fd
			} else {
				p.fields = append(p.fields, fd)
			}
		}
		p.seal()
		s.shape = p
	})
	return s.shape
}

// stdObject returns the part of std that all files share.
func (m *machine) stdObject() *object {
	if m.std == nil {
		s := &fastStd
		if m.precise {
			s = &preciseStd
		}
		m.std = m.newObject(s.get(m.precise, m.precise), nil)
	}
	return m.std
}

// stdOf returns std as a file sees it.
func (m *machine) stdOf(file string) *object {
	o := m.stdFiles[file]
	if o == nil {
		s := &shape{fields: []field{{name: "thisFile", hide: ast.ObjectFieldHidden, ready: staticText(file).value()}}, dynamic: true}
		o = m.join(m.stdObject(), m.newObject(s, nil)).object()
		if m.stdFiles == nil {
			m.stdFiles = map[string]*object{}
		}
		m.stdFiles[file] = o
	}
	return o
}

// original calls the Jsonnet form of a function of std, for arguments that the
// Go form leaves to it.
func (m *machine) original(name string, args []value, at *site) value {
	if m.originals == nil {
		m.originals = m.newObject(originalStd.get(false, true), nil)
	}
	fn := m.index(m.originals, name, at).function()
	n := len(args)
	for n > 0 && args[n-1].h == nil {
		n--
	}
	return m.call(fn, at, args[:n]...)
}

// nativeUnit returns a unit whose code is written in Go.
func nativeUnit(c code) *unit {
	u := &unit{weight: 2}
	atomic.StorePointer(&u.p, *(*unsafe.Pointer)(unsafe.Pointer(&c)))
	return u
}

// lazyCall returns the result of calling fn with x, delayed.
func (m *machine) lazyCall(fn *function, x value) value {
	if p := fn.proto; p != nil && len(p.params) == 1 {
		p.body.code()
		f := m.newFrame(fn.env, p.slots)
		*f.slot(0) = x
		return m.delay(p.body, f)
	}
	f := m.newFrame(nil, 2)
	*f.slot(0), *f.slot(1) = fn.value(), x
	return m.delay(callUnit, f)
}

var callUnit = nativeUnit(func(m *machine, f *frame) value {
	return m.call(f.slot(0).function(), stdSite, *f.slot(1))
})

var call2Unit = nativeUnit(func(m *machine, f *frame) value {
	return m.call(f.slot(0).function(), stdSite, *f.slot(1), *f.slot(2))
})

// stdSite stands for a place within the standard library.
var stdSite = messageSite("<std>")

func messageSite(msg string) *site {
	loc := ast.MakeLocationRangeMessage(msg)
	return &site{loc: &loc}
}

// lazyField returns field name of o, delayed unless it is known.
func (m *machine) lazyField(o *object, name string) value {
	if l, d, i := m.find(o, 0, name); l != nil && o.flags&flagAsserts == 0 {
		_ = d
		fd := &l.shape.fields[i]
		if fd.unit == nil && !fd.plus {
			return fd.ready
		}
		if l.vals != nil {
			if v := *l.cell(m, i); v.h != nil {
				return v
			}
		}
	}
	f := m.newFrame(nil, 2)
	*f.slot(0), *f.slot(1) = o.value(), m.text(name)
	return m.delay(fieldUnit, f)
}

var fieldUnit = nativeUnit(func(m *machine, f *frame) value {
	return m.index(f.slot(0).object(), f.slot(1).text().string(m), stdSite)
})

// readyObject returns an object whose fields are known.
func (m *machine) readyObject(names []string, vals []value) value {
	m.charge(len(names) * fieldCost)
	s := &shape{fields: make([]field, len(names)), dynamic: true}
	for i, name := range names {
		s.fields[i] = field{name: name, hide: ast.ObjectFieldInherit, ready: vals[i]}
		if vals[i].kind() == kindThunk {
			panic("eval: delayed value in a ready object")
		}
	}
	s.seal()
	return m.newObject(s, nil).value()
}

// eachObject returns an object whose fields run a unit, each in a frame of its own.
func (m *machine) eachObject(names []string, frames []*frame, u *unit) value {
	m.charge(len(names) * fieldCost)
	s := &shape{fields: make([]field, len(names)), each: true, dynamic: true}
	env := m.newFrame(nil, len(names))
	for i, name := range names {
		s.fields[i] = field{name: name, hide: ast.ObjectFieldInherit, unit: u}
		*env.slot(i) = value{h: (*header)(unsafe.Pointer(frames[i]))}
	}
	s.seal()
	return m.newObject(s, env).value()
}

// names returns the names of the fields of o, sorted.
func (m *machine) names(o *object, hidden bool) []string {
	if o.comp == nil && !hidden {
		order := o.shape.visible()
		m.charge(len(order) * 2 * wordCost)
		out := make([]string, len(order))
		for i, at := range order {
			out[i] = o.shape.fields[at].name
		}
		return out
	}
	t := m.fieldsOf(o)
	list := t.visible
	if hidden {
		list = t.all
	}
	m.charge(len(list) * 2 * wordCost)
	out := make([]string, len(list))
	for i := range list {
		out[i] = list[i].name
	}
	return out
}

// visibleCount returns the number of fields of o that are not hidden.
func (m *machine) visibleCount(o *object) int {
	if o.comp == nil {
		return len(o.shape.visible())
	}
	return len(m.fieldsOf(o).visible)
}

// has reports whether o has a field, and whether it is hidden.
func (m *machine) has(o *object, name string, hidden bool) bool {
	if o.comp == nil {
		i := o.shape.find(name)
		return i >= 0 && (hidden || o.shape.fields[i].hide != ast.ObjectFieldHidden)
	}
	t := o.comp.table
	if t == nil {
		layers := o.layers(m)
		if !o.comp.restricted && len(layers) <= 64 {
			found := false
			for _, l := range layers {
				if i := l.shape.find(name); i >= 0 {
					switch l.shape.fields[i].hide {
					case ast.ObjectFieldHidden:
						return hidden
					case ast.ObjectFieldVisible:
						return true
					}
					found = true
				}
			}
			return found
		}
		t = m.fieldsOf(o)
	}
	i, ok := t.find(name)
	return ok && (hidden || t.all[i].hide != ast.ObjectFieldHidden)
}
