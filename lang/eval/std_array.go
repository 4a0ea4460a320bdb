package eval

import (
	"slices"
	"strings"
)

func init() {
	basic("makeArray", makeArray, "sz", "func")
	basic("range", func(m *machine, a []value, at *site) value {
		from, to := m.wantInt(a[0], at), m.wantInt(a[1], at)
		n := max(0, to-from+1)
		out := m.newArray(n)
		for i := range out.elems {
			out.elems[i] = number(float64(from + i))
		}
		m.step(n)
		return out.value()
	}, "from", "to")
	basic("flatMap", flatMap, "func", "arr")
	basic("$flatMapArray", func(m *machine, a []value, at *site) value {
		m.wantArray(a[1], at)
		return flatMap(m, a, at)
	}, "func", "arr")
	basic("join", join, "sep", "arr")
	basic("reverse", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at).elems
		out := m.newArray(len(in))
		for i, e := range in {
			out.elems[len(in)-1-i] = e
		}
		m.step(len(in))
		return out.value()
	}, "arr")
	basic("filter", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[1], at)
		fn := m.wantFunction(a[0], at)
		return m.filter(fn, in, at)
	}, "func", "arr")
	basic("foldl", func(m *machine, a []value, at *site) value {
		fn := m.wantFunction(a[0], at)
		acc := a[2]
		m.hold(acc)
		m.each(a[1], "foldl", at, false, func(e value) {
			acc = m.call2(fn, at, acc, e)
			m.keep[len(m.keep)-1] = acc
		})
		m.drop(1)
		return acc
	}, "func", "arr", "init")
	basic("foldr", func(m *machine, a []value, at *site) value {
		fn := m.wantFunction(a[0], at)
		acc := a[2]
		m.hold(acc)
		m.each(a[1], "foldr", at, true, func(e value) {
			acc = m.call2(fn, at, e, acc)
			m.keep[len(m.keep)-1] = acc
		})
		m.drop(1)
		return acc
	}, "func", "arr", "init")
	basic("member", func(m *machine, a []value, at *site) value { return boolean(m.member(a[0], a[1], at)) }, "arr", "x")
	basic("contains", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at)
		return boolean(m.indexOf(in, a[1], at) >= 0)
	}, "arr", "elem")
	basic("remove", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at)
		if i := m.indexOf(in, a[1], at); i >= 0 {
			return m.removeAt(in, i)
		}
		return a[0]
	}, "arr", "elem")
	basic("removeAt", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at)
		i := m.wantInt(a[1], at)
		if i < 0 || i >= len(in.elems) {
			// go-jsonnet crashes here.
			m.failf(at, "Index %d out of bounds, not within [0, %v)", i, len(in.elems))
		}
		return m.removeAt(in, i)
	}, "arr", "i")
	define(&builtin{name: "sort", params: []string{"arr", "keyF"}, optional: 1, basic: true, fn: func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at)
		return m.arrayOf(m.sorted(in, m.keyFunc(a[1], at), at))
	}})
	define(&builtin{name: "minArray", params: []string{"arr", "keyF", "onEmpty"}, optional: 2, basic: true, fn: func(m *machine, a []value, at *site) value {
		return m.extreme(a, 1, at)
	}})
	define(&builtin{name: "maxArray", params: []string{"arr", "keyF", "onEmpty"}, optional: 2, basic: true, fn: func(m *machine, a []value, at *site) value {
		return m.extreme(a, -1, at)
	}})
	basic("sum", func(m *machine, a []value, at *site) value { return number(m.sum(m.wantArray(a[0], at), at)) }, "arr")
	basic("avg", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at)
		if len(in.elems) == 0 {
			m.fail(at, "Cannot calculate average of an empty array.")
		}
		return number(m.sum(in, at) / float64(len(in.elems)))
	}, "arr")

	extra("map", func(m *machine, a []value, at *site) value {
		fn := m.wantFunction(a[0], at)
		return m.build(a[1], at, func(_ int, e value) value { return m.lazyCall(fn, e) })
	}, "func", "arr")
	extra("mapWithIndex", func(m *machine, a []value, at *site) value {
		fn := m.wantFunction(a[0], at)
		return m.build(a[1], at, func(i int, e value) value {
			f := m.newFrame(nil, 3)
			*f.slot(0), *f.slot(1), *f.slot(2) = fn.value(), number(float64(i)), e
			return m.delay(call2Unit, f)
		})
	}, "func", "arr")
	extra("filterMap", func(m *machine, a []value, at *site) value {
		keep, fn := m.wantFunction(a[0], at), m.wantFunction(a[1], at)
		kept := m.filter(keep, m.wantArray(a[2], at), at)
		return m.build(kept, at, func(_ int, e value) value { return m.lazyCall(fn, e) })
	}, "filter_func", "map_func", "arr")
	define(&builtin{name: "count", params: []string{"arr", "x"}, lazy: 2, fn: func(m *machine, a []value, at *site) value {
		return number(float64(len(m.findAll(m.wantArray(a[0], at), a[1], at))))
	}})
	define(&builtin{name: "find", params: []string{"value", "arr"}, lazy: 1, fn: func(m *machine, a []value, at *site) value {
		return m.arrayOf(m.findAll(m.wantArray(a[1], at), a[0], at))
	}})
	extra("all", func(m *machine, a []value, at *site) value { return boolean(!m.anyIs(a[0], false, at)) }, "arr")
	extra("any", func(m *machine, a []value, at *site) value { return boolean(m.anyIs(a[0], true, at)) }, "arr")
	extra("flattenArrays", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindArray {
			return m.original("flattenArrays", a, at)
		}
		in := a[0].array()
		var out []value
		for i := range in.elems {
			e := m.elem(in, i, at)
			if e.kind() != kindArray {
				return m.original("flattenArrays", a, at)
			}
			part := e.array()
			m.step(len(part.elems))
			out = append(out, part.elems...)
		}
		m.charge(cap(out) * valueCost)
		return m.arrayOf(out)
	}, "arrs")
	extra("flattenDeepArray", func(m *machine, a []value, at *site) value {
		var out []value
		m.flattenDeep(a[0], &out, at)
		m.charge(cap(out) * valueCost)
		return m.arrayOf(out)
	}, "value")
	extra("lines", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at)
		elems := append(slices.Clone(in.elems), emptyText.value())
		return join(m, []value{staticText("\n").value(), m.arrayOf(elems)}, at)
	}, "arr")
	extra("repeat", repeat, "what", "count")
	define(&builtin{name: "slice", params: []string{"indexable", "index", "end", "step"}, fn: slice})
}

