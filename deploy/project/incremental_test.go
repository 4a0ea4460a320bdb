package project_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/lang"
)

// edited is a deployment that is edited at random. A functionality is a set of
// fields with values chosen from editedFields.
type edited struct {
	r        *rand.Rand
	funcs    map[string]map[string]string // lib/name → field → value
	machines map[string]string
	moved    map[string]string
	entry    map[string]string // other fields of the entry
	level    string            // a top-level argument
}

var editedLibs = []string{"a", "b", "c", "d"}

// editedFields are the possible values of each field of a functionality. fill
// replaces @ by a functionality, % by one of the same library without the
// library's name, # by a random number and ~ by 1 or 2.
var editedFields = map[string][]string{
	"requires":  {"", "{ up: '@' }", "{ up: '@' }", "{ up: '@', more: '@' }", "{ up: '%' }", "{ up: '@' } + { more: '%' }"},
	"connects":  {"", "['@']", "{ all: defx.all({ port: 'http' }) }", "{ all: defx.all({ label: 'tier' }) }"},
	"after":     {"", "['@']", "['%']"},
	"place":     {"", "", "{ machine: 'm1' }", "{ machine: 'm~' }", "{ replicas: ~ }", "{ replicas: 2, spread: 'machine' }", "{ with: '@' }", "{ every: 'machine' }", "{ pool: 'p' }", "{ replicas: { x: {}, y: { service+: { env+: { Y: '#' } } } } }"},
	"exports":   {"", "", "", "{ url: 'http://%s:%s/~' % [defx.me.host, defx.me.port('http')] }"},
	"host":      {"", "", "", "{ packages: ['curl'] }", "{ sysctl: { 'vm.swappiness': 1~ } }"},
	"backend":   {"", "", "", "'systemd'", "'docker'", "'none'"},
	"docker":    {"", "", "{ init: false }", "{ network: 'host' }", "{ ports: { http: 7~ } }"},
	"systemd":   {"", "", "{ service: { Nice: '~' } }"},
	"ENV":       {"", "'#'", "'#'", "'%s' % defx.dep('up').host", "'%s:%s' % [defx.dep('up').host, defx.dep('up').port('http')]", "defx.dep('up').label('tier')", "defx.dep('up').output('url')", "defx.ref('@').port('http')", "defx.peers.join(',', function(r) r.host)", "defx.dep('all').join(',', function(r) r.name + r.port('http'))", "defx.me.port('http')", "defx.dep('up').here.host", "error 'sorry #'", "defx.dep('up').dir('cache')"},
	"command":   {"['/bin/x']", "['/bin/x', '#']", "['bin/run', '~']", "['/bin/x', 7]"},
	"package":   {"", "", "defx.artifact('./pkg~')"},
	"image":     {"", "", "", "'x@sha256:" + strings.Repeat("ab", 32) + "'"},
	"ports":     {"{ http: 80# }", "{ http: 80#, admin: 90# }", "{ http: 80#, admin: 90# }", "{ http: { port: 70#, protocol: 'udp' } }", "{ other: 80# }", ""},
	"labels":    {"", "{ tier: 't~' }", "{ tier: 't#', more: 'x' }"},
	"dirs":      {"", "", "{ cache: 'c~' }", "{ state: 's~' }"},
	"secrets":   {"", "", "{ KEY: defx.secret('key') }"},
	"files":     {"", "{ '/etc/x': '#' }", "{ '/etc/x': 'k=%s' % defx.secret('key') }", "{ '/etc/x': { json: { port: defx.me.port('http') } } }"},
	"hostFiles": {"", "", "", "{ '/etc/host~': '#' }"},
	"schedule":  {"", "", "", "{ every: '~h' }", "{ cron: '~ * * * *' }"},
	"limits":    {"", "{ memory: '6#Mi' }", "{ memory: '#Gi' }"},
	"update":    {"", "", "{ atOnce: 2 }"},
	"protect":   {"", "", "true"},
	"ready":     {"", "", "{ tcp: true, port: 'http' }", "{ tcp: true, count: 1, port: 'http' }"},
}

// serviceFields are the editedFields inside of service.
var serviceFields = []string{"command", "package", "image", "ports", "labels", "dirs", "secrets", "files", "hostFiles", "schedule", "limits", "update", "protect", "ready"}

