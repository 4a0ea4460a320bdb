package project_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// one returns a deployment whose library app has the given functionalities.
func oneLib(functionalities string, more ...string) string {
	return fmt.Sprintf(`
-- defx.jsonnet --
{
  name: 'tiny',
  libs: { app: {
    %s
  } },
  machines: { box: { connect: 'dir:./box' } },
  %s
}
`, functionalities, strings.Join(more, ""))
}

// set replaces the functionalities of a world made with oneLib.
func (w *world) set(functionalities string, more ...string) {
	w.t.Helper()
	text := oneLib(functionalities, more...)
	w.write("defx.jsonnet", text[strings.Index(text, "{"):])
}

// evaluate evaluates with consents.
func (w *world) evaluate(edit func(*project.Project)) (*project.Project, *project.Desired) {
	w.t.Helper()
	p := w.open()
	if edit != nil {
		edit(p)
	}
	d, err := p.Evaluate(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return p, d
}

// heldText returns the errors of what is held.
func heldText(d *project.Desired) string {
	var b strings.Builder
	for _, h := range d.Held {
		for _, e := range compile.ErrorList(h.Err) {
			b.WriteString(e.Error() + "\n")
		}
	}
	return b.String()
}

const db = `service: { command: ['/bin/db'], ports: { sql: 5432 }, dirs: { state: 'pg' } }`

// data is a file that the service wrote into its directory.
func (w *world) data(address string) string {
	return filepath.Join(w.dir, "box/var/lib/defx/default/tiny", address, "pg/data")
}

func (w *world) writeData(address string) {
	w.t.Helper()
	w.write(strings.TrimPrefix(w.data(address), w.dir+"/"), "precious")
}

func (w *world) checkData(address string) {
	w.t.Helper()
	if raw, err := os.ReadFile(w.data(address)); err != nil || string(raw) != "precious" {
		found, _ := exec.Command("find", filepath.Join(w.dir, "box/var/lib/defx"), "-name", "data").Output()
		w.t.Errorf("the data of %s: %q, %v; found at %s", address, raw, err, found)
	}
}

func TestReplicas_GrowingRenamesNothing(t *testing.T) {
	const web = `web: { place: { %s }, service: { command: ['/bin/web'], dirs: { state: 'pg' } } }`
	w := newWorld(t, oneLib(fmt.Sprintf(web, "")))
	w.apply()
	files := func() []string {
		names, _ := filepath.Glob(filepath.Join(w.dir, "box/etc/systemd/system/defx-default-tiny-app-web.0*"))
		return names
	}
	before := files()
	for _, step := range []struct{ place, want string }{
		{"replicas: 1", ""},
		{"replicas: 2", "create app/web#1"},
		{"replicas: 3", "create app/web#2"},
	} {
		w.set(fmt.Sprintf(web, step.place))
		if _, cs := w.plan(); ops(cs) != step.want {
			t.Errorf("%s: %q, want %q", step.place, ops(cs), step.want)
		}
		if res := w.apply(); len(res.Failed) > 0 {
			t.Fatalf("%+v", res)
		}
	}
	if now := files(); len(now) < 2 || !slices.Equal(now, before) {
		t.Errorf("%v became %v", before, now)
	}
	// Shrinking removes the highest, which keeps data.
	w.set(fmt.Sprintf(web, "replicas: 1"))
	_, cs := w.plan()
	var stays []string
	for _, p := range cs.Protected {
		stays = append(stays, p.Address)
	}
	if ops(cs) != "" || !slices.Equal(stays, []string{"app/web#1", "app/web#2"}) {
		t.Errorf("%q, protected %v", ops(cs), stays)
	}
}

// TestMoved_DataFollows renames a unit in each form, and back.
func TestMoved_DataFollows(t *testing.T) {
	plain, group, counted, named := "web: { "+db+" }", "web: { group: { main: { "+db+" } } }", "web: { place: { replicas: 1 }, "+db+" }", "web: { place: { replicas: { a: {} } }, "+db+" }"
	for name, c := range map[string]struct{ from, to, moved, at, now string }{
		"another name":                     {plain, "db: { " + db + " }", "'app/web': 'app/db'", "app-web.0", "app-db.0"},
		"another name, with replica":       {plain, "db: { " + db + " }", "'app/web#0': 'app/db'", "app-web.0", "app-db.0"},
		"service to member":                {plain, group, "'app/web': 'app/web/main'", "app-web.0", "app-web-main.0"},
		"service to member, replica first": {plain, group, "'app/web#0': 'app/web/main'", "app-web.0", "app-web-main.0"},
		"service to member, replica last":  {plain, group, "'app/web': 'app/web/main#0'", "app-web.0", "app-web-main.0"},
		"member to service":                {group, plain, "'app/web/main': 'app/web'", "app-web-main.0", "app-web.0"},
		"count to name":                    {counted, named, "'app/web#0': 'app/web#a'", "app-web.0", "app-web.a"},
		"count to name, without replica":   {plain, named, "'app/web': 'app/web#a'", "app-web.0", "app-web.a"},
		"name to count":                    {named, plain, "'app/web#a': 'app/web'", "app-web.a", "app-web.0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, oneLib(c.from))
			w.apply()
			w.writeData(c.at)
			w.set(c.to, "moved: { "+c.moved+" },")
			d, cs := w.plan()
			if len(cs.Actions) != 1 || cs.Actions[0].Op != plan.Update || cs.Actions[0].PreviousAddress == "" || len(cs.Protected) > 0 {
				t.Fatalf("%s, protected %v, held %s", ops(cs), cs.Protected, heldText(d))
			}
			if res := w.apply(); len(res.Failed) > 0 || res.Counts.Updated != 1 {
				t.Fatalf("%+v", res)
			}
			w.checkData(c.now)
			if _, err := os.Stat(filepath.Dir(filepath.Dir(w.data(c.at)))); err == nil {
				t.Errorf("the former directory is left")
			}
			if _, cs := w.plan(); !cs.Empty() || len(cs.Protected) > 0 {
				t.Errorf("a second apply: %s", ops(cs))
			}
			w.set(c.to) // the line is no longer needed
			if _, cs := w.plan(); !cs.Empty() {
				t.Errorf("without the line: %s", ops(cs))
			}
		})
	}
}

