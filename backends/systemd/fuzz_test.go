package systemd

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// Each fuzzer puts one string into one place of a service. Either the service is refused at that
// place, or the units have the same directives as with a harmless string and systemd reads exactly the
// same bytes back.

// seeds adds strings that caused faults before.
func seeds(f *testing.F, more ...string) {
	for _, s := range append(words, more...) {
		f.Add(s)
	}
	for _, r := range alphabet {
		f.Add("a" + string(r))
		f.Add(string(r) + "b")
	}
	f.Add("\x00")
	f.Add("\xff\xfe")
	f.Add(strings.Repeat("x", 130<<10))
}

// units returns the directives of the version's unit with s once as a literal and once as the value
// of a ref. It returns none for a service that was refused; then it checks the path of the error.
func units(t *testing.T, s string, place []string, put func(*graph.Spec, token.Text)) (read [][]directive) {
	t.Helper()
	for _, text := range []token.Text{token.Lit(s), refTok("x/y", "output", "z")} {
		in := input("fuzz", graph.Spec{Command: lit("/bin/x")})
		put(&in.Service.Spec, text)
		p, _, errs := New().Render(in)
		for _, e := range errs {
			if want := slices.Concat(in.Service.SpecPath, place); !slices.Equal(e.Path, want) {
				t.Fatalf("%v is at %q, not at %q", e, e.Path, want)
			}
		}
		if len(errs) > 0 {
			continue
		}
		l, err := New().Realize(p, version, func(token.Token) (string, bool) { return s, true })
		if err != nil {
			if _, literal := text.Literal(); literal {
				t.Fatalf("refused by Realize, not by Render: %v", err)
			}
			continue
		}
		read = append(read, directives(t, l, l.Unit))
	}
	return read
}

func directives(t *testing.T, l backends.Layout, unit string) []directive {
	t.Helper()
	for _, f := range l.Files {
		if f.Path == unitDir+"/"+unit {
			d, err := parseUnit(string(f.Content))
			if err != nil {
				t.Fatalf("%v\n%s", err, f.Content)
			}
			return d
		}
	}
	t.Fatalf("no unit %s", unit)
	return nil
}

// only returns the values of a directive and checks that all others are the same as without the
// string.
func only(t *testing.T, got []directive, name string, harmless []directive) []string {
	t.Helper()
	var out []string
	rest := func(d []directive, collect bool) []directive {
		return slices.DeleteFunc(slices.Clone(d), func(x directive) bool {
			if x.name == name && collect {
				out = append(out, x.value)
			}
			return x.name == name
		})
	}
	if a, b := rest(got, true), rest(harmless, false); !slices.Equal(a, b) {
		t.Fatalf("other directives changed:\n%q\n%q", a, b)
	}
	return out
}

func FuzzExecArg(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, s string) {
		put := func(spec *graph.Spec, x token.Text) {
			spec.Args = []token.Text{token.Lit("before"), x, token.Lit("after")}
		}
		harmless := units(t, "plain", []string{"command"}, put)[0]
		for _, d := range units(t, s, []string{"command"}, put) {
			got, err := readWords(only(t, d, "ExecStart", harmless)[0], " \t\n\r", true)
			if want := []string{":/bin/x", "before", s, "after"}; err != nil || !slices.Equal(got, want) {
				t.Fatalf("%q arrives as %q: %v", s, got, err)
			}
		}
	})
}

func FuzzProgram(f *testing.F) {
	seeds(f, "usr/bin/x", "opt/a b", "a//b", "a/../b")
	f.Fuzz(func(t *testing.T, s string) {
		s = "/" + s
		in := input("fuzz", graph.Spec{Command: lit(s, "after")})
		p, _, errs := New().Render(in)
		if len(errs) > 0 {
			return
		}
		l, err := New().Realize(p, version, valueOf)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range directives(t, l, l.Unit) {
			if d.name != "ExecStart" {
				continue
			}
			got, err := readWords(d.value, " \t\n\r", true)
			if err != nil || !slices.Equal(got, []string{":" + s, "after"}) {
				t.Fatalf("%q arrives as %q: %v", s, got, err)
			}
			if strings.ContainsAny(s, "\"'\\") || s == "/" {
				t.Logf("systemd would not run %q", s)
				t.Fail()
			}
		}
	})
}

func FuzzEnv(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, s string) {
		put := func(spec *graph.Spec, x token.Text) {
			spec.Env = map[string]token.Text{"A": token.Lit("1"), "X": x, "Z": token.Lit("2")}
		}
		harmless := units(t, "plain", []string{"env", "X"}, put)[0]
		for _, d := range units(t, s, []string{"env", "X"}, put) {
			var got []string
			for _, v := range only(t, d, "Environment", harmless) {
				words, err := readWords(v, " \t\n\r", true)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, words...)
			}
			if want := []string{"A=1", "X=" + s, "Z=2"}; !slices.Equal(got, want) {
				t.Fatalf("%q arrives as %q", s, got)
			}
		}
	})
}

