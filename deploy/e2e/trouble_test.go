package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// apart is a library with two independent services, on the first and the second machine, and
// one that requires the latter.
const apart = `local defx = import 'defx/v1.libsonnet';
local one(port) = { package: defx.artifact('../build/server'), command: ['server', '-listen', '0.0.0.0:' + defx.me.port('http')],
  env: { GREETING: 'WORD' }, ports: { http: port }, ready: { http: '/health', timeout: '10s' } };
{ left: { place: { machine: 'm1' }, service: one(7001) }, right: { place: { machine: 'm2' }, service: one(7002) },
  below: { place: { machine: 'm1' }, requires: ['right'], service: one(7003) } }
`

// writeApart writes an entry file with the library apart.
func (s *site) writeApart(word string) {
	s.t.Helper()
	s.file("libs/apart.libsonnet", strings.ReplaceAll(apart, "WORD", word), 0o644)
	var machines strings.Builder
	for i, m := range s.lab.Machines {
		key := ""
		if i == 0 && s.pin != "" {
			key = ", hostKey: '" + s.pin + "'"
		}
		fmt.Fprintf(&machines, "%s: { connect: 'ssh://%s@%s'%s }, ", m.Name, s.user, m.Address, key)
	}
	s.file("defx.jsonnet", "{ name: 'apart', libs: { apart: import 'libs/apart.libsonnet' }, machines: { "+machines.String()+"} }\n", 0o644)
}

func (s *site) wants(want int, texts ...string) {
	s.t.Helper()
	code, out := s.run("apply", "--yes")
	if code != want {
		s.t.Errorf("exit code %d, not %d", code, want)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			s.t.Errorf("no %q", text)
		}
	}
}

func TestApply_FailuresStayLocal(t *testing.T) {
	s := newSite(t, 2)
	m1, m2 := s.lab.Machines[0], s.lab.Machines[1]
	untouched := func() {
		t.Helper()
		for _, m := range s.lab.Machines {
			if got := m.Exec("ls /var/lib/defx /etc/systemd/system/defx-* 2>/dev/null || true"); got != "" {
				t.Errorf("%s is not untouched: %s", m.Name, got)
			}
		}
	}

	s.user = "plain"
	s.writeApart("one")
	s.wants(3, "plain@"+m1.Address+" cannot become root", "apart/below", "which failed")
	untouched()

	s.user, s.pin = "deploy", m2.HostKey
	s.writeApart("one")
	s.wants(3, "its host key has changed", "✓ apart/right")
	s.pin = ""
	s.writeApart("one")
	s.wants(0, "2 created; 1 unchanged")

	// A machine that hangs delays only its own units, and those that require them.
	m2.Freeze()
	s.writeApart("two")
	s.wants(3, "✓ apart/left", "✗ apart/right", "does not answer", "apart/below")
	m2.Thaw()
	s.wants(0, "2 updated; 1 unchanged")
	m2.Cut()
	s.writeApart("three")
	s.wants(3, "✓ apart/left", "✗ apart/right", "does not answer")
	m2.Heal()
	s.wants(0, "2 updated; 1 unchanged")

	m1.Exec("mount -t tmpfs -o size=20k tmpfs /etc/systemd/system/multi-user.target.wants 2>/dev/null; mount -o bind,ro /etc/systemd/system /etc/systemd/system")
	s.writeApart("four")
	s.wants(3, "✗ apart/left", "read-only file system", "✓ apart/right")
	m1.Exec("umount /etc/systemd/system")
	s.wants(0)
	if got := m1.Exec("curl -s http://127.0.0.1:7001/ || true; systemctl show -P ActiveState defx-default-apart-apart-left.0.service"); !strings.Contains(got, "active") {
		t.Errorf("%q", got)
	}

	m1.Exec("mv /run/systemd/private /run/systemd/away")
	s.writeApart("five")
	s.wants(3, "systemd is not running here", "connect: 'dir:PATH'", "✓ apart/right")
	m1.Exec("mv /run/systemd/away /run/systemd/private")
	s.wants(0)

	// What is destroyed leaves nothing.
	if code, _ := s.run("destroy", "--confirm", "default"); code != 0 {
		t.Errorf("destroy ends with %d", code)
	}
	for _, m := range s.lab.Machines {
		if got := m.Exec("ls -d /etc/systemd/system/*defx* /var/lib/defx/units /var/lib/defx/done/* 2>/dev/null; systemctl list-units --all --no-legend --plain 'defx-*' | grep -v slice; true"); got != "" {
			t.Errorf("%s keeps %s", m.Name, got)
		}
	}
}

