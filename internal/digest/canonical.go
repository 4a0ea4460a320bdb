package digest

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// CanonicalJSON returns the RFC 8785 form of JSON that encoding/json wrote.
func CanonicalJSON(raw []byte) ([]byte, error) { return canonicalize(raw) }

// canonicalize converts JSON that encoding/json wrote, without white space, to the
// form of RFC 8785. It sorts and copies; for input that it does not handle
// (numbers that are not short integers, invalid UTF-8, repeated names) it uses the
// library instead.
func canonicalize(raw []byte) ([]byte, error) {
	s := canonicalizer{in: raw, out: make([]byte, 0, len(raw))}
	if s.value(0) && s.at == len(raw) {
		return s.out, nil
	}
	return jcs.Transform(raw)
}

// AppendText appends the canonical form of a string.
func AppendText[T ~string](out []byte, s T) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			raw, err := Canonical(string(s))
			if err != nil {
				panic(err) // a string always encodes
			}
			return append(out, raw...)
		}
	}
	return append(append(append(out, '"'), s...), '"')
}

// canonicalizer is one pass over JSON. Its methods return false for input that
// they do not handle.
type canonicalizer struct {
	in  []byte
	at  int
	out []byte
}

// member is a field of an object in the output.
type member struct {
	name, raw []byte // name without quotes; the whole member
	utf16     string // sort key, if the name is not plain ASCII
}

// maxDepth is the nesting depth that canonicalizer handles.
const maxDepth = 500

func (s *canonicalizer) next(c byte) bool {
	if s.at < len(s.in) && s.in[s.at] == c {
		s.at++
		return true
	}
	return false
}

func (s *canonicalizer) value(depth int) bool {
	if s.at >= len(s.in) || depth > maxDepth {
		return false
	}
	switch c := s.in[s.at]; c {
	case '{':
		return s.object(depth)
	case '[':
		s.at++
		s.out = append(s.out, '[')
		if s.next(']') {
			s.out = append(s.out, ']')
			return true
		}
		for {
			if !s.value(depth + 1) {
				return false
			}
			if s.next(']') {
				s.out = append(s.out, ']')
				return true
			}
			if !s.next(',') {
				return false
			}
			s.out = append(s.out, ',')
		}
	case '"':
		return s.str()
	case 't', 'f', 'n':
		for _, word := range []string{"true", "false", "null"} {
			if bytes.HasPrefix(s.in[s.at:], []byte(word)) {
				s.at += len(word)
				s.out = append(s.out, word...)
				return true
			}
		}
		return false
	default:
		from := s.at
		for s.at < len(s.in) && s.in[s.at] >= '0' && s.in[s.at] <= '9' {
			s.at++
		}
		// A following dot or exponent makes the caller fail.
		n := s.at - from
		if n == 0 || n > 15 || n > 1 && s.in[from] == '0' {
			return false
		}
		s.out = append(s.out, s.in[from:s.at]...)
		return true
	}
}

// str copies a string. Some escapes that encoding/json writes are plain
// characters in RFC 8785.
func (s *canonicalizer) str() bool {
	s.at++
	s.out = append(s.out, '"')
	for {
		from := s.at
		for s.at < len(s.in) && s.in[s.at] != '"' && s.in[s.at] != '\\' && s.in[s.at] >= 0x20 {
			s.at++
		}
		if !utf8.Valid(s.in[from:s.at]) {
			return false
		}
		s.out = append(s.out, s.in[from:s.at]...)
		switch {
		case s.next('"'):
			s.out = append(s.out, '"')
			return true
		case !s.next('\\') || s.at >= len(s.in):
			return false
		}
		c := s.in[s.at]
		s.at++
		switch c {
		case '"', '\\', 'b', 'f', 'n', 'r', 't':
			s.out = append(s.out, '\\', c)
			continue
		case 'u':
		default:
			return false
		}
		if len(s.in)-s.at < 4 {
			return false
		}
		switch code := string(s.in[s.at : s.at+4]); code {
		case "003c":
			s.out = append(s.out, '<')
		case "003e":
			s.out = append(s.out, '>')
		case "0026":
			s.out = append(s.out, '&')
		case "2028", "2029":
			s.out = append(s.out, "\u2028"...)
			s.out[len(s.out)-1] += code[3] - '8'
		default:
			if code[:2] != "00" || code[2] != '0' && code[2] != '1' || strings.IndexByte("0123456789abcdef", code[3]) < 0 || strings.Contains("08 09 0a 0c 0d", code[2:]) {
				return false
			}
			s.out = append(s.out, '\\', 'u')
			s.out = append(s.out, code...)
		}
		s.at += 4
	}
}

func (s *canonicalizer) object(depth int) bool {
	s.at++
	begin := len(s.out)
	s.out = append(s.out, '{')
	if s.next('}') {
		s.out = append(s.out, '}')
		return true
	}
	var few [16]member
	members := few[:0]
	ordered := true
	for {
		if s.at >= len(s.in) || s.in[s.at] != '"' {
			return false
		}
		from := len(s.out)
		if !s.str() || !s.next(':') {
			return false
		}
		name := len(s.out) - from
		s.out = append(s.out, ':')
		if !s.value(depth + 1) {
			return false
		}
		m := member{name: s.out[from+1 : from+name-1], raw: s.out[from:]}
		for _, c := range m.name {
			if c >= 0x80 || c == '\\' {
				m.utf16 = utf16Key(s.out[from : from+name])
				break
			}
		}
		if n := len(members); n > 0 && ordered {
			ordered = compareNames(members[n-1], m) < 0
		}
		members = append(members, m)
		s.out = append(s.out, ',')
		if s.next('}') {
			break
		}
		if !s.next(',') {
			return false
		}
	}
	if !ordered {
		slices.SortFunc(members, compareNames)
		sorted := make([]byte, 0, len(s.out)-begin)
		for i, m := range members {
			if i > 0 && compareNames(members[i-1], m) == 0 {
				return false
			}
			sorted = append(append(sorted, m.raw...), ',')
		}
		copy(s.out[begin+1:], sorted)
	}
	s.out[len(s.out)-1] = '}'
	return true
}

// compareNames compares names by their UTF-16 code units, which for ASCII are the bytes.
func compareNames(a, b member) int {
	if a.utf16 == "" && b.utf16 == "" {
		return bytes.Compare(a.name, b.name)
	}
	return strings.Compare(sortKey(a), sortKey(b))
}

// sortKey returns the sort key of a name.
func sortKey(m member) string {
	if m.utf16 != "" {
		return m.utf16
	}
	return utf16Key(append(append([]byte{'"'}, m.name...), '"'))
}

// utf16Key returns the UTF-16 code units of a JSON string as big-endian bytes.
func utf16Key(quoted []byte) string {
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return "\x00" // impossible: str wrote it
	}
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		b.WriteByte(byte(u >> 8))
		b.WriteByte(byte(u))
	}
	return b.String()
}
