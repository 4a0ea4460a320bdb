package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// fleet is two services, a group and a job that all answer with WORD.
const fleet = `
local serve(port) = { package: multiTool, command: ['multi-tool', 'serve', '0.0.0.0:' + defx.me.port('http')], ports: { http: port }, ready: { http: '/' }, env: { WHO: 'WORD' } };
{
  db: { service: serve(7201) + { dirs: { state: 'db' }, migrate: ['multi-tool', 'write', '$STATE_DIRECTORY/log', 'WORD'] } },
  web: { requires: ['db'], service: serve(7202) + { files: { '/etc/db': 'http://%s:%s/' % [defx.dep('db').host, defx.dep('db').port('http')] } } },
  pair: defx.group({ one: { service: serve(7203) }, two: { service: serve(7204) } }),
  tick: { service: { package: multiTool, command: ['multi-tool', 'write', '$STATE_DIRECTORY/ticks', 'WORD'], dirs: { state: 'tick' }, schedule: { every: '1s' } } },
}
`

// serves fails unless all of the fleet answer with word, and no other container exists.
func (s *site) serves(word string) error {
	m := s.lab.Machines[0]
	for port := 7201; port <= 7204; port++ {
		if got, _ := m.Try(fmt.Sprintf("curl -s -m 5 http://127.0.0.1:%d", port)); got != word+"\n" {
			return fmt.Errorf("port %d says %q, not %q\n%s", port, got, word, m.Docker("ps", "-a"))
		}
	}
	names := strings.Fields(m.Docker("ps", "-a", "--filter", "label=dev.defx.unit", "--format", `{{.Label "dev.defx.unit"}}`))
	count := map[string]int{}
	for _, n := range names {
		base, _, _ := strings.Cut(strings.TrimPrefix(n, "defx-default-dock-d-"), ".")
		kind := n[strings.LastIndexByte(n, '.'):]
		count[base+kind]++
	}
	for _, k := range []string{"db.container", "web.container", "pair-one.container", "pair-two.container", "pair.pod"} {
		if count[k] != 1 {
			return fmt.Errorf("%d times %s: %v", count[k], k, names)
		}
	}
	if got, _ := m.Try("systemctl is-active defx-default-dock-d-tick.0.timer"); got != "active\n" || count["tick.cron"] != 0 {
		return fmt.Errorf("the job's timer is %q: %v", got, names)
	}
	return nil
}

// TestDocker_KilledAnywhere kills defx, or the agent, at a random moment.
func TestDocker_KilledAnywhere(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	s.dock(fleet, "WORD", "first")
	s.wants(0, "5 created")
	r := rand.New(rand.NewPCG(11, uint64(number("DEFX_TEST_SEED", 1))))
	for i := range number("DEFX_TEST_KILLS_DOCKER", 25) {
		word := fmt.Sprintf("word%d", i)
		s.dock(fleet, "WORD", word)
		cmd := s.start("apply", "--yes")
		after, victim := time.Duration(r.IntN(3500))*time.Millisecond, "defx"
		time.Sleep(after)
		if r.IntN(2) == 0 {
			cmd.Process.Kill()
		} else {
			victim = "the agent"
			m.Exec(`for p in /proc/[0-9]*; do case "$(readlink $p/exe)" in /var/lib/defx/bin/*) kill -9 ${p#/proc/};; esac; done; true`)
		}
		cmd.Wait()
		t.Logf("%d: %s was killed after %s", i, victim, after)
		if code, _ := s.run("apply", "--yes"); code != 0 {
			t.Fatalf("%d: one more apply ends with %d", i, code)
		}
		if err := s.serves(word); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if code, out := s.run("apply", "--yes"); code != 0 || !strings.Contains(out, "No changes") {
			t.Fatalf("%d: not done yet", i)
		}
	}
	if _, out := s.run("status", "--refresh"); strings.Contains(out, "orphaned: ") {
		t.Errorf("orphans: %s", out)
	}
	log := m.Exec("cat " + volume("db") + "/log")
	if !strings.HasPrefix(log, "first\n") {
		t.Errorf("the data was lost: %q", log)
	}
}