// TestMoved_KeepsUser checks that a renamed unit keeps its dynamic user, so that its files need no new
// owner, and that a new unit of the former name gets another one.
func TestMoved_KeepsUser(t *testing.T) {
	user := func(w *world, base string) string {
		for line := range strings.Lines(w.unitText("box", base+".????????????.service")) {
			if name, ok := strings.CutPrefix(line, "User="); ok {
				return strings.TrimSpace(name)
			}
		}
		t.Fatalf("no unit of %s has a user", base)
		return ""
	}
	w := newWorld(t, oneLib("web: { "+db+" }"))
	w.apply()
	first := user(w, "defx-default-tiny-app-web.0")
	w.set("db: { "+db+" }", "moved: { 'app/web': 'app/db' },")
	w.apply()
	if got := user(w, "defx-default-tiny-app-db.0"); got != first {
		t.Errorf("the renamed unit runs as %s, not as %s", got, first)
	}
	w.set("db: { "+db+" }, web: { service: { command: ['/bin/web'], dirs: { state: 'pg' } } }", "moved: { 'app/web': 'app/db' },")
	if err := w.planError(); !strings.Contains(fmt.Sprint(err), `"app/web" still exists`) {
		t.Error(err)
	}
	w.set("db: { " + db + " }, web: { service: { command: ['/bin/web'], dirs: { state: 'pg' } } }")
	if res := w.apply(); len(res.Failed) > 0 || res.Counts.Created != 1 || res.Counts.Updated != 0 {
		t.Fatalf("%+v", res)
	}
	if got := user(w, "defx-default-tiny-app-web.0"); got == first {
		t.Errorf("a new unit runs as %s, the user of another one", got)
	}
	if _, cs := w.plan(); !cs.Empty() {
		t.Errorf("a second apply: %s", ops(cs))
	}
}

