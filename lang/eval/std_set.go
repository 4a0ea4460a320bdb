package eval

func init() {
	// keyed defines a function whose last parameter is a key function, which
	// is evaluated only if there are keys to compare.
	keyed := func(name string, lazy uint, fn func(m *machine, a []value, keyF lazyKey, at *site) value, params ...string) {
		n := len(params)
		define(&builtin{name: name, params: append(params, "keyF"), optional: 1, lazy: lazy | 1<<n, fn: func(m *machine, a []value, at *site) value {
			return fn(m, a, lazyKey{a[n]}, at)
		}})
	}
	keyed("uniq", 0, func(m *machine, a []value, keyF lazyKey, at *site) value {
		return m.uniq(m.build(a[0], at, func(_ int, e value) value { return e }).array(), keyF, at)
	}, "arr")
	keyed("set", 0, func(m *machine, a []value, keyF lazyKey, at *site) value {
		in := m.wantArray(a[0], at)
		return m.uniq(m.arrayOf(m.sorted(in, keyF.get(m, at), at)).array(), keyF, at)
	}, "arr")
	keyed("setMember", 1, func(m *machine, a []value, keyF lazyKey, at *site) value {
		if a[1].kind() != kindArray {
			return m.original("setMember", a, at)
		}
		x := m.newArray(1)
		x.elems[0] = a[0]
		return boolean(len(m.merge(x, a[1].array(), keyF, kept{both: true}, at)) > 0)
	}, "x", "arr")
	for name, keep := range map[string]kept{
		"setUnion": {left: true, right: true, both: true},
		"setInter": {both: true},
		"setDiff":  {left: true},
	} {
		keyed(name, 0, func(m *machine, a []value, keyF lazyKey, at *site) value {
			for _, v := range a[:2] {
				if v.kind() != kindArray {
					return m.original(name, a, at)
				}
			}
			return m.arrayOf(m.merge(a[0].array(), a[1].array(), keyF, keep, at))
		}, "a", "b")
	}
}

// lazyKey is a key function that may be delayed, or absent.
type lazyKey struct{ v value }

func (k lazyKey) get(m *machine, at *site) *function {
	if k.v.h == nil {
		return nil
	}
	return m.keyFunc(m.get(k.v, at), at)
}

// uniq leaves out each element whose key equals that of the one before.
func (m *machine) uniq(in *array, key lazyKey, at *site) value {
	if len(in.elems) <= 1 {
		return in.value()
	}
	keyF := key.get(m, at)
	var out []value
	var last value
	m.hold(in.value())
	for i := range in.elems {
		k := m.key(keyF, in, i, at)
		if i > 0 && m.equal(last, k, at) {
			continue
		}
		last = k
		out = append(out, settled(in, i))
	}
	m.drop(1)
	m.charge(cap(out) * valueCost)
	return m.arrayOf(out)
}

// kept says which elements of two sets are in the result.
type kept struct{ left, right, both bool }

// merge walks over two sets, sorted or not, as the Jsonnet functions do. Of what
// is in both, the element of the first is kept.
func (m *machine) merge(a, b *array, key lazyKey, keep kept, at *site) []value {
	var keyF *function
	if len(a.elems) > 0 && len(b.elems) > 0 {
		keyF = key.get(m, at)
	}
	var out []value
	i, j := 0, 0
	var x, y value // the keys of a[i] and b[j], if known
	for i < len(a.elems) && j < len(b.elems) {
		if x.h == nil {
			x = m.key(keyF, a, i, at)
		}
		if y.h == nil {
			y = m.key(keyF, b, j, at)
		}
		equal := m.equal(x, y, at)
		switch {
		case equal:
			if keep.both {
				out = append(out, settled(a, i))
			}
			i++
			j++
			x, y = value{}, value{}
		case m.compare(x, y, at) < 0:
			if keep.left {
				out = append(out, settled(a, i))
			}
			i++
			x = value{}
		default:
			if keep.right {
				out = append(out, settled(b, j))
			}
			j++
			y = value{}
		}
	}
	if keep.left {
		out = append(out, a.elems[i:]...)
	}
	if keep.right {
		out = append(out, b.elems[j:]...)
	}
	m.charge(cap(out) * valueCost)
	return out
}
