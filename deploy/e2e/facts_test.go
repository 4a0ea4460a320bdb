package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestHost_SettingsUsersPackages requests settings, users and packages, changes them, and
// removes the requests.
func TestHost_SettingsUsersPackages(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	say := func(host string) {
		t.Helper()
		s.file("libs/facts.libsonnet", "{ app: { "+host+" service: { command: ['/bin/sleep', '1000'], user: 'root' } } }\n", 0o644)
		s.file("defx.jsonnet", fmt.Sprintf("{ name: 'facts', libs: { facts: import 'libs/facts.libsonnet' }, machines: { m1: { connect: 'ssh://root@%s' } } }\n", m.Address), 0o644)
	}
	const key = "net.ipv4.tcp_fin_timeout"
	setting := func() string { return strings.TrimSpace(m.Exec("cat /proc/sys/net/ipv4/tcp_fin_timeout")) }
	was := setting()
	say("host: { sysctl: { '" + key + "': '41' }, users: { alice: { groups: ['adm'] } }, packages: ['curl'] },")
	s.wants(0, "4 created")
	if setting() != "41" || !strings.Contains(m.Exec("id alice"), "(adm)") {
		t.Errorf("%s, %s", setting(), m.Exec("id alice"))
	}
	pid := m.Exec("systemctl show -P MainPID 'defx-default-facts-facts-app.0.service'")
	say("host: { sysctl: { '" + key + "': '42' }, users: { alice: { groups: ['adm'] } }, packages: ['curl'] },")
	s.wants(0, "1 updated")
	if setting() != "42" || m.Exec("systemctl show -P MainPID 'defx-default-facts-facts-app.0.service'") != pid {
		t.Errorf("%s", setting())
	}
	m.Reboot()
	m.Exec("for i in $(seq 100); do test \"$(cat /proc/sys/net/ipv4/tcp_fin_timeout)\" = 42 && exit 0; sleep 0.1; done; exit 1")
	say("host: { sysctl: { '" + key + "': '43' }, packages: ['no-such-package-anywhere'] },")
	s.wants(3, "no-such-package-anywhere", "skipped")
	if setting() != "43" {
		t.Errorf("%s", setting())
	}
	say("")
	s.wants(1, "this deletes 3 of 4 deployed units", "--confirm default")
	if code, _ := s.run("apply", "--confirm", "default"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if setting() != was {
		t.Errorf("%s, was %s", setting(), was)
	}
	if got := m.Exec("ls /etc/sysctl.d/*defx* /var/lib/defx/facts/* 2>/dev/null; systemctl list-units --all --no-legend 'defx-*host*'; true"); got != "" {
		t.Errorf("left: %s", got)
	}
	m.Exec("id alice && command -v curl") // these stay on the machine
}