// planError returns the error that stops a plan.
func (w *world) planError() error {
	_, err := w.open().Evaluate(context.Background())
	return err
}

func TestRename_WithoutMovedIsSuggested(t *testing.T) {
	w := newWorld(t, oneLib("web: { "+db+" }"))
	w.apply()
	w.writeData("app-web.0")
	w.set("db: { " + db + " }")
	d, cs := w.plan()
	text := heldText(d)
	for _, want := range []string{"defx.jsonnet:4:", "app/db: port tcp/5432 on machine box belongs to app/web, which is no longer defined but stays: it keeps data of its own",
		"if it was renamed: moved: { 'app/web': 'app/db' }", "--allow-delete app/web"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	if !cs.Empty() || len(cs.Protected) != 1 {
		t.Errorf("%s, protected %v", ops(cs), cs.Protected)
	}
	if res := w.apply(); res.Wrote {
		t.Errorf("%+v", res)
	}
	// Without a common port both could run, but not on the same data.
	w.set("db: { service: { command: ['/bin/db'], dirs: { state: 'pg' } } }")
	if _, cs := w.plan(); ops(cs) != "create app/db" || len(cs.Protected) != 1 || cs.Protected[0].Moved != "moved: { 'app/web': 'app/db' }" {
		t.Errorf("%s, protected %+v", ops(cs), cs.Protected)
	}
	// The consent to delete the old one lets the new one have the port, after it.
	w.set("db: { " + db + " }")
	p, d := w.evaluate(func(p *project.Project) { p.AllowDelete = map[string]bool{"app/web": true} })
	r := p.ApplyRequest(d)
	r.AllowDelete = p.AllowDelete
	cs, err := p.Changes(context.Background(), d, r)
	if err != nil || ops(cs) != "create app/db, delete app/web" || !slices.Equal(cs.Actions[0].WaitsFor, []string{"app/web#0"}) {
		t.Errorf("%s, %v: %s", ops(cs), err, heldText(d))
	}
}

func TestDirs_GivingUpDataNeedsConsent(t *testing.T) {
	for name, after := range map[string]string{
		"renamed": "web: { service: { command: ['/bin/db'], dirs: { state: 'other' } } }",
		"dropped": "web: { service: { command: ['/bin/db'] } }",
		"literal": "web: { service: { command: ['/bin/db'], user: 'db', dirs: { state: { path: '/srv/pg' } } } }",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, oneLib("web: { service: { command: ['/bin/db'], dirs: { state: 'pg' } } }"))
			w.apply()
			w.set(after)
			d, cs := w.plan()
			text := heldText(d)
			if !cs.Empty() || !strings.Contains(text, `app/web: it would give up the directory "pg", which holds its data`) || !strings.Contains(text, "--give-up-data app/web") || !strings.Contains(text, "defx.jsonnet:") {
				t.Fatalf("%s: %s", ops(cs), text)
			}
			p, d := w.evaluate(func(p *project.Project) { p.GiveUp = map[string]bool{"app/web": true} })
			r := p.ApplyRequest(d)
			r.GiveUp = p.GiveUp
			res, err := apply.Run(context.Background(), r)
			if err != nil || res.Counts.Updated != 1 || !slices.Equal(res.Changes.Actions[0].GivesUp, []string{"pg"}) {
				t.Fatalf("%+v, %v", res, err)
			}
			if _, cs := w.plan(); !cs.Empty() {
				t.Errorf("a second apply: %s", ops(cs))
			}
			// What was given up protects no longer.
			w.set("rest: { service: { command: ['/bin/rest'] } }")
			_, cs = w.plan()
			if protected := len(cs.Protected) == 1; protected != (name != "dropped") {
				t.Errorf("%s, protected %v", ops(cs), cs.Protected)
			}
		})
	}
}

