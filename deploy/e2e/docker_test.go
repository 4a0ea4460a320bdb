package e2e

import (
	"compress/gzip"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/engine"
	"github.com/defx-dev/defx/deploy/machinetest"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// newDock boots a site whose machines have docker engines.
func newDock(t *testing.T, n int) *site {
	t.Helper()
	s := newSite(t, n)
	s.lab.RequireDocker()
	for _, m := range s.lab.Machines {
		m.StartDocker()
	}
	tool := filepath.Join(t.TempDir(), "multi-tool")
	cmd := exec.Command("go", "build", "-trimpath", "-o", tool, "./testdata/multi-tool")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.copy(tool, "build/multi-tool")
	return s
}

// dock writes a deployment with one library.
func (s *site) dock(library string, pairs ...string) {
	s.t.Helper()
	s.file("libs/dock.libsonnet", "local defx = import 'defx/v1.libsonnet';\nlocal multiTool = defx.artifact('../build/multi-tool');\n"+strings.NewReplacer(pairs...).Replace(library), 0o644)
	var machines strings.Builder
	for _, m := range s.lab.Machines {
		fmt.Fprintf(&machines, "%s: { connect: 'ssh://root@%s' }, ", m.Name, m.Address)
	}
	s.file("defx.jsonnet", "{ name: 'dock', libs: { d: import 'libs/dock.libsonnet' }, machines: { "+machines.String()+"}, defaults: { backend: 'docker' } }\n", 0o644)
}

// containers returns the ids of defx's containers on a machine, by unit.
func containers(m *machinetest.Machine) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(m.Docker("ps", "-a", "--no-trunc", "--filter", "label=dev.defx.unit", "--format", `{{.Label "dev.defx.address"}}{{if eq (.Label "dev.defx.address") ""}}{{.Names}}{{end}} {{.ID}} {{.State}}`)) {
		f := strings.Fields(line)
		address := strings.TrimSuffix(f[0], "#0") // as defx shows it
		if out[address] != "" {
			out[address] += " "
		}
		out[address] += f[1] + "/" + f[2]
	}
	return out
}

// volume returns a shell expression of the folder of a service's data on its machine, whose
// directory has the service's name.
func volume(service string) string {
	return fmt.Sprintf("$(docker volume inspect --format '{{.Mountpoint}}' defx-default-dock-d-%s.0.state.%[1]s)", service)
}

// differ returns the keys whose values differ.
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

