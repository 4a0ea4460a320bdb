package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// execution has services that start well in a first version, WORD being good.
const execution = `local defx = import 'defx/v1.libsonnet';
local sh(text) = ['/bin/sh', '-c', text];
local web(port) = { package: defx.artifact('../build/server'), command: ['server', '-listen', '0.0.0.0:' + defx.me.port('http')], ports: { http: port } };
local good = 'WORD' == 'good';
{
  moving: { service: web(if good then 9201 else 9202) + { ready: { http: '/health', timeout: '10s' } } },
  taken: { service: web(9202) + { ready: { http: '/health', timeout: '10s' } } },
  asleep: { service: { command: ['/bin/sleep', '1000'], ports: { p: 9203 }, ready: { tcp: true, timeout: '3s' } } },
  ending: { service: (if good then web(9204) else { command: sh('sleep 0.05; echo it is broken >&2; exit 3'), ports: { http: 9204 } }) + { ready: { http: '/health', timeout: '20s' } } },
  brief: { service: { command: if good then sh('exec sleep 1000') else sh('sleep 1; echo so brief >&2; exit 4') } },
  front: { service: { command: ['/usr/sbin/nginx', '-c', '/etc/exec.conf', '-g', 'daemon off;'], ports: { http: 9205 }, ready: { http: '/', timeout: '10s' },
    dirs: { cache: 'nginx', runtime: 'nginx' }, reload: { signal: 'HUP', check: ['/usr/sbin/nginx', '-t', '-c', '/etc/exec.conf'] },
    files: { '/etc/exec.conf': 'error_log stderr; pid ' + defx.me.dir('runtime') + '/pid; events {} http { access_log off; ' +
      std.join(' ', ['%s_temp_path %s/%s;' % [n, defx.me.dir('cache'), n] for n in ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']]) +
      ' server { listen 9205; location / { return 200 "front"; } } }' + (if good then '' else ' nonsense;') } } },
  stubborn: { service: { command: sh("trap '' TERM; echo WORD; while :; do sleep 0.2; done"), stop: { timeout: '5s' } } },
}
`

// TestApply_Execution deploys services to a machine on which others use ports, and changes them to
// versions that do not work.
func TestApply_Execution(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	say := func(name, library string) {
		t.Helper()
		s.file("libs/e.libsonnet", library, 0o644)
		s.file("defx.jsonnet", "{ name: '"+name+"', libs: { e: import 'libs/e.libsonnet' }, machines: { m1: { connect: 'ssh://root@"+m.Address+"' } } }\n", 0o644)
	}
	word := func(w string, except ...string) string {
		text := strings.ReplaceAll(execution, "WORD", w)
		for _, name := range except {
			text = strings.ReplaceAll(text, "\n  "+name+": {", "\n  "+name+":: {")
		}
		return text
	}
	apply := func(want int, texts ...string) string {
		t.Helper()
		code, out := s.run("apply", "--yes")
		if code != want {
			t.Errorf("exit code %d, not %d", code, want)
		}
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("no %q in\n%s", text, out)
			}
		}
		return out
	}
	unit := func(name string) string { return "defx-default-exec-e-" + name + ".0.service" }
	pid := func(name string) string { return m.Exec("systemctl show -P MainPID " + unit(name)) }

	m.Exec("systemd-run -q --unit=stranger redis-server --port 9202; systemd-run -q --unit=guest redis-server --port 9203 --bind " + m.Address)
	say("exec", word("good"))
	apply(3, "✗ e/taken", "port 9202 is in use by redis-server (process ", ", stranger.service), which is not managed by defx",
		"✗ e/asleep", "port 9203 is answered by redis-server (process ", ", guest.service), not by this version",
		"✓ e/moving", "✓ e/ending", "✓ e/brief", "✓ e/front", "✓ e/stubborn", "5 created, 2 failed")
	m.Exec("systemctl stop guest")
	if got := m.Exec("ls /etc/systemd/system | grep -E 'taken|asleep' || true"); got != "" {
		t.Errorf("left behind: %s", got)
	}

	before := map[string]string{}
	for _, name := range []string{"moving", "front"} {
		before[name] = pid(name)
	}
	// Only the changes fail; what runs stays.
	say("exec", word("bad", "taken", "asleep"))
	start := time.Now()
	out := apply(3, "✗ e/moving", "port 9202 is in use by redis-server (process ", "was left unchanged",
		"✗ e/ending", "it ended with exit code 3", "it is broken",
		"✗ e/brief", "it ended with exit code 4", "so brief", "the previous version runs again",
		"✗ e/front", "not reloaded, because its check failed: it ended with exit code 1", "nonsense",
		"e/stubborn  waiting for it to stop (SIGTERM sent), ", " of 5 s", "✓ e/stubborn", "1 updated, 4 failed")
	if took := time.Since(start); took > 60*time.Second {
		t.Errorf("it took %s\n%s", took, out)
	}
	for name, was := range before {
		if now := pid(name); now != was || now == "0\n" {
			t.Errorf("%s was restarted: process %s, then %s", name, was, now)
		}
	}
	if got := m.Exec("curl -s http://127.0.0.1:9201/health; curl -s http://127.0.0.1:9204/health; curl -s http://127.0.0.1:9205/; systemctl reload " + unit("front") +
		"; sleep 0.3; curl -s http://127.0.0.1:9205/; systemctl is-active " + unit("brief")); got != "ok\nok\nfrontfrontactive\n" {
		t.Errorf("%q", got)
	}

	// The rest of the same deployment still works, and a unit of another one is named.
	say("exec", word("good", "taken", "asleep"))
	apply(0)
	say("second", "local defx = import 'defx/v1.libsonnet';\n{ web: { service: { command: ['/bin/false'], ports: { http: 9204 }, ready: { http: '/health' } } } }\n")
	apply(3, "port tcp/9204 of this machine belongs to e/ending of default/exec", "nothing was changed")

	// Long stops are mentioned.
	say("exec", strings.ReplaceAll(word("good", "taken", "asleep"), "'5s'", "'45s'"))
	apply(0)
	say("exec", strings.ReplaceAll(word("other", "taken", "asleep", "moving", "ending", "brief", "front"), "'5s'", "'45s'"))
	if _, out := s.run("plan", "-v"); !strings.Contains(out, "e/stubborn") || !strings.Contains(out, "stopping it may take 45s") {
		t.Errorf("%s", out)
	}
}

