package lang

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/defx-dev/defx/internal/diag"
)

// runInProcess makes runChild answer requests in the test process: nothing that
// these tests evaluate exceeds a limit.
func runInProcess(t *testing.T) {
	runChild = func(_ context.Context, r request) (*response, error) {
		a := &response{}
		switch {
		case r.Evaluation != nil:
			answerEvaluation(r.Config, *r.Evaluation, a, nil)
		case r.Locate != nil:
			a.Positions = answerLocate(r.Config, *r.Locate)
		}
		return a, nil
	}
	t.Cleanup(func() { runChild = runChildProcess })
}

// randomTree is a directory that random edits change. Every name is a file, a
// link or absent, and each edit is one that people and tools make.
type randomTree struct {
	t    *testing.T
	dir  string
	r    *rand.Rand
	args map[string]string
	env  string
	lib  bool // pass -J other
}

var randomTreeFiles = []string{
	"a.libsonnet", "b.libsonnet", "c.libsonnet", "shared.libsonnet", "deep/inner.libsonnet", "deep/shared.libsonnet", "vendor/x.libsonnet",
	"vendor/shared.libsonnet", "other/x.libsonnet", "deep/x.libsonnet", "x.libsonnet", "data.txt", "deep/data.txt", "vendor/data.txt",
}

func (g *randomTree) text(name string) string {
	n := g.r.IntN(5)
	if strings.HasSuffix(name, ".txt") {
		return fmt.Sprintf("text %d", n)
	}
	imports := []string{"'shared.libsonnet'", "'x.libsonnet'", "'deep/inner.libsonnet'", "'inner.libsonnet'"}
	one := func() string { return imports[g.r.IntN(len(imports))] }
	service := "{ service: { command: ['/bin/%s', std.toString(%s)] } }"
	switch g.r.IntN(12) {
	case 0:
		return "{ f: " + fmt.Sprintf(service, "broken", "error 'no'") + " }"
	case 1:
		return "{ f: "
	case 2:
		return "{ f: " + fmt.Sprintf(service, "t", "importstr 'data.txt'") + " }"
	case 3:
		return "{ f: " + fmt.Sprintf(service, "lazy", "if false then (import 'nowhere.libsonnet') else 1") + fmt.Sprintf(", v:: %d }", n)
	case 4:
		return fmt.Sprintf("local d = import 'defx/v1.libsonnet'; { f: %s, v:: %d }", fmt.Sprintf(service, "a", "d.me.port('p')"), n)
	case 5, 6:
		return fmt.Sprintf("local s = %s; { f: %s, v:: %d }", "import "+one(), fmt.Sprintf(service, "s", "std.get(s, 'v', 0)"), n)
	case 7:
		return fmt.Sprintf("(import %s) + { g: %s }", one(), fmt.Sprintf(service, "g", strconv.Itoa(n)))
	}
	return fmt.Sprintf("{ f: %s, v:: %d }", fmt.Sprintf(service, "f", strconv.Itoa(n)), n)
}

const randomTreeEntry = `
local x = { v: 1 };
function(env='dev', who='me') {
  name: 'g', environments: { dev: {}, [if %[1]d > 1 then 'prod']: {} }, at: env, note: %[1]d,
  libs: { a: import 'a.libsonnet', b: import 'b.libsonnet', c: (import 'c.libsonnet') + { who: { service: { command: ['/bin/' + who] } } }, own: { f: { service: { command: ['/bin/own'] } } } },
  overrides: { 'own/f': { service+: { env: { X: %[2]s } } } },
}`

func (g *randomTree) path(name string) string { return filepath.Join(g.dir, name) }

func (g *randomTree) put(name, text string) {
	os.RemoveAll(g.path(name))
	os.MkdirAll(filepath.Dir(g.path(name)), 0o755)
	if err := os.WriteFile(g.path(name), []byte(text), 0o644); err != nil && !strings.Contains(err.Error(), "not a directory") {
		g.t.Fatal(err)
	}
}

