package cache

import (
	"encoding/binary"
	"slices"
)

// Codec writes values one after the other, or reads them back in the same order.
// One function that visits the fields of a value does both, so that reading and
// writing cannot disagree. Strings that are read share memory with the input.
type Codec struct {
	out     []byte
	in      string
	bad     bool
	writing bool
}

// Writer returns a Codec that writes.
func Writer() *Codec { return &Codec{writing: true} }

// Reader returns a Codec that reads what a Writer wrote.
func Reader(raw []byte) *Codec { return &Codec{in: string(raw)} }

// Bytes returns what was written.
func (c *Codec) Bytes() []byte { return c.out }

// Ok reports whether everything that was read was present, and nothing is left.
func (c *Codec) Ok() bool { return !c.bad && c.in == "" }

// Number reads or writes a number that is not negative.
func (c *Codec) Number(n *int) {
	if c.writing {
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

// Flag reads or writes a boolean.
func (c *Codec) Flag(f *bool) {
	n := 0
	if *f {
		n = 1
	}
	c.Number(&n)
	*f = n == 1
}

// length reads or writes the length of a sequence whose elements take at least
// one byte each; a longer one than the rest of the input is damaged.
func (c *Codec) length(n int) int {
	c.Number(&n)
	if !c.writing && n > len(c.in) {
		c.bad, c.in, n = true, "", 0
	}
	return n
}

// Text reads or writes a string.
func Text[T ~string](c *Codec, s *T) {
	n := c.length(len(*s))
	if c.writing {
		c.out = append(c.out, *s...)
		return
	}
	*s, c.in = T(c.in[:n]), c.in[n:]
}

// Bytes reads or writes a byte slice; an empty one is read as nil.
func Bytes[T ~[]byte](c *Codec, b *T) {
	s := string(*b)
	if Text(c, &s); !c.writing && s != "" {
		*b = T(s)
	}
}

// List reads or writes a slice; an empty one is read as nil.
func List[T any](c *Codec, l *[]T, each func(*Codec, *T)) {
	n := c.length(len(*l))
	if !c.writing && n > 0 {
		*l = make([]T, n)
	}
	for i := range *l {
		each(c, &(*l)[i])
	}
}

// Map reads or writes a map in the order of its keys; an empty one is read as nil.
func Map[T any](c *Codec, m *map[string]T, each func(*Codec, *T)) {
	n := c.length(len(*m))
	if c.writing {
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

// Optional reads or writes a pointer that may be nil.
func Optional[T any](c *Codec, p **T, each func(*Codec, *T)) {
	present := *p != nil
	if c.Flag(&present); !present {
		return
	}
	if !c.writing {
		*p = new(T)
	}
	each(c, *p)
}
