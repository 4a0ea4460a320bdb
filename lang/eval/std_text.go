package eval

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

func init() {
	basic("toString", func(m *machine, a []value, at *site) value {
		if a[0].kind() == kindString {
			return a[0]
		}
		return m.text(m.toString(a[0], at))
	}, "a")
	basic("escapeStringJson", func(m *machine, a []value, at *site) value { return m.text(quote(m.toString(a[0], at))) }, "str_")
	basic("lstripChars", func(m *machine, a []value, at *site) value { return m.strip(a[0], a[1], true, false, at) }, "str", "chars")
	basic("rstripChars", func(m *machine, a []value, at *site) value { return m.strip(a[0], a[1], false, true, at) }, "str", "chars")
	basic("stripChars", func(m *machine, a []value, at *site) value { return m.strip(a[0], a[1], true, true, at) }, "str", "chars")
	basic("substr", substr, "str", "from", "len")
	basic("splitLimit", splitLimit, "str", "c", "maxsplits")
	basic("splitLimitR", splitLimitR, "str", "c", "maxsplits")
	basic("strReplace", func(m *machine, a []value, at *site) value {
		s, from, to := m.wantText(a[0], at).string(m), m.wantText(a[1], at).string(m), m.wantText(a[2], at).string(m)
		if from == "" {
			m.fail(at, "'from' string must not be zero length.")
		}
		m.work(len(s))
		n := strings.Count(s, from)
		m.checkLength(len(s) + n*(len(to)-len(from)))
		m.charge(len(s) + n*(len(to)-len(from)))
		return m.text(strings.ReplaceAll(s, from, to))
	}, "str", "from", "to")
	basic("isEmpty", func(m *machine, a []value, at *site) value { return boolean(m.wantText(a[0], at).bytes == 0) }, "str")
	basic("equalsIgnoreCase", func(m *machine, a []value, at *site) value {
		s := m.wantText(a[0], at)
		m.work(int(s.bytes))
		return boolean(strings.EqualFold(s.string(m), m.wantText(a[1], at).string(m)))
	}, "str1", "str2")
	basic("trim", func(m *machine, a []value, at *site) value {
		return m.text(strings.TrimSpace(m.wantText(a[0], at).string(m)))
	}, "str")
	basic("parseInt", func(m *machine, a []value, at *site) value {
		s := m.wantText(a[0], at).string(m)
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			m.failf(at, "%s is not a base 10 integer", s)
		}
		return number(float64(n))
	}, "str")
	basic("char", char, "n")
	basic("codepoint", func(m *machine, a []value, at *site) value {
		t := m.wantText(a[0], at)
		if t.runes != 1 {
			m.failf(at, "codepoint takes a string of length 1, got length %v", t.runes)
		}
		r, _ := utf8.DecodeRuneInString(t.string(m))
		return number(float64(r))
	}, "str")
	for name, sum := range map[string]func(string) string{
		"md5":    func(s string) string { h := md5.Sum([]byte(s)); return hex.EncodeToString(h[:]) },
		"sha1":   func(s string) string { h := sha1.Sum([]byte(s)); return hex.EncodeToString(h[:]) },
		"sha256": func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) },
		"sha512": func(s string) string { h := sha512.Sum512([]byte(s)); return hex.EncodeToString(h[:]) },
		"sha3":   func(s string) string { h := sha3.Sum512([]byte(s)); return hex.EncodeToString(h[:]) },
	} {
		basic(name, func(m *machine, a []value, at *site) value {
			s := m.wantText(a[0], at).string(m)
			m.step(len(s) / 64)
			return m.text(sum(s))
		}, "s")
	}
	basic("base64", encodeBase64, "input")
	basic("base64Decode", func(m *machine, a []value, at *site) value {
		return m.foreignText(string(m.decodeBase64(a[0], at)))
	}, "str")
	basic("base64DecodeBytes", func(m *machine, a []value, at *site) value {
		return m.byteArray(m.decodeBase64(a[0], at))
	}, "str")
	basic("encodeUTF8", func(m *machine, a []value, at *site) value {
		return m.byteArray([]byte(m.wantText(a[0], at).string(m)))
	}, "str")
	basic("decodeUTF8", func(m *machine, a []value, at *site) value {
		in := m.wantArray(a[0], at)
		out := make([]byte, len(in.elems))
		for i := range in.elems {
			m.loop(at)
			n := m.wantInt(m.elem(in, i, at), at)
			if n < 0 || n > 255 {
				m.failf(at, "Bytes must be integers in range [0, 255], got %d", n)
			}
			out[i] = byte(n)
		}
		return m.foreignText(string(out))
	}, "arr")
	defineTextExtras()
}

