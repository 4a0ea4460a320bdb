package diag

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestError_Text(t *testing.T) {
	e := Errorf("hydra/hydra-web", "requires %q, which no library defines", "hydra-dv").In(Position{"defx.jsonnet", 14, 7}).WithHint("did you mean %q?", "hydra-db")
	e.Trace = []Frame{{"imported from", Position{"x.jsonnet", 1, 2}}}
	want := `defx.jsonnet:14:7: hydra/hydra-web: requires "hydra-dv", which no library defines
    imported from x.jsonnet:1:2
    hint: did you mean "hydra-db"?`
	if e.Error() != want {
		t.Errorf("%s", e)
	}
	cause := errors.New("why")
	if !errors.Is(List{Errorf("", "a: %v", cause)}.Err(), cause) {
		t.Error("the cause is not unwrapped")
	}
	if got := Warningf("old", "web", "is old").In(Position{"a", 1, 2}).Error(); got != "a:1:2: warning: web: is old" {
		t.Error(got)
	}
	if got := Notef("n", "", "nothing to do").Error(); got != "note: nothing to do" {
		t.Error(got)
	}
}

func TestRender_QuotesSourceLines(t *testing.T) {
	source := func(file string, line int) (string, bool) {
		return map[string]string{
			"defx.jsonnet:14": "  requires: ['hydra-dv'],\t", "b.jsonnet:3": "\tport: 80,", "b.jsonnet:4": "",
			"long.jsonnet:1": strings.Repeat("x", 200) + "é" + strings.Repeat("y", 200),
		}[fmt.Sprintf("%s:%d", file, line)], file != "gone.jsonnet"
	}
	for name, c := range map[string]struct {
		e    *Error
		want string
	}{
		"one position": {Errorf("a/web", "is wrong").In(Position{"defx.jsonnet", 14, 7}).WithHint("fix it"),
			"defx.jsonnet:14:7: a/web: is wrong\n      14 |   requires: ['hydra-dv'],\n    hint: fix it"},
		"several positions": {Errorf("a/web", "port 80 is claimed twice").In(Position{"defx.jsonnet", 14, 7}).Also("also claimed here", Position{"b.jsonnet", 3, 2}).AlsoAt("and here", "libs", "c").WithDetail("first\n\nsecond"),
			"defx.jsonnet:14:7: a/web: port 80 is claimed twice\n      14 |   requires: ['hydra-dv'],\n    first\n\n    second\n    b.jsonnet:3:2: also claimed here\n       3 |   port: 80,\n    libs.c: and here"},
		"sensitive":       {Errorf("", "a password").In(Position{"defx.jsonnet", 14, 7}).Sensitive(), "defx.jsonnet:14:7: a password"},
		"empty line":      {Errorf("", "x").In(Position{"b.jsonnet", 4, 1}), "b.jsonnet:4:1: x"},
		"unreadable file": {Errorf("", "x").In(Position{"gone.jsonnet", 1, 1}), "gone.jsonnet:1:1: x"},
		"unknown line":    {Errorf("", "x").In(Position{File: "defx.jsonnet"}), "defx.jsonnet: x"},
		"long line": {Errorf("", "x").In(Position{"long.jsonnet", 1, 201}),
			"long.jsonnet:1:201: x\n       1 | …" + strings.Repeat("x", 33) + "é" + strings.Repeat("y", 66) + "…"},
	} {
		if got := c.e.Render(source); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
	}
}

