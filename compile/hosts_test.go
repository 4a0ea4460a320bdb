package compile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/token"
)

func TestMachine_AddressesAreCheckedAndCredentialsHidden(t *testing.T) {
	made := token.Lit("x")
	for _, c := range []struct {
		m    Machine
		want string // in the error; "" for none
	}{
		{Machine{Connect: "local"}, ""},
		{Machine{Connect: "dir:./box"}, ""},
		{Machine{Connect: "ssh://h"}, ""},
		{Machine{Connect: "ssh://root@h.example.com"}, ""},
		{Machine{Connect: "ssh://root@h:2222"}, ""},
		{Machine{Connect: "ssh://root@h/"}, ""},
		{Machine{Connect: "ssh://root@10.0.0.1:22"}, ""},
		{Machine{Connect: "ssh://root@[fd00::11]:22"}, ""},
		{Machine{Connect: "ssh://[fd00::11]"}, ""},
		{Machine{Connect: "ssh://root@", Made: made}, ""},
		{Machine{Connect: "ssh://root@"}, "has no host"},
		{Machine{Connect: "ssh://"}, "has no host"},
		{Machine{Connect: "ssh://u:hunter2@h"}, "must not have a password"},
		{Machine{Connect: "ssh://u:hunter2@", Made: made}, "must not have a password"},
		{Machine{Connect: "ssh://u:hunter2@h@h"}, "must not have a password"},
		{Machine{Connect: "u:hunter2@h"}, "is not a way to connect"},
		{Machine{Connect: "https://u:hunter2@h"}, "is not a way to connect"},
		{Machine{Connect: "ssh:h"}, "is not a way to connect"},
		{Machine{Connect: "root@10.0.0.1"}, "is not a way to connect"},
		{Machine{Connect: "locals"}, "is not a way to connect"},
		{Machine{Connect: "ssh://h:99999"}, "no valid port"},
		{Machine{Connect: "ssh://h:0"}, "no valid port"},
		{Machine{Connect: "ssh://h:"}, "no valid port"},
		{Machine{Connect: "ssh://h:+22"}, "no valid port"},
		{Machine{Connect: "ssh://h:ssh"}, "no valid port"},
		{Machine{Connect: "ssh://[fd00::11]:"}, "no valid port"},
		{Machine{Connect: "ssh://[fd00::11]22"}, "brackets"},
		{Machine{Connect: "ssh://[h]:22"}, "brackets"},
		{Machine{Connect: "ssh://fd00::11"}, "without brackets"},
		{Machine{Connect: "ssh://a b@h"}, "name of a user"},
		{Machine{Connect: "ssh://-oProxyCommand=x@h"}, "name of a user"},
		{Machine{Connect: "ssh://a b"}, "neither a host name nor an address"},
		{Machine{Connect: "ssh://-oProxyCommand"}, "neither a host name nor an address"},
		{Machine{Connect: "ssh://h/path"}, "neither a host name nor an address"},
		{Machine{Connect: "ssh://h?x=1"}, "neither a host name nor an address"},
		{Machine{Connect: "ssh://h\nx"}, "neither a host name nor an address"},
		{Machine{Connect: "ssh://300.1.1.1"}, "not a valid IPv4 address"},
		{Machine{Connect: "local", Address: "10.0.0.1"}, ""},
		{Machine{Connect: "local", Address: "fd00::11"}, ""},
		{Machine{Connect: "local", Address: "web_1.example.com."}, ""},
		{Machine{Connect: "local", Address: "not an address!"}, "neither a host name nor an address"},
		{Machine{Connect: "local", Address: "10.0.0.256"}, "not a valid IPv4 address"},
		{Machine{Connect: "local", Address: "10.0.0"}, "not a valid IPv4 address"},
		{Machine{Connect: "local", Address: "[fd00::11]"}, "has brackets"},
		{Machine{Connect: "local", Address: "fe80::1%eth0"}, "has a zone"},
		{Machine{Connect: "local", Address: "fd00:::1"}, "neither a host name nor an address"},
		{Machine{Connect: "local", Address: "h:22"}, "has a port"},
		{Machine{Connect: "local", Address: "http://h"}, "is a URL"},
		{Machine{Connect: "local", Address: "http://u:hunter2@h"}, "is a URL"},
		{Machine{Connect: "local", Address: "u:hunter2@h"}, "neither"},
		{Machine{Connect: "local", Address: "ho st"}, "neither"},
		{Machine{Connect: "local", Address: " h"}, "neither"},
		{Machine{Connect: "local", Address: strings.Repeat("a.", 130) + "a"}, "too long"},
		{Machine{Connect: "ssh://h", Via: "gate"}, ""},
		{Machine{Connect: "ssh://h", Via: "ssh://deploy@gate:22,other"}, ""},
		{Machine{Connect: "ssh://h", Via: "deploy:hunter2@gate"}, "must not have a password"},
		{Machine{Connect: "ssh://h", Via: "gate, other"}, "neither"},
		{Machine{Connect: "ssh://h", Via: "gate:70000"}, "no valid port"},
		{Machine{Connect: "local", Docker: "unix:///run/a.sock"}, ""},
		{Machine{Connect: "local", Docker: "tcp://u:hunter2@h:2375"}, "not the socket"},
		{Machine{Connect: "local", Docker: "unix://a.sock"}, "not the socket"},
	} {
		d := &decoder{}
		checkMachine(d, []string{"machines", "box"}, c.m)
		got := d.errs.Err()
		if c.want == "" && got != nil || c.want != "" && (got == nil || !strings.Contains(got.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.m, got, c.want)
		}
		for _, e := range d.errs {
			shown := e.Render(func(string, int) (string, bool) { return "box: { connect: 'ssh://u:hunter2@h' }", true })
			if strings.Contains(shown, "hunter2") && strings.Contains(fmt.Sprint(c.m), "hunter2") {
				t.Errorf("the password is shown: %s", shown)
			}
			if e.Hint == "" {
				t.Errorf("%v has no hint", e)
			}
		}
	}
}

func TestExternal_HostIsChecked(t *testing.T) {
	for host, want := range map[string]string{"db.example.com": "", "/run/db/socket": "", "fd00::1": "", "a b": "neither", "http://x": "is a URL", "db:5432": "has a port", "/run/../x": "neither"} {
		d := &decoder{}
		checkHost(d, []string{"external", "host"}, host, true)
		if err := d.errs.Err(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", host, err, want)
		}
	}
}
