package token

import (
	"encoding/json"
	"slices"
)

// Tokens are written and read very often, and nearly always they are made of
// plain letters. Of those this does what encoding/json does, and leaves all else
// to it.

// plain tells whether JSON writes s as it is, between quotes.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

func writeText(out []byte, s string) []byte {
	if plain(s) {
		return append(append(append(out, '"'), s...), '"')
	}
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // a text always encodes
	}
	return append(out, raw...)
}

type field struct {
	name string
	text *string
}

// fields are the texts of a token, in the order in which they are written.
func (t *Token) fields() [8]field {
	return [...]field{{"kind", (*string)(&t.Kind)}, {"of", &t.Of}, {"name", &t.Name}, {"field", &t.Field}, {"arg", &t.Arg}, {"body", &t.Body}, {"digest", &t.Digest}, {"version", &t.Version}}
}

// write appends the JSON of a token.
func (t Token) write(out []byte) []byte {
	begin := len(out)
	for i, f := range t.fields() {
		if f.name == "body" && t.Here {
			out = append(out, `,"here":true`...)
		}
		if *f.text == "" && i > 0 {
			continue
		}
		if !plain(*f.text) {
			raw, err := json.Marshal(t)
			if err != nil {
				panic(err) // a struct of strings always encodes
			}
			return append(out[:begin], raw...)
		}
		out = append(out, ",\""...)
		out = append(append(append(out, f.name...), `":"`...), *f.text...)
		out = append(out, '"')
	}
	out[begin] = '{'
	return append(out, '}')
}

// scan reads plain JSON from its beginning.
type scan struct {
	in []byte
	ok bool
}

func (s *scan) next(sign string) bool {
	if len(s.in) < len(sign) || string(s.in[:len(sign)]) != sign {
		return false
	}
	s.in = s.in[len(sign):]
	return true
}

// text reads a plain text whose first quote has been read.
func (s *scan) text() string {
	for i, c := range s.in {
		switch {
		case c == '"':
			out := string(s.in[:i])
			s.in = s.in[i+1:]
			return out
		case c < ' ' || c > '~' || c == '\\':
			s.ok = false
			return ""
		}
	}
	s.ok = false
	return ""
}

// token reads a token whose first bracket has been read: known fields in any
// order, each once.
func (s *scan) token() Token {
	var t Token
	fields := t.fields()
	seen := map[string]bool{}
	for s.ok && !s.next("}") {
		if len(seen) > 0 && !s.next(",") || !s.next(`"`) {
			s.ok = false
			return t
		}
		name := s.text()
		i := slices.IndexFunc(fields[:], func(f field) bool { return f.name == name })
		switch {
		case seen[name]:
			s.ok = false
		case name == "here" && s.next(":true"):
			t.Here = true
		case i >= 0 && s.next(`:"`):
			*fields[i].text = s.text()
		default:
			s.ok = false
		}
		seen[name] = true
	}
	return t
}

// readToken reads a token of plain letters, and nothing else.
func readToken(raw []byte) (Token, bool) {
	s := scan{raw, true}
	s.ok = s.next("{")
	t := s.token()
	return t, s.ok && len(s.in) == 0
}

// readText reads a text of plain letters and such tokens.
func readText(raw []byte) (Text, bool) {
	s := scan{raw, true}
	if s.next(`"`) {
		t := Lit(s.text())
		return t, s.ok && len(s.in) == 0
	}
	if !s.next(`{"$text":[`) {
		return nil, false
	}
	out := Text{}
	for s.ok && !s.next("]") {
		if len(out) > 0 && !s.next(",") {
			return nil, false
		}
		switch {
		case s.next(`"`):
			out = append(out, Segment{Lit: s.text()})
		case s.next("{"):
			t := s.token()
			out = append(out, Segment{Token: &t})
		default:
			return nil, false
		}
	}
	return out.join(), s.ok && s.next("}") && len(s.in) == 0
}
