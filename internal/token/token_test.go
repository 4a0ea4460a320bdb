package token

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSplit_ReturnsWhatWasEncoded(t *testing.T) {
	for _, tok := range []Token{
		{Kind: Ref, Of: "dep", Name: "db", Field: "port", Arg: "sql"}, {Kind: Secret, Name: "a/b"}, {Kind: Lookup, Name: "k\x00\"é"}, {Kind: Artifact, Name: "x.tar", Digest: "d"},
	} {
		text, err := Split("a" + Encode(tok) + Encode(tok) + "é")
		if err != nil || len(text) != 4 || *text[1].Token != tok || *text[2].Token != tok || text[0].Lit != "a" || text[3].Lit != "é" {
			t.Errorf("%v: %+v, %v", tok, text, err)
		}
	}
}

func TestSplit_BrokenToken(t *testing.T) {
	whole := Encode(Token{Kind: Secret, Name: "s"})
	r := []rune(whole)
	for _, bad := range []string{string(r[1:]), string(r[:len(r)-1]), string(r[:5]) + string(r[6:]), string(r[5:]) + string(r[:5]),
		strings.Replace(whole, string(r[8]), string(r[8]+1), 1), string(open) + string(close)} {
		if text, err := Split(bad); err == nil {
			t.Errorf("%q was accepted as %v", bad, text)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("plain")
	f.Add("x" + Encode(Token{Kind: Ref, Of: "me", Field: "host"}) + "y")
	f.Add(string(open) + string(rune(base+'1')) + string(close))
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return // Jsonnet has no such strings
		}
		text, err := Split(s)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, seg := range text {
			if seg.Token != nil {
				b.WriteString(Encode(*seg.Token))
			} else {
				b.WriteString(seg.Lit)
			}
		}
		again, err := Split(b.String())
		if err != nil || again.Shown() != text.Shown() {
			t.Errorf("%q became %q, %v", s, b.String(), err)
		}
		raw, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var back Text
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if second, err := json.Marshal(back); err != nil || string(second) != string(raw) {
			t.Errorf("%s became %s", raw, second)
		}
	})
}

// stdlibToken is a Token that encoding/json encodes without appendJSON.
type stdlibToken Token

// FuzzJSON compares the fast paths with encoding/json in both directions.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"kind":"ref","of":"dep","name":"db","field":"port","arg":"sql"}`, `{"arg":"","field":"host","here":true,"kind":"ref","of":"me"}`, `{"kind":"secret","name":"a<b"}`,
		`{"kind":"ref","kind":"secret"}`, `{"kind":"ref","here":false}`, `{"KIND":"ref"}`, `{"kind":"ref","more":1}`, `{"kind":null}`, `{}`, `{"kind":"ref",}`, `{,"kind":"ref"}`, `{"kind":"é\n"}`, `{"kind":"ref"} `,
		`{"$text":["a",{"kind":"lookup","name":"k"},"b"]}`, `{"$text":["a","b"]}`, `{"$text":[]}`, `{"$text":null}`, `{"$text":["a" , "b"]}`, `"plain"`, `"\u003c"`, `null`, `"a" "b"`, `{"$text":["a"],"x":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, ok := readPlainToken(raw); ok {
			var want stdlibToken
			if err := json.Unmarshal(raw, &want); err != nil || Token(want) != got {
				t.Errorf("%s: read %+v, want %+v, %v", raw, got, want, err)
			}
		}
		var read stdlibToken
		if json.Unmarshal(raw, &read) == nil {
			want, _ := json.Marshal(read)
			if got := Token(read).appendJSON([]byte("x")); string(got[1:]) != string(want) {
				t.Errorf("wrote %s, want %s", got[1:], want)
			}
		}
		var parts struct {
			Text []any `json:"$text"`
		}
		var one string
		got, ok := readPlainText(raw)
		switch {
		case !ok:
		case json.Unmarshal(raw, &one) == nil:
			if s, lit := got.Literal(); !lit || s != one {
				t.Errorf("%s: read %+v", raw, got)
			}
		case json.Unmarshal(raw, &parts) != nil || parts.Text == nil:
			t.Errorf("%s is not a text, but was read as %+v", raw, got)
		default:
			want := Text{}
			for _, p := range parts.Text {
				if s, is := p.(string); is {
					want = append(want, Segment{Lit: s})
					continue
				}
				again, _ := json.Marshal(p)
				var tok stdlibToken
				if err := json.Unmarshal(again, &tok); err != nil {
					t.Errorf("%s: %v", raw, err)
				}
				want = append(want, Segment{Token: (*Token)(&tok)})
			}
			if want = want.join(); !reflect.DeepEqual(want, got) {
				t.Errorf("%s: read %+v, want %+v", raw, got, want)
			}
		}
	})
}
