package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// newDock is a site whose machines have docker engines.
func newDock(t *testing.T, n int) *site {
	t.Helper()
	s := newSite(t, n)
	s.lab.RequireDocker()
	for _, m := range s.lab.Machines {
		m.StartDocker()
	}
	toy := filepath.Join(t.TempDir(), "toy")
	cmd := exec.Command("go", "build", "-trimpath", "-o", toy, "./testdata/toy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.copy(toy, "build/toy")
	return s
}

// dock writes a deployment of one library.
func (s *site) dock(library string, pairs ...string) {
	s.t.Helper()
	s.file("libs/dock.libsonnet", "local defx = import 'defx/v1.libsonnet';\nlocal toy = defx.artifact('../build/toy');\n"+strings.NewReplacer(pairs...).Replace(library), 0o644)
	var machines strings.Builder
	for _, m := range s.lab.Machines {
		fmt.Fprintf(&machines, "%s: { connect: 'ssh://root@%s' }, ", m.Name, m.Address)
	}
	s.file("defx.jsonnet", "{ name: 'dock', libs: { d: import 'libs/dock.libsonnet' }, machines: { "+machines.String()+"}, defaults: { backend: 'docker' } }\n", 0o644)
}

// containers gives the ids of all containers of defx on a machine, by what they are.
func containers(m *machinetest.Machine) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(m.Docker("ps", "-a", "--no-trunc", "--filter", "label=dev.defx.unit", "--format", `{{.Label "dev.defx.address"}}{{if eq (.Label "dev.defx.address") ""}}{{.Names}}{{end}} {{.ID}} {{.State}}`)) {
		f := strings.Fields(line)
		if out[f[0]] != "" {
			out[f[0]] += " "
		}
		out[f[0]] += f[1] + "/" + f[2]
	}
	return out
}

