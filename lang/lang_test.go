package lang_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
	"github.com/rogpeppe/go-internal/txtar"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb {
		os.Exit(lang.Worker(os.Stdin, os.Stdout))
	}
	if len(os.Args) > 2 && os.Args[1] == readParentVerb {
		readParent(os.Args[2])
	}
	os.Exit(m.Run())
}

// writeTree extracts a txtar archive into a temporary directory.
func writeTree(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func evaluate(t *testing.T, c lang.Config) *lang.Result {
	t.Helper()
	c.Entry = "defx.jsonnet"
	res, err := lang.Evaluate(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func find(t *testing.T, r *lang.Result, lib, name string) lang.Functionality {
	t.Helper()
	for _, l := range r.Libraries {
		for _, f := range l.Functionalities {
			if l.Name == lib && f.Name == name {
				return f
			}
		}
	}
	t.Fatalf("no functionality %s/%s", lib, name)
	return lang.Functionality{}
}

const threeLibraries = `
-- defx.jsonnet --
function(env='dev') {
  name: 'three',
  libs: {
    good: import 'good.libsonnet',
    torn: import 'torn.libsonnet',
    half: import 'half.libsonnet',
  },
  overrides: { 'good/web': { service+: { env+: { LOG: 'debug' } } } },
}
-- good.libsonnet --
local level(l) = { LOG: l };
{ web: { service: { command: ['/bin/web'], env: level('info') { ENV: 'x' } } } }
-- torn.libsonnet --
{ a: { service: {
-- half.libsonnet --
{
  fine: { service: { command: ['/bin/true'] } },
  broken: { service: { command: [self.nothing] } },
}
`

func TestEvaluate_BrokenLibraryIsIsolated(t *testing.T) {
	res := evaluate(t, lang.Config{Root: writeTree(t, threeLibraries)})
	if res.Environment != "dev" {
		t.Errorf("environment %q, want the literal default of the parameter", res.Environment)
	}
	web := find(t, res, "good", "web")
	if want := `{"service":{"command":["/bin/web"],"env":{"ENV":"x","LOG":"debug"}}}`; string(web.Value) != want {
		t.Errorf("good/web = %s, want %s", web.Value, want)
	}
	if want := `{"service":{"command":["/bin/web"],"env":{"ENV":"x","LOG":"info"}}}`; string(web.Base) != want {
		t.Errorf("base of good/web = %s, want %s", web.Base, want)
	}
	for _, l := range res.Libraries {
		if l.Name != "torn" {
			continue
		}
		if l.Err == nil || l.Err.Pos.File != "torn.libsonnet" || l.Err.Pos.Line == 0 {
			t.Errorf("torn library: %v, want an error in torn.libsonnet", l.Err)
		} else if len(l.Err.Trace) == 0 || l.Err.Trace[0].Pos.String() != "defx.jsonnet:5:11" {
			t.Errorf("torn library: trace %v, want the import in defx.jsonnet:5:11", l.Err.Trace)
		}
	}
	if f := find(t, res, "half", "fine"); f.Err != nil {
		t.Errorf("half/fine: %v", f.Err)
	}
	if f := find(t, res, "half", "broken"); f.Err == nil || f.Err.Pos.String() != "half.libsonnet:3:34" {
		t.Errorf("half/broken: %v, want an error at half.libsonnet:3:34", f.Err)
	}
}

// raceEnabled is set if the race detector is on, which uses much memory in every process.
var raceEnabled bool

func skipUnlessBounded(t *testing.T) {
	if raceEnabled {
		t.Skip("memory limits are disabled under the race detector")
	}
}

func TestEvaluate_LimitsAreErrorsOfOneLibrary(t *testing.T) {
	skipUnlessBounded(t)
	bombs := map[string]string{
		"itself":    `{ f: { service: { command: [if {a: $} == {a: $} then 'x' else 'y'] } } }`,
		"recursion": `local f(x) = f(x + 1) + 1; { f: { service: { command: ['%s' % f(1)] } } }`,
		"string":    `{ f: { service: { command: [std.foldl(function(s, i) s + s, std.range(1, 33), 'x')] } } }`,
		"repeat":    `{ f: { service: { command: [std.repeat('x', 8589934592)] } } }`,
		"parens":    strings.Repeat("(", 100000) + "1" + strings.Repeat(")", 100000),
		"brackets":  strings.Repeat("[", 100000),
		"objects":   strings.Repeat("{a:", 100000),
		"ifs":       strings.Repeat("if true then ", 200000) + "1",
		"nots":      strings.Repeat("!", 2000000) + "true",
		"locals":    strings.Repeat("local a=1;", 200000) + "a",
		"functions": strings.Repeat("function(x) ", 200000) + "1",
	}
	for name, text := range bombs {
		t.Run(name, func(t *testing.T) {
			dir := writeTree(t, "-- defx.jsonnet --\n{ name: 'b', libs: { good: { web: { service: { command: ['/bin/web'] } } }, bomb: import 'bomb.libsonnet' } }\n")
			if err := os.WriteFile(filepath.Join(dir, "bomb.libsonnet"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			maxKiB := watchChildren()
			res := evaluate(t, lang.Config{Root: dir, Limits: lang.Limits{Memory: 512 << 20}}) // docs/reliability.md has the durations
			if f := find(t, res, "good", "web"); f.Err != nil {
				t.Errorf("good/web: %v", f.Err)
			}
			for _, l := range res.Libraries {
				if l.Name != "bomb" {
					continue
				}
				e := l.Err
				if e == nil && len(l.Functionalities) == 1 {
					e = l.Functionalities[0].Err
				}
				if e == nil || !e.Pos.Known() || e.Hint == "" && name != "repeat" {
					t.Errorf("bomb: %v, want an error with position and hint", e)
				}
			}
			if kib := maxKiB(); kib > 560<<10 || name == "string" && kib < 100<<10 {
				t.Errorf("a child process used %d KiB", kib)
			}
		})
	}
}

func TestEvaluate_LimitInEntry(t *testing.T) {
	skipUnlessBounded(t)
	dir := writeTree(t, "-- defx.jsonnet --\n{ name: std.foldl(function(s, i) s + s, std.range(1, 33), 'x'), libs: {} }\n")
	_, err := lang.Evaluate(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet", Limits: lang.Limits{Memory: 512 << 20}})
	if err == nil || !strings.Contains(err.Error(), "defx.jsonnet:1:1: evaluation needs more than 512 MiB of memory") || !strings.Contains(err.Error(), "--max-memory") {
		t.Errorf("got %v", err)
	}
}

func TestEvaluate_TimeLimit(t *testing.T) {
	skipUnlessBounded(t)
	dir := writeTree(t, "-- defx.jsonnet --\n{ name: 'x', libs: { a: { f: std.foldl(function(a, i) std.foldl(function(b, j) b + j, std.range(1, 10000), a), std.range(1, 100000), 0) } } }\n")
	res := evaluate(t, lang.Config{Root: dir, Limits: lang.Limits{Time: 2 * time.Second}})
	err := res.Libraries[0].Err // on a busy machine even the names may take that long
	if err == nil {
		err = find(t, res, "a", "f").Err
	}
	if err == nil || !strings.Contains(err.Msg, "longer than 2s") || !strings.Contains(err.Hint, "--max-time") {
		t.Errorf("got %v", err)
	}
}

// watchChildren samples the resident memory of child processes, and returns a
// function that stops it and returns the maximum in KiB. The kernel's own figure
// for ended children is of no use: it starts with the size of the parent.
func watchChildren() func() int {
	maxKiB, stop, done := 0, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			lists, _ := filepath.Glob("/proc/self/task/*/children")
			for _, list := range lists {
				pids, _ := os.ReadFile(list)
				for _, pid := range strings.Fields(string(pids)) {
					// Before exec, a new process shares the memory of this one.
					args, _ := os.ReadFile("/proc/" + pid + "/cmdline")
					if !strings.Contains(string(args), lang.WorkerVerb) {
						continue
					}
					status, _ := os.ReadFile("/proc/" + pid + "/status")
					if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
						kib, _ := strconv.Atoi(strings.Fields(rest)[0])
						maxKiB = max(maxKiB, kib)
					}
				}
			}
		}
	}()
	return func() int { close(stop); <-done; return maxKiB }
}

func TestEvaluate_ImportsStayInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.libsonnet")
	if err := os.WriteFile(outside, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := writeTree(t, `
-- defx.jsonnet --
{
  name: 'jail',
  libs: {
    absolute: { f: importstr '/etc/hostname' },
    up: { f: import '../secret.libsonnet' },
    link: { f: import 'link.libsonnet' },
    linkdir: { f: import 'dir/secret.libsonnet' },
    pipe: { f: importstr 'pipe' },
    device: { f: importstr 'zero' },
    inside: { f: import 'inside.libsonnet' },
  },
}
-- real.libsonnet --
{}
`)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Symlink(outside, filepath.Join(dir, "link.libsonnet")))
	must(os.Symlink(filepath.Dir(outside), filepath.Join(dir, "dir")))
	must(os.Symlink("real.libsonnet", filepath.Join(dir, "inside.libsonnet")))
	must(os.Symlink("/dev/zero", filepath.Join(dir, "zero")))
	must(syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	res := evaluate(t, lang.Config{Root: dir})
	for _, l := range res.Libraries {
		e := l.Functionalities[0].Err
		if l.Name == "inside" {
			if e != nil {
				t.Errorf("a link that stays inside: %v", e)
			}
			continue
		}
		if e == nil || e.Pos.File != "defx.jsonnet" {
			t.Errorf("%s: %v, want an error in defx.jsonnet", l.Name, e)
		}
	}
}

func TestEvaluate_RecordsReads(t *testing.T) {
	dir := writeTree(t, `
-- defx.jsonnet --
{ name: 'r', libs: { a: import 'a.libsonnet' } }
-- vendor/a.libsonnet --
{}
`)
	res := evaluate(t, lang.Config{Root: dir})
	got := map[string]bool{}
	for _, r := range res.Reads {
		got[r.Path] = r.Absent
		if !r.Absent && r.Digest == "" {
			t.Errorf("%s was read without a digest", r.Path)
		}
	}
	want := map[string]bool{"defx.jsonnet": false, "a.libsonnet": true, "vendor": false, "vendor/a.libsonnet": false}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("read %v, want %v", got, want)
	}
}

func TestEvaluate_TokensSurviveStringFunctions(t *testing.T) {
	dir := writeTree(t, `
-- defx.jsonnet --
{ name: 't', libs: { a: import 'lib/a.libsonnet' } }
-- lib/a.libsonnet --
local defx = import 'defx/v1.libsonnet';
local db = defx.dep('db');
{
  f: {
    percent: 'postgres://%s:%s/x' % [db.host, db.port('sql')],
    plus: 'a' + defx.secret('s') + 'b',
    upper: std.asciiUpper('x' + defx.lookup('k')),
    split: std.join(',', std.split('p,' + defx.me.port('http') + ',q', ',')),
    replace: std.strReplace('--' + defx.ref('git/git').host, '-', '+'),
    ini: std.manifestIni({ main: { host: db.host }, sections: {} }),
    artifact: defx.artifact('./x/../y.tar'),
  },
}
`)
	f := find(t, evaluate(t, lang.Config{Root: dir}), "a", "f")
	if f.Err != nil {
		t.Fatal(f.Err)
	}
	var got map[string]string
	if err := json.Unmarshal(f.Value, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"percent": "postgres://${db.host}:${db.port(sql)}/x", "plus": "a${secret(s)}b", "upper": "X${lookup(k)}",
		"split": "p,${me.port(http)},q", "replace": "++${git/git.host}", "ini": "host = ${db.host}\n", "artifact": "${artifact(lib/y.tar)}",
	}
	for k, w := range want {
		text, err := token.Split(got[k])
		if err != nil || text.Shown() != w {
			t.Errorf("%s: %q, %v; want %q", k, text.Shown(), err, w)
		}
	}
}

func TestEvaluate_Arguments(t *testing.T) {
	entry := "-- defx.jsonnet --\nfunction(env='dev', size=1, who='x') { name: 'a', libs: {}, environments: { dev: {}, prod: {} }, env:: env, machines: { e: env, s: size, w: who } }\n"
	dir := writeTree(t, entry)
	res := evaluate(t, lang.Config{Root: dir, Env: "prod", TLAStr: map[string]string{"who": "me"}, TLACode: map[string]string{"size": "1 + 1"}})
	if want := `{"environments":{"dev":{},"prod":{}},"machines":{"e":"prod","s":2,"w":"me"},"name":"a"}`; string(res.Deployment) != want || res.Environment != "prod" {
		t.Errorf("got %s in %s", res.Deployment, res.Environment)
	}
	_, err := lang.Evaluate(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet", TLAStr: map[string]string{"sise": "2"}})
	if err == nil || !strings.Contains(err.Error(), `did you mean "size"?`) {
		t.Errorf("an undeclared argument: %v", err)
	}
	plain := writeTree(t, "-- defx.jsonnet --\n{ name: 'a', libs: {} }\n")
	if res := evaluate(t, lang.Config{Root: plain}); res.Environment != "default" {
		t.Errorf("environment %q, want default", res.Environment)
	}
}

func TestLocate(t *testing.T) {
	dir := writeTree(t, `
-- defx.jsonnet --
local git = import 'git.libsonnet';
{
  name: 'p',
  libs: {
    git: git,
    many: import 'many.libsonnet',
  },
  overrides: {
    'git/git': { service+: { env+: { LOG: 'debug' } } },
  },
  machines: { box: { connect: 'dir:./box' } },
}
-- git.libsonnet --
local base = { service: { env: { LOG: 'info', HOME: '/' } } };
{
  git: base {
    service+: { env+: { PORT: '1' } },
  },
  env: { service: { env: { env: 'x' } } },
}
-- many.libsonnet --
local make(i) = {
  service: { env: { N: '%d' % i } },
};
{ ['svc%d' % i]: make(i) for i in std.range(1, 3) }
`)
	cases := []struct {
		path string
		want string
	}{
		{"libs/git/git", "git.libsonnet:3:3"},
		{"libs/git/git/service/env/LOG", "defx.jsonnet:9:38"},
		{"libs/git/git/service/env/HOME", "git.libsonnet:1:47"},
		{"libs/git/git/service/env/PORT", "git.libsonnet:4:25"},
		{"libs/git/git/service/env/GONE", "defx.jsonnet:9:30"},
		{"libs/git/env/service/env/env", "git.libsonnet:6:28"},
		{"libs/many/svc2/service/env/N", "many.libsonnet:2:21"},
		{"libs/many/svc2", "many.libsonnet:4:3"},
		{"libs/many", "defx.jsonnet:6:5"},
		{"machines/box/connect", "defx.jsonnet:11:22"},
		{"nowhere/at/all", "defx.jsonnet:1:1"},
	}
	var paths [][]string
	for _, c := range cases {
		paths = append(paths, strings.Split(c.path, "/"))
	}
	got, err := lang.Locate(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet"}, paths)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if got[i].String() != c.want {
			t.Errorf("%s: %s, want %s", c.path, got[i], c.want)
		}
	}
}

func TestEvaluate_TraceStartsAtError(t *testing.T) {
	dir := writeTree(t, `
-- defx.jsonnet --
{ name: 'r', libs: { a: import 'lib/b.libsonnet' } }
-- lib/b.libsonnet --
{ f: import 'c.libsonnet' }
-- lib/c.libsonnet --

  error 'top'
`)
	f := find(t, evaluate(t, lang.Config{Root: dir}), "a", "f")
	if f.Err == nil || f.Err.Pos.String() != "lib/c.libsonnet:2:3" || len(f.Err.Trace) == 0 || f.Err.Trace[0].Pos.String() != "lib/b.libsonnet:1:6" {
		t.Errorf("%v", f.Err)
	}
}

func TestEvaluate_NullOverrideRemoves(t *testing.T) {
	dir := writeTree(t, "-- defx.jsonnet --\n{ name: 'n', libs: { a: { x: { service: {} }, y: { service: {} } } }, overrides: { 'a/x': null } }\n")
	res := evaluate(t, lang.Config{Root: dir})
	if f := find(t, res, "a", "x"); f.Err != nil || string(f.Value) != "null" {
		t.Errorf("%s, %v", f.Value, f.Err)
	}
}

func TestLocate_ManyPaths(t *testing.T) {
	dir := writeTree(t, `
-- defx.jsonnet --
{
  name: 'm',
  libs: {
    a: {
      ['s%d' % i]: { service: { env: { LOG: 'x', ['N%d' % i]: i, env: 'y' } } }
      for i in std.range(0, 299)
    },
  },
  overrides: { 'a/s7': { service+: { env+: { LOG: 'z' } } } },
}
`)
	var paths [][]string
	for i := range 300 {
		s := fmt.Sprintf("s%d", i)
		paths = append(paths, []string{"libs", "a", s, "service", "env", "LOG"}, []string{"libs", "a", s, "service", "env", fmt.Sprintf("N%d", i)}, []string{"libs", "a", s, "service", "env", "env"})
	}
	got, err := lang.Locate(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet"}, paths)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{0: "defx.jsonnet:5:40", 1: "defx.jsonnet:5:50", 2: "defx.jsonnet:5:66", 21: "defx.jsonnet:9:46", 899: "defx.jsonnet:5:66", 897: "defx.jsonnet:5:40"} {
		if got[n].String() != want {
			t.Errorf("%v: %s, want %s", paths[n], got[n], want)
		}
	}
}

func TestEvaluate_EntryErrors(t *testing.T) {
	for text, want := range map[string]string{
		"{ name: 'x', libs: [] }":                    "libs: must be an object name -> library",
		"{ name: 'x', libs: {}, machines: nothing }": "defx.jsonnet:1:34: unknown variable: nothing",
		"{ name: 'x', libs: {}, overrides: 3 }":      "overrides: must be an object lib/name -> patch",
		"'x'":                                        "a deployment must be an object",
		"{ name: 'x', libs: {}, machines: { a: error 'no' }, defaults: error 'yes' }": "yes\n",
	} {
		_, err := lang.Evaluate(context.Background(), lang.Config{Root: writeTree(t, "-- defx.jsonnet --\n"+text+"\n"), Entry: "defx.jsonnet"})
		if err == nil || !strings.Contains(err.Error()+"\n", want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestFormat(t *testing.T) {
	got, err := lang.Format("x.jsonnet", "{a:1}")
	if err != nil || got != "{ a: 1 }\n" {
		t.Errorf("%q, %v", got, err)
	}
	_, err = lang.Format("x.jsonnet", "{a:")
	if d, ok := err.(*diag.Error); !ok || d.Pos.File != "x.jsonnet" || d.Pos.Line != 1 {
		t.Errorf("%v", err)
	}
}

// References are made of shared objects; their errors still name the reference as
// the user wrote it.
func TestEvaluate_ReferenceErrorsNameTheReference(t *testing.T) {
	for expr, want := range map[string]string{
		"defx.me.port(1)":                            "defx.me.port: a name must be a string, not a value of type number",
		"defx.dep('x').port('')":                     "defx.dep(x).port: the name is empty",
		"defx.dep('').host":                          "defx.dep: the name is empty",
		"defx.ref(3)":                                "defx.ref: a name must be a string, not a value of type number",
		"defx.peers.each(function(r) r.label(true))": "r.label: a name must be a string, not a value of type boolean",
		"defx.dep('x').here":                         "defx.dep(x).here is not a value by itself",
		"defx.dep('x').here.here":                    "field does not exist: here",
		"defx.all({ port: 'x' }).each(1)":            "defx.all(…).each: expected a function of one replica, not a value of type number",
		"defx.dep('x').join(1, function(r) 'x')":     "defx.dep(x).join: the separator must be a string, not a value of type number",
	} {
		dir := writeTree(t, "-- defx.jsonnet --\n{ libs: { a: { f: "+fmt.Sprintf("(import 'defx/v1.libsonnet')%s", strings.TrimPrefix(expr, "defx"))+" } } }\n")
		f := find(t, evaluate(t, lang.Config{Root: dir}), "a", "f")
		if f.Err == nil || f.Err.Msg != want {
			t.Errorf("%s: %v, want %q", expr, f.Err, want)
		}
	}
}