// edit makes one random change and returns its description.
func (g *randomTree) edit() string {
	name := randomTreeFiles[g.r.IntN(len(randomTreeFiles))]
	other := randomTreeFiles[g.r.IntN(len(randomTreeFiles))]
	switch g.r.IntN(16) {
	case 0, 1, 2, 3, 4:
		g.put(name, g.text(name))
		return "write " + name
	case 5:
		os.Remove(g.path(name))
		return "remove " + name
	case 6:
		os.MkdirAll(filepath.Dir(g.path(other)), 0o755)
		os.Rename(g.path(name), g.path(other))
		return "rename " + name + " to " + other
	case 7:
		os.Remove(g.path(name))
		to, _ := filepath.Rel(filepath.Dir(g.path(name)), g.path(other))
		os.Symlink(to, g.path(name))
		return "link " + name + " to " + other
	case 8:
		g.args = map[string]string{"who": fmt.Sprint("w", g.r.IntN(3))}
		return "argument"
	case 9:
		g.env = []string{"", "dev", "prod"}[g.r.IntN(3)]
		return "environment"
	case 10:
		g.lib = !g.lib
		return "library directory"
	case 11:
		folder := []string{"vendor", "deep", "other"}[g.r.IntN(3)]
		os.RemoveAll(g.path(folder))
		return "remove " + folder
	case 12:
		g.put("defx.jsonnet", fmt.Sprintf(randomTreeEntry, g.r.IntN(4), []string{"'1'", "'2'", "x.v + ''", "error 'override'"}[g.r.IntN(4)]))
		return "the entry"
	case 13:
		raw, err := os.ReadFile(g.path(name)) // same content, another time
		if err == nil {
			g.put(name, string(raw))
		}
		return "touch " + name
	case 14:
		raw, err := os.ReadFile(g.path(name))
		if err == nil && len(raw) > 0 { // one byte replaced: same size, same time
			info, _ := os.Stat(g.path(name))
			raw[g.r.IntN(len(raw))] = "0123456789"[g.r.IntN(10)]
			os.WriteFile(g.path(name), raw, 0o644)
			os.Chtimes(g.path(name), info.ModTime(), info.ModTime())
		}
		return "a byte of " + name
	}
	return "nothing"
}

func (g *randomTree) config() Config {
	c := Config{Root: g.dir, Entry: "defx.jsonnet", Env: g.env, TLAStr: g.args}
	if g.lib {
		c.JPath = []string{g.path("other")}
	}
	return c
}

// renderOutcome returns the outcome of an evaluation as text.
func renderOutcome(res *Result, err error) string {
	if err != nil {
		return "error " + err.Error()
	}
	r := *res
	r.Cache, r.EntryReads = nil, nil
	r.Libraries = append([]Library(nil), r.Libraries...)
	var b strings.Builder
	for i := range r.Libraries {
		r.Libraries[i].Reads = nil
		errs := []*diag.Error{r.Libraries[i].Err}
		for _, f := range r.Libraries[i].Functionalities {
			errs = append(errs, f.Err)
		}
		for _, e := range errs {
			if e != nil {
				b.WriteString(e.Error() + "\n")
			}
		}
	}
	return string(mustMarshal(r)) + b.String()
}