func makeArray(m *machine, a []value, at *site) value {
	n := m.wantInt(a[0], at)
	fn := m.wantFunction(a[1], at)
	out := m.newArray(max(0, n))
	for i := range out.elems {
		m.loop(at)
		out.elems[i] = m.lazyCall(fn, number(float64(i)))
	}
	return out.value()
}

// build makes an array of what f makes of the elements of an array or the
// characters of a string.
func (m *machine) build(v value, at *site, f func(i int, e value) value) value {
	switch v.kind() {
	case kindArray:
		in := v.array()
		out := m.newArray(len(in.elems))
		for i, e := range in.elems {
			m.loop(at)
			out.elems[i] = f(i, e)
		}
		return out.value()
	case kindString:
		out := m.newArray(v.text().length())
		m.chars(v.text(), func(i int, c value) {
			m.loop(at)
			out.elems[i] = f(i, c)
		})
		return out.value()
	}
	m.failf(at, "Unexpected type %v", v.kind())
	return value{}
}

func flatMap(m *machine, a []value, at *site) value {
	fn := m.wantFunction(a[0], at)
	switch a[1].kind() {
	case kindArray:
		in := a[1].array()
		out := make([]value, 0, len(in.elems))
		for _, e := range in.elems {
			part := m.wantArray(m.call1(fn, at, e), at)
			m.charge(len(part.elems) * valueCost)
			out = append(out, part.elems...)
		}
		return m.arrayOf(out)
	case kindString:
		var b strings.Builder
		m.chars(a[1].text(), func(_ int, c value) {
			s := m.wantText(m.call1(fn, at, c), at).string(m)
			m.charge(len(s))
			m.checkLength(b.Len() + len(s))
			b.WriteString(s)
		})
		return m.text(b.String())
	}
	m.fail(at, "std.flatMap second param must be array / string, got "+a[1].kind().String())
	return value{}
}

func join(m *machine, a []value, at *site) value {
	in := m.wantArray(a[1], at)
	switch a[0].kind() {
	case kindString:
		return m.joinTexts(a[0].text().string(m), in, at)
	case kindArray:
		return m.joinArrays(a[0].array(), in, at)
	}
	m.fail(at, "join first parameter should be string or array, got "+a[0].kind().String())
	return value{}
}

func (m *machine) joinTexts(sep string, in *array, at *site) value {
	m.hold(in.value())
	n, some := 0, false
	for i := range in.elems {
		m.loop(at)
		v := m.elem(in, i, at)
		if v.isNull() {
			continue
		}
		if some {
			n += len(sep)
		}
		n += int(m.wantText(v, at).bytes)
		some = true
		m.checkLength(n)
	}
	m.charge(n)
	var b strings.Builder
	b.Grow(n)
	first := true
	for i := range in.elems {
		v := m.elem(in, i, at)
		if v.isNull() {
			continue
		}
		if !first {
			b.WriteString(sep)
		}
		b.WriteString(v.text().string(m))
		first = false
	}
	m.drop(1)
	return m.text(b.String())
}

