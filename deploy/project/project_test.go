package project_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/lang"
	"github.com/rogpeppe/go-internal/txtar"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb {
		os.Exit(lang.Worker(os.Stdin, os.Stdout))
	}
	if len(os.Args) > 2 && os.Args[1] == applyVerb {
		os.Exit(applyAsProcess(os.Args[2:]))
	}
	os.Exit(m.Run())
}

const start = `
-- defx.jsonnet --
function(env='dev') {
  name: 'shop',
  libs: { data: import 'data.libsonnet', web: import 'web.libsonnet', misc: import 'misc.libsonnet' },
  machines: { box: { connect: 'dir:./box' } },
}
-- data.libsonnet --
{
  db: {
    service: {
      command: ['/usr/bin/postgres', '-D', '/var/lib/db'],
      user: 'postgres',
      dirs: { state: 'db' },
      ports: { sql: 5432 },
    },
  },
}
-- web.libsonnet --
local defx = import 'defx/v1.libsonnet';
{
  web: {
    requires: { db: 'data/db' },
    service: {
      command: ['/usr/bin/web'],
      env: { LOG: 'info', DB: 'postgres://%s:%s/x' % [defx.dep('db').host, defx.dep('db').port('sql')] },
      ports: { http: 8080 },
    },
  },
  worker: { service: { command: ['/usr/bin/worker'] } },
}
-- misc.libsonnet --
{
  tick: { service: { command: ['/bin/true'], schedule: { every: '1m' } } },
}
`

// world is the folder of a deployment.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T, archive string) *world {
	w := &world{t, t.TempDir()}
	for _, f := range txtar.Parse([]byte(archive)).Files {
		w.write(f.Name, string(f.Data))
	}
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	name = filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil { // programs of packages must be executable
		w.t.Fatal(err)
	}
}

func (w *world) edit(name, old, new string) {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.Contains(string(raw), old) {
		w.t.Fatalf("%s does not contain %q", name, old)
	}
	w.write(name, strings.ReplaceAll(string(raw), old, new))
}

