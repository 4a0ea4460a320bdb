package token

import (
	"encoding/json"
	"slices"
)

// Tokens are encoded and decoded very often, and nearly always consist of plain
// ASCII. For these the functions in this file do what encoding/json does; anything
// else is left to encoding/json.

// isPlain reports whether JSON encodes s unchanged between quotes.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// appendString appends the JSON form of a string.
func appendString(out []byte, s string) []byte {
	if isPlain(s) {
		return append(append(append(out, '"'), s...), '"')
	}
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always encodes
	}
	return append(out, raw...)
}

// stringField is a field of a token.
type stringField struct {
	name string
	text *string
}

// fields returns the string fields of a token in the order of its JSON form.
func (t *Token) fields() [8]stringField {
	return [...]stringField{{"kind", (*string)(&t.Kind)}, {"of", &t.Of}, {"name", &t.Name}, {"field", &t.Field}, {"arg", &t.Arg}, {"body", &t.Body}, {"digest", &t.Digest}, {"version", &t.Version}}
}

// appendJSON appends the JSON form of a token.
func (t Token) appendJSON(out []byte) []byte {
	begin := len(out)
	for i, f := range t.fields() {
		if f.name == "body" && t.Here {
			out = append(out, `,"here":true`...)
		}
		if *f.text == "" && i > 0 {
			continue
		}
		if !isPlain(*f.text) {
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

// plainReader reads plain JSON from its beginning; ok becomes false for anything else.
type plainReader struct {
	in []byte
	ok bool
}

func (s *plainReader) next(prefix string) bool {
	if len(s.in) < len(prefix) || string(s.in[:len(prefix)]) != prefix {
		return false
	}
	s.in = s.in[len(prefix):]
	return true
}

// str reads a plain string after its opening quote.
func (s *plainReader) str() string {
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

// token reads a token after its opening brace: known fields in any order, each once.
func (s *plainReader) token() Token {
	var t Token
	fields := t.fields()
	seen := map[string]bool{}
	for s.ok && !s.next("}") {
		if len(seen) > 0 && !s.next(",") || !s.next(`"`) {
			s.ok = false
			return t
		}
		name := s.str()
		i := slices.IndexFunc(fields[:], func(f stringField) bool { return f.name == name })
		switch {
		case seen[name]:
			s.ok = false
		case name == "here" && s.next(":true"):
			t.Here = true
		case i >= 0 && s.next(`:"`):
			*fields[i].text = s.str()
		default:
			s.ok = false
		}
		seen[name] = true
	}
	return t
}

// readPlainToken decodes a token of plain strings.
func readPlainToken(raw []byte) (Token, bool) {
	s := plainReader{raw, true}
	s.ok = s.next("{")
	t := s.token()
	return t, s.ok && len(s.in) == 0
}

// readPlainText decodes a Text of plain strings and tokens.
func readPlainText(raw []byte) (Text, bool) {
	s := plainReader{raw, true}
	if s.next(`"`) {
		t := Lit(s.str())
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
			out = append(out, Segment{Lit: s.str()})
		case s.next("{"):
			t := s.token()
			out = append(out, Segment{Token: &t})
		default:
			return nil, false
		}
	}
	return out.join(), s.ok && s.next("}") && len(s.in) == 0
}
