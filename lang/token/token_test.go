package token

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestATextComesBackFromItsString(t *testing.T) {
	for _, tok := range []Token{
		{Kind: Ref, Of: "dep", Name: "db", Field: "port", Arg: "sql"}, {Kind: Secret, Name: "a/b"}, {Kind: Lookup, Name: "k\x00\"é"}, {Kind: Artifact, Name: "x.tar", Digest: "d"},
	} {
		text, err := Split("a" + Encode(tok) + Encode(tok) + "é")
		if err != nil || len(text) != 4 || *text[1].Token != tok || *text[2].Token != tok || text[0].Lit != "a" || text[3].Lit != "é" {
			t.Errorf("%v: %+v, %v", tok, text, err)
		}
	}
}

func TestABrokenTokenIsRefused(t *testing.T) {
	whole := Encode(Token{Kind: Secret, Name: "s"})
	r := []rune(whole)
	for _, bad := range []string{string(r[1:]), string(r[:len(r)-1]), string(r[:5]) + string(r[6:]), string(r[5:]) + string(r[:5]),
		strings.Replace(whole, string(r[8]), string(r[8]+1), 1), string(open) + string(close)} {
		if text, err := Split(bad); err == nil {
			t.Errorf("%q was taken for %v", bad, text)
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
			t.Errorf("%q came back as %q, %v", s, b.String(), err)
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
			t.Errorf("%s came back as %s", raw, second)
		}
	})
}
