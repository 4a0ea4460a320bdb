package machinetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func (l *Lab) ssh(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(l.Bin, "ssh"), append([]string{"-o", "BatchMode=yes"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBoot_IsolatedAndCleanedUp(t *testing.T) {
	var l *Lab
	t.Run("two", func(t *testing.T) {
		l = Boot(t, 2)
		a, b := l.Machines[0], l.Machines[1]
		if got := l.ssh(t, "root@m1", "hostname"); got != "m1" {
			t.Errorf("%q", got)
		}
		if got := l.ssh(t, "deploy@m2", "sudo -n id -u"); got != "0" {
			t.Errorf("%q", got)
		}
		if got := l.ssh(t, "plain@m2", "sudo -n true 2>/dev/null || echo no"); got != "no" {
			t.Errorf("%q", got)
		}
		if got := l.ssh(t, "root@m1", "bash -c 'exec 3<>/dev/tcp/m2/22; head -c 3 <&3'"); got != "SSH" {
			t.Errorf("m1 does not reach m2: %q", got)
		}
		a.Exec("systemd-run --unit=mine -q sleep 1000; touch /root/mine")
		if got, _ := b.Try("systemctl is-active mine; ls /root/mine"); !strings.Contains(got, "inactive") {
			t.Errorf("%q", got)
		}
		a.Cut()
		if got := a.Exec("echo here"); got != "here\n" {
			t.Errorf("%q", got)
		}
		a.Heal()
		b.Freeze()
		b.Thaw()
		a.Reboot()
		if got := l.ssh(t, "root@m1", "ls /root/mine; systemctl is-active mine"+" || true"); !strings.HasPrefix(got, "/root/mine\ninactive") {
			t.Errorf("%q", got)
		}
		if got := b.Exec("systemctl is-active ssh.service systemd-networkd.service"); got != "active\nactive\n" {
			t.Errorf("%q", got)
		}
	})
	if l == nil {
		t.Skip("no machines available")
	}
	if len(l.machineProcesses()) > 0 {
		t.Error("a machine is left after its test")
	}
	for _, p := range []string{"/sys/class/net/" + l.bridge(), l.base} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is left after its test", p)
		}
	}
}
