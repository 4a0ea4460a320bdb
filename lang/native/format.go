package native

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/defx-dev/defx/internal/sets"
)

// This file implements std.format for common formats. Others (a width or
// precision from a value, %c, large widths) are left to the old body. Numbers are
// formatted with the same floating-point operations as there.

func init() {
	register("format.kinds", func(a []any) (any, error) {
		f := parseCached(a[0].(string))
		if f == nil {
			return nil, nil
		}
		if strings.Trim(f.kinds, "s") == "" {
			return float64(len(f.kinds)), nil
		}
		return f.kinds, nil
	}, "str")
	register("format.keys", func(a []any) (any, error) {
		f := parseCached(a[0].(string))
		if f == nil || !f.keyed {
			return nil, nil
		}
		return f.keys, nil
	}, "str")
	register("format.fill", func(a []any) (any, error) {
		f, vals := parseCached(a[0].(string)), a[1].([]any)
		if f == nil {
			return nil, nil
		}
		return f.fill(vals), nil
	}, "str", "vals")
}

// directive is one % directive, or the text between two.
type directive struct {
	text                         string // if kind is 0
	kind                         byte   // s, d, o, x, f, e, g or %
	caps                         bool
	alt, zero, left, blank, plus bool
	width, prec                  int // prec is -1 if not given
}

// format is a parsed format string.
type format struct {
	parts []directive
	kinds string // one letter per value: s accepts any value, d a number, f a number that is not too large
	keyed bool   // every directive has a key
	keys  []any  // [name, kind] of each value
}

const (
	maxWidth  = 400 // the old body recurses once per column, and fails beyond the stack
	maxPrec   = 20
	maxCached = 10_000
)

// formatCache holds parsed formats by their string.
var formatCache struct {
	sync.RWMutex
	formats map[string]*format
}

// parseCached returns a parsed format, or nil if it is left to the old body.
func parseCached(s string) *format {
	formatCache.RLock()
	f, known := formatCache.formats[s]
	formatCache.RUnlock()
	if known {
		return f
	}
	f = parseFormat(s)
	formatCache.Lock()
	defer formatCache.Unlock()
	if formatCache.formats == nil || len(formatCache.formats) >= maxCached {
		formatCache.formats = map[string]*format{}
	}
	formatCache.formats[s] = f
	return f
}

// parseFormat parses a format, and returns nil if it is left to the old body.
func parseFormat(s string) *format {
	f := &format{keyed: true}
	var kinds []byte
	for s != "" {
		text, rest, code := strings.Cut(s, "%")
		if text != "" {
			f.parts = append(f.parts, directive{text: text})
		}
		if !code {
			break
		}
		d := directive{prec: -1}
		key, named := "", false
		if strings.HasPrefix(rest, "(") {
			if key, rest, named = strings.Cut(rest[1:], ")"); !named {
				return nil
			}
		}
	flags:
		for rest != "" {
			switch rest[0] {
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
				break flags
			}
			rest = rest[1:]
		}
		if d.width, rest = parseDigits(rest); d.width > maxWidth {
			return nil
		}
		if strings.HasPrefix(rest, ".") {
			if d.prec, rest = parseDigits(rest[1:]); d.prec > maxPrec {
				return nil
			}
		}
		if rest != "" && strings.IndexByte("hlL", rest[0]) >= 0 {
			rest = rest[1:]
		}
		if rest == "" {
			return nil
		}
		c := rest[0]
		s = rest[1:]
		d.caps = c >= 'A' && c <= 'Z'
		kind := byte('d')
		switch c {
		case 's':
			d.kind, kind = 's', 's'
		case 'd', 'i', 'u':
			d.kind = 'd'
		case 'o':
			d.kind = 'o'
		case 'x', 'X':
			d.kind = 'x'
		case 'f', 'F', 'e', 'E', 'g', 'G':
			d.kind, kind = c|0x20, 'f'
			if d.kind == 'g' && d.prec == 0 {
				return nil // the old body computes -1 digits
			}
		case '%':
			d.kind = '%'
		default:
			return nil
		}
		f.parts = append(f.parts, d)
		if d.kind != '%' {
			kinds = append(kinds, kind)
			f.keys = append(f.keys, []any{key, string(kind)})
			f.keyed = f.keyed && named
		}
	}
	f.kinds = string(kinds)
	return f
}

// parseDigits parses a number at the start of s and returns the rest. The number
// is limited to maxWidth+1.
func parseDigits(s string) (int, string) {
	n := 0
	for s != "" && s[0] >= '0' && s[0] <= '9' {
		n = min(n*10+int(s[0]-'0'), maxWidth+1)
		s = s[1:]
	}
	return n, s
}

// fill returns the formatted string, or nil if a value does not fit.
func (f *format) fill(vals []any) any {
	if len(vals) != len(f.kinds) {
		return nil
	}
	var b strings.Builder
	for i := range f.parts {
		d := &f.parts[i]
		var s string
		switch d.kind {
		case 0:
			b.WriteString(d.text)
			continue
		case '%':
			s = "%"
		case 's':
			s, vals = toString(vals[0]), vals[1:]
		default:
			n, ok := vals[0].(float64)
			if !ok {
				return nil
			}
			s, vals = d.formatNumber(n), vals[1:]
		}
		gap := 0
		if d.width > 0 {
			gap = max(0, d.width-utf8.RuneCountInString(s))
		}
		if d.left {
			b.WriteString(s)
		}
		b.WriteString(strings.Repeat(" ", gap))
		if !d.left {
			b.WriteString(s)
		}
	}
	return b.String()
}