// TestDirs_RollbackGivesUpNoData checks that a rollback needs the same consent.
func TestDirs_RollbackGivesUpNoData(t *testing.T) {
	w := newWorld(t, oneLib("web: { service: { command: ['/bin/db'] } }"))
	w.apply()
	w.set("web: { service: { command: ['/bin/db'], dirs: { state: 'pg' } } }")
	w.apply()
	w.writeData("app-web.0")
	if err := w.tryRollback("tiny", "default", 1); err == nil || !strings.Contains(err.Error(), `it would give up the directory "pg"`) {
		t.Errorf("%v", err)
	}
}

// TestClaims_ConflictsHoldBoth checks that units which want the same are both held, with the
// positions of both.
func TestClaims_ConflictsHoldBoth(t *testing.T) {
	service := func(name, fields string) string {
		return name + ": { service: { command: ['/bin/" + name + "'], " + fields + " } },\n    "
	}
	for name, c := range map[string]struct{ one, two, want string }{
		"one unix socket":            {"sockets: { s: { path: '/run/x.sock' } }", "sockets: { t: { path: '/run/x.sock' } }", "socket /run/x.sock on machine box is also claimed by"},
		"one literal directory":      {"user: 'a', dirs: { state: { path: '/srv/x' } }", "user: 'a', dirs: { cache: { path: '/srv/x' } }", "path /srv/x on machine box is also claimed by"},
		"a directory in another one": {"user: 'a', dirs: { state: { path: '/srv/x' } }", "user: 'a', dirs: { state: { path: '/srv/x/y' } }", "overlaps with path"},
		"a file in a directory":      {"user: 'a', dirs: { state: { path: '/srv/x' } }", "hostFiles: { '/srv/x/conf': 'x' }", "overlaps with path"},
		"a socket in a directory":    {"user: 'a', dirs: { state: { path: '/srv/x' } }", "sockets: { t: { path: '/srv/x/s' } }", "overlaps with "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, oneLib(service("one", c.one)+service("two", c.two)+"other: { service: { command: ['/bin/other'] } }"))
			d, cs := w.plan()
			text := heldText(d)
			if ops(cs) != "create app/other" || strings.Count(text, c.want) != 2 || !strings.Contains(text, "app/one: ") || !strings.Contains(text, "app/two: ") {
				t.Errorf("%s\n%s", ops(cs), text)
			}
			for _, position := range []string{"defx.jsonnet:4:", "defx.jsonnet:5:"} {
				if strings.Count(text, position) < 2 { // of its own error, and in that of the other one
					t.Errorf("%s is not in both errors:\n%s", position, text)
				}
			}
		})
	}
}

func TestClaims_EqualNamesAreNoConflict(t *testing.T) {
	const dirs = "dirs: { state: 'shop', cache: 'shop', logs: 'shop', runtime: 'shop' }"
	w := newWorld(t, oneLib("one: { service: { command: ['/bin/one'], "+dirs+" } }, two: { place: { replicas: 2 }, service: { command: ['/bin/two'], "+dirs+" } }"))
	d, cs := w.plan()
	if ops(cs) != "create app/one, create app/two#0, create app/two#1" {
		t.Fatalf("%s %s", ops(cs), heldText(d))
	}
	w.apply()
	seen := map[string]bool{}
	for _, base := range []string{"one.0", "two.0", "two.1"} {
		for line := range strings.Lines(w.unitText("box", "defx-default-tiny-app-"+base+".????????????.service")) {
			if strings.Contains(line, "Directory=") {
				if seen[line] {
					t.Errorf("%s has %s", base, line)
				}
				seen[line] = true
			}
		}
	}
	if len(seen) != 12 {
		t.Errorf("%d directories", len(seen))
	}
}

