package eval

import (
	"strings"
	"unicode/utf8"
)

// text is a string: valid UTF-8, and the number of its code points, which is
// what Jsonnet counts and indexes. A long concatenation stays a tree until its
// bytes are needed; then left and right are dropped.
type text struct {
	header
	runes int32 // number of code points
	bytes int32
	s     string    // if it is flat
	more  *textMore // nil for most
}

// textMore is what few texts have: the parts of one that is not flat, or the
// byte offset of every markStep-th code point of one that is not ASCII, once
// asked for.
type textMore struct {
	left, right *text
	marks       []int32
}

func newText(s string, runes int) *text {
	return &text{header: header{kind: kindString}, s: s, runes: int32(runes), bytes: int32(len(s))}
}

func (t *text) length() int { return int(t.runes) }

// parts returns the parts of a text that is not flat.
func (t *text) parts() (left, right *text) {
	if t.more == nil {
		return nil, nil
	}
	return t.more.left, t.more.right
}

const markStep = 32

// treeMin is the size in bytes from which + builds a tree.
const treeMin = 64

var emptyText = &text{header: header{kind: kindString}}

// asciiText holds a text for each ASCII character, so that splitting strings
// into characters allocates nothing.
var asciiText = func() (all [128]*text) {
	for i := range all {
		all[i] = newText(string(rune(i)), 1)
	}
	return all
}()

// staticText makes a text that belongs to no evaluation, for constants.
func staticText(s string) *text {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	t := newText(s, utf8.RuneCountInString(s))
	if !t.ascii() {
		t.mark() // now, since goroutines share it
	}
	return t
}

// text returns s, which is valid UTF-8, as a value.
func (m *machine) text(s string) value {
	return m.textOf(s, utf8.RuneCountInString(s))
}

// foreignText is text for strings that may be invalid UTF-8. Each invalid byte
// becomes a replacement character, as in go-jsonnet.
func (m *machine) foreignText(s string) value {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return m.text(s)
}

func (m *machine) textOf(s string, runes int) value {
	switch {
	case len(s) == 0:
		return emptyText.value()
	case len(s) == 1 && s[0] < 128:
		return asciiText[s[0]].value()
	}
	m.charge(textCost + len(s))
	m.checkLength(len(s))
	return newText(s, runes).value()
}

// share returns a part of a text that is already charged.
func (m *machine) share(s string, runes int) value {
	switch {
	case len(s) == 0:
		return emptyText.value()
	case len(s) == 1 && s[0] < 128:
		return asciiText[s[0]].value()
	}
	m.charge(textCost)
	return newText(s, runes).value()
}

func (t *text) ascii() bool { return t.runes == t.bytes }

// string returns the bytes of t, and makes it flat.
func (t *text) string(m *machine) string {
	if left, _ := t.parts(); left != nil {
		m.charge(int(t.bytes))
		var b strings.Builder
		b.Grow(int(t.bytes))
		t.each(func(s string) { b.WriteString(s) })
		t.s, t.more = b.String(), nil
	}
	return t.s
}

// each calls f with the flat parts of t from left to right. Trees may be as deep
// as they have nodes, so it keeps a stack of its own.
func (t *text) each(f func(string)) {
	stack := []*text{t}
	for len(stack) > 0 {
		t := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for {
			left, right := t.parts()
			if left == nil {
				break
			}
			stack = append(stack, right)
			t = left
		}
		f(t.s)
	}
}

// concat returns a + b.
func (m *machine) concat(a, b *text) value {
	switch {
	case a.bytes == 0:
		return b.value()
	case b.bytes == 0:
		return a.value()
	}
	n := int(a.bytes) + int(b.bytes)
	m.checkLength(n)
	if n < treeMin {
		m.charge(textCost + n)
		return newText(a.string(m)+b.string(m), int(a.runes+b.runes)).value()
	}
	m.charge(textCost + treeCost)
	return (&text{
		header: header{kind: kindString}, runes: a.runes + b.runes, bytes: int32(n),
		more: &textMore{left: a, right: b},
	}).value()
}

// charAt returns the code point at index i, which is in range.
func (m *machine) charAt(t *text, i int) value {
	s := t.string(m)
	if t.ascii() {
		return asciiText[s[i]].value()
	}
	s = s[t.offset(m, i):]
	_, n := utf8.DecodeRuneInString(s)
	return m.share(s[:n], 1)
}

// offset returns the byte offset of code point i of t, which is flat; i may be
// the length.
func (t *text) offset(m *machine, i int) int {
	if t.ascii() {
		return i
	}
	at := 0
	if i >= markStep {
		if t.more == nil {
			m.charge(int(t.bytes) / markStep * 4)
			t.mark()
		}
		at = int(t.more.marks[i/markStep])
		i %= markStep
	}
	for ; i > 0; i-- {
		_, n := utf8.DecodeRuneInString(t.s[at:])
		at += n
	}
	return at
}

func (t *text) mark() {
	marks := make([]int32, 0, t.length()/markStep+1)
	i := 0
	for at := range t.s {
		if i%markStep == 0 {
			marks = append(marks, int32(at))
		}
		i++
	}
	if i%markStep == 0 {
		marks = append(marks, int32(len(t.s)))
	}
	t.more = &textMore{marks: marks}
}

// sub returns the code points [from, to) of t, which are in range.
func (m *machine) sub(t *text, from, to int) value {
	s := t.string(m)
	return m.share(s[t.offset(m, from):t.offset(m, to)], to-from)
}

// chars calls f with each code point of t.
func (m *machine) chars(t *text, f func(i int, c value)) {
	s := t.string(m)
	for i := 0; s != ""; i++ {
		if c := s[0]; c < utf8.RuneSelf {
			f(i, asciiText[c].value())
			s = s[1:]
			continue
		}
		_, n := utf8.DecodeRuneInString(s)
		f(i, m.share(s[:n], 1))
		s = s[n:]
	}
}
