package eval

import (
	"fmt"
	"strings"
)

func slice(m *machine, a []value, at *site) value {
	length := 0
	switch a[0].kind() {
	case kindString:
		length = a[0].text().length()
	case kindArray:
		length = len(a[0].array().elems)
	default:
		m.fail(at, fmt.Sprintf("std.slice accepts a string or an array, but got: %v", a[0].kind()))
	}
	whole := func(v value, otherwise int) (int, bool) {
		if v.isNull() {
			return otherwise, true
		}
		n := m.wantNumber(v, at)
		i := int(n)
		return i, float64(i) == n && i > -1<<40 && i < 1<<40
	}
	from, ok1 := whole(a[1], 0)
	to, ok2 := whole(a[2], length)
	step, ok3 := whole(a[3], 1)
	if !ok1 || !ok2 || !ok3 || step <= 0 {
		return m.original("slice", a, at)
	}
	if from < 0 {
		from = max(0, length+from)
	}
	if to < 0 {
		to += length
	}
	to = min(to, length)
	if from >= to {
		from, to = 0, 0
	}
	if a[0].kind() == kindString {
		return m.sliceText(a[0].text(), from, to, step)
	}
	n := (to - from + step - 1) / step
	out := m.newArray(n)
	for i := range out.elems {
		out.elems[i] = settled(a[0].array(), from+i*step)
	}
	m.step(n)
	return out.value()
}

func (m *machine) sliceText(t *text, from, to, step int) value {
	if step == 1 {
		return m.sub(t, from, to)
	}
	var b strings.Builder
	for i := from; i < to; i += step {
		b.WriteString(m.charAt(t, i).text().s)
	}
	m.step(to - from)
	return m.text(b.String())
}
