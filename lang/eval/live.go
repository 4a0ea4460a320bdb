package eval

import "unsafe"

// traceLive returns the number of bytes that are reachable from the stack, from the
// values that Go code holds, and from what the machine keeps. It marks in a map
// of its own: shapes and code may be shared with other goroutines.
func (m *machine) traceLive() int64 {
	t := tracer{seen: map[unsafe.Pointer]struct{}{}, m: m}
	for _, a := range m.stack[:m.sp] {
		t.frame(a.frame)
	}
	for _, v := range m.keep {
		t.value(v)
	}
	for _, v := range m.args {
		t.value(v)
	}
	for _, v := range m.files {
		t.value(v)
	}
	for _, v := range m.extVars {
		t.value(v)
	}
	t.frame(m.tail.frame)
	t.run()
	return t.bytes
}

// tracer visits what is reachable. Its stack is its own, since values may be
// nested deeper than Go's.
type tracer struct {
	m      *machine
	seen   map[unsafe.Pointer]struct{}
	todo   []value
	frames []*frame
	bytes  int64
	count  int
}

func (t *tracer) new(p unsafe.Pointer) bool {
	if _, ok := t.seen[p]; ok {
		return false
	}
	t.seen[p] = struct{}{}
	if t.count++; t.count%65536 == 0 {
		t.m.cancelled()
	}
	return true
}

func (t *tracer) value(v value) {
	if v.h != nil && v.h.kind > kindNumber {
		t.todo = append(t.todo, v)
	}
}

func (t *tracer) frame(f *frame) {
	if f != nil {
		t.frames = append(t.frames, f)
	}
}

func (t *tracer) run() {
	for len(t.todo)+len(t.frames) > 0 {
		if n := len(t.frames); n > 0 {
			f := t.frames[n-1]
			t.frames = t.frames[:n-1]
			if t.new(unsafe.Pointer(f)) {
				t.visitFrame(f, false)
			}
			continue
		}
		v := t.todo[len(t.todo)-1]
		t.todo = t.todo[:len(t.todo)-1]
		if t.new(unsafe.Pointer(v.h)) {
			t.visit(v)
		}
	}
}

// visitFrame visits the slots of a frame, which are values or, for a
// comprehension's object, frames.
func (t *tracer) visitFrame(f *frame, frames bool) {
	t.bytes += int64(f.n+1) * valueCost
	t.frame(f.parent)
	for i := range f.n {
		v := *f.slot(i)
		switch {
		case frames:
			t.frame((*frame)(unsafe.Pointer(v.h)))
		default:
			t.value(v)
		}
	}
}

func (t *tracer) visit(v value) {
	switch v.kind() {
	case kindString:
		s := v.text()
		t.bytes += textCost
		if left, right := s.parts(); left != nil {
			t.bytes += treeCost
			t.value(left.value())
			t.value(right.value())
			return
		}
		// Parts of one string share its bytes: count what is not counted yet.
		if s.bytes > 0 && t.new(unsafe.Pointer(unsafe.StringData(s.s))) {
			t.bytes += int64(s.bytes)
		}
	case kindArray:
		a := v.array()
		t.bytes += arrayCost + int64(len(a.elems))*valueCost
		for _, e := range a.elems {
			t.value(e)
		}
	case kindFunction:
		t.bytes += closureCost
		t.frame(v.function().env)
	case kindThunk:
		th := v.thunk()
		t.bytes += thunkCost
		if th.done() {
			t.value(th.result())
		} else {
			t.frame((*frame)(th.p))
		}
	case kindObject:
		t.visitObject(v.object())
	}
}

func (t *tracer) visitObject(o *object) {
	t.bytes += objectCost
	switch {
	case o.comp == nil:
		t.visitLayer(&o.layer)
	case o.comp.left != nil:
		t.bytes += compositeCost
		t.value(o.comp.left.value())
		if o.comp.right != nil {
			t.value(o.comp.right.value())
		} else {
			t.visitLayer(&o.layer)
		}
	default:
		t.bytes += compositeCost
		for _, l := range o.comp.layers {
			t.bytes += layerCost + wordCost
			t.visitLayer(l)
		}
	}
}

func (t *tracer) visitLayer(l *layer) {
	if l.shape.dynamic && t.new(unsafe.Pointer(l.shape)) {
		t.bytes += int64(len(l.shape.fields)) * fieldCost
		for i := range l.shape.fields {
			t.value(l.shape.fields[i].ready)
		}
	}
	if l.env != nil {
		if l.shape.each {
			if t.new(unsafe.Pointer(l.env)) {
				t.visitFrame(l.env, true)
			}
		} else {
			t.frame(l.env)
		}
	}
	t.frame(l.self)
	if l.vals == nil {
		return
	}
	n := len(l.shape.fields)
	if n <= 2*chunk {
		t.bytes += int64(n) * valueCost
		for i := range n {
			t.value(*(*value)(unsafe.Add(l.vals, slotSize*uintptr(i))))
		}
		return
	}
	for i := range (n + chunk - 1) / chunk {
		t.bytes += wordCost
		if c := *(**[chunk]value)(unsafe.Add(l.vals, unsafe.Sizeof(uintptr(0))*uintptr(i))); c != nil {
			t.bytes += chunk * valueCost
			for _, v := range c {
				t.value(v)
			}
		}
	}
}
