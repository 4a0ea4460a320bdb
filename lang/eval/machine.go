package eval

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"

	"github.com/google/go-jsonnet/ast"
)

// code is a compiled expression: it evaluates in a frame. It fails by panicking
// with a *failure, which is recovered where the evaluation began: Jsonnet has
// no way to go on after an error.
type code func(m *machine, f *frame) value

// unit is code that runs in an activation of its own: the body of a function, a
// delayed value, a field. It is compiled when it first runs.
type unit struct {
	p      unsafe.Pointer // the code, a func value; atomic
	weight int            // the nesting of Go functions that the code needs at most, set before p
	node   ast.Node
	scope  *scope
	c      *compiler
	proto  *proto // if this is the body of a function
}

func (u *unit) code() code {
	if p := atomic.LoadPointer(&u.p); p != nil {
		return *(*code)(unsafe.Pointer(&p))
	}
	return u.compile()
}

func (u *unit) compile() code {
	u.c.mu.Lock()
	defer u.c.mu.Unlock()
	if p := atomic.LoadPointer(&u.p); p != nil {
		return *(*code)(unsafe.Pointer(&p))
	}
	c := u.c.unitCode(u)
	atomic.StorePointer(&u.p, *(*unsafe.Pointer)(unsafe.Pointer(&c)))
	return c
}

// site is a place in the program, for stack traces.
type site struct {
	loc *ast.LocationRange
	ctx ast.Context
}

// activation is an entry of the stack.
type activation struct {
	site  *site
	frame *frame
}

// machine is the state of one evaluation. It belongs to one goroutine.
type machine struct {
	ctx     context.Context
	done    <-chan struct{}
	opts    *Options
	limits  Limits
	precise bool // evaluate exactly as go-jsonnet does, for stack traces
	trace   io.Writer

	stack []activation
	sp    int
	trim  int // sp if the top activation is of a tail-strict call
	host  int // nesting of Go functions, in units of the compiler

	steps     int64
	stepStop  int64 // when to look at limits and cancellation
	alloc     int64
	allocStop int64
	compares  int
	live      int64 // after the last tracing
	traceAt   int64 // when to trace again
	keep      []value

	tail tailCall // if the last result was a pending tail call
	args []value  // arguments of calls in progress

	chains    chain
	merged    map[string]int32  // of allFields
	last      map[*shape]*shape // the last shape made for a literal with computed names
	std       *object
	originals *object
	stdFiles  map[string]*object
	formats   map[string]*format
	files     map[string]value
	texts     map[string]value
	extVars   map[string]value
	stats     Stats
	scratch   []byte
}

// tailCall is a call that takes the place of the activation that made it.
type tailCall struct {
	proto  *proto
	frame  *frame
	site   *site
	strict bool
}

// push begins an activation. The caller restores m.sp at its end.
func (m *machine) push(s *site, f *frame) {
	if m.sp == len(m.stack) {
		m.grow(s)
	}
	m.stack[m.sp] = activation{s, f}
	m.sp++
	m.steps++
	if m.steps >= m.stepStop {
		m.checkpoint(s)
	}
}

func (m *machine) grow(s *site) {
	if m.sp >= m.limits.MaxStack {
		m.overflow(s)
	}
	next := make([]activation, min(max(2*len(m.stack), 64), m.limits.MaxStack))
	copy(next, m.stack)
	m.stack = next
}

// force evaluates a delayed value for the node at s.
func (m *machine) force(t *thunk, s *site) value {
	if t.unit == nil {
		return t.result()
	}
	env := (*frame)(t.p)
	sp := m.sp
	m.push(s, env)
	v := m.run(t.unit, env, s)
	m.sp = sp
	t.set(v)
	return v
}

// run evaluates a unit in a frame, within the activation that was pushed.
func (m *machine) run(u *unit, env *frame, s *site) value {
	c := u.code()
	m.host += u.weight
	if m.host > maxHost {
		m.tooDeep(s)
	}
	v := c(m, env)
	m.host -= u.weight
	return v
}

// get returns v, evaluated.
func (m *machine) get(v value, s *site) value {
	if v.h.kind == kindThunk {
		return m.force(v.thunk(), s)
	}
	return v
}

// elem returns element i of a, which is in range, evaluated.
func (m *machine) elem(a *array, i int, s *site) value {
	v := a.elems[i]
	if v.h.kind == kindThunk {
		v = m.force(v.thunk(), s)
		a.elems[i] = v
	}
	return v
}

// field evaluates field i of a layer at some depth of o.
func (m *machine) field(o *object, l *layer, depth, i int, s *site) value {
	fd := &l.shape.fields[i]
	if fd.unit == nil && !fd.plus {
		return fd.ready
	}
	if l.vals != nil {
		if v := *l.cell(m, i); v.h != nil {
			return v
		}
	}
	var v value
	sp := m.sp
	if !fd.plus {
		v = m.fieldBody(o, l, depth, i, s)
	} else {
		m.push(s, l.env)
		right := m.fieldBody(o, l, depth, i, fd.site)
		m.hold(right)
		v = right
		if l2, d, j := m.find(o, depth+1, fd.name); l2 != nil {
			if o.flags&flagAsserts != 0 {
				m.checkAsserts(o, fd.site)
			}
			left := m.field(o, l2, d, j, fd.site)
			v = m.add(left, right, fd.site)
		}
		m.drop(1)
	}
	m.sp = sp
	*l.cell(m, i) = v
	return v
}