func (m *machine) joinArrays(sep, in *array, at *site) value {
	out := make([]value, 0, len(in.elems))
	first := true
	m.hold(in.value())
	for i := range in.elems {
		m.loop(at)
		v := m.elem(in, i, at)
		if v.isNull() {
			continue
		}
		part := m.wantArray(v, at)
		if !first {
			out = append(out, sep.elems...)
		}
		out = append(out, part.elems...)
		m.charge((len(sep.elems) + len(part.elems)) * valueCost)
		m.step(len(sep.elems) + len(part.elems))
		m.checkElems(len(out))
		first = false
	}
	m.drop(1)
	return m.arrayOf(out)
}

func (m *machine) filter(fn *function, in *array, at *site) value {
	out := make([]value, 0, len(in.elems))
	m.charge(len(in.elems) * valueCost)
	for i := range in.elems {
		if m.wantBool(m.call1(fn, at, in.elems[i]), at) {
			out = append(out, settled(in, i))
		}
	}
	return m.arrayOf(out)
}

// settled returns element i of a, without its thunk if that is done.
func settled(a *array, i int) value {
	v := a.elems[i]
	if v.h.kind == kindThunk && v.thunk().done() {
		v = v.thunk().result()
		a.elems[i] = v
	}
	return v
}

// each calls f with the elements of an array or the characters of a string.
func (m *machine) each(v value, name string, at *site, backwards bool, f func(e value)) {
	var elems []value
	switch v.kind() {
	case kindArray:
		elems = v.array().elems
	case kindString:
		elems = make([]value, v.text().length())
		m.chars(v.text(), func(i int, c value) { elems[i] = c })
		m.charge(len(elems) * valueCost)
	default:
		m.failf(at, "%s second parameter should be string or array, got %v", name, v.kind())
	}
	m.hold(v)
	defer m.drop(1)
	m.step(len(elems))
	// f replaces the value at the top of m.keep, so v goes below it.
	k := len(m.keep)
	m.keep[k-1], m.keep[k-2] = m.keep[k-2], m.keep[k-1]
	if !backwards {
		for _, e := range elems {
			f(e)
		}
		return
	}
	for i := len(elems) - 1; i >= 0; i-- {
		f(elems[i])
	}
}

func (m *machine) member(list, x value, at *site) bool {
	switch list.kind() {
	case kindString:
		t := m.wantText(x, at)
		m.work(int(list.text().bytes))
		return strings.Contains(list.text().string(m), t.string(m))
	case kindArray:
		return m.indexOf(list.array(), x, at) >= 0
	}
	m.fail(at, "std.member first argument must be an array or a string")
	return false
}

// indexOf returns the index of the first element that equals x, or -1.
func (m *machine) indexOf(in *array, x value, at *site) int {
	for i := range in.elems {
		m.loop(at)
		if m.equal(m.elem(in, i, at), x, at) {
			return i
		}
	}
	return -1
}

// findAll returns the indices of the elements that equal x, which is evaluated
// only if there are elements.
func (m *machine) findAll(in *array, x value, at *site) []value {
	var out []value
	for i := range in.elems {
		m.loop(at)
		e := m.elem(in, i, at)
		if i == 0 {
			x = m.get(x, at)
		}
		if m.equal(e, x, at) {
			out = append(out, number(float64(i)))
		}
	}
	m.charge(cap(out) * valueCost)
	return out
}

func (m *machine) removeAt(in *array, i int) value {
	out := m.newArray(len(in.elems) - 1)
	copy(out.elems, in.elems[:i])
	copy(out.elems[i:], in.elems[i+1:])
	m.step(len(in.elems))
	return out.value()
}

func (m *machine) sum(in *array, at *site) float64 {
	sum := 0.0
	for i := range in.elems {
		m.loop(at)
		sum += m.wantNumber(m.elem(in, i, at), at)
	}
	return sum
}

// anyIs reports whether an element is want. All are booleans up to there.
func (m *machine) anyIs(v value, want bool, at *site) bool {
	in := m.wantArray(v, at)
	for i := range in.elems {
		m.loop(at)
		if m.wantBool(m.elem(in, i, at), at) == want {
			return true
		}
	}
	return false
}

func (m *machine) flattenDeep(v value, out *[]value, at *site) {
	if v.kind() != kindArray {
		*out = append(*out, v)
		return
	}
	m.nest(at)
	in := v.array()
	for i := range in.elems {
		m.loop(at)
		m.flattenDeep(m.elem(in, i, at), out, at)
	}
	m.unnest()
}

func repeat(m *machine, a []value, at *site) value {
	n := max(0, m.wantInt(a[1], at))
	switch a[0].kind() {
	case kindString:
		s := a[0].text().string(m)
		m.checkLength(len(s) * n)
		m.charge(len(s) * n)
		return m.textOf(strings.Repeat(s, n), a[0].text().length()*n)
	case kindArray:
		e := a[0].array().elems
		m.checkElems(len(e) * n)
		m.charge(len(e) * n * valueCost)
		m.step(len(e) * n)
		return m.arrayOf(slices.Repeat(e, n))
	}
	m.fail(at, "std.repeat first argument must be an array or a string")
	return value{}
}