func TestSuggest(t *testing.T) {
	candidates := []string{"ports", "command", "hydra-db", "env", "place", "fmt", "lock", "größe"}
	for name, want := range map[string]string{
		"prots": "ports", "comand": "command", "hydra-dv": "hydra-db", "evn": "env", "fmtt": "fmt", "größ": "größe", "lok": "lock",
		"foo": "", "zzzz": "", "": "", "fxy": "", "en": "env", "e": "", "ports": "", "plaec": "place", "loops": "", "cmd": "",
	} {
		got := Suggest(name, candidates)
		if want != "" {
			want = `did you mean "` + want + `"?`
		}
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if got := Suggest("aa", []string{"ac", "ab"}); got != `did you mean "ab"?` {
		t.Errorf("of equally similar candidates: %s", got)
	}
}

func TestPosition_TextRoundTrip(t *testing.T) {
	for _, p := range []Position{{"a:b.jsonnet", 3, 14}, {"a", 0, 0}, {}, {"", 3, 4}, {"a:3:4", 0, 0}, {"a:3:4b", 0, 0}, {"a:3:4", 5, 0}, {"a:0:0", 0, 0}} {
		text, _ := p.MarshalText()
		var got Position
		if err := got.UnmarshalText(text); err != nil || got != p {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func TestList_JSON(t *testing.T) {
	l := List{
		Errorf("a/web", "port %d is claimed twice", 80).WithCode("claim").At("libs", "a", "web").In(Position{"defx.jsonnet", 14, 7}).
			Also("also claimed here", Position{"b.jsonnet", 3, 2}).WithDetail("more").WithHint("choose another"),
		Warningf("token-compared", "", "is compared"),
	}
	raw, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"severity":"error","code":"claim","subject":"a/web","path":["libs","a","web"],"position":"defx.jsonnet:14:7","summary":"port 80 is claimed twice",` +
		`"detail":"more","places":[{"label":"also claimed here","position":"b.jsonnet:3:2"}],"hint":"choose another"},{"severity":"warning","code":"token-compared","summary":"is compared"}]`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	for _, bad := range []string{`[{"severity":"fatal"}]`, `[{"severity":1}]`, `{}`} {
		if json.Unmarshal([]byte(bad), &List{}) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	if _, err := json.Marshal(Error{Severity: 9}); err == nil {
		t.Error("an unknown severity was encoded")
	}
}

// FuzzError checks that a diagnostic survives JSON with all of its fields.
func FuzzError(f *testing.F) {
	f.Add(uint8(0), "code", "a/web", "is wrong", "detail\nmore", "hint", "name", "cause", "also here", "a:1:2", 3, 4, true)
	f.Add(uint8(2), "", "", "", "", "", "", "", "", "", 0, 0, false)
	f.Fuzz(func(t *testing.T, severity uint8, code, subject, msg, detail, hint, name, causedBy, label, file string, line, col int, flag bool) {
		valid := func(s string) string { return strings.ToValidUTF8(s, "?") }
		p := Position{File: valid(file), Line: max(0, line) % (1 << 31), Col: max(0, col) % (1 << 31)}
		if !p.Known() {
			p.Col = 0
		}
		e := &Error{Severity: Severity(severity % 3), Code: valid(code), Subject: valid(subject), Msg: valid(msg), Detail: valid(detail), Hint: valid(hint),
			Word: valid(name), Because: valid(causedBy), Pos: p, Secret: flag}
		if flag {
			e.Path = []string{valid(name), valid(label)}
			e.Places = []Place{{valid(label), []string{valid(file)}, Position{}}, {"", nil, p}}
			e.Trace = []Frame{{valid(label), p}}
		}
		raw, err := json.Marshal(List{e})
		if err != nil {
			t.Fatal(err)
		}
		var got List
		if err := json.Unmarshal(raw, &got); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], e) {
			t.Errorf("%s became %+v, %v", raw, got, err)
		}
	})
}

func TestHasCode(t *testing.T) {
	err := fmt.Errorf("apply: %w", List{Errorf("", "a"), Errorf("", "b: %v", Errorf("", "c").WithCode("stale"))})
	if !HasCode(err, "stale") || HasCode(err, "other") || HasCode(nil, "stale") {
		t.Error("wrong result for a wrapped list")
	}
}

func TestList_Err(t *testing.T) {
	if err := (List{Warningf("w", "", "x"), Notef("n", "", "y")}).Err(); err != nil {
		t.Errorf("warnings and notes are an error: %v", err)
	}
	if err := (List{Warningf("w", "", "x"), Errorf("", "y")}).Err(); err == nil {
		t.Error("an error is none")
	}
}

func TestList_Locate(t *testing.T) {
	known := Position{"x", 1, 1}
	l := List{Errorf("", "a").At("p").AlsoAt("here", "q").Also("there", known), Errorf("", "b").At("r").In(known), Errorf("", "c")}
	l.Locate(func(paths [][]string) (out []Position) {
		for _, p := range paths {
			out = append(out, Position{strings.Join(p, "."), 7, 7})
		}
		return out
	})
	if l[0].Pos.String() != "p:7:7" || l[0].Places[0].Pos.String() != "q:7:7" || l[0].Places[1].Pos != known || l[1].Pos != known || l[2].Pos.Known() {
		t.Errorf("%+v %+v", l[0], l[1])
	}
	List{Errorf("", "c")}.Locate(nil)
}
