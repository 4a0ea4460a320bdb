package eval

import "bytes"

// go-jsonnet's parser, desugarer and static analysis recurse as deeply as an
// expression is nested, and take time that is quadratic in the number of nested
// locals. scan bounds both before they run.

const (
	maxNesting = 20_000 // weights of brackets, operators and keywords around a token
	maxUnary   = 500    // operators before an operand
	maxLocals  = 4_000  // locals and assertions around a token
)

type position struct{ line, column int }

// A bracket or a keyword makes the parser begin anew, with some 50 KB of Go's
// stack; an operator needs less than a tenth of it.
const (
	heavy = 10
	light = 1
)

// scanner counts how deeply a source is nested.
type scanner struct {
	src    []byte
	at     int
	levels []level
	depth  int // of all levels
	locals int
	unary  int // operators since the last operand
}

// level is what was counted within one bracket since it was opened, or since
// the last comma. marks are the depths at the locals and assertions whose
// semicolon is still to come: what is behind it is not nested in what is before.
type level struct {
	depth, locals int
	marks         []int
}

// scan returns where source is nested too deeply, or nil.
func scan(src []byte) *position {
	if len(src) < maxUnary {
		return nil
	}
	s := &scanner{src: src, levels: make([]level, 1, 64)}
	for s.at < len(src) {
		if !s.token() {
			return nil // not a token: the parser will say so
		}
		if s.depth > maxNesting || s.locals > maxLocals || s.unary > maxUnary {
			before := src[:min(s.at, len(src))]
			line := bytes.LastIndexByte(before, '\n')
			return &position{line: 1 + bytes.Count(before, []byte{'\n'}), column: len(before) - line}
		}
	}
	return nil
}

func (s *scanner) add(n int) {
	s.depth += n
	s.levels[len(s.levels)-1].depth += n
}

// token passes over one token, and reports whether there was one.
func (s *scanner) token() bool {
	c := s.src[s.at]
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		s.at++
	case c == '#' || c == '/' && s.next('/'):
		s.skipTo("\n")
	case c == '/' && s.next('*'):
		s.at += 2
		return s.skipTo("*/")
	case isWord(c):
		s.word()
	case c == '\'' || c == '"' || c == '@' || c == '|':
		return s.literal(c)
	default:
		return s.symbol(c)
	}
	return true
}

// literal passes over a string, or over an operator that begins like one.
func (s *scanner) literal(c byte) bool {
	switch {
	case c == '|' && bytes.HasPrefix(s.src[s.at:], []byte("|||")):
		s.unary = 0
		return s.textBlock()
	case c == '@' && (s.next('\'') || s.next('"')):
		s.unary = 0
		s.at++
		return s.quoted(s.src[s.at], false)
	case c == '@' || c == '|':
		return s.symbol(c)
	}
	s.unary = 0
	return s.quoted(c, true)
}

// symbol passes over a bracket, a separator or a character of an operator.
func (s *scanner) symbol(c byte) bool {
	s.at++
	switch c {
	case '(', '[', '{':
		s.add(heavy)
		s.levels = append(s.levels, level{})
	case ')', ']', '}':
		if len(s.levels) == 1 {
			return false
		}
		s.end()
		s.levels = s.levels[:len(s.levels)-1]
		s.add(light - heavy)
	case ',':
		s.end()
	case ';':
		l := &s.levels[len(s.levels)-1]
		if n := len(l.marks); n > 0 {
			s.add(l.marks[n-1] + light - l.depth)
			l.marks = l.marks[:n-1]
		}
	default:
		s.unary++
		s.add(light)
		return true
	}
	s.unary = 0
	return true
}

// end forgets what was counted in the innermost level.
func (s *scanner) end() {
	l := &s.levels[len(s.levels)-1]
	s.depth -= l.depth
	s.locals -= l.locals
	*l = level{marks: l.marks[:0]}
}

func (s *scanner) next(c byte) bool { return s.at+1 < len(s.src) && s.src[s.at+1] == c }

func (s *scanner) skipTo(end string) bool {
	i := bytes.Index(s.src[s.at:], []byte(end))
	if i < 0 {
		s.at = len(s.src)
		return end == "\n"
	}
	s.at += i + len(end)
	return true
}

func (s *scanner) quoted(q byte, escapes bool) bool {
	for s.at++; s.at < len(s.src); s.at++ {
		switch c := s.src[s.at]; {
		case c == '\\' && escapes:
			s.at++
		case c == q && !escapes && s.next(q):
			s.at++
		case c == q:
			s.at++
			return true
		}
	}
	return false
}

// textBlock passes over ||| … |||: it ends with the first line that is not
// indented like the first one.
func (s *scanner) textBlock() bool {
	s.at += 3
	if !s.skipLine() {
		return false
	}
	for s.at < len(s.src) && s.src[s.at] == '\n' {
		s.at++
	}
	start := s.at
	for s.at < len(s.src) && (s.src[s.at] == ' ' || s.src[s.at] == '\t') {
		s.at++
	}
	indent := s.src[start:s.at]
	if len(indent) == 0 {
		return false
	}
	s.at = start
	for s.at < len(s.src) {
		rest := s.src[s.at:]
		if rest[0] != '\n' && !bytes.HasPrefix(rest, indent) {
			break
		}
		if !s.skipLine() {
			return false
		}
	}
	for s.at < len(s.src) && (s.src[s.at] == ' ' || s.src[s.at] == '\t') {
		s.at++
	}
	if !bytes.HasPrefix(s.src[s.at:], []byte("|||")) {
		return false
	}
	s.at += 3
	return true
}

func (s *scanner) skipLine() bool {
	i := bytes.IndexByte(s.src[s.at:], '\n')
	if i < 0 {
		return false
	}
	s.at += i + 1
	return true
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80
}

func (s *scanner) word() {
	start := s.at
	for s.at < len(s.src) && isWord(s.src[s.at]) {
		s.at++
	}
	switch string(s.src[start:s.at]) {
	case "local", "assert":
		l := &s.levels[len(s.levels)-1]
		s.locals++
		l.locals++
		l.marks = append(l.marks, l.depth)
		s.add(light) // bounded by maxLocals
	case "if", "function", "error", "import", "importstr", "importbin":
		s.add(heavy)
	case "for", "in":
		s.add(light)
	case "then", "else":
	default:
		s.unary = 0
	}
}
