package eval

import (
	"unsafe"
)

// kind is the type of a value, and of the other things that a value can point to.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
	kindFunction
	kindThunk // a delayed value; never the result of an evaluation
	kindTail  // a pending tail call; only between the body of a function and its caller
)

var kindNames = [...]string{"null", "boolean", "number", "string", "array", "object", "function", "thunk", "tail"}

func (k kind) String() string { return kindNames[k] }

// header begins everything that lives on the heap, and says what it is.
type header struct {
	kind  kind
	flags uint8
}

// value is a Jsonnet value in two words. h points to a static header (null,
// booleans, numbers) or to a heap object that begins with a header; n is the
// number. A zero value (h == nil) means "absent".
//
// Values in slots, arrays and arguments may be delayed: then h is a *thunk.
type value struct {
	h *header
	n float64
}

var (
	nullHeader   = header{kind: kindNull}
	trueHeader   = header{kind: kindBool}
	falseHeader  = header{kind: kindBool}
	numberHeader = header{kind: kindNumber}
	tailHeader   = header{kind: kindTail}

	nullValue  = value{h: &nullHeader}
	trueValue  = value{h: &trueHeader}
	falseValue = value{h: &falseHeader}
)

func number(n float64) value { return value{h: &numberHeader, n: n} }

func boolean(b bool) value {
	if b {
		return trueValue
	}
	return falseValue
}

func (v value) kind() kind     { return v.h.kind }
func (v value) isNumber() bool { return v.h == &numberHeader }
func (v value) isTrue() bool   { return v.h == &trueHeader }
func (v value) isNull() bool   { return v.h == &nullHeader }

// The conversions below are valid only if the kind was checked. Each heap type
// begins with its header, so that a pointer to the one points to the other.

func (v value) text() *text         { return (*text)(unsafe.Pointer(v.h)) }
func (v value) array() *array       { return (*array)(unsafe.Pointer(v.h)) }
func (v value) object() *object     { return (*object)(unsafe.Pointer(v.h)) }
func (v value) function() *function { return (*function)(unsafe.Pointer(v.h)) }
func (v value) thunk() *thunk       { return (*thunk)(unsafe.Pointer(v.h)) }

func (t *text) value() value     { return value{h: &t.header} }
func (a *array) value() value    { return value{h: &a.header} }
func (o *object) value() value   { return value{h: &o.header} }
func (f *function) value() value { return value{h: &f.header} }
func (t *thunk) value() value    { return value{h: &t.header} }

// array is a list. Its elements may be delayed; an element that is forced
// through the array is replaced by its value.
type array struct {
	header
	elems []value
}

// thunk is a delayed computation. Until it is forced, unit is its code and p
// its frame. Afterwards unit is nil, and p and n are the value.
type thunk struct {
	header
	unit *unit
	p    unsafe.Pointer
	n    float64
}

func (t *thunk) done() bool    { return t.unit == nil }
func (t *thunk) result() value { return value{h: (*header)(t.p), n: t.n} }

func (t *thunk) set(v value) {
	t.unit, t.p, t.n = nil, unsafe.Pointer(v.h), v.n
}

// frame holds the variables of one activation: a header and n slots, in one
// allocation. The compiler knows how many slots each frame has, and never asks
// for one beyond.
type frame struct {
	parent *frame
	n      int
}

const slotSize = unsafe.Sizeof(value{})

func (f *frame) slot(i int) *value {
	return (*value)(unsafe.Add(unsafe.Pointer(f), slotSize*uintptr(i+1)))
}

func (f *frame) up(hops int) *frame {
	for ; hops > 0; hops-- {
		f = f.parent
	}
	return f
}

// A frame has the layout of an array of values whose first element is the
// frame's header: a pointer and a word without one.
func allocFrame(n int) *frame {
	switch n {
	case 0, 1:
		return (*frame)(unsafe.Pointer(new([2]value)))
	case 2:
		return (*frame)(unsafe.Pointer(new([3]value)))
	case 3:
		return (*frame)(unsafe.Pointer(new([4]value)))
	case 4:
		return (*frame)(unsafe.Pointer(new([5]value)))
	case 5:
		return (*frame)(unsafe.Pointer(new([6]value)))
	case 6:
		return (*frame)(unsafe.Pointer(new([7]value)))
	case 7:
		return (*frame)(unsafe.Pointer(new([8]value)))
	}
	return (*frame)(unsafe.Pointer(unsafe.SliceData(make([]value, n+1))))
}
