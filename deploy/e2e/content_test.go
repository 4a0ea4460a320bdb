package e2e

import (
	"strings"
	"testing"
)

// TestContent_LeavesNothingAndIsReadableByItsService runs a single file with its interpreter, as a
// dynamic user, with files mounted where the machine has none.
func TestContent_LeavesNothingAndIsReadableByItsService(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	say := func(lib string) {
		t.Helper()
		s.file("libs/c.libsonnet", "local defx = import 'defx/v1.libsonnet';\n{ keep: { service: { command: ['/bin/sleep', '1000'] } } } + "+lib, 0o644)
		s.file("defx.jsonnet", "{ name: 'content', libs: { c: import 'libs/c.libsonnet' }, machines: { m1: { connect: 'ssh://root@"+m.Address+"' } } }\n", 0o644)
	}
	gone := func(paths ...string) {
		t.Helper()
		for _, p := range paths {
			if _, err := m.Try("test -e " + p); err == nil {
				t.Errorf("%s is left on the machine", p)
			}
		}
	}
	const web = `{ web: { service: { package: defx.artifact('../server.sh'), command: ['/bin/sh', 'server.sh'],
  files: { '/etc/greet.conf': 'hello\n', '/opt/new/dir/greet.conf': 'hello\n' } } },
  closed: { service: { command: ['/bin/sleep', '1000'], hostFiles: { '/etc/closed.conf': { text: 'hidden words', mode: '0600' } } } } }
`
	s.file("server.sh", "cat /etc/greet.conf /opt/new/dir/greet.conf; echo one; pwd; exec sleep 1000\n", 0o600)
	say(web)
	s.wants(0, "3 created")
	s.says("one", "logs", "c/web")
	s.says("hello", "logs", "c/web")
	s.says("/var/lib/defx/store/", "logs", "c/web")
	if got := m.Exec("stat -c '%a %s' /etc/greet.conf /opt/new/dir/greet.conf"); strings.Count(got, " 0\n") != 2 {
		t.Errorf("the mount points are not empty files on the machine: %q", got)
	}
	if _, err := m.Try("runuser -u plain -- ls /var/lib/defx/store"); err == nil {
		t.Error("a user can list the store")
	}
	if out, err := m.Try("runuser -u plain -- grep -rl 'hidden words' /var/lib/defx $(ls -d /var/lib/defx/store/*) /etc/closed.conf 2>/dev/null"); err == nil {
		t.Errorf("a user can read what only root may: %s", out)
	}

	// An edit restarts it, and a reboot brings the mounts back.
	s.file("server.sh", "cat /etc/greet.conf; echo two; exec sleep 1000\n", 0o600)
	s.wants(0, "c/web", "restart", "1 updated")
	s.says("two", "logs", "c/web")
	m.Reboot()
	s.wants(0, "No changes")

	// Its own leftovers are no files of somebody else.
	say(`{ web: { service: { command: ['/bin/sleep', '1000'], hostFiles: { '/etc/greet.conf': 'from the host\n' } } } }` + "\n")
	s.wants(0, "1 updated", "1 deleted")
	if got := m.Exec("cat /etc/greet.conf"); got != "from the host\n" {
		t.Errorf("%q", got)
	}
	gone("/opt/new", "/etc/closed.conf")
	say("{}\n")
	s.wants(0, "1 deleted")
	gone("/etc/greet.conf")
	say(web)
	s.wants(0, "2 created")
	say("{}\n")
	s.wants(0, "2 deleted")
	gone("/etc/greet.conf", "/opt/new", "/etc/closed.conf")
}
