package eval

import (
	"slices"
	"unicode/utf8"

	"github.com/google/go-jsonnet/ast"
)

// term is an operand of a chain of +, and the place of the + before it.
type term struct {
	code  code
	at    *site
	shape func(*machine, *frame) *shape // if the operand is an object literal
}

func (c *compiler) term(b *ast.Binary, s *scope, t tailness) term {
	lit, ok := b.Right.(*ast.DesugaredObject)
	if !ok {
		return term{code: c.expr(b.Right, s, t), at: c.site(b)}
	}
	shape := c.shape(lit, s)
	return term{
		code:  func(m *machine, f *frame) value { return m.newObject(shape(m, f), f).value() },
		at:    c.site(b),
		shape: shape,
	}
}

// sum compiles a + b + c + …. Once a prefix of it is a string, what follows is
// converted to strings too, and all of these are joined at once.
func (c *compiler) sum(n *ast.Binary, s *scope, t tailness) code {
	terms := []term{c.term(n, s, t.trimmed())}
	left := n.Left
	for {
		b, ok := left.(*ast.Binary)
		if !ok || b.Op != ast.BopPlus {
			break
		}
		terms = append(terms, c.term(b, s, tailNone))
		left = b.Left
	}
	slices.Reverse(terms)
	first := c.expr(left, s, tailNone)
	return func(m *machine, f *frame) value {
		acc := first(m, f)
		for i := range terms {
			if acc.h.kind == kindString {
				return m.sumTexts(acc.text(), terms[i:], f)
			}
			acc = m.addTerm(acc, &terms[i], f)
		}
		return acc
	}
}

func (m *machine) addTerm(acc value, t *term, f *frame) value {
	if acc.h == &numberHeader {
		v := t.code(m, f)
		if v.h == &numberHeader {
			return m.finite(acc.n+v.n, t.at)
		}
		return m.add(acc, v, t.at)
	}
	m.hold(acc)
	var v value
	if t.shape != nil && acc.h.kind == kindObject {
		v = m.extend(acc.object(), t.shape(m, f), f)
	} else {
		v = m.add(acc, t.code(m, f), t.at)
	}
	m.drop(1)
	return v
}

// sumTexts returns acc and the terms, joined. Long texts stay parts of a tree.
func (m *machine) sumTexts(acc *text, terms []term, f *frame) value {
	buf := m.scratch[:0]
	m.scratch = nil
	if acc.bytes < treeMin {
		buf = append(buf, acc.string(m)...)
		acc = emptyText
	}
	m.hold(acc.value())
	for i := range terms {
		v := terms[i].code(m, f)
		switch v.h.kind {
		case kindString:
			if t := v.text(); t.bytes >= treeMin {
				acc = m.concat(m.concat(acc, m.flat(buf)).text(), t).text()
				m.keep[len(m.keep)-1] = acc.value()
				buf = buf[:0]
			} else {
				buf = append(buf, t.string(m)...)
			}
		case kindNumber:
			buf = appendNumber(buf, v.n)
		default:
			buf = append(buf, m.toString(v, terms[i].at)...)
		}
		m.checkLength(int(acc.bytes) + len(buf))
	}
	m.drop(1)
	r := m.concat(acc, m.flat(buf))
	if cap(buf) <= 64<<10 {
		m.scratch = buf[:0]
	}
	return r
}

func (m *machine) flat(buf []byte) *text {
	return m.textOf(string(buf), utf8.RuneCount(buf)).text()
}
