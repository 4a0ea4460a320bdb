package eval

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// appendNumber appends a number as go-jsonnet prints it: integers without an
// exponent, others with 17 digits.
func appendNumber(b []byte, v float64) []byte {
	if v == math.Floor(v) {
		if v > -1e15 && v < 1e15 && (v != 0 || !math.Signbit(v)) {
			return strconv.AppendInt(b, int64(v), 10)
		}
		return strconv.AppendFloat(b, v, 'f', 0, 64)
	}
	return strconv.AppendFloat(b, v, 'g', 17, 64)
}

const hexDigits = "0123456789abcdef"

// plain[c] is whether an ASCII character stands for itself in a JSON string.
var plain = func() (t [utf8.RuneSelf]bool) {
	for c := range t {
		t[c] = c >= 0x20 && c != '"' && c != '\\' && c != 0x7f
	}
	return t
}()

// appendQuoted appends a JSON string as go-jsonnet prints it.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			b = appendEscape(b, c)
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r <= 0x9f {
			b = append(b, s[start:i]...)
			b = append(b, `\u00`...)
			b = append(b, hexDigits[r>>4], hexDigits[r&15])
			start = i + n
		}
		i += n
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

func quote(s string) string { return string(appendQuoted(nil, s)) }

// toString returns what v is converted to by + with a string.
func (m *machine) toString(v value, at *site) string {
	switch v.kind() {
	case kindString:
		return v.text().string(m)
	case kindNumber:
		var buf [32]byte
		return string(appendNumber(buf[:0], v.n))
	case kindBool:
		if v.isTrue() {
			return "true"
		}
		return "false"
	case kindNull:
		return "null"
	}
	p := printer{m: m, limit: m.limits.MaxString}
	p.print(v, at)
	return string(p.bytes())
}

// printer writes values as JSON.
type printer struct {
	m         *machine
	buf       []byte
	chunks    [][]byte // what was written before buf
	size      int      // of chunks
	multiline bool
	indent    int
	limit     int
	charged   int
}

// account charges what was written since the last time.
func (p *printer) account(at *site) {
	n := len(p.buf) - p.charged
	if n < 4096 {
		return
	}
	p.charged = len(p.buf)
	p.m.charge(n)
	if p.size+len(p.buf) > p.limit {
		p.m.tooLarge(at, "output", p.limit)
	}
	if len(p.buf) >= chunkBytes {
		p.chunks = append(p.chunks, p.buf)
		p.size += len(p.buf)
		p.buf, p.charged = make([]byte, 0, chunkBytes+chunkBytes/4), 0
	}
}

// chunkBytes is the size from which the printer begins a new buffer.
const chunkBytes = 128 << 10

// bytes returns all that was written, with room for one more byte.
func (p *printer) bytes() []byte {
	if len(p.chunks) == 0 {
		return p.buf
	}
	out := make([]byte, 0, p.size+len(p.buf)+1)
	for i, c := range p.chunks {
		out = append(out, c...)
		p.chunks[i] = nil
	}
	return append(out, p.buf...)
}

func (p *printer) newline() {
	p.buf = append(p.buf, '\n')
	for range p.indent {
		p.buf = append(p.buf, "   "...)
	}
	p.account(elementSite)
}

// print writes v. Each level is an activation, as in go-jsonnet.
func (p *printer) print(v value, at *site) {
	m := p.m
	switch v.h.kind {
	case kindNull:
		p.buf = append(p.buf, "null"...)
	case kindBool:
		p.buf = strconv.AppendBool(p.buf, v.isTrue())
	case kindNumber:
		p.buf = appendNumber(p.buf, v.n)
	case kindString:
		p.buf = appendQuoted(p.buf, v.text().string(m))
		p.account(at)
	case kindArray:
		sp := m.sp
		m.push(at, nil)
		m.host += 3
		m.checkHost(at)
		p.printArray(v.array())
		m.host -= 3
		m.sp = sp
	case kindObject:
		sp := m.sp
		m.push(at, nil)
		m.host += 3
		m.checkHost(at)
		p.printObject(v.object())
		m.host -= 3
		m.sp = sp
	default:
		m.push(at, nil)
		m.sp--
		p.fail(at)
	}
}

