package graph

import "testing"

// TestHostGrammar_RefusesOtherMeanings checks names that a program would take for something else than
// one name: an option, an order, a pattern, a second line.
func TestHostGrammar_RefusesOtherMeanings(t *testing.T) {
	value := CheckSettingValue
	for _, c := range []struct {
		name  string
		check func(string) (string, string)
		good  []string
		bad   []string
	}{
		{"package", CheckPackage,
			[]string{"nginx", "g++", "libstdc++6", "postgresql-15", "python3.11", "0ad", "libc6:amd64", "memtest86+:amd64", "nginx=1.22.1-9", "vim=2:9.0.1378-2+deb12u2", "x11=1.0~rc1"},
			[]string{"", "a", "-f", "--purge", "nginx-", "nginx+", "a+++", "nginx=1`id>/tmp/p`", "nginx=1;id", "nginx=1 2", "nginx=$(id)", "nginx=", "nginx=1-", "nginx=1+", "nginx=x", "Nginx", "ngin*", "n[a-z]x", "nginx/stable",
				"nginx^", "nginx|vim", "nginx\nvim", "nginx vim", "~nginx", "?installed", "./x.deb", "/tmp/x.deb", "libc6:amd64-", "libc6:-", "nginx:"}},
		{"module", CheckModule, []string{"br_netfilter", "net-pf-10", "8021q"},
			[]string{"", "-r", "a b", "a\nb", "a;b", "../x", "/tmp/x.ko", "x.ko", "x options", "#x", "$(id)", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}},
		{"setting", CheckSetting, []string{"vm.max_map_count", "net/ipv4/conf/eth0.100/forwarding", "net.ipv4.conf.br-lan.rp_filter", "kernel.core_pattern"},
			[]string{"", "vm", "-vm.x", "vm..x", "vm.x = 1", "vm.x\nkernel.y", "net.ipv4.conf.*.rp_filter", "../x", "kernel/../../etc/passwd", "/vm/x", "vm/x/", "#vm.x", "vm.x;y"}},
		{"value", value, []string{"1", "1024\t65535", "a b = c", "|/usr/bin/x %p", "#5"}, []string{"", " 1", "1 ", "1\n2", "1\x002", "\xff", "1\r"}},
		{"user", CheckUser, []string{"etcd", "_x", "a-b"},
			[]string{"", "root", "www-data", "daemon", "nobody", "_apt", "systemd-network", "Etcd", "a b", "a\nu toor 0", "a:b", "-a", "1a", "a.b", "abcdefghijklmnopqrstuvwxyzabcdef"}},
		{"group", CheckGroup, []string{"adm", "ssl-cert"}, []string{"", "adm\nu toor 0:0 - /root /bin/sh", "a b", "a,b", "a%u", "-a"}},
		{"home", CheckHome, []string{"", "/", "/var/lib/etcd", "/usr/bin/bash"}, []string{"x", "//", "/a//b", "/a/../b", "/a b", "/a\nb", "/a:b", "/a%u", `/a"b`, `/a\b`, "/a'b", "/a/"}},
	} {
		for _, s := range c.good {
			if problem, _ := c.check(s); problem != "" {
				t.Errorf("%s %q: %s", c.name, s, problem)
			}
		}
		for _, s := range c.bad {
			if problem, hint := c.check(s); problem == "" || hint == "" {
				t.Errorf("%s %q is accepted, or has no hint: %q", c.name, s, hint)
			}
		}
	}
}

func TestReservedDir_SystemOwnsIt(t *testing.T) {
	for p, want := range map[string]string{
		"/srv/pg": "", "/opt/app/data": "", "/home/shop": "", "/var/lib/postgresql": "", "/usr/local/share/x": "", "/mnt/disk/1": "", "/run/shop": "",
		"/": "/boot", "/etc": "/etc", "/etc/cron.d": "/etc", "/bin": "/usr", "/lib/x": "/usr", "/usr": "/usr", "/usr/local": "/usr", "/srv": "/srv", "/home": "/home", "/var": "/var/lib/apt",
		"/var/run/systemd": "/run/systemd", "/var/lib/dpkg": "/var/lib/dpkg", "/var/lib/defx/secrets": "/var/lib/defx", "/root/.ssh": "/root", "/run": "/run/defx", "/tmp/x": "/tmp", "/var/spool/cron": "/var/spool/cron",
	} {
		if got := ReservedDir(p); (got == "") != (want == "") {
			t.Errorf("%s: %q, want %q", p, got, want)
		}
	}
}