// TestDocker_Execution is TestApply_Execution with containers.
func TestDocker_Execution(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	const library = `local good = 'WORD' == 'good';
local serve(port) = { package: multiTool, command: ['multi-tool', 'serve', '0.0.0.0:%d' % port], ports: { http: port } };
{
  ending: { service: serve(7501) + { ready: { http: '/', timeout: '30s' } } + (if good then {} else { command: ['multi-tool', 'say', 'it is broken', 'fail', '3'] }) },
  brief: { service: { package: multiTool, command: if good then ['multi-tool', 'sleep', '1h'] else ['multi-tool', 'sleep', '1s', 'say', 'so brief', 'fail', '4'] } },
  front: { service: serve(7502) + { files: { '/etc/front.conf': if good then 'valid' else 'nonsense' }, dirs: { state: 'front' }, env: { RELOADS: '/etc/front.conf' },
    reload: { signal: 'HUP', check: ['multi-tool', 'begins', '/etc/front.conf', 'valid'] } } },
  beside: { backend: 'systemd', service: { command: ['/bin/sleep', '1000'], env: { W: 'WORD' }, ports: { p: if good then 7503 else 7504 } } },
}
`
	s.dock(library, "WORD", "good")
	s.wants(0, "4 created")
	before := containers(m)
	image := m.Docker("inspect", "--format", "{{.Config.Image}}", m.Docker("ps", "--filter", "label=dev.defx.address=d/front#0", "--format", "{{.Names}}"))
	m.Docker("run", "-d", "--name", "mine", "-p", "7504:80", "--entrypoint", "/app/multi-tool", image, "serve", "0.0.0.0:80")
	s.dock(library, "WORD", "bad")
	s.wants(3, "✗ d/ending", "it keeps ending: ", "it is broken", "✗ d/brief", "soon after its start", "so brief", "the previous version runs again",
		"✗ d/front", "not reloaded, because its check failed: ", "it does not begin with valid", "was left unchanged",
		"✗ d/beside", "port 7504 is in use by container mine, which is not managed by defx", "4 failed")
	after := containers(m)
	if got := differ(before, after); got != "d/brief" || !strings.HasSuffix(after[got], "/running") {
		t.Errorf("%s: other containers than before: %v, then %v", got, before, after)
	}
	if got := m.Exec("cat /var/lib/defx/units/*/files/etc/front.conf"); got != "valid" {
		t.Errorf("%q", got)
	}
	for field, value := range map[string]string{"style": "'graceful'", "reuseport": "true"} {
		s.dock("{ web: { service: { package: multiTool, command: ['multi-tool'], update: { " + field + ": " + value + " } } } }")
		if code, out := s.run("plan"); code != 3 || !strings.Contains(out, "libs/dock.libsonnet:3:") || !strings.Contains(out, "cannot run two versions of a service at once") {
			t.Errorf("%d: %s", code, out)
		}
	}
}

// TestUpload_DiskFull sends an artifact for which there is no space.
func TestUpload_DiskFull(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	content := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{3}).Read(content)
	s.file("build/large", string(content), 0o644)
	write := func(from string) {
		s.file("libs/large.libsonnet", `local defx = import 'defx/v1.libsonnet';
{ a: { service: { command: ['/bin/sleep', '1000'], files: { '/etc/large': `+from+` } } } }
`, 0o644)
	}
	s.file("defx.jsonnet", fmt.Sprintf("{ name: 'large', libs: { large: import 'libs/large.libsonnet' }, machines: { m1: { connect: 'ssh://root@%s' } } }\n", m.Address), 0o644)
	m.Exec("mkdir -p /var/lib/defx/store && mount -t tmpfs -o size=1M tmpfs /var/lib/defx/store")
	defer m.Exec("umount -l /var/lib/defx/store")
	for _, from := range []string{"{ from: defx.artifact('../build/large') }", "{ text: std.repeat('abcdefgh', 160000) }"} {
		write(from)
		s.wants(3, "no space left on device", "the machine's disk is full: free some space")
		if got := m.Exec("ls -A /var/lib/defx/store"); got != "" {
			t.Errorf("left behind: %s", got)
		}
	}
	write("{ text: 'small' }")
	s.wants(0, "1 created")
}
