package eval

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/google/go-jsonnet/ast"
)

func init() {
	basic("id", func(m *machine, a []value, at *site) value { return a[0] }, "x")
	basic("type", func(m *machine, a []value, at *site) value { return kindTexts[a[0].kind()] }, "x")
	basic("isNull", func(m *machine, a []value, at *site) value { return boolean(a[0].isNull()) }, "x")
	basic("length", length, "x")
	basic("equals", func(m *machine, a []value, at *site) value { return boolean(m.equal(a[0], a[1], at)) }, "x", "y")
	basic("primitiveEquals", func(m *machine, a []value, at *site) value {
		if k := a[0].kind(); k == a[1].kind() && (k == kindArray || k == kindObject) {
			m.fail(at, "primitiveEquals operates on primitive types, got "+k.String())
		}
		return boolean(m.equal(a[0], a[1], at))
	}, "x", "y")
	basic("objectFieldsEx", func(m *machine, a []value, at *site) value {
		o := m.wantObject(a[0], at)
		return m.nameArray(o, m.wantBool(a[1], at))
	}, "obj", "hidden")
	basic("objectHasEx", func(m *machine, a []value, at *site) value {
		o := m.wantObject(a[0], at)
		name := m.wantText(a[1], at).string(m)
		return boolean(m.has(o, name, m.wantBool(a[2], at)))
	}, "obj", "fname", "hidden")
	basic("objectRemoveKey", func(m *machine, a []value, at *site) value {
		o := m.wantObject(a[0], at)
		return m.restrict(o, m.wantText(a[1], at).string(m))
	}, "obj", "key")
	basic("$objectFlatMerge", flatMerge, "x")

	for name, k := range map[string]kind{
		"isString": kindString, "isNumber": kindNumber, "isBoolean": kindBool,
		"isObject": kindObject, "isArray": kindArray, "isFunction": kindFunction,
	} {
		extra(name, func(m *machine, a []value, at *site) value { return boolean(a[0].kind() == k) }, "v")
	}
	for name, hidden := range map[string]bool{"": false, "All": true} {
		extra("objectFields"+name, func(m *machine, a []value, at *site) value {
			return m.nameArray(m.wantObject(a[0], at), hidden)
		}, "o")
		extra("objectHas"+name, func(m *machine, a []value, at *site) value {
			o := m.wantObject(a[0], at)
			return boolean(m.has(o, m.wantText(a[1], at).string(m), hidden))
		}, "o", "f")
		extra("objectValues"+name, func(m *machine, a []value, at *site) value {
			o := m.wantObject(a[0], at)
			names := m.names(o, hidden)
			out := m.newArray(len(names))
			for i, n := range names {
				m.loop(at)
				out.elems[i] = m.lazyField(o, n)
			}
			return out.value()
		}, "o")
		extra("objectKeysValues"+name, func(m *machine, a []value, at *site) value {
			o := m.wantObject(a[0], at)
			names := m.names(o, hidden)
			out := m.newArray(len(names))
			for i, n := range names {
				m.loop(at)
				f := m.newFrame(nil, 2)
				*f.slot(0), *f.slot(1) = m.text(n), m.lazyField(o, n)
				out.elems[i] = m.newObject(keyValue, f).value()
			}
			return out.value()
		}, "o")
	}
	define(&builtin{name: "get", params: []string{"o", "f", "default", "inc_hidden"}, optional: 2, lazy: 4, fn: func(m *machine, a []value, at *site) value {
		o, name := m.wantObject(a[0], at), m.wantText(a[1], at).string(m)
		if m.has(o, name, a[3].h == nil || m.wantBool(a[3], at)) {
			return m.index(o, name, at)
		}
		if a[2].h == nil {
			return nullValue
		}
		return m.get(a[2], at)
	}})
	extra("mapWithKey", func(m *machine, a []value, at *site) value {
		fn, o := m.wantFunction(a[0], at), m.wantObject(a[1], at)
		names := m.names(o, false)
		frames := make([]*frame, len(names))
		for i, n := range names {
			m.loop(at)
			frames[i] = m.newFrame(nil, 3)
			*frames[i].slot(0), *frames[i].slot(1), *frames[i].slot(2) = fn.value(), m.text(n), m.lazyField(o, n)
		}
		return m.eachObject(names, frames, call2Unit)
	}, "func", "obj")
	define(&builtin{name: "mergePatch", params: []string{"target", "patch"}, lazy: 1, fn: func(m *machine, a []value, at *site) value {
		return m.mergePatch(a[0], a[1], at)
	}})
	extra("prune", func(m *machine, a []value, at *site) value { return m.prune(a[0], at) }, "a")
	define(&builtin{name: "assertEqual", params: []string{"a", "b"}, fn: func(m *machine, a []value, at *site) value {
		if !m.equal(a[0], a[1], at) {
			m.fail(at, "Assertion failed.")
		}
		return trueValue
	}})
	defineComparisons()
}