func FuzzFilePath(f *testing.F) {
	seeds(f, "etc/x.conf", "a:b", "a b/c")
	f.Fuzz(func(t *testing.T, s string) {
		p := "/" + s
		for _, reload := range []*graph.Reload{nil, {Signal: "HUP"}} {
			put := func(p string) func(*graph.Spec, token.Text) {
				return func(spec *graph.Spec, x token.Text) {
					spec.Files, spec.Reload = map[string]graph.File{p: {Text: token.Lit("content")}}, reload
				}
			}
			harmless := units(t, "", []string{"files", "/p"}, put("/p"))[0]
			for _, d := range units(t, "", []string{"files", p}, put(p)) {
				got, err := readWords(only(t, d, "BindReadOnlyPaths", harmless)[0], " \t\n\r:", false)
				if err != nil || len(got) != 2 || got[1] != p || reload != nil && !strings.HasSuffix(got[0], p) {
					t.Fatalf("%q arrives as %q: %v", p, got, err)
				}
			}
		}
	})
}

func FuzzFileContent(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, s string) {
		in := input("fuzz", graph.Spec{Command: lit("/bin/x"), Files: map[string]graph.File{"/f": {Text: token.Lit(s)}}})
		p, _, errs := New().Render(in)
		if len(errs) > 0 {
			if place := slices.Concat(in.Service.SpecPath, []string{"files", "/f"}); !slices.Equal(errs[0].Path, place) {
				t.Fatalf("%v is at %q", errs[0], errs[0].Path)
			}
			return
		}
		l, err := New().Realize(p, version, valueOf)
		if err != nil || string(l.Objects[0].Content) != s {
			t.Fatalf("%q arrives as %q: %v", s, l.Objects, err)
		}
	})
}

func FuzzSocketPath(f *testing.F) {
	seeds(f, "run/x.sock")
	f.Fuzz(func(t *testing.T, s string) {
		in := input("fuzz", graph.Spec{Command: lit("/bin/x"), Sockets: map[string]graph.Socket{"s": {Path: "/" + s}}})
		p, _, errs := New().Render(in)
		if len(errs) > 0 {
			return
		}
		l, err := New().Realize(p, version, valueOf)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range directives(t, l, l.Start[0]) {
			if got, err := specifiers(d.value); d.name == "ListenStream" && (err != nil || got != "/"+s) {
				t.Fatalf("%q arrives as %q: %v", "/"+s, got, err)
			}
		}
	})
}

func FuzzSecretName(f *testing.F) {
	seeds(f, "hydra/db-password")
	f.Fuzz(func(t *testing.T, s string) {
		in := input("fuzz", graph.Spec{Command: lit("/bin/x"), Secrets: map[string]token.Text{"S": secretTok(s, "1")}})
		p, _, errs := New().Render(in)
		if len(errs) > 0 {
			return
		}
		l, err := New().Realize(p, version, valueOf)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range directives(t, l, l.Unit) {
			if want := "S:" + backends.SecretPath("dev", "zalora", s); d.name == "LoadCredential" && (d.value != want || strings.ContainsAny(want, "% \\\"'\n")) {
				t.Fatalf("%q arrives as %q", s, d.value)
			}
		}
	})
}

// FuzzOptions checks that the backend's options add no directives except those that they name.
func FuzzOptions(f *testing.F) {
	f.Add(`{"hardening":{"ProtectHome":"x"},"unit":{"A":"b"},"service":{"Nice":["1","2"]}}`)
	f.Add(`{"service":{"Nice":"1\nExecStart=/bin/x"}}`)
	f.Add(`{"service":{"Nice":"\\"}}`)
	f.Fuzz(func(t *testing.T, s string) {
		in := input("fuzz", graph.Spec{Command: lit("/bin/x")})
		harmless := directives(t, realize(t, in), namesOf("dev", "zalora", in.Service.Address, version).unit())
		in.Service.Options = json.RawMessage(s)
		p, _, errs := New().Render(in)
		if len(errs) > 0 {
			return
		}
		l, err := New().Realize(p, version, valueOf)
		if err != nil {
			t.Fatal(err)
		}
		var given struct {
			Hardening     any
			Unit, Service map[string]any
		}
		if err := json.Unmarshal([]byte(s), &given); err != nil {
			t.Skip() // accepted by the strict decoder only
		}
		hardening, _ := given.Hardening.(map[string]any)
		for _, d := range directives(t, l, l.Unit) {
			_, a := given.Unit[d.name]
			_, b := given.Service[d.name]
			_, c := hardening[d.name]
			if !a && !b && !c && !slices.Contains(harmless, d) {
				t.Fatalf("%q makes %q", s, d)
			}
		}
	})
}

// FuzzCron checks that accepted cron lines give calendar expressions without foreign characters.
func FuzzCron(f *testing.F) {
	for _, s := range []string{"* * * * *", "*/5 1-3,7 1 jan mon", "@daily", "0 0 31 2 0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		times, err := spec.CronCalendar(s)
		if err != nil {
			return
		}
		for _, c := range times {
			if strings.Trim(c, "*-,: 0123456789MonTueWdhFriSat") != "" {
				t.Fatalf("%q becomes %q", s, c)
			}
		}
	})
}