func (e *edited) names() []string { return slices.Sorted(maps.Keys(e.funcs)) }

func (e *edited) any() string { n := e.names(); return n[e.r.IntN(len(n))] }

// widelyRead are the functionalities that many others refer to.
var widelyRead = []string{"a/s0", "b/s0", "d/only"}

// fill replaces the placeholders of a value; see editedFields.
func (e *edited) fill(value string) string {
	var b strings.Builder
	for i, c := range value {
		switch {
		case c == '@' && !strings.HasPrefix(value[i:], "@sha256"):
			b.WriteString(e.any())
		case c == '%' && i > 0 && value[i-1] == '\'' && strings.HasPrefix(value[i:], "%'"):
			_, name, _ := strings.Cut(e.any(), "/")
			b.WriteString(name)
		case c == '#':
			b.WriteString(strconv.Itoa(10 + e.r.IntN(90)))
		case c == '~':
			b.WriteString(strconv.Itoa(1 + e.r.IntN(2)))
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

func (e *edited) choose(full, field string) {
	values := editedFields[field]
	e.funcs[full][field] = e.fill(values[e.r.IntN(len(values))])
}

// reset gives a functionality fields that work. Functionalities differ in what
// they refer to.
func (e *edited) reset(full string) {
	f := map[string]string{"command": "['/bin/x']", "requires": "{ up: 'a/s0' }", "ENV": "'%s:%s' % [defx.dep('up').host, defx.dep('up').port('http')]"}
	e.funcs[full] = f
	switch full {
	case "a/s0":
		f["requires"], f["ENV"], f["ports"], f["labels"], f["dirs"] = "", e.fill("'#'"), "{ http: 8080, admin: 8081 }", "{ tier: 't1' }", "{ cache: 'c1' }"
		return
	case "b/s0":
		f["exports"], f["ports"] = "{ url: 'http://%s:%s/%s' % [defx.me.host, defx.me.port('http'), defx.ref('a/s0').port('admin')] }", "{ http: 8082 }"
		return
	case "d/only":
		f["requires"], f["ENV"], f["ports"] = "", e.fill("'#'"), "{ http: 8083 }"
		return
	}
	switch e.r.IntN(10) {
	case 0:
		f["secrets"] = "{ KEY: defx.secret('key') }"
	case 1:
		f["command"], f["package"] = "['bin/run']", "defx.artifact('./pkg1')"
	case 2:
		f["requires"] = "{ up: 'only' }"
	case 3:
		f["ENV"] = "defx.dep('up').label('tier')"
	case 4:
		f["requires"], f["ENV"] = "{ up: 'b/s0' }", "defx.dep('up').output('url')"
	case 5:
		f["ENV"] = "defx.dep('up').port('admin')"
	case 6:
		f["ENV"] = "defx.dep('up').dir('cache')"
	case 7:
		f["place"] = "{ replicas: 2 }"
	case 8:
		f["after"] = "['only']"
	}
}

func newEdited(seed uint64) *edited {
	e := &edited{r: rand.New(rand.NewPCG(seed, 2)), funcs: map[string]map[string]string{}, entry: map[string]string{}, level: "info", moved: map[string]string{}}
	for _, l := range editedLibs {
		for i := range 4 {
			e.reset(fmt.Sprintf("%s/s%d", l, i))
		}
	}
	e.reset("d/only")
	e.machines = map[string]string{"m1": "address: '10.0.0.1', pool: 'p'", "m2": "address: '10.0.0.2'"}
	return e
}

func (e *edited) write(w *world) {
	for _, l := range editedLibs {
		var b strings.Builder
		b.WriteString("local defx = import 'defx/v1.libsonnet';\n{\n")
		for _, full := range e.names() {
			lib, name, _ := strings.Cut(full, "/")
			if lib != l {
				continue
			}
			fields := e.funcs[full]
			fmt.Fprintf(&b, "  %s: {\n", name)
			for _, f := range slices.Sorted(maps.Keys(fields)) {
				if !slices.Contains(serviceFields, f) && f != "ENV" && fields[f] != "" {
					fmt.Fprintf(&b, "    %s: %s,\n", f, fields[f])
				}
			}
			b.WriteString("    service: {\n")
			for _, f := range serviceFields {
				if fields[f] != "" {
					fmt.Fprintf(&b, "      %s: %s,\n", f, fields[f])
				}
			}
			if fields["ENV"] != "" {
				fmt.Fprintf(&b, "      env: { ENV: %s },\n", fields["ENV"])
			}
			b.WriteString("    },\n  },\n")
		}
		b.WriteString("}\n")
		w.write(l+".libsonnet", b.String())
	}
	var b strings.Builder
	b.WriteString("function(level='info') {\n  name: 'many',\n  libs: {\n")
	for _, l := range editedLibs {
		fmt.Fprintf(&b, "    %s: import '%s.libsonnet',\n", l, l)
	}
	b.WriteString("  },\n  machines: {\n")
	for _, m := range slices.Sorted(maps.Keys(e.machines)) {
		fmt.Fprintf(&b, "    %s: { connect: 'dir:./machines/%s', %s },\n", m, m, e.machines[m])
	}
	b.WriteString("  },\n  overrides: { 'a/s1'+: { service+: { env+: { LEVEL: level } } } },\n  moved: {\n")
	for _, old := range slices.Sorted(maps.Keys(e.moved)) {
		if e.funcs[old] == nil && e.funcs[e.moved[old]] != nil {
			fmt.Fprintf(&b, "    '%s': '%s',\n", old, e.moved[old])
		}
	}
	b.WriteString("  },\n")
	for _, f := range slices.Sorted(maps.Keys(e.entry)) {
		fmt.Fprintf(&b, "  %s: %s,\n", f, e.entry[f])
	}
	b.WriteString("}\n")
	w.write("defx.jsonnet", b.String())
}

// edit makes one random change and returns its description.
func (e *edited) edit(w *world) string {
	switch n := e.r.IntN(30); {
	case n == 0: // renamed
		old := e.any()
		lib, _, _ := strings.Cut(old, "/")
		now := fmt.Sprintf("%s/r%d", lib, e.r.IntN(3))
		if e.funcs[now] != nil || old == "a/s1" || slices.Contains(widelyRead, old) {
			return "nothing"
		}
		e.funcs[now] = e.funcs[old]
		delete(e.funcs, old)
		if e.r.IntN(2) == 0 {
			e.moved[old] = now
		}
		return old + " is now " + now
	case n == 1: // gone
		if old := e.any(); len(e.funcs) > 13 && old != "a/s1" && !slices.Contains(widelyRead, old) {
			delete(e.funcs, old)
			return old + " is gone"
		}
		return "nothing"
	case n == 2: // new
		full := editedLibs[e.r.IntN(4)] + e.fill([]string{"/s5", "/s6", "/only"}[e.r.IntN(3)])
		e.reset(full)
		return full + " is new"
	case n == 3:
		name := fmt.Sprintf("m%d", 1+e.r.IntN(3))
		if e.machines[name] != "" && len(e.machines) > 1 && e.r.IntN(3) == 0 {
			delete(e.machines, name)
		} else {
			e.machines[name] = e.fill("address: '10.0.0.#'" + []string{"", ", pool: 'p'"}[e.r.IntN(2)])
		}
		return "machine " + name
	case n == 4:
		w.write("secrets/index.json", e.fill(`{ "key": "~" }`))
		return "a secret"
	case n <= 6:
		w.write(e.fill("pkg~/bin/run"), e.fill("#!/bin/sh\n# ~\n"))
		return "an artifact"
	case n == 7:
		e.level = e.fill("level~")
		return "an argument"
	case n == 8:
		e.entry["defaults"] = []string{"{}", "{ place: { pool: 'p' } }", "{ place: { machine: 'm1' } }", "{ backend: 'systemd' }"}[e.r.IntN(4)]
		return "defaults"
	case n <= 14: // back to fields that work
		full := e.any()
		e.reset(full)
		return full + " is reset"
	}
	full := e.any()
	if e.r.IntN(3) == 0 {
		full = widelyRead[e.r.IntN(len(widelyRead))]
		field := []string{"ports", "labels", "dirs", "place", "exports", "ENV"}[e.r.IntN(6)]
		e.choose(full, field)
		return full + ": " + field + " = " + e.funcs[full][field]
	}
	field := slices.Sorted(maps.Keys(editedFields))[e.r.IntN(len(editedFields))]
	e.choose(full, field)
	return full + ": " + field + " = " + e.funcs[full][field]
}

// TestPlan_IncrementalEqualsFull compares, after random edits, plans made from
// cached results with full plans: the change set with its positions, the plan,
// the reasons and the text of all errors.
func TestPlan_IncrementalEqualsFull(t *testing.T) {
	edits, seed := 120, uint64(1)
	if s := os.Getenv("DEFX_TEST_INCREMENTAL"); s != "" {
		edits, _ = strconv.Atoi(s)
		seed = uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("DEFX_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d", seed)
	incremental, failed, held, planned := 0, 0, 0, 0
	for done := 0; done < edits; {
		w := &world{t, t.TempDir()}
		e := newEdited(seed + uint64(done))
		w.write("pkg1/bin/run", "1")
		w.write("pkg2/bin/run", "2")
		w.write("secrets/index.json", `{ "key": "1" }`)
		cached, other := filepath.Join(w.dir, ".cached"), filepath.Join(w.dir, ".other")
		run := func(store string, evaluate func(*project.Project, context.Context) (*project.Desired, error)) (*project.Project, *project.Desired, string) {
			p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{Cache: store, TLAStr: map[string]string{"level": e.level}}, backends.NewSet(systemd.New(), docker.New()))
			if err != nil {
				t.Fatal(err)
			}
			d, err := evaluate(p, context.Background())
			if err != nil {
				return p, nil, "error: " + err.Error()
			}
			cs, err := p.Changes(context.Background(), d, p.ApplyRequest(d))
			if err != nil {
				return p, d, "error: " + err.Error()
			}
			result := map[string]any{"changes": cs, "plan": d.Rendered.Plan, "reasons": d.Reasons, "services": len(d.Graph.Services), "good": d.LastGood}
			for _, h := range d.Held {
				result["held "+h.Name] = fmt.Sprint(compile.ErrorList(h.Err))
			}
			raw, err := digest.Canonical(result)
			if err != nil {
				t.Fatal(err)
			}
			return p, d, string(raw)
		}
		var log []string
		for range 40 {
			e.write(w)
			p, d, got := run(cached, (*project.Project).Plan)
			without := other
			if done%10 == 0 {
				without = ""
			}
			_, full, want := run(without, (*project.Project).Evaluate)
			if got != want {
				t.Fatalf("seed %d, after %d edits:\n%s\nincremental plan:\n%s\nfull plan:\n%s", seed, done, strings.Join(log, "\n"), difference(got, want), difference(want, got))
			}
			if done%4 == 1 { // a plan that will not be applied keeps less
				_, _, planOnly := run(without, func(p *project.Project, ctx context.Context) (*project.Desired, error) {
					p.PlanOnly = true
					return p.Evaluate(ctx)
				})
				if planOnly != want {
					t.Fatalf("seed %d, after %d edits:\n%s\nwith PlanOnly:\n%s\nwithout:\n%s", seed, done, strings.Join(log, "\n"), difference(planOnly, want), difference(want, planOnly))
				}
			}
			switch {
			case d == nil:
				failed++
			case len(d.Held) > 0:
				held++
			default:
				planned++
				if len(d.Rendered.Units) < len(full.Rendered.Units) {
					incremental++
				}
			}
			if done++; done >= edits {
				break
			}
			if d != nil && e.r.IntN(2) == 0 {
				log = append(log, "apply")
				if _, err := apply.Run(context.Background(), p.ApplyRequest(d)); err != nil {
					t.Fatalf("seed %d, after %d edits: %v", seed, done, err)
				}
				continue
			}
			if d != nil && e.r.IntN(2) == 0 {
				for _, h := range d.Held {
					if e.funcs[h.Name] != nil {
						log = append(log, h.Name+" is reset")
						e.reset(h.Name)
					}
				}
			}
			for range 1 + e.r.IntN(4)/3 {
				log = append(log, e.edit(w))
			}
		}
	}
	t.Logf("%d plans, %d of them incremental; %d with something held, %d failed", planned, incremental, held, failed)
	if incremental*3 < planned {
		t.Errorf("only %d of %d plans were incremental", incremental, planned)
	}
}

// difference returns a from shortly before where it differs from b.
func difference(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return a[max(0, i-300):min(len(a), i+600)]
}
