package systemd

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
)

func TestLint_WritesThatHardeningHides(t *testing.T) {
	for _, c := range []struct {
		command []string
		options string
		dirs    graph.Dirs
		want    string // in the message; "" for no finding
	}{
		{cmdLine("/bin/sh", "-c", "date >> /var/tmp/x"), "", graph.Dirs{}, "private to the service"},
		{cmdLine("/bin/sh", "-c", "date > /tmp/x"), `{"hardening":{"NoNewPrivileges":"no"}}`, graph.Dirs{}, "private to the service"},
		{cmdLine("/bin/sh", "-c", "date | tee -a /tmp/x"), "", graph.Dirs{}, "private to the service"},
		{cmdLine("/bin/sh", "-c", "touch /home/me/x"), "", graph.Dirs{}, "empty folder"},
		{cmdLine("/bin/sh", "-c", "date >/etc/x"), "", graph.Dirs{}, "cannot be written"},
		{cmdLine("/usr/bin/curl", "-o", "/var/tmp/page", "http://x"), "", graph.Dirs{}, "private to the service"},
		{cmdLine("/usr/bin/x", "--log-file=/var/log/x"), "", graph.Dirs{}, "cannot be written"},
		{cmdLine("/usr/bin/x", "--log-file=/var/log/x"), "", graph.Dirs{Logs: graph.Dir{Name: "x"}}, ""},
		{cmdLine("/bin/sh", "-c", "date > /tmp/x"), `{"hardening":false}`, graph.Dirs{}, ""},
		{cmdLine("/bin/sh", "-c", "date > /tmp/x"), `{"hardening":{"PrivateTmp":false}}`, graph.Dirs{}, ""},
		{cmdLine("/bin/sh", "-c", "date > /srv/x"), `{"service":{"ReadWritePaths":"/srv"}}`, graph.Dirs{}, ""},
		{cmdLine("/bin/sh", "-c", "x > /dev/null 2>&1"), "", graph.Dirs{}, ""},
		{cmdLine("/bin/cat", "/etc/x"), "", graph.Dirs{}, ""},
		{cmdLine("/bin/sh", "-c", "date > $STATE_DIRECTORY/x"), "", graph.Dirs{State: graph.Dir{Name: "x"}}, ""},
	} {
		s := &graph.Service{Backend: "systemd", SpecPath: []string{"service"}, Options: json.RawMessage(c.options), Spec: graph.Spec{Command: lit(c.command...), Dirs: c.dirs}}
		found := New().(backends.Linter).Lint(s)
		if c.want == "" && len(found) > 0 || c.want != "" && (len(found) != 1 || !strings.Contains(found[0].Msg, c.want) || found[0].Hint == "") {
			t.Errorf("%q %s: %v, want %q", c.command, c.options, found, c.want)
		}
	}
	if got := HiddenPaths(json.RawMessage(`{"hardening":{"PrivateTmp":false}}`)); len(got) != 3 {
		t.Errorf("%q", got)
	}
}

func cmdLine(list ...string) []string { return list }