// After any edit (of content, names, links, arguments, or files that take
// precedence over others) the cache returns what evaluation returns.
func TestEvaluateCached_NeverStale(t *testing.T) {
	runInProcess(t)
	edits := 250
	if s := os.Getenv("DEFX_TEST_CACHE_EDITS"); s != "" {
		edits, _ = strconv.Atoi(s)
	}
	seed := uint64(11)
	if s := os.Getenv("DEFX_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	g := &randomTree{t: t, dir: t.TempDir(), r: rand.New(rand.NewPCG(seed, uint64(edits)))}
	store := t.TempDir()
	g.put("defx.jsonnet", fmt.Sprintf(randomTreeEntry, 0, "'1'"))
	for _, f := range randomTreeFiles {
		g.put(f, g.text(f))
	}
	hits, parts := 0, 0
	for n := range edits {
		what := g.edit()
		c := g.config()
		want := renderOutcome(evaluateUncached(context.Background(), c))
		c.Cache = store
		res, err := Evaluate(context.Background(), c)
		if got := renderOutcome(res, err); got != want {
			t.Fatalf("edit %d (%s):\n got %s\nwant %s", n, what, got, want)
		}
		if res != nil {
			for _, u := range res.Cache {
				if parts++; u.Hit {
					hits++
				}
			}
		}
	}
	if hits == 0 || hits == parts {
		t.Errorf("%d of %d parts came from the cache", hits, parts)
	}
	t.Logf("%d edits, none stale; %d of %d parts came from the cache", edits, hits, parts)
}

func TestEvaluateCached_OnlyChangedLibraries(t *testing.T) {
	runInProcess(t)
	g := &randomTree{t: t, dir: t.TempDir()}
	put := func(name, n string) {
		g.put(name, "(import 'shared.libsonnet') + { f: { service: { command: ['/bin/"+n+"'] } } }")
	}
	g.put("defx.jsonnet", "{ name: 'g', libs: { a: import 'a.libsonnet', b: import 'b.libsonnet' } }")
	g.put("shared.libsonnet", "{}")
	put("a.libsonnet", "1")
	put("b.libsonnet", "1")
	c := g.config()
	c.Cache = t.TempDir()
	uses := func() string {
		t.Helper()
		res, err := Evaluate(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, u := range res.Cache {
			out = append(out, fmt.Sprintf("%s:%v %s", u.Part, u.Hit, u.Why))
		}
		return strings.Join(out, "; ")
	}
	uses()
	for _, step := range []struct {
		edit func()
		want string
	}{
		{func() {}, "entry:true ; a:true ; b:true "},
		{func() { put("b.libsonnet", "2") }, "entry:true ; a:true ; b:false b.libsonnet changed"},
		{func() { put("b.libsonnet", "1") }, "entry:true ; a:true ; b:true "}, // several states of a file are cached
		{func() { g.put("shared.libsonnet", "{ x:: 1 }") }, "entry:true ; a:false shared.libsonnet changed; b:false shared.libsonnet changed"},
		{func() { g.put("vendor/x.libsonnet", "{}") }, "entry:false vendor appeared; a:false the entry was evaluated again; b:false the entry was evaluated again"},
	} {
		step.edit()
		if got := uses(); got != step.want {
			t.Errorf("got %s\nwant %s", got, step.want)
		}
	}
}

// Damaged entries are ignored, concurrent evaluations share a cache, and its
// size is limited.
func TestEvaluateCached_SharedAndDamaged(t *testing.T) {
	runInProcess(t)
	g := &randomTree{t: t, dir: t.TempDir(), r: rand.New(rand.NewPCG(1, 2))}
	g.put("defx.jsonnet", "{ name: 'g', libs: { a: import 'a.libsonnet', b: import 'b.libsonnet' } }")
	g.put("a.libsonnet", "{ f: { service: { command: ['/bin/a'] } } }")
	g.put("b.libsonnet", "{ f: { service: { command: ['/bin/b'] } } }")
	c := g.config()
	want := renderOutcome(evaluateUncached(context.Background(), c))
	c.Cache = t.TempDir()
	c.VerifyCache = true
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 3))
			for range 20 {
				if got := renderOutcome(Evaluate(context.Background(), c)); got != want {
					t.Errorf("got %s\nwant %s", got, want)
					return
				}
				entries, _ := filepath.Glob(filepath.Join(c.Cache, "*", "*"))
				if len(entries) == 0 {
					continue
				}
				name := entries[r.IntN(len(entries))]
				switch r.IntN(3) {
				case 0:
					os.Remove(name)
				case 1:
					os.Truncate(name, int64(r.IntN(60)))
				case 2:
					if raw, err := os.ReadFile(name); err == nil && len(raw) > 0 {
						raw[r.IntN(len(raw))] ^= 1
						os.WriteFile(name, raw, 0o644)
					}
				}
			}
		})
	}
	all.Wait()
	c.CacheMax = 1
	g.put("b.libsonnet", "{}")
	if _, err := Evaluate(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(c.Cache, "*", "*")); len(left) > 0 {
		t.Errorf("a cache limited to one byte has %d entries", len(left))
	}
}

// Many libraries are evaluated by several child processes, with the same result as
// by one.
func TestEvaluate_Batches(t *testing.T) {
	runInProcess(t)
	original := batchSize
	t.Cleanup(func() { batchSize = original })
	dir := t.TempDir()
	entry := "{ name: 'x', libs: {"
	for i := range 7 {
		entry += fmt.Sprintf(" l%d: import 'l%d.libsonnet',", i, i)
		text := fmt.Sprintf("(import 'shared.libsonnet') { own: { n: %d } }", i)
		if i == 4 {
			text = "{ bad: error 'sorry', good: 1 }"
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("l%d.libsonnet", i)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"defx.jsonnet": entry + " } }", "shared.libsonnet": "{ a: 1 }"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	evaluate := func(n int, cache string) string {
		batchSize = n
		res, err := Evaluate(context.Background(), Config{Root: dir, Entry: "defx.jsonnet", Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		res.Cache, res.EntryReads = nil, nil
		for i := range res.Libraries {
			res.Libraries[i].Reads = nil
		}
		return string(mustMarshal(res))
	}
	want := evaluate(256, "")
	for _, n := range []int{1, 2, 3, 6, 7} {
		if got := evaluate(n, ""); got != want {
			t.Errorf("batches of %d: %s, want %s", n, got, want)
		}
	}
	store := t.TempDir()
	evaluate(2, store)
	if err := os.WriteFile(filepath.Join(dir, "shared.libsonnet"), []byte("{ a: 2 }"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := evaluate(2, store), evaluate(256, ""); got != want {
		t.Errorf("with a cache: %s, want %s", got, want)
	}
}