// TestApply_MachineStopsResponding freezes, and then disconnects, a machine while a unit
// starts there: the apply ends by itself, and the next one completes the work.
func TestApply_MachineStopsResponding(t *testing.T) {
	s := newSite(t, 2)
	m := s.lab.Machines[1]
	for i, silence := range []struct{ begin, end func() }{{m.Freeze, m.Thaw}, {m.Cut, m.Heal}} {
		s.file("libs/slow.libsonnet", fmt.Sprintf(`{
  slow: { place: { machine: 'm2' }, service: { command: ['/bin/sleep', '10%d'], user: 'root', ready: { exec: ['/bin/sh', '-c', 'test -e /run/go'], timeout: '60s' } } },
  other: { place: { machine: 'm1' }, service: { command: ['/bin/sleep', '20%d'] } },
}
`, i, i), 0o644)
		var machines strings.Builder
		for _, m := range s.lab.Machines {
			fmt.Fprintf(&machines, "%s: { connect: 'ssh://root@%s' }, ", m.Name, m.Address)
		}
		s.file("defx.jsonnet", "{ name: 'slow', libs: { slow: import 'libs/slow.libsonnet' }, machines: { "+machines.String()+"} }\n", 0o644)
		m.Exec("rm -f /run/go")
		cmd := s.start("apply", "--yes")
		m.Exec(fmt.Sprintf("for i in $(seq 300); do systemctl is-active -q 'defx-default-slow-slow-slow.0.*' && pgrep -f 'sleep 10%d' >/dev/null 2>&1 && break; systemctl list-units --no-legend 'defx-default-slow-slow-slow.0.ready.service' | grep -q . && break; sleep 0.1; done", i))
		silence.begin()
		err := cmd.Wait()
		out := fmt.Sprint(cmd.Stdout)
		if err == nil || !strings.Contains(out, "✗ slow/slow") || !strings.Contains(out, "✓ slow/other") {
			t.Errorf("%d: %v\n%s", i, err, out)
		}
		silence.end()
		m.Exec("touch /run/go")
		s.wants(0, "1 u") // updated; or unchanged, if the agent completed it
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

var startedRE = regexp.MustCompile(`Started (defx-\S+\.[0-9a-f]{12})\.service`)

// TestApply_KilledAnywhere kills defx, or the agent of a machine, during applies over three
// machines.
func TestApply_KilledAnywhere(t *testing.T) {
	s := newSite(t, 3)
	s.apply(0)
	r := rand.New(rand.NewPCG(7, uint64(number("DEFX_TEST_SEED", 1))))
	kills := number("DEFX_TEST_KILLS_MACHINES", 25)
	for i := range kills {
		s.greeting, s.port = fmt.Sprintf("greeting %d", i), 6400+i
		s.write()
		cmd := s.start("apply", "--yes")
		after := time.Duration(r.IntN(1600)) * time.Millisecond
		victim := "defx"
		time.Sleep(after)
		if r.IntN(2) == 0 {
			cmd.Process.Kill()
		} else {
			m := s.lab.Machines[r.IntN(3)]
			victim = "the agent of " + m.Name
			m.Exec(`for p in /proc/[0-9]*; do case "$(readlink $p/exe)" in /var/lib/defx/bin/*) kill -9 ${p#/proc/};; esac; done; true`)
		}
		cmd.Wait()
		t.Logf("%d: %s was killed after %s", i, victim, after)
		if code, _ := s.run("apply", "--yes"); code != 0 {
			t.Fatalf("%d: one more apply ends with %d", i, code)
		}
		if got := s.ask(); !strings.Contains(got, s.greeting+",") {
			t.Fatalf("%d: %q", i, got)
		}
		if code, out := s.run("apply", "--yes"); code != 0 || !strings.Contains(out, "No changes") {
			t.Fatalf("%d: not done yet", i)
		}
	}
	for _, m := range s.lab.Machines {
		count := map[string]int{}
		for _, f := range startedRE.FindAllStringSubmatch(m.Exec("journalctl -b --no-pager -o cat -t systemd"), -1) {
			count[f[1]]++
		}
		for unit, n := range count {
			if n > 1 {
				t.Errorf("%s was started %d times on %s", unit, n, m.Name)
			}
		}
		if got := m.Exec("systemctl list-units --all --no-legend --plain --state=active,failed 'defx-*.*.*.service' | wc -l; ls /etc/systemd/system | grep -cE '\\.[0-9a-f]{12}\\.service$'"); got != "1\n1\n" {
			t.Errorf("%s runs or keeps more than one version: %s%s", m.Name, got, m.Exec("systemctl list-units --all 'defx-*'; ls /etc/systemd/system"))
		}
	}
}
