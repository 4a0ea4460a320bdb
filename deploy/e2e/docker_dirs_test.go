package e2e

import "testing"

// TestDocker_LiteralDirectory: a directory of the machine is created for the container's user where
// it is missing, one that exists is left unchanged, and one whose data is gone is not created anew
// unasked.
func TestDocker_LiteralDirectory(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	m.Exec("install -d -m 700 -o 1001 /srv/mine")
	s.dock(`
local keeps(dir, port, user) = { service: { package: multiTool, command: ['multi-tool', 'write', defx.me.dir('state') + '/word', 'kept', 'serve', '0.0.0.0:' + defx.me.port('http')],
  ports: { http: port }, ready: { http: '/' }, user: user, dirs: { state: { path: dir } } } };
{ new: keeps('/srv/new/data', 7001, '1000'), mine: keeps('/srv/mine', 7002, '1001') }
`)
	s.wants(0, "2 created")
	if t.Failed() {
		t.FailNow()
	}
	const look = "stat -c '%a %u %F' /srv/new /srv/new/data /srv/mine; cat /srv/new/data/word /srv/mine/word; ls -A /srv/new"
	const want = "755 0 directory\n755 1000 directory\n700 1001 directory\nkept\nkept\ndata\n"
	if got := m.Exec(look); got != want {
		t.Errorf("%q", got)
	}
	s.wants(0, "No changes: 2 units match")

	m.Exec("rm -r /srv/new; docker stop $(docker ps -q --filter label=dev.defx.address=d/new#0)")
	s.wants(1, "/srv/new/data is gone", "--allow-empty d/new")
	if out, err := m.Try("ls /srv/new"); err == nil {
		t.Errorf("created without consent: %q", out)
	}
	if code, out := s.run("apply", "--yes", "--repair", "--allow-empty", "d/new"); code != 0 {
		t.Fatalf("%d: %s", code, out)
	}
	if got := m.Exec(look); got != want {
		t.Errorf("%q", got)
	}
}
