package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// says runs a command that must succeed, and checks its output.
func (s *site) says(want string, args ...string) string {
	s.t.Helper()
	code, out := s.run(args...)
	if code != 0 || !strings.Contains(out, want) {
		s.t.Errorf("defx %s: exit code %d, want %q", strings.Join(args, " "), code, want)
	}
	return out
}

func TestCommands_OnMachines(t *testing.T) {
	s := newSite(t, 2)
	m1, m2 := s.lab.Machines[0], s.lab.Machines[1]
	s.writeApart("one")
	s.wants(0, "3 created")

	s.says("active for", "status", "--refresh")
	s.says("systemd   252", "machine", "show", "m1")
	s.says("+ apart/below, + apart/left", "machine", "history", "m1")
	s.says("m2: { hostKey: '"+m2.HostKey+"' }", "machine", "scan")
	s.pin = m2.HostKey
	s.writeApart("one")
	if code, out := s.run("machine", "scan", "m1"); code != 1 || !strings.Contains(out, "DIFFERS from hostKey") {
		t.Errorf("with a key other than the pinned one: exit code %d", code)
	}
	s.pin = m1.HostKey
	s.writeApart("one")
	s.says("matches hostKey", "machine", "scan", "m1")
	s.pin = ""
	s.writeApart("one")
	s.says("serving on 0.0.0.0:7001", "logs", "apart/left")
	s.says(`"kind":"Line"`, "logs", "apart/left", "--json", "-n", "3")

	follow := s.start("logs", "apart/right", "--follow")
	m2.Exec("sleep 1; systemctl restart defx-default-apart-apart-right.0.service; sleep 1")
	out := follow.Stdout.(*bytes.Buffer)
	follow.Process.Signal(os.Interrupt)
	follow.Wait()
	if strings.Count(out.String(), "serving on 0.0.0.0:7002") != 2 {
		t.Errorf("what follows: %s", out)
	}
	if got := m2.Exec("sleep 0.5; for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -c '^journalctl' || true"); got != "0\n" {
		t.Errorf("%s journalctl are still running", got)
	}

	pid := func() string { return m1.Exec("systemctl show -P MainPID defx-default-apart-apart-left.0.service") }
	was := pid()
	s.says("apart/left restarted on m1", "restart", "apart/left")
	if pid() == was {
		t.Error("restart did not restart")
	}

	out1 := s.says("GREETING=one", "shell", "apart/left", "--", "/bin/sh", "-c", "env; id -u; echo 'a  b' \"$0\"", "$(x) '\"\\")
	if !strings.Contains(out1, "a  b $(x) '\"\\\n") || strings.Contains(out1, "\n0\n") {
		t.Errorf("%s", out1)
	}
	if code, _ := s.run("shell", "apart/left", "--", "/bin/sh", "-c", "exit 42"); code != 42 {
		t.Errorf("a shell's exit code became %d", code)
	}

	// Manual changes are reported.
	m1.Exec("systemctl stop defx-default-apart-apart-left.0.service; f=$(echo /etc/systemd/system/defx-default-apart-apart-below.0.*.service); echo '# mine' >> $f; mkdir $f.d; printf '[Service]\\nNice=3\\n' > $f.d/mine.conf; systemctl daemon-reload")
	code, out2 := s.run("status", "--refresh")
	if code != 3 {
		t.Errorf("status of changed units ends with %d", code)
	}
	for _, want := range []string{"is inactive: stopped, not by defx", "was edited", "foreign drop-in /etc/systemd/system/defx-default-apart-apart-below.0.", "apart/right"} {
		if !strings.Contains(out2, want) {
			t.Errorf("no %q", want)
		}
	}
	m1.Exec("rm -r /etc/systemd/system/*.d; systemctl daemon-reload")
	m2.Freeze()
	if code, out := s.run("status", "--refresh"); code != 3 || !strings.Contains(out, "machine unreachable") || !strings.Contains(out, "m2") {
		t.Errorf("with a frozen machine: %d", code)
	}
	m2.Thaw()

	// What a kill left is deleted, and so is what is no longer needed.
	s.writeApart("two")
	s.wants(0)
	m1.Exec("cp /bin/true /var/lib/defx/bin/defx-000000000000; head -c 100k /dev/zero > /var/lib/defx/store/left.defx-new")
	s.says("m1: 2 objects would be deleted", "gc", "--dry-run")
	s.says("m1: ", "gc", "--keep", "1")
	if got := m1.Exec("ls /var/lib/defx/bin | wc -l; ls /var/lib/defx/store"); !strings.HasPrefix(got, "1\n") || strings.Contains(got, "left") {
		t.Errorf("%s", got)
	}
	s.says("No changes", "apply", "--yes")

	if err := os.Rename(filepath.Join(s.dir, ".defx"), filepath.Join(s.dir, "lost")); err != nil {
		t.Fatal(err)
	}
	s.wants(1, "the state was lost, or it is not the state of this environment", "defx state rebuild")
	s.says("3 units on 2 machines", "state", "rebuild")
	s.says("No changes", "apply", "--yes")
	s.writeApart("three")
	s.wants(0, "3 updated")
}
