package project_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/digest"
)

func oracleDeployment(now map[string]string) string {
	text := oracleText
	for name, value := range now {
		text = strings.ReplaceAll(text, "@"+name+"@", value)
	}
	return text
}

func oracleStart() map[string]string {
	now := map[string]string{}
	for name, value := range oracleFixed {
		now[name] = value
	}
	for _, r := range oracleRows {
		if _, ok := now[r.name]; !ok {
			now[r.name] = r.values[0]
		}
	}
	return now
}

// recordsOf returns the records that a successful apply of a plan would write.
func recordsOf(p *plan.Plan) []plan.Record {
	var out []plan.Record
	for _, u := range p.Units {
		out = append(out, plan.Record{Address: u.Address, Machine: u.Machine, Backend: u.Backend, Digest: u.Digest, Object: u.Object, Values: u.Values, Traits: u.Traits})
	}
	return out
}

func desired(t *testing.T, w *world) *project.Desired {
	t.Helper()
	d, err := w.open().Evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range d.Held {
		t.Errorf("held: %v", compile.ErrorList(h.Err))
	}
	if t.Failed() {
		t.FailNow()
	}
	return d
}

// TestDiff_RandomEditsMatchOracle edits one field at a time and compares the units
// that change with those that the oracle names.
func TestDiff_RandomEditsMatchOracle(t *testing.T) {
	edits := 200 // 2000 in continuous integration, 20000 by make torture
	if s := os.Getenv("DEFX_TEST_EDITS"); s != "" {
		edits, _ = strconv.Atoi(s)
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DEFX_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, "")
	w.write("pkg1/run", "1")
	w.write("pkg2/run", "2")
	now := oracleStart()
	w.write("defx.jsonnet", oracleDeployment(now))
	before := desired(t, w)
	objects := map[digest.Digest][]byte{}
	unit := func(d digest.Digest) (*plan.Unit, error) {
		u := &plan.Unit{}
		return u, json.Unmarshal(objects[d], u)
	}
	for n := range edits {
		row := oracleRows[n%len(oracleRows)]
		if n >= len(oracleRows) {
			row = oracleRows[r.IntN(len(oracleRows))]
		}
		value := row.values[r.IntN(len(row.values))]
		for value == now[row.name] {
			value = row.values[r.IntN(len(row.values))]
		}
		was := now[row.name]
		now[row.name] = value
		w.write("defx.jsonnet", oracleDeployment(now))
		after := desired(t, w)
		for k, raw := range before.Rendered.Objects {
			objects[k] = raw
		}
		for k, raw := range after.Rendered.Objects {
			objects[k] = raw
		}
		cs, err := plan.Diff(plan.DiffInput{Plan: after.Rendered.Plan, Records: recordsOf(before.Rendered.Plan), Unit: unit, GiveUp: map[string]bool{"a/full": true}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range cs.Actions {
			got = append(got, a.Address)
		}
		for _, p := range cs.Protected {
			got = append(got, p.Address)
		}
		slices.Sort(got)
		var want []string
		for _, u := range row.units {
			if !strings.Contains(u, "#") && !strings.HasPrefix(u, "host/") { // its only replica
				u += "#" + graph.FirstReplica
			}
			want = append(want, u)
		}
		if i := slices.Index(want, "a/rep#*"); i >= 0 { // one for each present replica
			want = slices.Delete(want, i, i+1)
			for n := range map[string]int{"2": 2, "3": 3}[now["rep.replicas"]] {
				want = append(want, "a/rep#"+strconv.Itoa(n))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("edit %d: %s (%s) %q → %q changed %v, the oracle says %v", n, row.field, row.name, was, value, got, want)
		}
		before = after
	}
}

// TestOracle_CoversSchema checks that each field of the schema is in the oracle or
// among those left out with a reason.
func TestOracle_CoversSchema(t *testing.T) {
	known := map[string]bool{}
	for _, r := range oracleRows {
		known[r.field] = true
	}
	for f := range oracleLeft {
		if known[f] {
			t.Errorf("%s is in the oracle and also left out", f)
		}
		known[f] = true
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[compile.Entry](), reflect.TypeFor[compile.Machine](), reflect.TypeFor[compile.Defaults](),
		reflect.TypeFor[compile.Functionality](), reflect.TypeFor[compile.Member](), reflect.TypeFor[graph.Spec](), reflect.TypeFor[graph.Place](),
		reflect.TypeFor[graph.File](), reflect.TypeFor[graph.Dirs](), reflect.TypeFor[graph.Port](), reflect.TypeFor[graph.Ready](),
		reflect.TypeFor[graph.Schedule](), reflect.TypeFor[graph.Socket](), reflect.TypeFor[graph.Limits](), reflect.TypeFor[graph.Reload](),
		reflect.TypeFor[graph.Stop](), reflect.TypeFor[graph.Link](), reflect.TypeFor[graph.External](), reflect.TypeFor[graph.Host](),
		reflect.TypeFor[graph.User](), reflect.TypeFor[graph.Update](), reflect.TypeFor[graph.Selection]()} {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if field := typ.Name() + "." + name; name != "" && !known[field] {
				t.Errorf("the oracle has no field %s", field)
			}
		}
	}
}

// TestPlan_DigestIgnoresFolderOrderAndSplit checks that the place of the sources,
// their order and the environment of the process change no digest.
func TestPlan_DigestIgnoresFolderOrderAndSplit(t *testing.T) {
	digestOf := func(w *world) digest.Digest {
		d, err := desired(t, w).Rendered.Plan.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	text := oracleDeployment(oracleStart())
	plain := newWorld(t, "")
	plain.write("pkg1/run", "1")
	plain.write("defx.jsonnet", text)
	want := digestOf(plain)

	moved := copyWorld(t, plain)
	if got := digestOf(moved); got != want {
		t.Errorf("a moved checkout: %s, want %s", got, want)
	}
	reordered := copyWorld(t, plain)
	lines := strings.Split(text, "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "near: {") })
	j := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "base2: {") })
	lines[i], lines[j] = lines[j], lines[i]
	reordered.write("defx.jsonnet", "// a comment\n"+strings.Join(lines, "\n"))
	if got := digestOf(reordered); got != want {
		t.Errorf("other order of fields: %s, want %s", got, want)
	}
	split := copyWorld(t, plain)
	head, rest, _ := strings.Cut(text, "  libs: {\n    a: {")
	body := "{" + strings.TrimSuffix(strings.TrimRight(rest, "\n "), ",\n  },\n}") + "}"
	split.write("defx.jsonnet", head+"  libs: { a: (import 'one.libsonnet') },\n}\n")
	split.write("one.libsonnet", "local defx = import 'defx/v1.libsonnet';\n"+strings.TrimSuffix(body, "}"))
	if got := digestOf(split); got != want {
		t.Errorf("split into files: %s, want %s", got, want)
	}
	t.Setenv("TZ", "Asia/Kathmandu")
	t.Setenv("LC_ALL", "tr_TR.UTF-8")
	if err := os.Chmod(filepath.Join(moved.dir, "defx.jsonnet"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(moved); got != want {
		t.Errorf("other zone and locale: %s, want %s", got, want)
	}
}
