// Package token represents values that are not known during evaluation inside
// ordinary Jsonnet strings.
//
// A token is encoded in a string with private-use characters: U+E000, the
// payload with every byte b as U+E100+b, U+E001. The payload is the length and
// CRC-32 of a JSON text, then that text. So a token survives %, +, upper and
// lower case, split and replace, and a damaged one is detected.
//
// Once split out of its string a token is data and never text again. The
// package knows the encoding; it refuses to know what a token resolves to.
// Invariant: what Encode writes, Split returns unchanged.
package token

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf8"
)

const (
	open  = '\ue000'
	close = '\ue001'
	base  = 0xe100
)

// Kind is one of the four kinds of values that are not known during evaluation.
type Kind string

const (
	Ref      Kind = "ref"      // a value of this or another functionality
	Secret   Kind = "secret"   // known on the machine, when the service starts
	Lookup   Kind = "lookup"   // known on the machine, at run time
	Artifact Kind = "artifact" // the digest of a file's content, known when the plan is made
)

// Token is one such value. Fields that its kind does not use are empty.
type Token struct {
	Kind Kind `json:"kind"`
	// Of is how Name is read in a ref: "dep" (an alias of requires or connects), "me" (the
	// functionality itself; Name is empty), "peers" (all of its replicas; Name is empty), "name" (the
	// name of a functionality or resource), "all" (a selection of services, as JSON), "each" (inside a
	// body: the current replica; Name identifies the set, see SetID), and after resolution "set" (Name
	// is an address: of one replica, or without a replica of all of them).
	Of string `json:"of,omitempty"`
	// Name is the alias or name of a ref, the name of a secret, the key of a lookup, or of an
	// artifact the path relative to the deployment's root, or the URL.
	Name string `json:"name,omitempty"`
	// Field is the field of a ref: host, port, output, name, index, machine, label, dir; or, of a set,
	// "each" (a list with the body for each replica) or "join" (a string of the bodies with Arg
	// between them). "address" is the host as every reader gets it, never the loopback address.
	Field string `json:"field,omitempty"`
	// Arg is the name of the port, output, label or dir, the separator of join, or the hexadecimal
	// SHA-256 sum of the content at an artifact's URL.
	Arg string `json:"arg,omitempty"`
	// Here restricts a set to the replicas on the reader's machine.
	Here bool `json:"here,omitempty"`
	// Body is the value of each and join for one replica: the JSON of a Doc. It is a string so that
	// tokens are comparable.
	Body string `json:"body,omitempty"`
	// Digest is the content digest of an artifact, once known.
	Digest string `json:"digest,omitempty"`
	// Version is the version of a secret, once known.
	Version string `json:"version,omitempty"`
}

// String returns the token as people write it: "db.port(sql)".
func (t Token) String() string {
	switch t.Kind {
	case Ref:
		target := t.Name
		switch {
		case t.Of == "me", t.Of == "peers":
			target = t.Of
		case t.Of == "each":
			target = "r"
		case t.Of == "all":
			target = "all(" + t.Name + ")"
		}
		if t.Here {
			target += ".here"
		}
		if t.Field == "each" || t.Field == "join" {
			return target + "." + t.Field + "(…)"
		}
		if t.Field == "address" {
			return target + ".host"
		}
		if t.Arg != "" {
			return fmt.Sprintf("%s.%s(%s)", target, t.Field, t.Arg)
		}
		return target + "." + t.Field
	default:
		return fmt.Sprintf("%s(%s)", t.Kind, t.Name)
	}
}

// Set reports whether the token has a value for each replica of a set.
func (t Token) Set() bool { return t.Kind == Ref && (t.Field == "each" || t.Field == "join") }

// SetID returns the name by which the tokens in a body refer to their set.
func SetID(of, name string) string { return strings.TrimSpace(of + " " + name) }

// Encode returns t as a string that Jsonnet can carry.
func Encode(t Token) string {
	body := t.appendJSON(make([]byte, 0, 128))
	payload := append(fmt.Appendf(make([]byte, 0, len(body)+20), "%d,%08x,", len(body), crc32.ChecksumIEEE(body)), body...)
	out := utf8.AppendRune(make([]byte, 0, 3*len(payload)+6), open)
	for _, c := range payload {
		out = utf8.AppendRune(out, rune(base+int(c)))
	}
	return string(utf8.AppendRune(out, close))
}

// Reserved reports whether s contains a character of the encoding.
func Reserved(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r == open || r == close || r >= base && r <= base+0xff })
}

// Segment is literal text or, if Token is not nil, a token.
type Segment struct {
	Lit   string
	Token *Token
}

// Text is a string of which some parts are not known yet. Its JSON form is the
// string itself if everything is known, or else {"$text": [...]} with a string
// for each literal and an object for each token.
type Text []Segment

// Lit returns a text without tokens.
func Lit(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{{Lit: s}}
}