var kindTexts = func() (out [kindFunction + 1]value) {
	for k := range out {
		out[k] = staticText(kind(k).String()).value()
	}
	return out
}()

// keyValue is the shape of the elements of std.objectKeysValues.
var keyValue = func() *shape {
	s := &shape{fields: []field{
		{name: "key", hide: ast.ObjectFieldInherit, unit: slotUnit(0)},
		{name: "value", hide: ast.ObjectFieldInherit, unit: slotUnit(1)},
	}}
	s.seal()
	return s
}()

// slotUnit returns a unit that evaluates a slot of its frame.
func slotUnit(i int) *unit {
	return nativeUnit(func(m *machine, f *frame) value { return m.read(f.slot(i), stdSite) })
}

func length(m *machine, a []value, at *site) value {
	switch v := a[0]; v.kind() {
	case kindArray:
		return number(float64(len(v.array().elems)))
	case kindString:
		return number(float64(v.text().runes))
	case kindObject:
		return number(float64(m.visibleCount(v.object())))
	case kindFunction:
		return number(float64(v.function().required()))
	}
	m.fail(at, fmt.Sprintf("Unexpected type %v", a[0].kind()))
	return value{}
}

func (m *machine) nameArray(o *object, hidden bool) value {
	names := m.names(o, hidden)
	out := m.newArray(len(names))
	for i, n := range names {
		out.elems[i] = m.text(n)
	}
	m.step(len(names))
	return out.value()
}

// flatMerge merges the objects of a comprehension, each with one field at most.
func flatMerge(m *machine, a []value, at *site) value {
	in := m.wantArray(a[0], at)
	s := &shape{each: true, dynamic: true}
	env := m.newFrame(nil, len(in.elems))
	seen := map[string]bool{}
	for i := range in.elems {
		o := m.wantObject(m.elem(in, i, at), at)
		if o.comp != nil || len(o.shape.fields) > 1 || len(o.shape.locals) > 0 {
			m.fail(at, "Unexpected object in a comprehension")
		}
		for j := range o.shape.fields {
			fd := o.shape.fields[j]
			if seen[fd.name] {
				m.fail(at, "Duplicate field name: "+quote(fd.name))
			}
			seen[fd.name] = true
			s.framed = o.shape.framed
			*env.slot(len(s.fields)) = value{h: (*header)(unsafe.Pointer(o.env))}
			s.fields = append(s.fields, fd)
		}
	}
	m.charge(len(s.fields) * fieldCost)
	s.seal()
	return m.newObject(s, env).value()
}