func (m *machine) fieldBody(o *object, l *layer, depth, i int, s *site) value {
	fd := &l.shape.fields[i]
	if fd.unit == nil {
		return fd.ready
	}
	env := m.fieldFrame(o, l, depth, i)
	sp := m.sp
	m.push(s, env)
	v := m.run(fd.unit, env, s)
	m.sp = sp
	return v
}

// fieldFrame returns the frame in which field i of a layer runs.
func (m *machine) fieldFrame(o *object, l *layer, depth, i int) *frame {
	env := l.env
	if l.shape.each {
		env = (*frame)(unsafe.Pointer(env.slot(i).h))
		if !l.shape.framed {
			return env
		}
		f := m.newFrame(env, 1)
		*f.slot(0) = value{h: &o.header, n: float64(depth)}
		return f
	}
	if !l.shape.framed {
		return env
	}
	return m.selfFrame(o, l, depth)
}

// selfFrame returns the frame of the members of a layer: self, and the locals.
func (m *machine) selfFrame(o *object, l *layer, depth int) *frame {
	if l.self != nil {
		return l.self
	}
	locals := l.shape.locals
	f := m.newFrame(l.env, 1+len(locals))
	*f.slot(0) = value{h: &o.header, n: float64(depth)}
	for i, u := range locals {
		if u != nil {
			*f.slot(i + 1) = m.delay(u, f)
		}
	}
	l.self = f
	return f
}

func (m *machine) delay(u *unit, f *frame) value {
	m.charge(thunkCost)
	return (&thunk{header: header{kind: kindThunk}, unit: u, p: unsafe.Pointer(f)}).value()
}

func (m *machine) newFrame(parent *frame, n int) *frame {
	m.charge((n + 1) * valueCost)
	f := allocFrame(n)
	f.parent = parent
	f.n = n
	return f
}

// index returns field name of o.
func (m *machine) index(o *object, name string, s *site) value {
	if o.flags&flagAsserts != 0 {
		m.checkAsserts(o, s)
	}
	l, d, i := m.find(o, 0, name)
	if l == nil {
		m.fail(s, "Field does not exist: "+name)
	}
	return m.field(o, l, d, i, s)
}

// checkAsserts evaluates the assertions of o. While it does so they count as
// passed, since they may refer to o.
func (m *machine) checkAsserts(o *object, s *site) {
	if o.flags&flagAsserts == 0 {
		return
	}
	o.flags &^= flagAsserts
	if o.comp == nil {
		m.checkLayer(o, &o.layer, 0, s)
		return
	}
	for d, l := range o.layers(m) {
		m.checkLayer(o, l, d, s)
	}
}

func (m *machine) checkLayer(o *object, l *layer, depth int, s *site) {
	for _, u := range l.shape.asserts {
		f := l.env
		if l.shape.framed {
			f = m.selfFrame(o, l, depth)
		}
		sp := m.sp
		m.push(s, f)
		m.run(u, f, s)
		m.sp = sp
	}
}

// failure is what evaluation panics with.
type failure struct {
	msg      string
	frames   []Frame
	bound    bool
	static   error // of the parser, as it is
	cancel   error
	internal bool
	stack    bool // the bound is that of the stack
}

func (m *machine) fail(s *site, msg string) {
	panic(&failure{msg: msg, frames: m.frames(s)})
}

func (m *machine) failf(s *site, format string, args ...any) {
	m.fail(s, fmt.Sprintf(format, args...))
}

// maxFrames is the number of frames that an error keeps: as many of the
// outermost as of the innermost.
const maxFrames = 10_000

func (m *machine) frames(s *site) []Frame {
	out := make([]Frame, 0, min(m.sp, maxFrames)+1)
	for i := range m.sp {
		if m.sp > maxFrames && i >= maxFrames/2 && i < m.sp-maxFrames/2 {
			continue
		}
		out = append(out, frameOf(m.stack[i].site))
	}
	return append(out, frameOf(s))
}

func frameOf(s *site) Frame {
	if s == nil || s.loc == nil {
		return Frame{}
	}
	f := Frame{Loc: *s.loc}
	if s.ctx != nil {
		f.Name = *s.ctx
	}
	return f
}

func (m *machine) overflow(s *site) {
	panic(&failure{msg: "max stack frames exceeded.", frames: m.frames(s), bound: true, stack: true})
}

func (m *machine) tooDeep(s *site) {
	panic(&failure{msg: "max stack frames exceeded.", frames: m.frames(s), bound: true, stack: true})
}