func TestDocker_EngineRestarts(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	s.dock(fleet, "WORD", "first")
	s.wants(0, "5 created")
	for i, signal := range []string{"TERM", "TERM", "KILL"} {
		word := fmt.Sprintf("word%d", i)
		s.dock(fleet, "WORD", word)
		cmd := s.start("apply", "--yes")
		time.Sleep(time.Duration(1000+400*i) * time.Millisecond)
		m.StopDocker(signal)
		m.StartDocker()
		err := cmd.Wait()
		out := fmt.Sprint(cmd.Stdout)
		t.Logf("%s in the middle: %v\n%s", signal, err, out)
		if err != nil && !strings.Contains(out, "docker engine") && !strings.Contains(out, "does not start") && !strings.Contains(out, "not ready") && !strings.Contains(out, "ended with") {
			t.Errorf("the output does not name the cause")
		}
		if signal == "KILL" { // it may have lost track of what ran: docs/limits.md describes what to do then
			m.StopDocker("TERM")
			m.ClearDocker()
			m.StartDocker()
		}
		if code, _ := s.run("apply", "--yes"); code != 0 {
			t.Fatalf("%d: one more apply ends with %d\n%s\n%s", i, code, m.Docker("ps", "-a", "--no-trunc"), m.Exec("ss -ltnp; tail -60 /var/log/dockerd.log"))
		}
		err = s.serves(word)
		for until := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(until); err = s.serves(word) {
			time.Sleep(500 * time.Millisecond) // a restarted engine starts its containers one by one
		}
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}

	// Without an engine, and with one whose disk is full.
	m.StopDocker("TERM")
	m.Exec("rm -f /var/run/docker.sock")
	s.dock(fleet, "WORD", "last")
	s.wants(3, "there is no docker engine on this machine: socket /var/run/docker.sock does not exist")
	m.Exec("umount -l /var/lib/docker/overlay2 2>/dev/null; mount -t tmpfs -o size=24m tmpfs /var/lib/docker")
	m.StartDocker()
	big := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{}).Read(big)
	if err := os.MkdirAll(filepath.Join(s.dir, "build/big"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.copy(filepath.Join(s.dir, "build/multi-tool"), "build/big/multi-tool")
	if err := os.WriteFile(filepath.Join(s.dir, "build/big/big"), big, 0o644); err != nil {
		t.Fatal(err)
	}
	s.dock(strings.ReplaceAll(fleet, "package: multiTool", "package: defx.artifact('../build/big')"), "WORD", "big")
	s.wants(1, "d/db", "its data is gone", "--allow-empty @m1", "nothing was changed")
	code, out := s.run("apply", "--yes", "--allow-empty", "@m1")
	if code != 3 || !strings.Contains(out, "no space left on device") || !strings.Contains(out, "disk is full") {
		t.Errorf("with a full disk it ends with %d", code)
	}
	m.StopDocker("TERM")
	m.Exec("umount -l /var/lib/docker")
	m.StartDocker()
	s.wants(0)
	if err := s.serves("big"); err != nil {
		t.Error(err)
	}
}

// TestDocker_ImageIsPinned: the digest of a tag is locked once, and changes only on request.
func TestDocker_ImageIsPinned(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	l, err := net.Listen("tcp", s.lab.Gateway()+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New()}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	tag, err := name.NewTag(l.Addr().String() + "/shop/multi-tool:1")
	if err != nil {
		t.Fatal(err)
	}
	publish := func(who string, health ...string) {
		t.Helper()
		s.publish(tag, func(c *v1.Config) {
			c.Env = []string{"WHO=" + who, "PATH=/bin"}
			if len(health) > 0 {
				c.Healthcheck = &v1.HealthConfig{Test: append([]string{"CMD", "multi-tool"}, health...), Interval: time.Second, Timeout: 5 * time.Second, Retries: 2}
			}
		})
	}
	says := func(want string) {
		t.Helper()
		if got, _ := m.Try("curl -s http://127.0.0.1:7301"); got != want+"\n" {
			t.Errorf("%q, want %q", got, want)
		}
	}
	library := "{ web: { service: { image: '" + tag.String() + "', ports: { http: 7301 } }, docker: { ports: { http: 80 } } } }\n"
	publish("one")
	s.dock(library)
	s.wants(3, "has no digest, so its content could change")
	if code, _ := s.run("lock", "--update"); code != 0 {
		t.Fatal("lock failed")
	}
	s.wants(0, "1 created")
	says("one")

	publish("two", "get", "http://127.0.0.1/")
	s.wants(0, "No changes")
	says("one")
	s.run("lock", "--update")
	s.wants(0, "1 updated")
	says("two")

	// A package layered on it, by the same tag: the lock has its digest already.
	above := "{ web: { service: { package: multiTool, command: ['/app/multi-tool', 'say', 'above', 'serve', '0.0.0.0:80'], ports: { http: 7301 } }, docker: { base: '" + tag.String() + "', ports: { http: 80 } } } }\n"
	s.dock(above)
	s.wants(0, "1 updated")
	says("two")
	s.dock(library)
	s.wants(0, "1 updated")

	// A version whose image's health check fails is rolled back.
	publish("three", "get", "http://127.0.0.1:9/")
	s.run("lock", "--update")
	s.wants(3, "its image's health check fails: Get \"http://127.0.0.1:9/\": dial tcp", "the previous version runs again")
	says("two")

	// The old image is removed with the generations that need it.
	if code, _ := s.run("gc", "--keep", "1"); code != 0 {
		t.Error("gc failed")
	}
	if got := m.Exec("docker image ls -q --no-trunc | sort -u"); strings.Count(got, "sha256:") != 1 {
		t.Errorf("%s", m.Docker("image", "ls", "--digests"))
	}
}

// TestDocker_ForeignObjects: foreign containers, networks, volumes and ports are reported
// before anything is stopped, and are not changed.
func TestDocker_ForeignObjects(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	library := `{ web: { service: { package: multiTool, command: ['multi-tool', 'serve', '0.0.0.0:' + defx.me.port('http')], ports: { http: PORT, say: { port: SAY, protocol: 'udp' } }, ready: { http: '/', port: 'http' },
	  env: { WHO: 'WORD' }MORE } } }` + "\n"
	say := func(word string, pairs ...string) {
		s.dock(library, append(pairs, "PORT", "7401", "SAY", "7402", "WORD", word, "MORE", "")...)
	}

	// The network of the deployment and its volume, before the first apply.
	m.Docker("network", "create", "defx-default-dock")
	say("one")
	s.wants(3, "the network defx-default-dock exists and is not managed by defx")
	m.Docker("network", "rm", "defx-default-dock")
	s.wants(0, "1 created")
	if t.Failed() {
		t.FailNow()
	}
	first := containers(m)
	name := func() string {
		return m.Docker("ps", "--filter", "label=dev.defx.address=d/web#0", "--format", "{{.Names}}")
	}
	old := name()
	untouched := func(what string, before map[string]string) {
		t.Helper()
		if got := differ(before, containers(m)); got != "" {
			t.Errorf("%s: %s was touched", what, got)
		}
		if got := m.Exec("curl -s http://127.0.0.1:7401"); got == "" {
			t.Errorf("%s: the service does not answer", what)
		}
	}
	m.Docker("volume", "create", "defx-default-dock-d-web.0.state.web")
	say("one", "MORE", ", dirs: { state: 'web' }")
	s.wants(3, "the volume defx-default-dock-d-web.0.state.web exists and is not managed by defx", "was left unchanged")
	untouched("a volume", first)
	if got := m.Docker("volume", "rm", "defx-default-dock-d-web.0.state.web"); got == "" {
		t.Error("the foreign volume was deleted")
	}

	// Ports: of a container, and of a process that listens for datagrams.
	image := m.Docker("inspect", "--format", "{{.Config.Image}}", old)
	m.Docker("run", "-d", "--name", "mine", "-p", "7403:80", "--entrypoint", "/app/multi-tool", image, "serve", "0.0.0.0:80")
	say("one", "7401", "7401", "PORT", "7403")
	s.wants(3, "port 7403 is taken by the container mine, which is not managed by defx", "was left unchanged")
	untouched("a container's port", first)
	m.Exec("systemd-run -q --unit=datagrams /usr/bin/python3 -c x 2>/dev/null; perl -MIO::Socket::INET -e 'fork and exit; $s = IO::Socket::INET->new(Proto => \"udp\", LocalPort => 7404) or die; sleep 600' >/dev/null 2>&1 </dev/null")
	say("one", "SAY", "7404")
	s.wants(3, "port 7404 is taken by perl (process ", "was left unchanged")
	untouched("a process's port", first)

	// The name of a version that no longer exists.
	say("two")
	s.wants(0, "1 updated")
	second := containers(m)
	m.Docker("run", "-d", "--name", old, "--entrypoint", "/app/multi-tool", image, "sleep", "1h")
	say("one")
	s.wants(3, "the name "+old+" is taken by a container that is not managed by defx", "was left unchanged")
	untouched("a name", second)
	if got := m.Docker("ps", "--format", "{{.Names}}"); !strings.Contains(got, "mine") || !strings.Contains(got, old) {
		t.Errorf("a foreign container was changed: %s", got)
	}

	// Orphans of defx are reported by every apply. Their labels name the generation that
	// they were created for.
	if got := m.Docker("inspect", "--format", `{{index .Config.Labels "dev.defx.generation"}}`, name()); got != "6" { // each failure has a generation of its own
		t.Errorf("created for generation %q", got)
	}
	m.Docker("rm", "-f", old)
	m.Docker("run", "-d", "--name", "forgotten", "--label", "dev.defx.scope=default/dock", "--label", "dev.defx.unit=forgotten.container", "--label", "dev.defx.base=forgotten", "--entrypoint", "/app/multi-tool", image, "sleep", "1h")
	m.Docker("network", "create", "--label", "dev.defx.scope=default/dock", "--label", "dev.defx.unit=lost.network", "lost")
	say("three")
	s.wants(0, "1 updated", "orphaned: container forgotten on m1, network lost on m1; defx gc deletes them")
	if code, _ := s.run("gc"); code != 0 {
		t.Error("gc failed")
	}
	if got := m.Docker("ps", "-a", "--format", "{{.Names}}") + m.Docker("network", "ls", "--format", "{{.Name}}"); strings.Contains(got, "forgotten") || strings.Contains(got, "lost") || !strings.Contains(got, "mine") {
		t.Errorf("after gc: %s", got)
	}
}

// TestDocker_PushThroughRegistry: an image built from a package is pushed with the
// credentials of the machine's user, and pulled from there; nothing is transferred twice.
func TestDocker_PushThroughRegistry(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	l, err := net.Listen("tcp", s.lab.Gateway()+":0")
	if err != nil {
		t.Fatal(err)
	}
	const password = "open-sesame-7f3b"
	var sent atomic.Int64
	inner := registry.New()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, got, _ := r.BasicAuth(); got != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodPatch || r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") {
			sent.Add(max(0, r.ContentLength))
			if r.ContentLength < 0 {
				sent.Add(1)
			}
		}
		inner.ServeHTTP(w, r)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	repository := l.Addr().String() + "/shop/multi-tool"
	say := func(word string) {
		s.dock("{ web: { service: { package: multiTool, command: ['multi-tool', 'serve', '0.0.0.0:7501'], ports: { http: 7501 }, ready: { http: '/' }, env: { WHO: '" + word + "' } }, docker: { push: '" + repository + "' } } }\n")
	}
	says := func(want string) {
		t.Helper()
		if got, _ := m.Try("curl -s http://127.0.0.1:7501"); got != want+"\n" {
			t.Errorf("%q, want %q", got, want)
		}
	}
	say("one")
	s.wants(3, "cannot push its image to "+repository, "401 Unauthorized", "docker login on that machine")
	m.Exec("docker --config /root/.docker login -u me -p " + password + " " + l.Addr().String() + " 2>/dev/null")
	s.wants(0, "1 created")
	says("one")
	if sent.Load() == 0 {
		t.Error("nothing was sent to the registry")
	}
	image := m.Docker("inspect", "--format", "{{.Image}}", strings.Split(containers(m)["d/web"], "/")[0])
	if got := m.Docker("image", "inspect", "--format", "{{.RepoDigests}}", image); !strings.Contains(got, repository+"@sha256:") {
		t.Errorf("it was not pulled from the registry: %s", got)
	}

	// Present layers are not pushed again: neither for another version of the same package,
	// nor after the engine lost the image.
	sent.Store(0)
	say("two")
	s.wants(0, "1 updated")
	if code, _ := s.run("destroy", "--yes", "--confirm", "default"); code != 0 {
		t.Error("destroy failed")
	}
	m.Docker("rmi", "-f", image)
	say("three")
	s.wants(0, "1 created")
	says("three")
	if n := sent.Load(); n != 0 {
		t.Errorf("%d bytes were pushed again", n)
	}

	// A changed package is a new layer; gc deletes unneeded images, including their registry
	// tags.
	if err := os.MkdirAll(filepath.Join(s.dir, "build/more"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.copy(filepath.Join(s.dir, "build/multi-tool"), "build/more/multi-tool")
	s.file("build/more/word", "more", 0o644)
	s.dock("{ web: { service: { package: defx.artifact('../build/more'), command: ['./multi-tool', 'serve', '0.0.0.0:7501'], ports: { http: 7501 }, ready: { http: '/' }, env: { WHO: 'four' } }, docker: { push: '" + repository + "' } } }\n")
	s.wants(0, "1 updated")
	says("four")
	if code, _ := s.run("gc", "--keep", "1"); code != 0 {
		t.Error("gc failed")
	}
	if got := m.Exec("docker image ls -q --no-trunc | sort -u"); strings.Count(got, "sha256:") != 1 {
		t.Errorf("%s", m.Docker("image", "ls", "--digests"))
	}

	// Layered on a base of the same registry: neither machine nor engine transfers its
	// layers. A missing base is reported.
	base, err := name.NewTag(l.Addr().String() + "/shop/base:1")
	if err != nil {
		t.Fatal(err)
	}
	digest := s.publish(base, func(c *v1.Config) { c.Env = []string{"PATH=/bin", "WHO=base"} }, remote.WithAuth(&authn.Basic{Username: "me", Password: password}))
	above := func(of string) {
		s.file("build/conf/word", "conf", 0o644)
		s.dock("{ web: { service: { package: defx.artifact('../build/conf'), command: ['/bin/multi-tool', 'wants', '/app/word', 'serve', '0.0.0.0:7501'], ports: { http: 7501 }, ready: { http: '/' } },\n" +
			"  docker: { push: '" + repository + "', base: '" + base.Context().Name() + "@" + of + "' } } }\n")
	}
	before := containers(m)
	above("sha256:" + strings.Repeat("0", 64))
	s.wants(3, "cannot pull image "+base.Context().Name()+"@sha256:"+strings.Repeat("0", 64), "was left unchanged")
	if got := differ(before, containers(m)); got != "" {
		t.Errorf("%s was changed", got)
	}
	sent.Store(0)
	above(digest)
	s.wants(0, "1 updated")
	says("base")
	if n := sent.Load(); n > 64<<10 {
		t.Errorf("%d bytes were sent for a package of some", n)
	}
	if code, _ := s.run("gc", "--keep", "1"); code != 0 {
		t.Error("gc failed")
	}
	if got := m.Exec("docker image ls -q --no-trunc | sort -u"); strings.Count(got, "sha256:") != 1 {
		t.Errorf("%s", m.Docker("image", "ls", "--digests"))
	}

	for _, dir := range []string{s.dir, filepath.Join(m.Root, "var/lib/defx")} {
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if raw, rerr := os.ReadFile(p); err == nil && rerr == nil && bytes.Contains(raw, []byte(password)) {
				t.Errorf("%s holds the password", p)
			}
			return nil
		})
	}
}