func defineTextExtras() {
	extra("startsWith", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindString || a[1].kind() != kindString {
			return m.original("startsWith", a, at)
		}
		return boolean(strings.HasPrefix(a[0].text().string(m), a[1].text().string(m)))
	}, "a", "b")
	extra("endsWith", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindString || a[1].kind() != kindString {
			return m.original("endsWith", a, at)
		}
		return boolean(strings.HasSuffix(a[0].text().string(m), a[1].text().string(m)))
	}, "a", "b")
	extra("stringChars", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindString {
			return m.original("stringChars", a, at)
		}
		return m.build(a[0], at, func(_ int, c value) value { return c })
	}, "str")
	extra("split", func(m *machine, a []value, at *site) value {
		return splitLimit(m, []value{a[0], a[1], number(-1)}, at)
	}, "str", "c")
	extra("asciiUpper", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindString {
			return m.original("asciiUpper", a, at)
		}
		return m.mapASCII(a[0].text(), 'a', 'z')
	}, "str")
	extra("asciiLower", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindString {
			return m.original("asciiLower", a, at)
		}
		return m.mapASCII(a[0].text(), 'A', 'Z')
	}, "str")
	extra("parseOctal", func(m *machine, a []value, at *site) value { return m.parseNatural(a[0], 8, at) }, "str")
	extra("parseHex", func(m *machine, a []value, at *site) value { return m.parseNatural(a[0], 16, at) }, "str")
	extra("findSubstr", findSubstr, "pat", "str")
	extra("deepJoin", func(m *machine, a []value, at *site) value {
		var b strings.Builder
		m.deepJoin(&b, a[0], at)
		return m.text(b.String())
	}, "arr")
	extra("escapeStringPython", func(m *machine, a []value, at *site) value { return m.text(quote(m.toString(a[0], at))) }, "str")
	for name, r := range map[string]*strings.Replacer{
		"escapeStringBash":    strings.NewReplacer("'", `'"'"'`),
		"escapeStringDollars": strings.NewReplacer("$", "$$"),
		"escapeStringXML":     strings.NewReplacer("<", "&lt;", ">", "&gt;", "&", "&amp;", `"`, "&quot;", "'", "&apos;"),
	} {
		extra(name, func(m *machine, a []value, at *site) value {
			s := r.Replace(m.toString(a[0], at))
			if name == "escapeStringBash" {
				s = "'" + s + "'"
			}
			return m.text(s)
		}, "str_")
	}
	extra("resolvePath", func(m *machine, a []value, at *site) value {
		if a[0].kind() != kindString || a[1].kind() != kindString {
			return m.original("resolvePath", a, at)
		}
		f, r := a[0].text().string(m), a[1].text().string(m)
		return m.text(f[:strings.LastIndexByte(f, '/')+1] + r)
	}, "f", "r")
}

// strip removes characters from the ends of a string. chars is a string or an
// array of what to remove.
func (m *machine) strip(v, chars value, left, right bool, at *site) value {
	if v.kind() != kindString {
		m.fail(at, fmt.Sprintf("Unexpected type %v, expected string", v.kind()))
	}
	s := v.text().string(m)
	before := s
	for left && s != "" {
		_, n := utf8.DecodeRuneInString(s)
		m.loop(at)
		if !m.member(chars, m.share(s[:n], 1), at) {
			break
		}
		s = s[n:]
	}
	for right && s != "" {
		_, n := utf8.DecodeLastRuneInString(s)
		m.loop(at)
		if !m.member(chars, m.share(s[len(s)-n:], 1), at) {
			break
		}
		s = s[:len(s)-n]
	}
	if len(s) == len(before) {
		return v
	}
	return m.share(s, utf8.RuneCountInString(s))
}

func substr(m *machine, a []value, at *site) value {
	if a[0].kind() != kindString {
		m.fail(at, "substr first parameter should be a string, got "+a[0].kind().String())
	}
	if !a[1].isNumber() {
		m.fail(at, "substr second parameter should be a number, got "+a[1].kind().String())
	}
	if math.Mod(a[1].n, 1) != 0 {
		m.failf(at, "substr second parameter should be an integer, got %f", a[1].n)
	}
	if a[1].n < 0 {
		m.failf(at, "substr second parameter should be greater than zero, got %f", a[1].n)
	}
	if !a[2].isNumber() {
		m.fail(at, "substr third parameter should be a number, got "+a[2].kind().String())
	}
	n := int(int32(a[2].n))
	if float64(n) != a[2].n {
		m.failf(at, "substr third parameter should be an integer, got %f", a[2].n)
	}
	if n < 0 {
		m.failf(at, "substr third parameter should be greater than zero, got %d", n)
	}
	t := a[0].text()
	if a[1].n > float64(t.runes) {
		return emptyText.value()
	}
	from := int(a[1].n)
	return m.sub(t, from, min(from+n, t.length()))
}

func (m *machine) textArray(parts []string) value {
	out := m.newArray(len(parts))
	for i, p := range parts {
		out.elems[i] = m.share(p, utf8.RuneCountInString(p))
	}
	m.step(len(parts))
	return out.value()
}

func splitArgs(m *machine, a []value, name string, at *site) (s, sep string, limit int) {
	s, sep = m.wantText(a[0], at).string(m), m.wantText(a[1], at).string(m)
	limit = m.wantInt(a[2], at)
	if limit < -1 {
		m.failf(at, "std.%s third parameter should be -1 or non-negative, got %v", name, limit)
	}
	if sep == "" {
		m.failf(at, "std.%s second parameter should have length 1 or greater, got %v", name, len(sep))
	}
	m.work(len(s))
	return s, sep, limit
}