// differ lists what is not the same in both.
func differ(a, b map[string]string) string {
	var out []string
	for k := range a {
		if a[k] != b[k] {
			out = append(out, k)
		}
	}
	for k := range b {
		if _, had := a[k]; !had {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestWebstackInContainers(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	for _, p := range []string{"/usr/sbin/nginx build/nginx", "/usr/bin/redis-server build/redis"} {
		cmd := exec.Command("./collect.sh", append(strings.Fields(p), m.Root)...)
		cmd.Dir = s.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	entry, err := os.ReadFile(filepath.Join(s.dir, "defx.jsonnet"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(entry), "'local'", "'ssh://root@"+m.Address+"'")
	s.file("defx.jsonnet", text, 0o644)
	apply := func(want int, texts ...string) string {
		t.Helper()
		code, out := s.run("apply", "--yes", "--tla-str", "backend=docker")
		if code != want {
			t.Errorf("exit code %d, not %d", code, want)
		}
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("no %q", text)
			}
		}
		return out
	}
	if apply(0, "3 created"); t.Failed() {
		t.FailNow()
	}
	if got := s.ask(); !strings.Contains(got, "hello, visitor 1") {
		t.Fatalf("%q", got)
	}
	first := containers(m)
	if len(first) != 3 {
		t.Fatalf("%v", first)
	}

	apply(0, "Nothing to do")
	if got := differ(first, containers(m)); got != "" {
		t.Errorf("a second apply touched %s", got)
	}

	// One changed file recreates one container; its volume stays.
	s.file("defx.jsonnet", strings.ReplaceAll(text, `save 60 1\n`, `save 61 1\n`), 0o644)
	apply(0, "1 updated; 2 unchanged")
	second := containers(m)
	if got := differ(first, second); got != "data/redis" {
		t.Errorf("a changed file recreated %q", got)
	}
	if got := s.ask(); !strings.Contains(got, "hello, visitor 2") {
		t.Errorf("the volume did not stay: %q", got)
	}

	// A reloadable file reaches the same container.
	lib := filepath.Join(s.dir, "libs/front.libsonnet")
	front, err := os.ReadFile(lib)
	if err != nil {
		t.Fatal(err)
	}
	s.file("libs/front.libsonnet", strings.ReplaceAll(string(front), "location / {", "location /new { return 200 'it is new'; }\n              location / {"), 0o644)
	apply(0, "reload", "1 updated; 2 unchanged")
	if got := differ(second, containers(m)); got != "" {
		t.Errorf("a reload recreated %q", got)
	}
	if got := m.Exec("for i in $(seq 50); do curl -s http://127.0.0.1:8090/new | grep new && exit 0; sleep 0.1; done; exit 1"); !strings.Contains(got, "it is new") {
		t.Errorf("%q", got)
	}

	// A version that fails: what stood before runs again, the same container.
	app, _ := os.ReadFile(filepath.Join(s.dir, "defx.jsonnet"))
	s.file("defx.jsonnet", strings.ReplaceAll(string(app), "command: ['server',", "command: ['server', '-no-such-flag',"), 0o644)
	apply(3, "flag provided but not defined: -no-such-flag", "the version before it runs again")
	if got := differ(second, containers(m)); got != "" {
		t.Errorf("a failure recreated %q", got)
	}
	if got := s.ask(); !strings.Contains(got, "hello, visitor 3") {
		t.Errorf("%q", got)
	}
	s.file("defx.jsonnet", string(app), 0o644)

	// What is done by hand shows.
	code, out := s.run("status", "--refresh", "--tla-str", "backend=docker")
	if code != 0 || strings.Count(out, "active for") != 3 {
		t.Errorf("%d\n%s", code, out)
	}
	id := strings.Fields(strings.ReplaceAll(second["app/server"], "/", " "))[0]
	m.Docker("update", "--memory", "100m", "--memory-swap", "200m", id)
	m.Docker("stop", strings.Split(second["front/nginx"], "/")[0])
	if _, out := s.run("status", "--refresh", "--tla-str", "backend=docker"); !strings.Contains(out, "may use 104857600 bytes of memory, not 0") || !strings.Contains(out, "is inactive") {
		t.Error("no drift")
	}
	if code, _ := s.run("restart", "front/nginx", "--tla-str", "backend=docker"); code != 0 {
		t.Error("no restart")
	}
	if got := s.ask(); !strings.Contains(got, "hello") {
		t.Errorf("%q", got)
	}
	if _, out := s.run("logs", "app/server", "--tla-str", "backend=docker"); !strings.Contains(out, "serving on 0.0.0.0:8091") {
		t.Error("no logs")
	}
	if code, out := s.run("shell", "data/redis", "--tla-str", "backend=docker", "--", "/usr/bin/redis-server", "--version"); code != 0 || !strings.Contains(out, "Redis server v=") {
		t.Error("no shell")
	}

	// The way back, and rubbish.
	apply(0)
	if code, _ := s.run("rollback", "--yes", "--to", "1", "--tla-str", "backend=docker"); code != 0 {
		t.Error("no rollback")
	}
	if got := s.ask(); !strings.Contains(got, "hello") {
		t.Errorf("%q", got)
	}
	m.Docker("run", "-d", "--name", "forgotten", "--label", "dev.defx.scope=dev/webstack", "--label", "dev.defx.unit=forgotten.container", "--label", "dev.defx.base=forgotten",
		"--entrypoint", "/app/server", m.Docker("inspect", "--format", "{{.Config.Image}}", id))
	m.Docker("run", "-d", "--name", "mine", "--entrypoint", "/app/server", m.Docker("inspect", "--format", "{{.Config.Image}}", id))
	if _, out := s.run("status", "--refresh", "--tla-str", "backend=docker"); !strings.Contains(out, "forgotten") || strings.Contains(out, "mine") {
		t.Error("an orphan is not told")
	}
	if code, _ := s.run("gc", "--keep", "1", "--tla-str", "backend=docker"); code != 0 {
		t.Error("no gc")
	}
	if got := m.Docker("ps", "-a", "--format", "{{.Names}}"); strings.Contains(got, "forgotten") || !strings.Contains(got, "mine") {
		t.Errorf("after gc: %s", got)
	}
	if code, _ := s.run("destroy", "--yes", "--confirm", "dev", "--allow-delete", "data/redis", "--tla-str", "backend=docker"); code != 0 {
		t.Error("no destroy")
	}
	if got := containers(m); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := m.Docker("network", "ls", "-q", "--filter", "label=dev.defx.scope"); got != "" {
		t.Errorf("a network is left: %s", got)
	}
	if got := m.Docker("volume", "ls", "-q"); !strings.Contains(got, "webstack") {
		t.Errorf("the data went: %s", got)
	}
}

// neighbours: two pairs on one machine, each of one that systemd runs and one in a container, and two containers.
const neighbours = `
local web(port) = { package: toy, env: { WHO: 'BODY' }, command: ['toy', 'serve', '0.0.0.0:' + defx.me.port('http')], ports: { http: port }, ready: { http: '/' } };
local asks(name) = { requires: { it: name }, service: { package: toy, command: ['toy', 'get', 'http://%s:%s/' % [defx.dep('it').host, defx.dep('it').port('http')], 'sleep', '1h'] } };
{
  outside: { backend: 'systemd', service: web(7001) },
  inside: { service: web(7002), docker: { ports: { http: 80 } } },
  'outside-asks-inside': asks('inside') + { backend: 'systemd' },
  'inside-asks-outside': asks('outside'),
  'inside-asks-inside': asks('inside'),
}
`

func TestNeighboursOfTwoBackendsFindEachOther(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	s.dock(neighbours, "BODY", "here I am")
	s.wants(0, "5 created")
	if t.Failed() {
		t.FailNow()
	}
	for _, name := range []string{"outside-asks-inside", "inside-asks-outside", "inside-asks-inside"} {
		until := time.Now().Add(10 * time.Second)
		for {
			_, out := s.run("logs", "d/"+name)
			if strings.Contains(out, "here I am") {
				break
			}
			if time.Now().After(until) {
				t.Errorf("%s found nothing: %s", name, out)
				break
			}
			time.Sleep(300 * time.Millisecond)
		}
	}
	if got := m.Docker("inspect", "--format", "{{json .HostConfig.PortBindings}}", strings.Split(containers(m)["d/inside"], "/")[0]); !strings.Contains(got, `"80/tcp":[{"HostIp":"","HostPort":"7002"}]`) {
		t.Errorf("%s", got)
	}

	// A stranger's port and name are told before anything is stopped.
	before := containers(m)
	m.Exec("systemd-run -q --unit=stranger socat TCP-LISTEN:7009,fork - 2>/dev/null || systemd-run -q --unit=stranger /usr/bin/redis-server --port 7009; for i in $(seq 50); do (exec 3<>/dev/tcp/127.0.0.1/7009) 2>/dev/null && exit 0; sleep 0.1; done; exit 1")
	s.dock(strings.ReplaceAll(neighbours, "web(7002)", "web(7009)"), "BODY", "here I am")
	s.wants(3, "port 7009 is taken by something on this machine", "was left as it is")
	if got := differ(before, containers(m)); got != "" {
		t.Errorf("%s was touched", got)
	}

	// From one backend to the other, and back.
	s.dock(strings.Replace(neighbours, "backend: 'systemd', service: web(7001)", "service: web(7001)", 1), "BODY", "here I am")
	s.wants(0, "d/outside", "d/inside-asks-outside")
	if got := m.Exec("systemctl list-units --no-legend 'defx-default-dock-d-outside.service' | wc -l"); strings.TrimSpace(got) != "0" {
		t.Errorf("the old backend's unit is left")
	}
	if got := m.Exec("curl -s http://127.0.0.1:7001/"); got != "here I am\n" {
		t.Errorf("%q", got)
	}
	s.dock(neighbours, "BODY", "here I am")
	s.wants(0, "d/outside")
	if got := slices.Sorted(maps.Keys(containers(m))); !slices.Equal(got, []string{"d/inside", "d/inside-asks-inside", "d/inside-asks-outside"}) {
		t.Errorf("%v", got)
	}
}
