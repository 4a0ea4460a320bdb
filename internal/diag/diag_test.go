package diag

import (
	"errors"
	"testing"
)

func TestAnErrorHasOneShape(t *testing.T) {
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
		t.Error("the cause is lost")
	}
}

func TestSuggestions(t *testing.T) {
	for name, want := range map[string]string{"prots": "ports", "comand": "command", "hydra-dv": "hydra-db", "zzzz": "", "evn": "env", "": ""} {
		got := Suggest(name, []string{"ports", "command", "hydra-db", "env", "place"})
		if want != "" {
			want = `did you mean "` + want + `"?`
		}
		if got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

func TestAPositionComesBackFromItsText(t *testing.T) {
	for _, p := range []Position{{"a:b.jsonnet", 3, 14}, {"a", 0, 0}, {}} {
		text, _ := p.MarshalText()
		var got Position
		if err := got.UnmarshalText(text); err != nil || got != p {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