// Split parses a string that may contain tokens. A damaged token is an error.
func Split(s string) (Text, error) {
	if !Reserved(s) {
		return Lit(s), nil
	}
	var out Text
	for s != "" {
		i := strings.IndexFunc(s, func(r rune) bool { return r == open || r == close || r >= base && r <= base+0xff })
		if i < 0 {
			return append(out, Segment{Lit: s}), nil
		}
		if i > 0 {
			out, s = append(out, Segment{Lit: s[:i]}), s[i:]
		}
		r, n := utf8.DecodeRuneInString(s)
		if r != open {
			return nil, fmt.Errorf("a broken token: its beginning is missing")
		}
		end := strings.IndexRune(s, close)
		if end < 0 {
			return nil, fmt.Errorf("a broken token: its end is missing")
		}
		t, err := decode(s[n:end])
		if err != nil {
			return nil, err
		}
		out = append(out, Segment{Token: &t})
		s = s[end+utf8.RuneLen(close):]
	}
	return out, nil
}

func decode(s string) (Token, error) {
	payload := make([]byte, 0, len(s)/3)
	for _, r := range s {
		if r < base || r > base+0xff {
			return Token{}, fmt.Errorf("a broken token: it was cut or changed")
		}
		payload = append(payload, byte(r-base))
	}
	parts := strings.SplitN(string(payload), ",", 3)
	if len(parts) != 3 || parts[0] != fmt.Sprint(len(parts[2])) ||
		parts[1] != fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(parts[2]))) {
		return Token{}, fmt.Errorf("a broken token: it was cut or changed")
	}
	t, ok := readPlainToken([]byte(parts[2]))
	if !ok {
		t = Token{}
		dec := json.NewDecoder(strings.NewReader(parts[2]))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&t); err != nil {
			return Token{}, fmt.Errorf("a broken token: %w", err)
		}
	}
	switch t.Kind {
	case Ref, Secret, Lookup, Artifact:
		return t, nil
	}
	return Token{}, fmt.Errorf("a broken token: unknown kind %q", t.Kind)
}

// Literal returns the text as a string if it has no tokens.
func (t Text) Literal() (string, bool) {
	var b strings.Builder
	for _, s := range t {
		if s.Token != nil {
			return "", false
		}
		b.WriteString(s.Lit)
	}
	return b.String(), true
}

// Tokens returns the tokens in order.
func (t Text) Tokens() []Token {
	var out []Token
	for _, s := range t {
		if s.Token != nil {
			out = append(out, *s.Token)
		}
	}
	return out
}

// Map returns the text with every token replaced by the result of f.
func (t Text) Map(f func(Token) (Text, error)) (Text, error) {
	out := Text{}
	for _, s := range t {
		if s.Token == nil {
			out = append(out, s)
			continue
		}
		m, err := f(*s.Token)
		if err != nil {
			return nil, err
		}
		out = append(out, m...)
	}
	return out.join(), nil
}

// join merges adjacent literals, so that equal texts have one form.
func (t Text) join() Text {
	out := Text{}
	for _, s := range t {
		switch n := len(out); {
		case s.Token == nil && s.Lit == "":
		case s.Token == nil && n > 0 && out[n-1].Token == nil:
			out[n-1].Lit += s.Lit
		default:
			out = append(out, s)
		}
	}
	return out
}

// Shown returns the text for people, with tokens as ${name}.
func (t Text) Shown() string {
	var b strings.Builder
	for _, s := range t {
		if s.Token != nil {
			b.WriteString("${" + s.Token.String() + "}")
		} else {
			b.WriteString(s.Lit)
		}
	}
	return b.String()
}

// MarshalJSON returns the JSON form of Text.
func (t Text) MarshalJSON() ([]byte, error) {
	if s, ok := t.Literal(); ok {
		return appendString(make([]byte, 0, len(s)+2), s), nil
	}
	out := append(make([]byte, 0, 128*len(t)), `{"$text":[`...)
	for i, s := range t.join() {
		if i > 0 {
			out = append(out, ',')
		}
		if s.Token != nil {
			out = s.Token.appendJSON(out)
		} else {
			out = appendString(out, s.Lit)
		}
	}
	return append(out, "]}"...), nil
}

// UnmarshalJSON decodes the JSON form of Text.
func (t *Text) UnmarshalJSON(b []byte) error {
	var ok bool
	if *t, ok = readPlainText(b); ok {
		return nil
	}
	var s string
	if len(b) > 0 && (b[0] == '"' || b[0] == 'n') { // null is the empty text
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = Lit(s)
		return nil
	}
	var doc struct {
		Text []json.RawMessage `json:"$text"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return err
	}
	if doc.Text == nil {
		return fmt.Errorf("neither a string nor a text with tokens")
	}
	out := Text{}
	for _, raw := range doc.Text {
		if raw[0] == '"' {
			if err := json.Unmarshal(raw, &s); err != nil {
				return err
			}
			out = append(out, Segment{Lit: s})
			continue
		}
		var tok Token
		if err := json.Unmarshal(raw, &tok); err != nil {
			return err
		}
		out = append(out, Segment{Token: &tok})
	}
	*t = out.join()
	return nil
}
