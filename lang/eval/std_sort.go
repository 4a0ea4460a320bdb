package eval

import (
	"slices"
	"sort"
)

// keyFunc returns the key function that v is, or nil if it is the identity.
func (m *machine) keyFunc(v value, at *site) *function {
	if v.h == nil {
		return nil
	}
	fn := m.wantFunction(v, at)
	if fn.builtin != nil && fn.builtin.name == "id" {
		return nil
	}
	return fn
}

// key returns the key of element i.
func (m *machine) key(fn *function, in *array, i int, at *site) value {
	m.loop(at)
	if fn == nil {
		return m.elem(in, i, at)
	}
	return m.call1(fn, at, in.elems[i])
}

type sorter struct {
	m     *machine
	at    *site
	keys  []value
	elems []value
}

func (s *sorter) Len() int { return len(s.keys) }
func (s *sorter) Less(i, j int) bool {
	s.m.compared()
	return s.m.compare(s.keys[i], s.keys[j], s.at) < 0
}
func (s *sorter) Swap(i, j int) {
	s.keys[i], s.keys[j] = s.keys[j], s.keys[i]
	s.elems[i], s.elems[j] = s.elems[j], s.elems[i]
}

// sorted returns the elements in the order of their keys.
func (m *machine) sorted(in *array, fn *function, at *site) []value {
	n := len(in.elems)
	m.charge(3 * n * valueCost)
	s := &sorter{m: m, at: at, keys: make([]value, n), elems: make([]value, n)}
	texts, numbers := true, true
	for i := range n {
		k := m.key(fn, in, i, at)
		s.keys[i] = k
		s.elems[i] = settled(in, i)
		m.hold(k)
		if k.kind() == kindString {
			k.text().string(m)
		} else {
			texts = false
		}
		numbers = numbers && k.isNumber()
	}
	m.step(4 * n)
	if texts || numbers {
		order := make([]int32, n)
		for i := range order {
			order[i] = int32(i)
		}
		if texts {
			slices.SortStableFunc(order, func(a, b int32) int {
				m.compared()
				m.work(int(s.keys[a].text().bytes))
				return compareStrings(s.keys[a].text().s, s.keys[b].text().s)
			})
		} else {
			slices.SortStableFunc(order, func(a, b int32) int {
				m.compared()
				x, y := s.keys[a].n, s.keys[b].n
				switch {
				case x < y:
					return -1
				case x > y:
					return 1
				}
				return 0
			})
		}
		out := make([]value, n)
		for i, o := range order {
			out[i] = s.elems[o]
		}
		s.elems = out
	} else {
		sort.Stable(s)
	}
	m.drop(n)
	return s.elems
}

// extreme returns the element with the least key, for sign 1, or the greatest.
func (m *machine) extreme(a []value, sign int, at *site) value {
	in := m.wantArray(a[0], at)
	fn := m.keyFunc(a[1], at)
	if len(in.elems) == 0 {
		if a[2].h == nil {
			m.fail(at, "Expected at least one element in array. Got none")
		}
		return a[2]
	}
	best := m.elem(in, 0, at)
	key := m.key(fn, in, 0, at)
	for i := 1; i < len(in.elems); i++ {
		e := m.elem(in, i, at)
		k := m.key(fn, in, i, at)
		if m.compare(key, k, at)*sign > 0 {
			best, key = e, k
		}
	}
	return best
}
