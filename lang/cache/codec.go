package cache

import (
	"encoding/binary"
	"slices"
)

// Codec writes values one behind the other, or reads them back in the same
// order: one function that goes through a value's fields does both, so that
// neither can forget what the other knows. What it reads shares memory with the
// text that it is read from.
type Codec struct {
	out []byte
	in  string
	bad bool
	w   bool
}

// Writer is a Codec that writes.
func Writer() *Codec { return &Codec{w: true} }

// Reader is a Codec that reads what another wrote.
func Reader(raw []byte) *Codec { return &Codec{in: string(raw)} }

// Bytes is what was written.
func (c *Codec) Bytes() []byte { return c.out }

// Ok tells whether all that was read was there, and nothing is left.
func (c *Codec) Ok() bool { return !c.bad && c.in == "" }

// Number goes through a number that is not negative.
func (c *Codec) Number(n *int) {
	if c.w {
		c.out = binary.AppendUvarint(c.out, uint64(*n))
		return
	}
	var v uint64
	for shift := 0; ; shift += 7 {
		if c.in == "" || shift > 56 {
			c.bad, c.in = true, ""
			return
		}
		b := c.in[0]
		c.in = c.in[1:]
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			break
		}
	}
	*n = int(v)
}

// Flag goes through a yes or no.
func (c *Codec) Flag(f *bool) {
	n := 0
	if *f {
		n = 1
	}
	c.Number(&n)
	*f = n == 1
}

// length goes through the length of what follows, of which each takes a byte at least.
func (c *Codec) length(n int) int {
	c.Number(&n)
	if !c.w && n > len(c.in) {
		c.bad, c.in, n = true, "", 0
	}
	return n
}

// Text goes through a text.
func Text[T ~string](c *Codec, s *T) {
	n := c.length(len(*s))
	if c.w {
		c.out = append(c.out, *s...)
		return
	}
	*s, c.in = T(c.in[:n]), c.in[n:]
}

// Bytes goes through bytes; none at all are nil.
func Bytes[T ~[]byte](c *Codec, b *T) {
	s := string(*b)
	if Text(c, &s); !c.w && s != "" {
		*b = T(s)
	}
}

// List goes through a list; an empty one is nil.
func List[T any](c *Codec, l *[]T, each func(*Codec, *T)) {
	n := c.length(len(*l))
	if !c.w && n > 0 {
		*l = make([]T, n)
	}
	for i := range *l {
		each(c, &(*l)[i])
	}
}

// Map goes through names and their values; an empty one is nil.
func Map[T any](c *Codec, m *map[string]T, each func(*Codec, *T)) {
	n := c.length(len(*m))
	if c.w {
		names := make([]string, 0, n)
		for k := range *m {
			names = append(names, k)
		}
		slices.Sort(names)
		for _, k := range names {
			v := (*m)[k]
			Text(c, &k)
			each(c, &v)
		}
		return
	}
	if n > 0 {
		*m = make(map[string]T, n)
	}
	for range n {
		var k string
		var v T
		Text(c, &k)
		each(c, &v)
		(*m)[k] = v
	}
}

// Optional goes through what may not be there.
func Optional[T any](c *Codec, p **T, each func(*Codec, *T)) {
	there := *p != nil
	if c.Flag(&there); !there {
		return
	}
	if !c.w {
		*p = new(T)
	}
	each(c, *p)
}
