package eval

import (
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// directive is one % code, or the text between two.
type directive struct {
	text                         string // if kind is 0
	key                          string
	kind                         byte // s, d, o, x, f, e, g, c or %
	keyed                        bool
	caps                         bool
	alt, zero, left, blank, plus bool
	width, prec                  int // -1 if prec is not given
	starWidth, starPrec          bool
}

// format is a parsed format string.
type format struct {
	parts []directive
	ok    bool
	odd   bool // has what only the Jsonnet function knows to do
}

// maxFormatNumber bounds widths and precisions that are taken at their word.
const maxFormatNumber = 1 << 30

// parseFormat parses a format string. The result is not ok if it is wrong.
func parseFormat(s string) *format {
	f := &format{}
	for s != "" {
		text, rest, code := strings.Cut(s, "%")
		if text != "" {
			f.parts = append(f.parts, directive{text: text})
		}
		if !code {
			break
		}
		var d directive
		if d, s = parseDirective(rest); d.kind == 0 {
			return f
		}
		f.parts = append(f.parts, d)
		f.odd = f.odd || d.isOdd()
	}
	f.ok = true
	return f
}

// isOdd reports whether a directive is left to the Jsonnet function: it may ask
// for -1 digits, or take a value from the list that it does not need.
func (d *directive) isOdd() bool {
	switch d.kind {
	case 'g':
		return d.prec == 0 || d.starPrec
	case '%', 's', 'c':
		return d.starPrec || d.starWidth && d.kind == '%'
	}
	return false
}

// parseDirective parses what is behind a %. Its kind is 0 if it is wrong.
func parseDirective(s string) (d directive, rest string) {
	d.prec = -1
	if strings.HasPrefix(s, "(") {
		if d.key, s, d.keyed = strings.Cut(s[1:], ")"); !d.keyed {
			return directive{}, ""
		}
	}
	s = d.flags(s)
	d.width, d.starWidth, s = parseWidth(s)
	if strings.HasPrefix(s, ".") {
		d.prec, d.starPrec, s = parseWidth(s[1:])
	}
	if s != "" && strings.IndexByte("hlL", s[0]) >= 0 {
		s = s[1:]
	}
	if s == "" {
		return directive{}, ""
	}
	c := s[0]
	d.caps = c == 'X' || c == 'E' || c == 'F' || c == 'G'
	switch c {
	case 'd', 'i', 'u':
		d.kind = 'd'
	case 'x', 'X', 'f', 'F', 'e', 'E', 'g', 'G':
		d.kind = c | 0x20
	case 's', 'o', 'c', '%':
		d.kind = c
	}
	return d, s[1:]
}

func (d *directive) flags(s string) string {
	for s != "" {
		switch s[0] {
		case '#':
			d.alt = true
		case '0':
			d.zero = true
		case '-':
			d.left = true
		case ' ':
			d.blank = true
		case '+':
			d.plus = true
		default:
			return s
		}
		s = s[1:]
	}
	return s
}

func parseWidth(s string) (n int, star bool, rest string) {
	if strings.HasPrefix(s, "*") {
		return 0, true, s[1:]
	}
	for s != "" && s[0] >= '0' && s[0] <= '9' {
		n = min(n*10+int(s[0]-'0'), maxFormatNumber)
		s = s[1:]
	}
	return n, false, s
}

// formatter fills in the values of one call.
type formatter struct {
	m    *machine
	at   *site
	out  []byte
	list *array  // of values, or
	obj  *object // of named ones
	next int     // index in list
	odd  bool    // a width or precision is not a natural number: the Jsonnet function knows what then
}

// format is std.format.
func (m *machine) format(t *text, vals value, at *site) value {
	s := t.string(m)
	f := m.formats[s]
	if f == nil {
		if m.formats == nil || len(m.formats) > 10_000 {
			m.formats = map[string]*format{}
		}
		f = parseFormat(s)
		m.formats[s] = f
	}
	if !f.ok {
		m.fail(at, "Truncated format code or unrecognised conversion type.")
	}
	if f.odd {
		return m.original("format", []value{t.value(), vals}, at)
	}
	p := formatter{m: m, at: at, out: m.scratch[:0]}
	m.scratch = nil
	switch vals.kind() {
	case kindArray:
		p.list = vals.array()
	case kindObject:
		p.obj = vals.object()
	default:
		p.list = &array{header: header{kind: kindArray}, elems: []value{vals}}
	}
	m.hold(vals)
	for i := range f.parts {
		m.loop(at)
		p.directive(&f.parts[i])
		if p.odd {
			m.drop(1)
			return m.original("format", []value{t.value(), vals}, at)
		}
		m.checkLength(len(p.out))
	}
	m.drop(1)
	if p.list != nil && p.next < len(p.list.elems) {
		m.fail(at, "Too many values to format")
	}
	r := m.text(string(p.out))
	m.scratch = p.out[:0]
	if cap(m.scratch) > 64<<10 {
		m.scratch = nil
	}
	return r
}

// take returns the next value of the list.
func (p *formatter) take() value {
	if p.next >= len(p.list.elems) {
		p.m.fail(p.at, "Not enough values to format")
	}
	p.next++
	return p.m.elem(p.list, p.next-1, p.at)
}

func (p *formatter) takeSize() int {
	v := p.take()
	if !v.isNumber() || v.n != math.Floor(v.n) || v.n < 0 || v.n > maxFormatNumber {
		p.odd = true
		return 0
	}
	return int(v.n)
}

func (p *formatter) directive(d *directive) {
	if d.kind == 0 {
		p.out = append(p.out, d.text...)
		return
	}
	sized := *d
	if d.starWidth {
		if p.obj != nil {
			p.m.fail(p.at, "Cannot use * field width with object.")
		}
		sized.width = p.takeSize()
	}
	if d.starPrec {
		if p.obj != nil {
			p.m.fail(p.at, "Cannot use * precision with object.")
		}
		sized.prec = p.takeSize()
	}
	if p.odd {
		return
	}
	start := len(p.out)
	if d.kind == '%' {
		p.out = append(p.out, '%')
	} else {
		p.value(&sized)
	}
	p.pad(start, &sized)
}

// pad widens what was written since start.
func (p *formatter) pad(start int, d *directive) {
	if d.width <= 0 {
		return
	}
	gap := d.width - utf8.RuneCount(p.out[start:])
	if gap <= 0 {
		return
	}
	p.m.checkLength(len(p.out) + gap)
	p.m.charge(gap)
	p.out = append(p.out, make([]byte, gap)...)
	end := len(p.out)
	if !d.left {
		copy(p.out[start+gap:], p.out[start:end-gap])
		end = start + gap
	}
	for i := end - gap; i < end; i++ {
		p.out[i] = ' '
	}
}

// value writes one value.
func (p *formatter) value(d *directive) {
	v := p.operand(d)
	switch d.kind {
	case 's':
		switch v.kind() {
		case kindString:
			p.out = append(p.out, v.text().string(p.m)...)
		case kindNumber:
			p.out = appendNumber(p.out, v.n)
		default:
			p.out = append(p.out, p.m.toString(v, p.at)...)
		}
		return
	case 'c':
		switch {
		case v.isNumber():
			v = char(p.m, []value{v}, p.at)
		case v.kind() != kindString || v.text().runes != 1:
			p.m.fail(p.at, "%c expected number / string")
		}
		p.out = append(p.out, v.text().string(p.m)...)
		return
	}
	if !v.isNumber() {
		p.m.fail(p.at, "Format required number")
	}
	if d.kind == 'd' && d.prec <= 0 && !d.zero && !d.blank && !d.plus && v.n > -1e15 && v.n < 1e15 {
		n := math.Trunc(v.n)
		p.out = appendNumber(p.out, n+0) // no negative zero
		return
	}
	p.out = append(p.out, p.number(d, v.n)...)
}

func (p *formatter) operand(d *directive) value {
	if p.obj == nil {
		return p.take()
	}
	if !d.keyed {
		p.m.fail(p.at, "Mapping keys required.")
	}
	if !p.m.has(p.obj, d.key, true) {
		p.m.fail(p.at, "No such field: "+d.key)
	}
	return p.m.index(p.obj, d.key, p.at)
}

// number renders a number by the same steps in floating point as the Jsonnet
// function, whose roundings show in the result.
func (p *formatter) number(d *directive, n float64) string {
	zp := 0
	if d.zero && !d.left {
		zp = d.width
	}
	iprec, fprec := max(d.prec, 0), d.prec
	if fprec < 0 {
		fprec = 6
	}
	switch d.kind {
	case 'd':
		return p.integer(n <= -1, math.Floor(math.Abs(n)), zp, iprec, d.blank, d.plus, 10, "")
	case 'o':
		prefix := ""
		if d.alt {
			prefix = "0"
		}
		return p.integer(n <= -1, math.Floor(math.Abs(n)), zp, iprec, d.blank, d.plus, 8, prefix)
	case 'x':
		return p.hex(d, math.Floor(n), zp, iprec)
	case 'f':
		return p.decimal(d, n, zp, true, fprec)
	case 'e':
		return p.scientific(d, n, zp, true, fprec)
	}
	exponent := 0.0
	if n != 0 {
		exponent = math.Floor(math.Log(math.Abs(n)) / math.Log(10))
	}
	if exponent < -4 || exponent >= float64(fprec) {
		return p.scientific(d, n, zp, d.alt, fprec-1)
	}
	return p.decimal(d, n, zp, d.alt, fprec-int(max(1, exponent+1)))
}

func sign(neg, plus, blank bool) string {
	switch {
	case neg:
		return "-"
	case plus:
		return "+"
	case blank:
		return " "
	}
	return ""
}

func (p *formatter) zeros(s string, width int) string {
	n := max(0, width-len(s))
	p.m.checkLength(n)
	p.m.charge(n)
	return strings.Repeat("0", n) + s
}

// figures writes a whole number in a base.
func figures(n, base float64, numerals, before string) string {
	if n == 0 {
		return "0"
	}
	var out []byte
	for n != 0 {
		out = append(out, numerals[int(math.Mod(n, base))])
		n = math.Floor(n / base)
	}
	slices.Reverse(out)
	return before + string(out)
}

func (p *formatter) integer(neg bool, mag float64, minChars, minDigits int, blank, plus bool, base float64, prefix string) string {
	zp := minChars
	if neg || blank || plus {
		zp--
	}
	return sign(neg, plus, blank) + p.zeros(figures(mag, base, "0123456789", prefix), max(zp, minDigits))
}

func (p *formatter) hex(d *directive, n float64, minChars, minDigits int) string {
	numerals, prefix := "0123456789abcdef", ""
	if d.caps {
		numerals = "0123456789ABCDEF"
	}
	neg, zp := n < 0, minChars
	if neg || d.blank || d.plus {
		zp--
	}
	if d.alt {
		zp -= 2
		if prefix = "0x"; d.caps {
			prefix = "0X"
		}
	}
	return sign(neg, d.plus, d.blank) + prefix + p.zeros(figures(math.Floor(math.Abs(n)), 16, numerals, ""), max(zp, minDigits))
}

func (p *formatter) decimal(d *directive, n float64, zeroPad int, trailing bool, prec int) string {
	abs := math.Abs(n)
	denominator := p.m.finite(math.Pow(10, float64(prec)), p.at).n
	numerator := p.m.finite(float64(abs*denominator)+0.5, p.at).n // no fused multiplication: each step is rounded
	if denominator == 0 {
		p.m.fail(p.at, "Division by zero.")
	}
	whole := p.m.finite(math.Floor(p.m.finite(numerator/denominator, p.at).n), p.at).n
	if abs == 0 {
		whole = 0
	}
	frac := math.Mod(math.Floor(numerator), denominator)
	zp := zeroPad - prec
	if prec != 0 || d.alt {
		zp--
	}
	s := p.integer(n < 0, whole, zp, 0, d.blank, d.plus, 10, "")
	switch {
	case prec == 0 && d.alt:
		return s + "."
	case prec == 0 || !trailing && frac <= 0:
		return s
	}
	f := p.integer(false, frac, prec, 0, false, false, 10, "")
	if !trailing {
		f = strings.TrimRight(f, "0")
	}
	return s + "." + f
}

func (p *formatter) scientific(d *directive, n float64, zeroPad int, trailing bool, prec int) string {
	exponent := 0.0
	if n != 0 {
		exponent = math.Floor(math.Log(math.Abs(n)) / math.Log(10))
	}
	suffix := "e"
	if d.caps {
		suffix = "E"
	}
	suffix += p.integer(exponent < 0, math.Abs(exponent), 3, 0, false, true, 10, "")
	mantissa := n / math.Pow(10, exponent)
	if exponent == -324 {
		mantissa = float64(n*10) / math.Pow(10, exponent+1)
	}
	p.m.finite(mantissa, p.at)
	return p.decimal(d, mantissa, zeroPad-len(suffix), trailing, prec) + suffix
}

func init() {
	extra("format", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindString {
			return m.original("format", a, at)
		}
		return m.format(a[0].text(), a[1], at)
	}, "str", "vals")
}