func (w *world) open() *project.Project {
	w.t.Helper()
	p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New()))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) plan() (*project.Desired, *plan.ChangeSet) {
	w.t.Helper()
	p := w.open()
	d, err := p.Evaluate(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	cs, err := p.Changes(context.Background(), d, p.ApplyRequest(d))
	if err != nil {
		w.t.Fatal(err)
	}
	return d, cs
}

func (w *world) apply() *apply.Result {
	w.t.Helper()
	p := w.open()
	d, err := p.Evaluate(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	work := p.ApplyRequest(d)
	work.LeaseWait = time.Minute // one that was killed has a lease until it is seen not to move
	work.OnEvent = func(e apply.Event) {
		if e.Err != nil {
			w.t.Logf("%s %s: %v", e.Outcome, e.Action.Address, e.Err)
		}
	}
	res, err := apply.Run(context.Background(), work)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func ops(cs *plan.ChangeSet) string {
	var out []string
	for _, a := range cs.Actions {
		out = append(out, string(a.Op)+" "+cs.Names.Text(a.Address))
	}
	return strings.Join(out, ", ")
}

func TestApply_SecondChangesNothing(t *testing.T) {
	w := newWorld(t, start)
	if _, cs := w.plan(); ops(cs) != "create data/db, create misc/tick, create web/web, create web/worker" {
		t.Errorf("plan: %s", ops(cs))
	}
	if _, err := os.Stat(filepath.Join(w.dir, ".defx")); err == nil {
		t.Error("a plan created the state folder")
	}
	res := w.apply()
	if res.Generation != 1 || res.Counts.Created != 4 || len(res.Failed) > 0 {
		t.Fatalf("first apply: %+v", res)
	}
	before := tree(t, w.dir)
	res = w.apply()
	if res.Wrote || res.Counts.Unchanged != 4 || !res.Changes.Empty() {
		t.Errorf("second apply: %+v", res)
	}
	if after := tree(t, w.dir); after != before {
		t.Errorf("the second apply wrote something:\n%s", after)
	}
}

func TestPlan_OneEditChangesOneService(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	w.edit("web.libsonnet", "LOG: 'info'", "LOG: 'debug'")
	_, cs := w.plan()
	if ops(cs) != "update web/web" {
		t.Fatalf("plan: %s", ops(cs))
	}
	a := cs.Actions[0]
	if len(a.Changes) != 1 || a.Verb != plan.Restart {
		t.Fatalf("%+v", a)
	}
	c := a.Changes[0]
	if c.Path != "/env/LOG" || c.Before != "info" || c.After != "debug" || c.Position.String() != "web.libsonnet:7:14" {
		t.Errorf("change: %+v at %s", c, c.Position)
	}
	if res := w.apply(); res.Generation != 2 || res.Counts.Updated != 1 || res.Counts.Unchanged != 3 {
		t.Errorf("apply: %+v", res)
	}
}

func TestPlan_ChangedPortUpdatesItsReaders(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	w.edit("data.libsonnet", "5432", "5433")
	_, cs := w.plan()
	if ops(cs) != "update data/db, update web/web" {
		t.Fatalf("plan: %s", ops(cs))
	}
	if a := cs.Actions[0]; a.Verb != plan.Swap {
		t.Errorf("the database: verb %s, want swap", a.Verb)
	}
	if a := cs.Actions[1]; a.Verb != plan.Restart || len(a.Changes) != 1 || a.Changes[0].Path != "/reads/data~1db.port(sql)" ||
		a.Changes[0].Position.String() != "web.libsonnet:7:27" {
		t.Errorf("the reader: %+v", a)
	}
}

func TestHeld_BrokenLibraryOnly(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	w.edit("data.libsonnet", "service: {", "service: { {")
	w.edit("web.libsonnet", "'/usr/bin/worker'", "'/usr/bin/worker2'")
	d, cs := w.plan()
	if ops(cs) != "update web/worker" || cs.Summary.Held != 1 || cs.Held[0].Address != "data/db#0" || cs.Held[0].Position.File != "data.libsonnet" {
		t.Fatalf("plan: %s, held %+v", ops(cs), cs.Held)
	}
	if len(d.HeldUnits) != 1 {
		t.Errorf("held units: %v", d.HeldUnits)
	}
	if res := w.apply(); res.Counts.Updated != 1 || res.Counts.Held != 1 {
		t.Errorf("apply: %+v", res)
	}
	w.edit("data.libsonnet", "service: { {", "service: {")
	if _, cs := w.plan(); !cs.Empty() {
		t.Errorf("after the fix: %s", ops(cs))
	}
}

func TestHeld_NewFunctionalityHoldsItsDependents(t *testing.T) {
	w := newWorld(t, start)
	w.edit("data.libsonnet", "user: 'postgres'", "usr: 'postgres'")
	_, cs := w.plan()
	if ops(cs) != "create misc/tick, create web/worker" || len(cs.Held) != 2 {
		t.Fatalf("plan: %s, held %+v", ops(cs), cs.Held)
	}
	if h := cs.Held[0]; h.Address != "data/db" || h.Position.String() != "data.libsonnet:5:7" {
		t.Errorf("held: %+v", h)
	}
}

func TestProtected_UnitWithDataIsNotDeleted(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	w.write("data.libsonnet", "{}")
	w.write("web.libsonnet", "{}")
	_, cs := w.plan()
	if ops(cs) != "delete web/web, delete web/worker" || len(cs.Protected) != 1 || cs.Protected[0].Address != "data/db#0" {
		t.Fatalf("plan: %s, protected %+v", ops(cs), cs.Protected)
	}
}

// rollback rolls a world back to a generation.
func (w *world) rollback(deployment, env string, to int) {
	w.t.Helper()
	if err := w.tryRollback(deployment, env, to); err != nil {
		w.t.Fatal(err)
	}
}

// tryRollback is rollback for one that may fail.
func (w *world) tryRollback(deployment, env string, to int) error {
	w.t.Helper()
	p := w.open()
	store := p.Store(deployment, env)
	history, err := state.History(context.Background(), store, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, g := range history {
		if g.Number != to {
			continue
		}
		old := &plan.Plan{}
		if old, err = state.LoadPlan(context.Background(), store, g); err != nil {
			w.t.Fatal(err)
		}
		res, err := apply.Run(context.Background(), &apply.Request{Store: store, Dir: store.Path(), Plan: old, Verb: "rollback", Dial: p.Dialer().Dial})
		if err == nil && len(res.Failed) > 0 {
			err = fmt.Errorf("rollback to %d: %+v", to, res)
		}
		return err
	}
	w.t.Fatalf("no generation %d among %d", to, len(history))
	return nil
}

func TestRollback_RestoresMachinesOfEachGeneration(t *testing.T) {
	w := newWorld(t, "")
	const generations = 5
	want := map[int]string{}
	for n := 1; n <= generations; n++ {
		fleet(w, 30, n)
		w.apply()
		want[n] = machines(t, w)
	}
	for _, n := range []int{1, 4, 2, 5, 3, 1} {
		w.rollback("fleet", "default", n)
		if got := machines(t, w); got != want[n] {
			t.Errorf("rollback to generation %d: %s", n, firstDifference(got, want[n]))
		}
	}
}

func TestRollback_RemovesWhatWasAddedSince(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	first := machine(t, filepath.Join(w.dir, "box"))
	w.edit("misc.libsonnet", "}\n", "  more: { service: { command: ['/bin/more'], user: 'more', reload: { signal: 'HUP' }, files: { '/etc/more.conf': 'x' } } },\n}\n")
	w.apply()
	w.rollback("shop", "dev", 1)
	if now := machine(t, filepath.Join(w.dir, "box")); now != first {
		t.Errorf("the machine differs: %s", firstDifference(now, first))
	}
}

func TestMove_LeavesNothingBehind(t *testing.T) {
	w := newWorld(t, `
-- defx.jsonnet --
{
  name: 'moving',
  libs: { a: { s: { place: { pool: 'p' }, service: { command: ['/bin/s'] } }, kept: { place: { pool: 'p' }, service: { command: ['/bin/k'], dirs: { state: 'k' } } } } },
  machines: { m1: { connect: 'dir:./m1', pool: 'p' } },
}
`)
	w.apply()
	w.edit("defx.jsonnet", "machines: { m1: { connect: 'dir:./m1', pool: 'p' } }", "machines: { m1: { connect: 'dir:./m1', pool: 'q' }, m2: { connect: 'dir:./m2', pool: 'p' } }")
	p := w.open()
	d, err := p.Evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Held) != 1 || !strings.Contains(d.Held[0].Err.Hint, "--allow-move a/kept") {
		t.Errorf("held: %v, want the unit with data", d.Held)
	}
	p.AllowMove = map[string]bool{"a/kept": true}
	if d, err = p.Evaluate(context.Background()); err != nil {
		t.Fatal(err)
	}
	work := p.ApplyRequest(d)
	work.AllowMove = p.AllowMove
	res, err := apply.Run(context.Background(), work)
	if err != nil || res.Counts.Moved != 2 || len(res.Failed) > 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "m1/etc/systemd/system/defx*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if units, _ := filepath.Glob(filepath.Join(w.dir, "m2/etc/systemd/system/defx*.service")); len(units) != 4 {
		t.Errorf("units on m2: %v", units)
	}
}

func TestPlan_OneEditAmongThousandServices(t *testing.T) {
	w := &world{t, benchWorld(t)}
	if res := w.apply(); res.Counts.Created != 1000 {
		t.Fatalf("%+v", res)
	}
	writeThousand(t, w.dir, "debug")
	_, cs := w.plan()
	if ops(cs) != "update l3/s7" || cs.Summary.Unchanged != 999 || len(cs.Actions[0].Changes) != 1 {
		t.Fatalf("%s, %+v", ops(cs), cs.Summary)
	}
	if c := cs.Actions[0].Changes[0]; c.Path != "/env/LOG" || c.Before != "info" || c.After != "debug" || c.Position.String() != "defx.jsonnet:11:18" {
		t.Errorf("%+v at %s", c, c.Position)
	}
	if res := w.apply(); res.Counts.Updated != 1 || res.Counts.Unchanged != 999 {
		t.Errorf("%+v", res)
	}
}

func TestProtected_AddedLater(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	w.edit("web.libsonnet", "command: ['/usr/bin/worker']", "command: ['/usr/bin/worker'], protect: true")
	_, cs := w.plan()
	if ops(cs) != "update web/worker" || cs.Actions[0].Verb != plan.Swap {
		t.Fatalf("%s %+v", ops(cs), cs.Actions)
	}
	w.apply()
	w.edit("web.libsonnet", "  worker: { service: { command: ['/usr/bin/worker'], protect: true } },\n", "")
	if _, cs := w.plan(); len(cs.Actions) != 0 || len(cs.Protected) != 1 {
		t.Errorf("%s, protected %v", ops(cs), cs.Protected)
	}
}

func TestDelete_OrderReversedAcrossMachines(t *testing.T) {
	text := `
-- defx.jsonnet --
{
  name: 'swap',
  libs: { a: { x: { requires: ['y'], place: { machine: 'm1' }, service: { command: ['/x'] } }, y: { place: { machine: 'm2' }, service: { command: ['/y'] } } } },
  machines: { m1: { connect: 'dir:m1', address: '10.0.0.1' }, m2: { connect: 'dir:m2', address: '10.0.0.2' } },
}
`
	w := newWorld(t, text)
	w.apply()
	w.edit("defx.jsonnet", "x: { requires: ['y'], place", "x: { place")
	w.edit("defx.jsonnet", "y: { place", "y: { requires: ['x'], place")
	w.apply()
	w.edit("defx.jsonnet", "libs: { a: {", "libs: { a: {}, b:: {")
	if res := w.apply(); res.Counts.Deleted != 2 || len(res.Failed) > 0 {
		t.Errorf("%+v", res)
	}
}

func TestMachineRenamed_MovesNothing(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	w.edit("defx.jsonnet", "box: { connect: 'dir:./box' }", "web1: { connect: 'dir:box' }")
	if _, cs := w.plan(); !cs.Empty() {
		t.Errorf("%s", ops(cs))
	}
}

func TestApply_RefusesWithoutState(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	if err := os.RemoveAll(filepath.Join(w.dir, ".defx")); err != nil {
		t.Fatal(err)
	}
	p := w.open()
	d, err := p.Evaluate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	before := machine(t, filepath.Join(w.dir, "box"))
	if _, err := apply.Run(context.Background(), p.ApplyRequest(d)); err == nil || !strings.Contains(err.Error(), "it is not the state of this environment") {
		t.Errorf("%v", err)
	}
	if machine(t, filepath.Join(w.dir, "box")) != before {
		t.Error("the machine was changed")
	}
}

func TestApply_BrokenMachineDoesNotBlockOthers(t *testing.T) {
	w := newWorld(t, `
-- defx.jsonnet --
{
  name: 'two',
  libs: { a: { x: { place: { machine: 'm1' }, service: { command: ['/x'], env: { V: '1' } } }, y: { place: { machine: 'm2' }, service: { command: ['/y'], env: { V: '1' } } } } },
  machines: { m1: { connect: 'dir:m1' }, m2: { connect: 'dir:m2' } },
}
`)
	w.apply()
	manifest := filepath.Join(w.dir, "m2/var/lib/defx/manifest.json")
	good, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	w.write("m2/var/lib/defx/manifest.json", "bad")
	for n, v := range []string{"2", "3"} {
		w.edit("defx.jsonnet", "V: '"+string(rune('1'+n))+"'", "V: '"+v+"'")
		if res := w.apply(); res.Counts.Updated != 1 || len(res.Failed) != 1 || !res.Wrote {
			t.Fatalf("%+v", res)
		}
	}
	w.write("m2/var/lib/defx/manifest.json", string(good))
	if res := w.apply(); res.Counts.Updated != 1 || len(res.Failed) != 0 {
		t.Errorf("%+v", res)
	}
}
