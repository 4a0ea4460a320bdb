package project_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/lang"
)

const cachedEntry = `
-- defx.jsonnet --
function(who='me') {
  name: 'shop',
  libs: { web: import 'web.libsonnet', db: import 'db.libsonnet' },
  machines: { box: { connect: 'dir:./box' } },
}
-- web.libsonnet --
local defx = import 'defx/v1.libsonnet';
{ web: { requires: { db: 'db/db' }, service: { command: ['run', '%s' % defx.dep('db').port('sql')], package: defx.artifact('./site'), secrets: { KEY: defx.secret('key') } } } }
-- db.libsonnet --
{ db: { service: { command: ['/bin/db'], ports: { sql: 5432 }, env: (import 'env.libsonnet') } } }
-- vendor/env.libsonnet --
{ LEVEL: 'info' }
-- site/run --
#!/bin/sh
-- secrets/index.json --
{ "key": "1" }
`

// TestNoChanges_CachedUntilAnInputChanges checks that an empty plan is returned
// from the cache until anything changes that was read for it.
func TestNoChanges_CachedUntilAnInputChanges(t *testing.T) {
	w := newWorld(t, cachedEntry)
	store := t.TempDir()
	var c lang.Config
	open := func(cache string) *project.Project {
		c := c
		c.Cache = cache
		p, err := project.Open(w.dir, "defx.jsonnet", "", c, backends.NewSet(systemd.New()))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	planned := func(cache string) *plan.ChangeSet {
		t.Helper()
		p := open(cache)
		d, err := p.Evaluate(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		cs, err := p.Changes(context.Background(), d, p.ApplyRequest(d))
		if err != nil {
			t.Fatal(err)
		}
		p.StoreNoChanges(context.Background(), d, cs)
		return cs
	}
	if cs := planned(store); cs.Empty() || open(store).CachedNoChanges(t.Context()) != nil {
		t.Fatal("a plan with changes was cached")
	}
	w.apply()
	if cs := planned(store); !cs.Empty() {
		t.Fatalf("plan after an apply: %v", ops(cs))
	}
	head := filepath.Join(w.dir, ".defx", "shop", "default", "head.json")
	keep := map[string]string{}
	for _, f := range []string{"web.libsonnet", "db.libsonnet", "vendor/env.libsonnet", "site/run", "secrets/index.json", "defx.jsonnet", ".defx/shop/default/head.json", ".defx/shop/default/leases.json"} {
		raw, err := os.ReadFile(filepath.Join(w.dir, f))
		if err != nil {
			t.Fatal(err)
		}
		keep[f] = string(raw)
	}
	if got := open(store).CachedNoChanges(t.Context()); got == nil || !got.Empty() || got.Summary.Unchanged != 2 {
		t.Fatalf("a plan without changes was not cached: %+v", got)
	}
	for name, change := range map[string]func(){
		"source":               func() { w.edit("web.libsonnet", "['run', ", "['run', '-v', ") },
		"a shadowing file":     func() { w.write("env.libsonnet", "{ LEVEL: 'debug' }") },
		"a file that vanishes": func() { os.Remove(filepath.Join(w.dir, "vendor/env.libsonnet")) },
		"an artifact":          func() { w.write("site/run", "#!/bin/bash\n") },
		"a secret's version":   func() { w.write("secrets/index.json", `{ "key": "2" }`) },
		"a lock":               func() { w.write("defx.lock.json", `{"apiVersion":"defx/v1","kind":"LockFile","environments":{}}`) },
		"the state":            func() { os.Remove(head) },
		"an unfinished apply":  func() { announce(t, state.OpenDir(filepath.Dir(head))) },
		"a damaged lease file": func() { w.write(".defx/shop/default/leases.json", "") },
		"a lost pack":          func() { losePacks(t, filepath.Dir(head)) },
		"an argument":          func() { c.TLAStr = map[string]string{"who": "you"} },
	} {
		change()
		if got := open(store).CachedNoChanges(t.Context()); got != nil {
			t.Errorf("%s changed, but the cached plan is used", name)
		}
		c.TLAStr = nil
		restorePacks(t, filepath.Dir(head))
		for _, f := range []string{"env.libsonnet", "defx.lock.json"} {
			os.Remove(filepath.Join(w.dir, f))
		}
		for f, text := range keep {
			w.write(f, text)
		}
		if got := open(store).CachedNoChanges(t.Context()); got == nil {
			t.Errorf("%s is as before, but the cached plan is not used", name)
		}
	}
	// After random changes the cached plan equals a full plan without a cache.
	r := rand.New(rand.NewPCG(5, 6))
	hits := 0
	for range 25 {
		switch r.IntN(6) {
		case 0:
			w.write("vendor/env.libsonnet", fmt.Sprintf("{ LEVEL: '%d' }", r.IntN(2)))
		case 1:
			w.write("site/run", fmt.Sprintf("#!/bin/sh\n# %d\n", r.IntN(2)))
		case 2:
			w.write("env.libsonnet", "{ LEVEL: '0' }")
		case 3:
			os.Remove(filepath.Join(w.dir, "env.libsonnet"))
		case 4:
			w.apply()
			planned(store)
		}
		if got := open(store).CachedNoChanges(t.Context()); got != nil {
			hits++
			if want := planned(""); !want.Empty() || got.Plan != want.Plan || got.ChangeSet != want.ChangeSet || got.Summary != want.Summary {
				t.Fatalf("cached %+v, planned %+v", got, want)
			}
		} else {
			planned(store)
		}
	}
	if hits == 0 {
		t.Error("no plan was ever cached")
	}
}

// TestPlan_IndependentOfTextAndPlace checks that equal deployments, written in
// different orders and read in different environments, have the same plan.
func TestPlan_IndependentOfTextAndPlace(t *testing.T) {
	rounds := 5 // 15 in continuous integration, 10000 by make torture
	if s := os.Getenv("DEFX_TEST_READINGS"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	r := rand.New(rand.NewPCG(9, 9))
	shuffled := func(parts ...string) string {
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		return "{" + strings.Join(parts, ", ") + "}"
	}
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	store := t.TempDir()
	first := ""
	for n := range rounds {
		w := &world{t, filepath.Join(t.TempDir(), strings.Repeat("d/", n%3))}
		var libs []string
		for l := range 5 {
			var functionalities []string
			for i := range 4 {
				env := shuffled("A: '1'", "Z: '%d' % 2", "C: 'ü'", "B: std.toString(0.1 + 0.2)")
				service := shuffled("command: ['/bin/x', '--i', '%03d' % "+fmt.Sprint(i)+"]", "env: "+env, fmt.Sprintf("ports: { p: %d }", 2000+l*10+i), "limits: "+shuffled("memory: '64Mi'", "tasks: 5"))
				functionalities = append(functionalities, fmt.Sprintf("s%d: %s", i, shuffled("service: "+service, "connects: ['s0']")))
			}
			w.write(fmt.Sprintf("l%d.libsonnet", l), shuffled(functionalities...))
			libs = append(libs, fmt.Sprintf("l%d: import 'l%d.libsonnet'", l, l))
		}
		w.write("defx.jsonnet", shuffled("name: 'one'", "libs: "+shuffled(libs...), "machines: "+shuffled("a: { connect: 'dir:./a', address: '10.0.0.1' }", "b: { connect: 'dir:./b', address: '10.0.0.2' }")))
		t.Setenv("TZ", []string{"UTC", "Asia/Kathmandu", "America/St_Johns"}[r.IntN(3)])
		t.Setenv("LC_ALL", []string{"C", "tr_TR.UTF-8", "de_DE.UTF-8"}[r.IntN(3)])
		runtime.GOMAXPROCS(1 + r.IntN(8))
		c := lang.Config{}
		if r.IntN(2) == 0 {
			c.Cache = store
		}
		p, err := project.Open(w.dir, "defx.jsonnet", "", c, backends.NewSet(systemd.New()))
		if err != nil {
			t.Fatal(err)
		}
		d, err := p.Evaluate(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		cs, err := p.Changes(context.Background(), d, p.ApplyRequest(d))
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(cs.Plan)
		}
		if string(cs.Plan) != first || len(cs.Actions) != 20 {
			t.Fatalf("reading %d: plan %s with %d actions, the first was %s; held: %v", n, cs.Plan, len(cs.Actions), first, d.Held)
		}
	}
}

// announce adds the intent of an apply that was killed.
func announce(t *testing.T, s *state.Dir) {
	t.Helper()
	h, err := s.Head(t.Context())
	if err == nil {
		_, err = state.Announce(t.Context(), s, h, state.IntentDetail{Intent: state.Intent{Apply: state.NewID(), Machines: []string{"box"}}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// losePacks empties the objects of a state; restorePacks undoes it.
func losePacks(t *testing.T, dir string) {
	t.Helper()
	packs, _ := filepath.Glob(filepath.Join(dir, "objects", "*.pack"))
	for _, p := range packs {
		if err := os.Rename(p, p+".kept"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func restorePacks(t *testing.T, dir string) {
	t.Helper()
	packs, _ := filepath.Glob(filepath.Join(dir, "objects", "*.kept"))
	for _, p := range packs {
		if err := os.Rename(p, strings.TrimSuffix(p, ".kept")); err != nil {
			t.Fatal(err)
		}
	}
}