func TestDocker_Webstack(t *testing.T) {
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

	apply(0, "No changes")
	if got := differ(first, containers(m)); got != "" {
		t.Errorf("a second apply touched %s", got)
	}

	// A changed file recreates one container; its volume is kept.
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

	// A version that fails: the same container as before runs again.
	app, _ := os.ReadFile(filepath.Join(s.dir, "defx.jsonnet"))
	s.file("defx.jsonnet", strings.ReplaceAll(string(app), "command: ['server',", "command: ['server', '-no-such-flag',"), 0o644)
	apply(3, "flag provided but not defined: -no-such-flag", "the previous version runs again")
	if got := differ(second, containers(m)); got != "" {
		t.Errorf("a failure recreated %q", got)
	}
	if got := s.ask(); !strings.Contains(got, "hello, visitor ") || strings.Contains(got, "visitor 1\n") { // a request may have failed while the previous version was restarted
		t.Errorf("%q", got)
	}
	s.file("defx.jsonnet", string(app), 0o644)

	// Manual changes are reported.
	code, out := s.run("status", "--refresh", "--tla-str", "backend=docker")
	if code != 3 || strings.Count(out, "active for") != 3 || !strings.Contains(out, "rolled back") {
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

	// Back to the previous version, and garbage collection.
	apply(3, "container changed: memory", "left as it is")
	if code, out := s.run("apply", "--yes", "--repair", "--tla-str", "backend=docker"); code != 0 || !strings.Contains(out, "1 repaired") {
		t.Error("no repair")
	}
	if code, _ := s.run("rollback", "--yes", "--to", "1", "--tla-str", "backend=docker"); code != 0 {
		t.Error("no rollback")
	}
	if got := s.ask(); !strings.Contains(got, "hello") {
		t.Errorf("%q", got)
	}
	image := m.Docker("inspect", "--format", "{{.Config.Image}}", strings.Split(containers(m)["app/server"], "/")[0])
	m.Docker("run", "-d", "--name", "forgotten", "--label", "dev.defx.scope=dev/webstack", "--label", "dev.defx.unit=forgotten.container", "--label", "dev.defx.base=forgotten",
		"--entrypoint", "/app/server", image)
	m.Docker("run", "-d", "--name", "mine", "--entrypoint", "/app/server", image)
	if _, out := s.run("status", "--refresh", "--tla-str", "backend=docker"); !strings.Contains(out, "forgotten") || strings.Contains(out, "mine") {
		t.Error("an orphan is not reported")
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

// neighbours: on one machine two pairs of a systemd service and a container that need each
// other, and two containers.
const neighbours = `
local web(port) = { package: multiTool, env: { WHO: 'BODY' }, command: ['multi-tool', 'serve', '0.0.0.0:' + defx.me.port('http')], ports: { http: port }, ready: { http: '/' } };
local asks(name) = { requires: { it: name }, service: { package: multiTool, command: ['multi-tool', 'get', 'http://%s:%s/' % [defx.dep('it').host, defx.dep('it').port('http')], 'sleep', '1h'] } };
{
  outside: { backend: 'systemd', service: web(7001) },
  inside: { service: web(7002), docker: { ports: { http: 80 } } },
  'outside-asks-inside': asks('inside') + { backend: 'systemd' },
  'inside-asks-outside': asks('outside'),
  'inside-asks-inside': asks('inside'),
}
`

func TestDocker_DependenciesAcrossBackends(t *testing.T) {
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

	// A foreign port or name is reported before anything is stopped.
	before := containers(m)
	m.Exec("systemd-run -q --unit=foreign socat TCP-LISTEN:7009,fork - 2>/dev/null || systemd-run -q --unit=foreign /usr/bin/redis-server --port 7009; for i in $(seq 50); do (exec 3<>/dev/tcp/127.0.0.1/7009) 2>/dev/null && exit 0; sleep 0.1; done; exit 1")
	s.dock(strings.ReplaceAll(neighbours, "web(7002)", "web(7009)"), "BODY", "here I am")
	s.wants(3, "port 7009 is taken by redis-server (process ", "was left unchanged")
	if got := differ(before, containers(m)); got != "" {
		t.Errorf("%s was touched", got)
	}

	// From one backend to the other, and back.
	s.dock(strings.Replace(neighbours, "backend: 'systemd', service: web(7001)", "service: web(7001)", 1), "BODY", "here I am")
	s.wants(0, "d/outside", "d/inside-asks-outside")
	if got := m.Exec("systemctl list-units --no-legend 'defx-default-dock-d-outside.0.service' | wc -l"); strings.TrimSpace(got) != "0" {
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

// boxes has one service of each kind.
const boxes = `
local serve(port) = { package: multiTool, command: ['multi-tool', 'serve', '0.0.0.0:' + defx.me.port('http')], ports: { http: port }, ready: { http: '/' }, env: { WHO: 'WORD' } };
{
  tick: { service: { package: multiTool, command: ['multi-tool', 'write', '$STATE_DIRECTORY/ticks', 'WORD'], dirs: { state: 'tick' }, schedule: { every: '1s' } } },
  slow: { service: serve(7101) + { dirs: { state: 'slow' }, initializer: ['multi-tool', 'write', '$STATE_DIRECTORY/log', 'init'],
    migrate: ['multi-tool', 'say', 'on the way', 'write', '$STATE_DIRECTORY/log', 'WORD', MIGRATE], ready: { exec: ['multi-tool', 'wants', defx.me.dir('state') + '/log'], timeout: '10s' },
    limits: { cpu: '0.5', memory: '64Mi', tasks: 50, openFiles: 500 }, stop: { signal: 'SIGINT', timeout: '3s', command: ['multi-tool', 'write', defx.me.dir('state') + '/log', 'bye'] } } },
  pair: defx.group({
    one: { service: serve(7102) + { env: { WHO: 'ONE' } } },
    two: { requires: ['one'], service: serve(7103) + { env: { WHO: 'TWO' }, args: ['get', 'http://%s:%s/' % [defx.dep('one').host, defx.dep('one').port('http')]] } },
  }),
  'asks-pair': { requires: { p: 'pair/two' }, service: { package: multiTool, command: ['multi-tool', 'get', 'http://%s:%s/' % [defx.dep('p').host, defx.dep('p').port('http')], 'sleep', '1h'] } },
  again: { service: serve(7104) + { dirs: { state: 'again' }, env: { RELOADS: '/etc/again.conf' }, files: { '/etc/again.conf': 'CONTENT' }, reload: { signal: 'HUP' } } },
  hidden: { service: { package: multiTool, secrets: { WORD: defx.secret('word') }, command: ['multi-tool', 'wants', '$WORD_FILE', 'sleep', '1h'] } },
  'run-by-name': { service: serve(7105) + { user: 'web', files: { '/etc/mine.conf': { text: 'x', mode: '0400', owner: 'web' } }, command: ['multi-tool', 'write', defx.me.dir('state') + '/x', 'y', 'serve', '0.0.0.0:7105'], dirs: { state: 'named', runtime: 'named' } } },
}
`

func TestDocker_EveryKind(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	in := func(service, path string) string {
		t.Helper()
		out, err := m.Try("cat " + volume(service) + "/" + path)
		if err != nil {
			t.Errorf("%s of %s: %v %s", path, service, err, out)
		}
		return out
	}
	eventually := func(what string, f func() bool) {
		t.Helper()
		for range 100 {
			if f() {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("it never came to this: %s", what)
	}
	words := []string{"MIGRATE", "'say', 'all done'", "ONE", "1", "TWO", "2", "CONTENT", "first"}
	say := func(word string, more ...string) {
		s.dock(boxes, append(append([]string{"'WORD'", "'" + word + "'"}, more...), words...)...)
	}

	say("red")
	s.wants(3, "the secret WORD is missing on this machine", "7 created, 1 failed")
	m.Exec("mkdir -p /var/lib/defx/secrets/default/dock; echo hush > /var/lib/defx/secrets/default/dock/word; chmod -R go= /var/lib/defx/secrets")
	s.wants(0, "1 created")
	if t.Failed() {
		t.FailNow()
	}
	if got := in("slow", "log"); got != "init\nred\n" {
		t.Errorf("%q", got)
	}
	wrote := func(service, path string) string {
		out, _ := m.Try("cat " + volume(service) + "/" + path)
		return out
	}
	eventually("two runs of the job", func() bool { return strings.Count(wrote("tick", "ticks"), "red\n") > 1 })
	eventually("a record of runs", func() bool {
		out, _ := m.Try("cat /var/lib/defx/runs/*tick.0.jsonl")
		return strings.Count(out, `"code":0`) > 1
	})
	for port, want := range map[string]string{"7101": "red\n", "7102": "1\n", "7103": "2\n", "7105": "red\n"} {
		if got, _ := m.Try("curl -s http://127.0.0.1:" + port); got != want {
			t.Errorf("port %s: %q, want %q", port, got, want)
		}
	}
	eventually("a neighbour reaches the group", func() bool { _, out := s.run("logs", "d/asks-pair"); return strings.Contains(out, "2") })
	is := func(address, format, want string) {
		t.Helper()
		id := strings.Split(containers(m)[address], "/")[0]
		if got := m.Docker("inspect", "--format", format, id); got != want {
			t.Errorf("%s: %s is %q, want %q", address, format, got, want)
		}
	}
	slow := func() string {
		return strings.TrimSpace(m.Docker("ps", "-q", "--no-trunc", "--filter", "label=dev.defx.address=d/slow#0", "--filter", "publish=7101"))
	}
	for format, want := range map[string]string{"{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}": "67108864 500000000 50",
		"{{.Config.StopSignal}} {{.Config.StopTimeout}}": "SIGINT 3", "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.RestartPolicy.Name}}": "true [ALL] always"} {
		if got := m.Docker("inspect", "--format", format, slow()); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
	is("d/run-by-name", "{{.State.Running}}", "true")

	// Only what changed: one member of a group, and a file that is reloaded.
	before := containers(m)
	words = []string{"MIGRATE", "'say', 'all done'", "ONE", "1", "TWO", "22", "CONTENT", "second"}
	say("red")
	s.wants(0, "d/pair/two", "d/again", "reload", "2 updated; 6 unchanged")
	if got := differ(before, containers(m)); strings.TrimSuffix(got, " d/tick") != "d/pair/two" { // a job is running, or has run
		t.Errorf("%s changed", got)
	}
	eventually("the reloaded file was read", func() bool { return strings.Contains(wrote("again", "reloads"), "second") })
	if got := m.Exec("curl -s http://127.0.0.1:7103"); got != "22\n" {
		t.Errorf("%q", got)
	}

	// A migration that fails: the old version continues, and the migration's output is
	// shown.
	was := slow()
	words = []string{"MIGRATE", "'fail', '4'", "ONE", "1", "TWO", "22", "CONTENT", "second"}
	say("blue")
	s.wants(3, "migrate.once, which runs before it, failed: it ended with exit code 4", "on the way", "the previous version runs again")
	if slow() != was {
		t.Error("another container serves")
	}
	if got := m.Exec("curl -s http://127.0.0.1:7101"); got != "red\n" {
		t.Errorf("%q", got)
	}
	words[1] = "'say', 'all done'"
	say("blue")
	s.wants(0)
	if got := in("slow", "log"); !strings.HasPrefix(got, "init\nred\nbye\nblue\n") || strings.Count(got, "init") != 1 {
		t.Errorf("%q", got)
	}
	eventually("the job's new version", func() bool { return strings.Contains(wrote("tick", "ticks"), "blue\n") })
	eventually("the job's old version is gone", func() bool {
		return len(strings.Fields(m.Docker("ps", "-aq", "--filter", "label=dev.defx.address=d/tick#0"))) == 1
	})
	if code, out := s.run("restart", "d/tick"); code != 0 {
		t.Errorf("%s", out)
	}

	// A member's port belongs to the pod: the group gets a new one.
	text := strings.Replace(boxes, "serve(7103)", "serve(7113)", 1)
	s.dock(text, append([]string{"'WORD'", "'blue'"}, words...)...)
	s.wants(0, "d/pair/one", "rendered differently: group.1.ports.http.port", "d/pair/two")
	for port, want := range map[string]string{"7102": "1\n", "7113": "22\n"} {
		if got, _ := m.Try("curl -s http://127.0.0.1:" + port); got != want {
			t.Errorf("port %s: %q, want %q", port, got, want)
		}
	}

	// After a boot the engine alone starts everything again.
	if code, out := s.run("destroy", "--yes", "--confirm", "default", "--allow-delete", "d/tick", "--allow-delete", "d/slow", "--allow-delete", "d/again", "--allow-delete", "d/run-by-name"); code != 0 {
		t.Errorf("%s", out)
	}
	if got := m.Docker("network", "ls", "-q", "--filter", "label=dev.defx.scope"); got != "" {
		t.Errorf("a network is left: %s", got)
	}
	if got := containers(m); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := m.Exec("find /var/lib/defx/containers /var/lib/defx/secrets/.containers /var/lib/defx/done /var/lib/defx/runs /var/lib/defx/units -type f 2>/dev/null || true"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// publish pushes an image of multi-tool to a registry under a name, and returns its digest.
func (s *site) publish(tag name.Tag, config func(*v1.Config), with ...remote.Option) string {
	s.t.Helper()
	must := func(err error) {
		if err != nil {
			s.t.Helper()
			s.t.Fatal(err)
		}
	}
	dir := s.t.TempDir()
	raw, err := os.ReadFile(filepath.Join(s.dir, "build/multi-tool"))
	must(err)
	must(os.WriteFile(filepath.Join(dir, "multi-tool"), raw, 0o755))
	img, err := engine.Image(empty.Image, dir, "/bin", nil)
	must(err)
	layers, err := img.Layers()
	must(err)
	small, err := tarball.LayerFromOpener(layers[0].Uncompressed, tarball.WithCompressionLevel(gzip.BestCompression)) // registries may have layers that were compressed differently
	must(err)
	img, err = mutate.AppendLayers(empty.Image, small)
	must(err)
	file, err := img.ConfigFile()
	must(err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config.Entrypoint, file.Config.Cmd = []string{"/bin/multi-tool"}, []string{"serve", "0.0.0.0:80"}
	if config != nil {
		config(&file.Config)
	}
	img, err = mutate.ConfigFile(img, file)
	must(err)
	must(remote.Write(tag, img, with...))
	digest, err := img.Digest()
	must(err)
	return digest.String()
}
