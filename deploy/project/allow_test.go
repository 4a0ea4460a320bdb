package project_test

import (
	"context"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
)

const worstNeeds = `
-- defx.jsonnet --
{
  name: 'c', machines: { m: { connect: 'dir:m' }, box: { connect: 'ssh://box' } }, ALLOW
  libs: { app: import 'app.libsonnet', pay: { api: { place: { machine: 'm' }, service: { command: ['/bin/true'] } } } },
}
-- app.libsonnet --
local defx = import 'defx/v1.libsonnet';
local on(m, s, more={}) = { place: { machine: m }, service: s } + more;
local image = 'r.example.com/x@sha256:` + sixtyFour + `';
{
  privileged: on('box', { image: image }, { backend: 'docker', docker: { host: { Privileged: true } } }),
  pid: on('box', { image: image }, { backend: 'docker', docker: { host: { PidMode: 'host' } } }),
  socket: on('box', { image: image }, { backend: 'docker', docker: { volumes: [{ path: '/var/run/docker.sock', target: '/s' }] } }),
  secrets: on('box', { image: image }, { backend: 'docker', docker: { volumes: [{ path: '/var/lib/defx/secrets', target: '/s', readOnly: true }] } }),
  preload: on('m', { command: ['/bin/true'], hostFiles: { '/etc/ld.so.preload': '/x' } }),
  core: on('m', { command: ['/bin/true'] }, { host: { sysctl: { 'kernel.core_pattern': '|/tmp/x %p' } } }),
  group: on('m', { command: ['/bin/true'] }, { host: { users: { ci: { groups: ['docker'] } } } }),
  foreign: on('m', { command: ['/bin/true'], secrets: { K: defx.secret('pay/key') } }),
  allow: on('m', { command: ['/bin/true'] }, { allow:: { 'app/*': ['privileged'] } }),
  reboot: on('m', { command: ['/bin/true'], ports: { http: 8080 } }, { systemd: { unit: { FailureAction: 'reboot' } } }),
  quiet: on('m', { command: ['/bin/true'] }),
}
`

const sixtyFour = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// TestAllow_WorstNeedsAreHeld checks that what gives the rights of root is an error at its field until
// the entry file allows it, and that the line in the hint is enough.
func TestAllow_WorstNeedsAreHeld(t *testing.T) {
	needs := map[string]graph.NeedKind{"privileged": graph.NeedPrivileged, "pid": graph.NeedHostPID, "socket": graph.NeedEngineSocket, "secrets": graph.NeedDefxFiles,
		"preload": graph.NeedRootFiles, "core": graph.NeedKernelProgram, "group": graph.NeedRootGroup, "foreign": graph.NeedSecretOfOther}
	ctx := context.Background()
	evaluate := func(w *world) (*project.Project, *project.Desired, *plan.ChangeSet) {
		p, d := w.evaluate(func(p *project.Project) { p.Backends = backends.NewSet(systemd.New(), docker.New()) })
		cs, err := p.Changes(ctx, d, p.ApplyRequest(d))
		if err != nil {
			t.Fatal(err)
		}
		return p, d, cs
	}
	w := newWorld(t, strings.Replace(worstNeeds, "ALLOW", "", 1))
	p, d, cs := evaluate(w)
	if len(d.Held) != len(needs) {
		t.Errorf("held: %v", d.Held)
	}
	lines := []string{}
	for _, h := range d.Held {
		kind := needs[strings.TrimPrefix(h.Name, "app/")]
		line := "allow: { '" + h.Name + "': ['" + string(kind) + "'] }"
		if kind == "" || !strings.HasSuffix(h.Err.Hint, line) || h.Err.Pos.File != "app.libsonnet" {
			t.Errorf("%s: %v, want the hint %s", h.Name, h.Err, line)
		}
		lines = append(lines, strings.TrimSuffix(strings.TrimPrefix(line, "allow: { "), " }"))
	}
	for _, a := range cs.Actions {
		if needs[strings.TrimPrefix(cs.Names.Text(a.Address), "app/")] != "" {
			t.Errorf("%s is deployed", a.Address)
		}
		switch text := needsOf(a); cs.Names.Text(a.Address) {
		case "app/reboot":
			if text != "effect on others FailureAction=reboot, port tcp/8080" {
				t.Errorf("reboot: %s", text)
			}
		case "app/quiet", "pay/api":
			if text != "" {
				t.Errorf("%s: %s", a.Address, text)
			}
		}
	}
	// Lint sees the same.
	found, err := p.Lint(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	for _, f := range found {
		if f.Code == "needs" {
			said += f.Error() + "\n"
		}
	}
	if !strings.Contains(said, "app/reboot") || !strings.Contains(said, "FailureAction=reboot") || strings.Count(said, "hint") != 1 {
		t.Errorf("lint: %s", said)
	}
	// What the hints say is enough.
	w = newWorld(t, strings.Replace(worstNeeds, "ALLOW", "allow: { "+strings.Join(lines, ", ")+", 'app/reboot': ['others'] },", 1))
	p, d, cs = evaluate(w)
	if len(d.Held) != 0 || !strings.Contains(ops(cs), "create app/privileged") {
		t.Errorf("held %v; %s", d.Held, ops(cs))
	}
	if found, err := p.Lint(ctx, d); err != nil || strings.Contains(found.Error(), "FailureAction") {
		t.Errorf("lint: %v %v", found, err)
	}
	// Without the permission, what was planned before is held again, memoized or not.
	w.edit("defx.jsonnet", "'app/preload': ['root-files']", "'app/preload': ['root']")
	if _, d, _ := evaluate(w); len(d.Held) != 1 || d.Held[0].Name != "app/preload" {
		t.Errorf("held: %v", d.Held)
	}
}

// needsOf returns the needs of an action as text.
func needsOf(a plan.Action) string {
	var out []string
	for _, n := range a.Needs {
		out = append(out, n.String())
	}
	return strings.Join(out, ", ")
}

func TestAllow_MistakesAreErrors(t *testing.T) {
	for allow, want := range map[string]string{
		"allow: { 'app/quit': ['root'] },":     `allow: no library defines "app/quit"`,
		"allow: { 'ap/*': ['root'] },":         `allow: there is no library "ap"`,
		"allow: { 'app/*': ['priviledged'] },": `did you mean "privileged"?`,
		"allow: { 'app/quiet': 'root' },":      "a list is required",
	} {
		w := newWorld(t, strings.Replace(worstNeeds, "ALLOW", allow, 1))
		if _, err := w.open().Evaluate(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", allow, err)
		}
	}
}