// formatNumber formats a number as d specifies.
func (d *directive) formatNumber(n float64) string {
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
		return formatInteger(n <= -1, math.Floor(math.Abs(n)), zp, iprec, d.blank, d.plus, 10, "")
	case 'o':
		prefix := ""
		if d.alt {
			prefix = "0"
		}
		return formatInteger(n <= -1, math.Floor(math.Abs(n)), zp, iprec, d.blank, d.plus, 8, prefix)
	case 'x':
		return d.formatHex(math.Floor(n), zp, iprec)
	case 'f':
		return d.formatDecimal(n, zp, true, fprec)
	case 'e':
		return d.formatScientific(n, zp, true, fprec)
	}
	exponent := 0.0
	if n != 0 {
		exponent = math.Floor(math.Log(math.Abs(n)) / math.Log(10))
	}
	if exponent < -4 || exponent >= float64(fprec) {
		return d.formatScientific(n, zp, d.alt, fprec-1)
	}
	return d.formatDecimal(n, zp, d.alt, fprec-int(max(1, exponent+1)))
}

// sign returns the sign of a formatted number.
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

// padZeros pads s with zeros on the left.
func padZeros(s string, width int) string {
	return strings.Repeat("0", max(0, width-len(s))) + s
}

// formatDigits formats a whole number in a base, by the same divisions as the old
// body, with a prefix unless the number is 0.
func formatDigits(n, base float64, digits, prefix string) string {
	if n == 0 {
		return "0"
	}
	var out []byte
	for n != 0 {
		out = append(out, digits[int(math.Mod(n, base))])
		n = math.Floor(n / base)
	}
	slices.Reverse(out)
	return prefix + string(out)
}

// formatInteger formats a whole number of magnitude mag with sign, zero padding and prefix.
func formatInteger(neg bool, mag float64, minChars, minDigits int, blank, plus bool, base float64, prefix string) string {
	zp := minChars
	if neg || blank || plus {
		zp--
	}
	return sign(neg, plus, blank) + padZeros(formatDigits(mag, base, "0123456789", prefix), max(zp, minDigits))
}

// formatHex formats a number for %x and %X.
func (d *directive) formatHex(n float64, minChars, minDigits int) string {
	digits, prefix := "0123456789abcdef", ""
	if d.caps {
		digits = "0123456789ABCDEF"
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
	return sign(neg, d.plus, d.blank) + prefix + padZeros(formatDigits(math.Floor(math.Abs(n)), 16, digits, ""), max(zp, minDigits))
}

// formatDecimal formats a number for %f.
func (d *directive) formatDecimal(n float64, zeroPad int, trailing bool, prec int) string {
	abs := math.Abs(n)
	denominator := math.Pow(10, float64(prec))
	numerator := float64(abs*denominator) + 0.5 // the conversion prevents fused multiply-add: the old body rounds each step
	whole := math.Floor(numerator / denominator)
	if abs == 0 {
		whole = 0
	}
	frac := math.Mod(math.Floor(numerator), denominator)
	zp := zeroPad - prec
	if prec != 0 || d.alt {
		zp--
	}
	s := formatInteger(n < 0, whole, zp, 0, d.blank, d.plus, 10, "")
	switch {
	case prec == 0 && d.alt:
		return s + "."
	case prec == 0 || !trailing && frac <= 0:
		return s
	}
	f := formatInteger(false, frac, prec, 0, false, false, 10, "")
	if !trailing {
		f = strings.TrimRight(f, "0")
	}
	return s + "." + f
}

// formatScientific formats a number for %e.
func (d *directive) formatScientific(n float64, zeroPad int, trailing bool, prec int) string {
	exponent := 0.0
	if n != 0 {
		exponent = math.Floor(math.Log(math.Abs(n)) / math.Log(10))
	}
	suffix := "e"
	if d.caps {
		suffix = "E"
	}
	suffix += formatInteger(exponent < 0, math.Abs(exponent), 3, 0, false, true, 10, "")
	return d.formatDecimal(n/math.Pow(10, exponent), zeroPad-len(suffix), trailing, prec) + suffix
}

// toString returns the result of std.toString.
func toString(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b strings.Builder
	writeJSON(&b, v)
	return b.String()
}

// writeJSON writes a value in the form of std.toString.
func writeJSON(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case float64:
		if v == math.Floor(v) {
			b.WriteString(strconv.FormatFloat(v, 'f', 0, 64))
		} else {
			b.WriteString(strconv.FormatFloat(v, 'g', 17, 64))
		}
	case string:
		writeQuoted(b, v)
	case []any:
		if len(v) == 0 {
			b.WriteString("[ ]")
			return
		}
		prefix := "["
		for _, e := range v {
			b.WriteString(prefix)
			writeJSON(b, e)
			prefix = ", "
		}
		b.WriteString("]")
	case map[string]any:
		if len(v) == 0 {
			b.WriteString("{ }")
			return
		}
		prefix := "{"
		for _, name := range sets.Keys(v) {
			b.WriteString(prefix)
			writeQuoted(b, name)
			b.WriteString(": ")
			writeJSON(b, v[name])
			prefix = ", "
		}
		b.WriteString("}")
	}
}

// hexDigits are the digits of \u escapes.
const hexDigits = "0123456789abcdef"

// writeQuoted writes s as a JSON string in the form of std.toString.
func writeQuoted(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, c := range s {
		switch c {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteByte(byte(c))
		case '\b':
			b.WriteString(`\b`)
		case '\f':
			b.WriteString(`\f`)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		default:
			if c < 0x20 || c >= 0x7f && c <= 0x9f {
				b.WriteString(`\u00`)
				b.WriteByte(hexDigits[c>>4])
				b.WriteByte(hexDigits[c&15])
			} else {
				b.WriteRune(c)
			}
		}
	}
	b.WriteByte('"')
}