// mergePatch is std.mergePatch; target may be delayed, or absent.
func (m *machine) mergePatch(target, patch value, at *site) value {
	if patch.kind() != kindObject {
		return patch
	}
	p := patch.object()
	var t *object
	if target.h != nil {
		if v := m.get(target, at); v.kind() == kindObject {
			t = v.object()
		}
	}
	m.nest(at)
	var names []string
	if t != nil {
		names = m.names(t, false)
	}
	patched := m.names(p, false)
	gone := map[string]bool{}
	for _, n := range patched {
		m.loop(at)
		if m.index(p, n, at).isNull() {
			gone[n] = true
		}
	}
	m.unnest()
	names = append(names, patched...)
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(n string) bool { return gone[n] })
	frames := make([]*frame, len(names))
	for i, n := range names {
		m.loop(at)
		f := m.newFrame(nil, 2)
		inTarget := t != nil && m.has(t, n, false)
		if inTarget {
			*f.slot(0) = m.lazyField(t, n)
		}
		if m.has(p, n, false) {
			*f.slot(1) = m.lazyField(p, n)
		}
		frames[i] = f
	}
	return m.eachObject(names, frames, mergeUnit)
}

var mergeUnit *unit

func init() { mergeUnit = nativeUnit(mergeField) }

// mergeField evaluates a field of a merged object: slot 0 is what the target
// has, slot 1 what the patch has.
func mergeField(m *machine, f *frame) value {
	target, patch := *f.slot(0), *f.slot(1)
	switch {
	case patch.h == nil:
		return m.get(target, stdSite)
	case target.h != nil:
		// std.mergePatch is called tail-strictly: the old value is evaluated,
		// whatever replaces it.
		m.get(target, stdSite)
	}
	return m.mergePatch(target, m.get(patch, stdSite), stdSite)
}

// prune leaves out what is null or empty, from the inside out.
func (m *machine) prune(v value, at *site) value {
	content := func(v value) bool {
		switch v.kind() {
		case kindNull:
			return false
		case kindArray:
			return len(v.array().elems) > 0
		case kindObject:
			return m.visibleCount(v.object()) > 0
		}
		return true
	}
	switch v.kind() {
	case kindArray:
		m.nest(at)
		in := v.array()
		var out []value
		for i := range in.elems {
			m.loop(at)
			if p := m.prune(m.elem(in, i, at), at); content(p) {
				out = append(out, p)
			}
		}
		m.charge(cap(out) * valueCost)
		m.unnest()
		return m.arrayOf(out)
	case kindObject:
		m.nest(at)
		o := v.object()
		var names []string
		var vals []value
		for _, n := range m.names(o, false) {
			m.loop(at)
			if p := m.prune(m.index(o, n, at), at); content(p) {
				names, vals = append(names, n), append(vals, p)
			}
		}
		m.unnest()
		return m.readyObject(names, vals)
	}
	return v
}

// defineComparisons defines what std has for comparing arrays.
func defineComparisons() {
	cmp := func(m *machine, a []value, at *site) int {
		for _, v := range a {
			if k := v.kind(); k != kindNumber && k != kindString && k != kindArray || k != a[0].kind() {
				return 2
			}
		}
		return m.compare(a[0], a[1], at)
	}
	extra("__compare", func(m *machine, a []value, at *site) value {
		c := cmp(m, a, at)
		if c == 2 {
			return m.original("__compare", a, at)
		}
		return number(float64(c))
	}, "v1", "v2")
	for name, holds := range map[string]func(int) value{
		"__compare_array":          func(c int) value { return number(float64(c)) },
		"__array_less":             func(c int) value { return boolean(c < 0) },
		"__array_greater":          func(c int) value { return boolean(c > 0) },
		"__array_less_or_equal":    func(c int) value { return boolean(c <= 0) },
		"__array_greater_or_equal": func(c int) value { return boolean(c >= 0) },
	} {
		extra(name, func(m *machine, a []value, at *site) value {
			if a[0].kind() != kindArray || a[1].kind() != kindArray {
				return m.original(name, a, at)
			}
			return holds(m.compareArrays(a[0].array(), a[1].array(), at))
		}, "arr1", "arr2")
	}
}
