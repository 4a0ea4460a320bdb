package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// site is a deployment of the webstack example on the machines of a lab.
type site struct {
	t   *testing.T
	lab *machinetest.Lab
	dir string
	bin string
	// contents of the entry file
	user     string // user that ssh logs in as
	pin      string // host key of the first machine, if not its own
	greeting string
	port     int    // of redis
	command  string // of the server; empty: the usual one
	hostKeys bool
	extra    string        // another field of the entry
	env      []string      // additional environment variables of defx
	limit    time.Duration // limit of one command; 0: 3 minutes
}

var builtIn string // removed by TestMain

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "defx-e2e-")
	if err != nil {
		return "", err
	}
	builtIn = dir
	for out, pkg := range map[string]string{"defx": "../../cmd/defx", "server": "../../examples/webstack/server"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%w\n%s", err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// newSite boots n machines and copies the example.
func newSite(t *testing.T, n int) *site {
	t.Helper()
	if os.Getenv("DEFX_E2E") != "1" {
		t.Skip("make e2e runs this")
	}
	t.Parallel() // most of the time is spent waiting
	l := machinetest.Boot(t, n)
	bins, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, lab: l, dir: filepath.Join(l.Dir, "webstack"), bin: filepath.Join(bins, "defx"), user: "root", greeting: "hello", port: 6390}
	if err := os.CopyFS(s.dir, os.DirFS("../../examples/webstack")); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(s.dir, ".defx"))
	s.copy(filepath.Join(bins, "server"), "build/server")
	return s
}

func (s *site) copy(from, to string) {
	s.t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		s.t.Fatal(err)
	}
	s.file(to, string(raw), 0o755)
}