func splitLimit(m *machine, a []value, at *site) value {
	s, sep, limit := splitArgs(m, a, "splitLimit", at)
	if limit == -1 {
		return m.textArray(strings.Split(s, sep))
	}
	return m.textArray(strings.SplitN(s, sep, limit+1))
}

func splitLimitR(m *machine, a []value, at *site) value {
	s, sep, limit := splitArgs(m, a, "splitLimitR", at)
	n := strings.Count(s, sep)
	if limit > -1 {
		n = min(n, limit)
	}
	parts := make([]string, n+1)
	for ; n > 0; n-- {
		i := strings.LastIndex(s, sep)
		parts[n] = s[i+len(sep):]
		s = s[:i]
	}
	parts[0] = s
	return m.textArray(parts)
}

func char(m *machine, a []value, at *site) value {
	n := m.wantNumber(a[0], at)
	switch {
	case n > utf8.MaxRune:
		m.failf(at, "Invalid unicode codepoint, got %v", n)
	case n < 0:
		m.failf(at, "Codepoints must be >= 0, got %v", n)
	}
	return m.text(string(rune(n)))
}

func encodeBase64(m *machine, a []value, at *site) value {
	check := func(n int) {
		if n < 0 || n > 255 {
			m.failf(at, "base64 encountered invalid codepoint value in the array (must be 0 <= X <= 255), got %d", n)
		}
	}
	var in []byte
	switch a[0].kind() {
	case kindString:
		s := a[0].text().string(m)
		for _, r := range s {
			check(int(r))
		}
		in = []byte(s)
	case kindArray:
		list := a[0].array()
		for i := range list.elems {
			m.loop(at)
			v := m.elem(list, i, at)
			if !v.isNumber() || float64(int32(v.n)) != v.n {
				m.fail(at, "base64 encountered a non-integer value in the array, got "+v.kind().String())
			}
			check(int(v.n))
			in = append(in, byte(v.n))
		}
	default:
		m.fail(at, "base64 can only base64 encode strings / arrays of single bytes, got "+a[0].kind().String())
	}
	return m.text(base64.StdEncoding.EncodeToString(in))
}

func (m *machine) decodeBase64(v value, at *site) []byte {
	if v.kind() != kindString {
		m.fail(at, "base64DecodeBytes requires a string, got "+v.kind().String())
	}
	s := v.text().string(m)
	m.work(len(s))
	if len(s)%4 != 0 {
		m.failf(at, "input string appears not to be a base64 encoded string. Wrong length found (%d)", len(s))
	}
	out, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		m.failf(at, "failed to decode: %s", err)
	}
	return out
}

func (m *machine) byteArray(b []byte) value {
	out := m.newArray(len(b))
	for i, c := range b {
		out.elems[i] = number(float64(c))
	}
	m.step(len(b))
	return out.value()
}

// mapASCII changes the case of the letters in a range.
func (m *machine) mapASCII(t *text, from, to byte) value {
	s := t.string(m)
	b := []byte(s)
	for i, c := range b {
		if c >= from && c <= to {
			b[i] = c ^ 0x20
		}
	}
	return m.textOf(string(b), t.length())
}

// parseNatural reads digits of a base, as std does: any character counts by its
// distance from 0, A or a.
func (m *machine) parseNatural(v value, base float64, at *site) value {
	s := m.wantText(v, at).string(m)
	if s == "" {
		m.fail(at, "Not a number: \"\"")
	}
	n := 0.0
	for _, c := range s {
		d := float64(c - '0')
		switch {
		case c >= 'a':
			d = float64(c-'a') + 10
		case c >= 'A':
			d = float64(c-'A') + 10
		}
		if d < 0 || d >= base {
			m.failf(at, "%s is not a base %v integer", s, base)
		}
		n = float64(base*n) + d
		m.finite(n, at)
	}
	return number(n)
}

func findSubstr(m *machine, a []value, at *site) value {
	pat, t := m.wantText(a[0], at).string(m), m.wantText(a[1], at)
	s := t.string(m)
	var out []value
	if pat != "" {
		for i, at := 0, 0; at <= len(s)-len(pat); i++ {
			if s[at:at+len(pat)] == pat {
				out = append(out, number(float64(i)))
			}
			if s[at] < utf8.RuneSelf {
				at++
				continue
			}
			_, n := utf8.DecodeRuneInString(s[at:])
			at += n
		}
	}
	m.step(len(s) / 8)
	m.charge(cap(out) * valueCost)
	return m.arrayOf(out)
}

func (m *machine) deepJoin(b *strings.Builder, v value, at *site) {
	switch v.kind() {
	case kindString:
		s := v.text().string(m)
		m.charge(len(s))
		m.checkLength(b.Len() + len(s))
		b.WriteString(s)
	case kindArray:
		m.nest(at)
		in := v.array()
		for i := range in.elems {
			m.loop(at)
			m.deepJoin(b, m.elem(in, i, at), at)
		}
		m.unnest()
	default:
		m.fail(at, "Expected string or array, got "+v.kind().String())
	}
}
