package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pieces have a special meaning in some notation between the entry file and the process.
var pieces = []string{"a", "Z", "0", " ", "  ", "\t", "\n", "\r", "\\", "\\n", "\\x41", "'", "\"", "''", "$", "$HOME", "${HOME}", "$$", "%", "%h", "%%", "%n", ";", "#", "-", "--", "=",
	"*", "?", "~", "`id`", "$(id)", "&", "|", "<", ">", "(", ")", "{", "}", "[", "]", "!", "@", ":", ",", "+", "^", "/", "..", "é", "日本", "🙂", "\u00a0", "\u2028", "\ufeff", "\u0301",
	"\x01", "\x1b", "\x7f", "\b", "\v", "true", "null", "1e3", "0x10", "\u0085"}

func randomString(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(8) {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

// load is what one unit carries: a third each in arguments, variables and a file, but no
// more variables than systemd reads in acceptable time.
type load struct {
	Args  []string          `json:"args"`
	Env   map[string]string `json:"env"`
	Lines []string          `json:"lines"`
}

func randomLoad(r *rand.Rand, n int) load {
	l := load{Args: []string{}, Env: map[string]string{}, Lines: []string{}}
	for i := range n {
		switch s := randomString(r); {
		case i%3 == 0:
			l.Args = append(l.Args, s)
		case i%3 == 1 && i < 9000:
			l.Env[fmt.Sprintf("V%d", i)] = strings.Map(printable, s)
		default:
			l.Lines = append(l.Lines, s)
		}
	}
	return l
}

// printable drops the control characters that systemd accepts in no variable: defx refuses
// them there.
func printable(r rune) rune {
	if r < ' ' && r != '\t' && r != '\n' || r == 0x7f {
		return -1
	}
	return r
}

// TestRandomStrings_ArriveByteForByte sends DEFX_TEST_STRINGS strings through arguments,
// variables and files of units, and compares them with what their processes got.
func TestRandomStrings_ArriveByteForByte(t *testing.T) {
	s := newSite(t, 1)
	s.limit = 10 * time.Minute
	m := s.lab.Machines[0]
	s.builds("probe", "../../backends/systemd/testdata/probe")
	r := rand.New(rand.NewPCG(11, uint64(number("DEFX_TEST_SEED", 1))))
	entry := func(lib string) {
		s.file("libs/strings.libsonnet", "local defx = import 'defx/v1.libsonnet';\n"+lib, 0o644)
		s.file("defx.jsonnet", fmt.Sprintf("{ name: 'strings', libs: { s: import 'libs/strings.libsonnet' }, machines: { m1: { connect: 'ssh://root@%s' } } }\n", m.Address), 0o644)
	}
	const service = `{ package: defx.artifact('../build/probe'), command: ['probe', 'keep', std.toString(std.length(v.args))] + v.args + ['/etc/lines.json'],
    env: v.env, files: { '/etc/lines.json': { json: v.lines } }, dirs: { state: name }, restart: 'no', ready: { notify: true, timeout: '60s' } }`

	total := number("DEFX_TEST_STRINGS", 2000)
	const most, perApply = 25000, 4 // strings of a unit, and units of an apply
	compared := 0
	for round := 0; compared < total; round++ {
		loads := map[string]load{}
		lib := "local unit(name, text) = local v = std.parseJson(text); { service: " + service + " };\n{\n"
		planned := 0
		for i := 0; i < perApply && compared+planned < total; i++ {
			name := fmt.Sprintf("u%d-%d", round, i)
			l := randomLoad(r, min(most, (total+1)/2, total-compared-planned))
			planned += len(l.Args) + len(l.Env) + len(l.Lines)
			loads[name] = l
			raw, err := json.Marshal(l)
			if err != nil {
				t.Fatal(err)
			}
			s.file("libs/"+name+".json", string(raw), 0o644)
			lib += fmt.Sprintf("  '%s': unit('%s', importstr '%s.json'),\n", name, name, name)
		}
		entry(lib + "}\n")
		args := []string{"apply", "--yes"}
		for i := range perApply {
			if round > 0 {
				args = append(args, "--allow-delete", fmt.Sprintf("s/u%d-%d", round-1, i))
			}
		}
		if code, out := s.run(args...); code != 0 {
			t.Fatalf("exit code %d\n%s", code, out)
		}
		for name, l := range loads {
			raw, err := os.ReadFile(filepath.Join(m.Root, "var/lib/private/defx/default/strings", "s-"+strings.ReplaceAll(name, "-", "_")+".0", name, "dump"))
			if err != nil {
				t.Fatal(err)
			}
			l.compare(t, name, string(raw))
			os.Remove(filepath.Join(s.dir, "libs", name+".json"))
		}
		compared += planned
	}
	t.Logf("%d strings arrived unchanged", compared)

	// What cannot arrive is refused where it is defined; other units are deployed.
	lib := "local unit(name, v) = { service: " + service + " };\n{\n"
	bad := []string{"\\u0000", "a\\u0000b", "\\ue000", "x\\ue141y"}
	for i, text := range bad {
		lib += fmt.Sprintf("  'env-%d': unit('env-%d', { args: [], env: { A: \"%s\" }, lines: [] }),\n", i, i, text)
		lib += fmt.Sprintf("  'arg-%d': unit('arg-%d', { args: [\"%s\"], env: {}, lines: [] }),\n", i, i, text)
	}
	entry(lib + "  good: unit('good', { args: ['fine'], env: {}, lines: [] }),\n}\n")
	code, out := s.run("apply", "--yes")
	if code != 3 || !strings.Contains(out, "✓ s/good") {
		t.Errorf("exit code %d", code)
	}
	for i := range bad {
		for _, kind := range []string{"env", "arg"} {
			place := "libs/strings.libsonnet:2:" // where the command is composed
			if kind == "env" {
				place = fmt.Sprintf("libs/strings.libsonnet:%d:", 5+2*i)
			}
			refused := false
			for line := range strings.Lines(out) {
				refused = refused || strings.Contains(line, place) && strings.Contains(line, fmt.Sprintf(" s/%s-%d: ", kind, i))
			}
			if !refused {
				t.Errorf("%s %q is not refused at %s", kind, bad[i], place)
			}
		}
	}
}

// compare compares what a process got with what it should have got.
func (l load) compare(t *testing.T, name, dump string) {
	t.Helper()
	var args, lines []string
	env := map[string]string{}
	for _, entry := range strings.Split(strings.TrimSuffix(dump, "\x00"), "\x00") {
		switch rest := entry[1:]; entry[0] {
		case 'A':
			args = append(args, rest)
		case 'E':
			k, v, _ := strings.Cut(rest, "=")
			env[k] = v
		case 'F':
			_, text, _ := strings.Cut(rest, "=")
			if err := json.Unmarshal([]byte(text), &lines); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(args) != len(l.Args) || len(lines) != len(l.Lines) {
		t.Fatalf("%s: %d arguments of %d, %d lines of %d", name, len(args), len(l.Args), len(lines), len(l.Lines))
	}
	wrong := 0
	differ := func(what, got, want string) {
		if got != want {
			if wrong++; wrong < 10 {
				t.Errorf("%s: %s is %q, not %q", name, what, got, want)
			}
		}
	}
	for i, want := range l.Args {
		differ(fmt.Sprintf("argument %d", i), args[i], want)
	}
	for k, want := range l.Env {
		if _, is := env[k]; !is {
			t.Errorf("%s: %s is not set", name, k)
		}
		differ(k, env[k], want)
	}
	for i, want := range l.Lines {
		differ(fmt.Sprintf("line %d", i), lines[i], want)
	}
}