// fail reports a function. The activation that go-jsonnet has for it is
// replaced by the place of the error.
func (p *printer) fail(at *site) {
	p.m.sp++
	p.m.stack[p.m.sp-1] = activation{site: at}
	panic(&failure{msg: "couldn't manifest function as JSON", frames: p.m.frames(nil)[:p.m.sp]})
}

var elementSite, fieldSite, assertSite = messageSite("Array element"), messageSite("Field"), messageSite("Checking object assertions")

func (p *printer) printArray(a *array) {
	m := p.m
	m.hold(a.value())
	if len(a.elems) == 0 {
		p.buf = append(p.buf, "[ ]"...)
		m.drop(1)
		return
	}
	p.buf = append(p.buf, '[')
	p.indent++
	for i := range a.elems {
		p.separate(i)
		at := elementSite
		if m.precise {
			at = messageSite("Array element " + strconv.Itoa(i))
		}
		m.loop(at)
		p.print(m.elem(a, i, at), at)
	}
	p.indent--
	if p.multiline {
		p.newline()
	}
	p.buf = append(p.buf, ']')
	p.account(elementSite)
	m.drop(1)
}

func (p *printer) separate(i int) {
	switch {
	case i > 0 && p.multiline:
		p.buf = append(p.buf, ',')
	case i > 0:
		p.buf = append(p.buf, ", "...)
	}
	if p.multiline {
		p.newline()
	}
}

func (p *printer) printObject(o *object) {
	m := p.m
	m.hold(o.value())
	m.checkAsserts(o, assertSite)
	if o.comp == nil {
		p.printLayer(o)
	} else {
		p.printLayers(o)
	}
	m.drop(1)
}

func (p *printer) printLayer(o *object) {
	order := o.shape.visible()
	p.open(len(order))
	for i, f := range order {
		at := p.name(i, o.shape.fields[f].name)
		p.print(p.m.field(o, &o.layer, 0, int(f), at), at)
	}
	p.close(len(order))
}

func (p *printer) printLayers(o *object) {
	t := p.m.fieldsOf(o)
	layers := o.comp.layers
	p.open(len(t.visible))
	for i := range t.visible {
		e := &t.visible[i]
		at := p.name(i, e.name)
		if e.depth < 0 {
			p.m.fail(at, "Field does not exist: "+e.name)
		}
		p.print(p.m.field(o, layers[e.depth], int(e.depth), int(e.field), at), at)
	}
	p.close(len(t.visible))
}

func (p *printer) open(n int) {
	if n == 0 {
		p.buf = append(p.buf, "{ }"...)
		return
	}
	p.buf = append(p.buf, '{')
	p.indent++
}

func (p *printer) close(n int) {
	if n == 0 {
		return
	}
	p.indent--
	if p.multiline {
		p.newline()
	}
	p.buf = append(p.buf, '}')
	p.account(fieldSite)
}

func (p *printer) name(i int, name string) *site {
	p.separate(i)
	p.buf = appendQuoted(p.buf, name)
	p.buf = append(p.buf, ": "...)
	at := fieldSite
	if p.m.precise {
		at = messageSite("Field " + strconv.Quote(name))
	}
	p.m.loop(at)
	return at
}

// appendGoJSON appends a string as encoding/json writes it without HTML
// escapes, which is what std.manifestJsonEx does.
func appendGoJSON(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || !plain[c] && c != 0x7f {
			var out strings.Builder
			e := json.NewEncoder(&out)
			e.SetEscapeHTML(false)
			if err := e.Encode(s); err != nil {
				panic(err) // a string can be encoded
			}
			return append(b, strings.TrimSuffix(out.String(), "\n")...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