// TestClaims_OtherScopesOnOneMachine deploys environments and deployments to one machine.
func TestClaims_OtherScopesOnOneMachine(t *testing.T) {
	entry := func(name, fields string) string {
		return fmt.Sprintf(`function(env='dev') {
  name: '%s', environments: { dev: {}, prod: {} },
  libs: { app: { db: { service: { command: ['/bin/db'], dirs: { state: 'pg' }, user: 'db', %s } } } },
  machines: { box: { connect: 'dir:../box' } },
}`, name, fields)
	}
	root := t.TempDir()
	deploy := func(name, env, fields string) (*apply.Result, string) {
		w := &world{t, filepath.Join(root, name)}
		w.write("defx.jsonnet", entry(name, fields))
		p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{Env: env}, backends.NewSet(systemd.New()))
		if err != nil {
			t.Fatal(err)
		}
		d, err := p.Evaluate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var text string
		r := p.ApplyRequest(d)
		r.OnEvent = func(e apply.Event) {
			if e.Err != nil {
				text += e.Err.Error()
			}
		}
		res, err := apply.Run(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return res, text
	}
	if res, text := deploy("tiny", "dev", "ports: { sql: 5432 }"); len(res.Failed) > 0 {
		t.Fatal(text)
	}
	before := machine(t, filepath.Join(root, "box"))
	for _, c := range []struct{ name, env, fields string }{{"tiny", "prod", "ports: { sql: 5432 }"}, {"other", "dev", "ports: { sql: 5432 }"}} {
		res, text := deploy(c.name, c.env, c.fields)
		if len(res.Failed) != 1 || !strings.Contains(text, "port tcp/5432 of this machine belongs to app/db of dev/tiny") {
			t.Errorf("%s %s: %+v %s", c.name, c.env, res.Failed, text)
		}
		if now := machine(t, filepath.Join(root, "box")); now != before {
			t.Errorf("%s %s changed the machine:\n%s", c.name, c.env, firstDifference(now, before))
		}
	}
	for i, c := range []struct{ name, env string }{{"tiny", "prod"}, {"other", "dev"}} { // equal names and directories are no conflict
		if res, text := deploy(c.name, c.env, fmt.Sprintf("ports: { sql: %d }", 6000+i)); len(res.Failed) > 0 {
			t.Error(text)
		}
	}
}

func TestDirs_SharedWithOwner(t *testing.T) {
	const owner = "db: { place: { machine: 'm2' }, service: { command: ['/bin/db'], dirs: { state: 'pg' } } }"
	w := newWorld(t, oneLib(owner+", backup: { service: { command: ['/bin/backup', defx.me.dir('state')], dirs: { state: { of: 'db' } }, schedule: { every: '1h' } } }", ""))
	w.edit("defx.jsonnet", "{\n  name:", "local defx = import 'defx/v1.libsonnet';\n{\n  name:")
	w.edit("defx.jsonnet", "machines: {", "machines: { m2: { connect: 'dir:./m2' }, ")
	d, cs := w.plan()
	if ops(cs) != "create app/backup, create app/db" {
		t.Fatalf("%s %s", ops(cs), heldText(d))
	}
	if res := w.apply(); len(res.Failed) > 0 {
		t.Fatalf("%+v", res)
	}
	directives := func(base string) (out []string) {
		for line := range strings.Lines(w.unitText("m2", base+".????????????.service")) {
			if strings.HasPrefix(line, "User=") || strings.HasPrefix(line, "StateDirectory=") {
				out = append(out, line)
			}
			if strings.HasPrefix(line, "ExecStart=") && strings.Contains(line, "backup") && !strings.Contains(line, "/var/lib/defx/default/tiny/app-db.0/pg") {
				t.Errorf("the program learns another directory: %s", line)
			}
		}
		return out
	}
	if a, b := directives("defx-default-tiny-app-db.0"), directives("defx-default-tiny-app-backup.0"); len(a) != 2 || !slices.Equal(a, b) {
		t.Errorf("the owner has %q, the other one %q", a, b)
	}
	w.edit("defx.jsonnet", ", backup: {", ", gone:: {")
	if _, cs := w.plan(); ops(cs) != "delete app/backup" || len(cs.Protected) > 0 {
		t.Errorf("%s, protected %v", ops(cs), cs.Protected)
	}
}