// builds compiles a package into the deployment, as build/NAME.
func (s *site) builds(name, pkg string) {
	s.t.Helper()
	program := filepath.Join(s.t.TempDir(), name)
	cmd := exec.Command("go", "build", "-trimpath", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	s.copy(program, "build/"+name)
}

func (s *site) file(name, text string, mode os.FileMode) {
	s.t.Helper()
	p := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

// write writes the entry file: redis on the first machine, the server on the second, nginx
// on the third.
func (s *site) write() {
	s.t.Helper()
	var machines strings.Builder
	for i, m := range s.lab.Machines {
		key := ""
		if s.hostKeys {
			key = ", hostKey: '" + m.HostKey + "'"
		}
		if i == 0 && s.pin != "" {
			key = ", hostKey: '" + s.pin + "'"
		}
		fmt.Fprintf(&machines, "    %s: { connect: 'ssh://%s@%s'%s },\n", m.Name, s.user, m.Address, key)
	}
	at := func(i int) string { return s.lab.Machines[i%len(s.lab.Machines)].Name }
	command := "['server', '-listen', '0.0.0.0:' + defx.me.port('http')]"
	if s.command != "" {
		command = s.command
	}
	s.file("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
function(env='dev') {
  name: 'webstack',
  libs: { front: import 'libs/front.libsonnet', app: import 'libs/app.libsonnet', data: import 'libs/data.libsonnet' },
  machines: {
%s  },
  overrides: {
    'data/redis': { place+: { machine: '%s' }, service+: { ports+: { redis: %d }, files: { '/etc/webstack/redis.conf':
      'bind 0.0.0.0\nprotected-mode no\nport %%s\ndir %%s\nsave 60 1\n' %% [defx.me.port('redis'), defx.me.dir('state')] } } },
    'app/server': { place+: { machine: '%s' }, service+: { ready+: { timeout: '8s' }, command: %s, env+: { GREETING: '%s' } } },
    'front/nginx': { place+: { machine: '%s' } },
  },
  %s
}
`, machines.String(), at(0), s.port, at(1), command, s.greeting, at(2), s.extra), 0o644)
}

// run runs defx and returns its exit code and output.
func (s *site) run(args ...string) (int, string) {
	s.t.Helper()
	cmd := s.start(args...)
	err := cmd.Wait()
	out := cmd.Stdout.(*bytes.Buffer).String()
	s.t.Logf("defx %s: %v\n%s", strings.Join(args, " "), err, out)
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode(), out
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return 0, out
}

func (s *site) start(args ...string) *exec.Cmd {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(s.limit, 3*time.Minute)) // longer than any single wait of defx, so that a hang is detected
	s.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Dir, cmd.Env = s.dir, append(s.lab.Env(), "XDG_RUNTIME_DIR=", "NO_COLOR=1", "DEFX_LEASE_TIME=1s") // an apply after a kill does not wait for long
	cmd.Env = append(cmd.Env, s.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd
}

// apply writes the entry and applies it.
func (s *site) apply(want int) string {
	s.t.Helper()
	s.write()
	code, out := s.run("apply", "--yes")
	if code != want {
		s.t.Fatalf("exit code %d, not %d\n%s", code, want, out)
	}
	return out
}

// ask requests a page from nginx on the last machine.
func (s *site) ask() string {
	s.t.Helper()
	last := s.lab.Machines[2%len(s.lab.Machines)]
	client := http.Client{Timeout: 20 * time.Second}
	res, err := client.Get("http://" + last.Address + ":8090/")
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		s.t.Fatalf("%s: %s %v", res.Status, raw, err)
	}
	return string(raw)
}

// pids returns the main processes of all defx services on all machines, by name without
// version.
func (s *site) pids() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for _, m := range s.lab.Machines {
		for line := range strings.Lines(m.Exec(`for u in $(systemctl list-units --no-legend --plain --state=active 'defx-*.service' | cut -d' ' -f1); do echo "$u $(systemctl show -P MainPID "$u")"; done`)) {
			unit, pid, _ := strings.Cut(strings.TrimSpace(line), " ")
			name, _, _ := strings.Cut(unit, ".")
			out[name] += m.Name + "/" + pid
		}
	}
	return out
}

// changed returns the services whose process has changed.
func changed(before, after map[string]string) string {
	var out []string
	for _, name := range []string{"data-redis", "app-server", "front-nginx"} {
		full := "defx-dev-webstack-" + name
		if before[full] != after[full] {
			out = append(out, name)
		}
	}
	return strings.Join(out, " ")
}

func TestWebstack_ThreeMachines(t *testing.T) {
	s := newSite(t, 3)
	s.hostKeys = true
	s.apply(0)
	if got := s.ask(); !strings.Contains(got, "hello") {
		t.Fatalf("%q", got)
	}
	first := s.pids()
	if len(first) != 3 {
		t.Fatalf("%v", first)
	}

	s.apply(0)
	if got := changed(first, s.pids()); got != "" {
		t.Errorf("a second apply touched %s", got)
	}

	s.greeting = "good day"
	s.apply(0)
	second := s.pids()
	if got := changed(first, second); got != "app-server" {
		t.Errorf("a changed variable restarted %q", got)
	}
	if got := s.ask(); !strings.Contains(got, "good day") {
		t.Errorf("%q", got)
	}

	s.port = 6391
	s.apply(0)
	third := s.pids()
	if got := changed(second, third); got != "data-redis app-server" {
		t.Errorf("a changed port restarted %q", got)
	}
	if got := s.ask(); !strings.Contains(got, "good day") {
		t.Errorf("%q", got)
	}

	s.command = "['server', '-no-such-flag']"
	out := s.apply(3)
	for _, want := range []string{"flag provided but not defined: -no-such-flag", "the previous version runs again"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if got := s.ask(); !strings.Contains(got, "good day") {
		t.Errorf("the old version does not answer: %q", got)
	}
	s.command = ""
	before := s.pids()
	s.apply(0)
	if got := changed(before, s.pids()); got != "" {
		t.Errorf("an apply of the running configuration restarted %s", got)
	}
	for _, m := range s.lab.Machines {
		if got := m.Exec("systemctl list-units --failed --no-legend --plain"); got != "" {
			t.Errorf("failed on %s: %s", m.Name, got)
		}
	}
}
