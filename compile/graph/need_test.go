package graph

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestNeedRules_AreDocumented checks that docs/permissions.md has every kind of need.
func TestNeedRules_AreDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/permissions.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range NeedRules {
		without := "shown"
		if r.Denied {
			without = "refused"
		} else if r.Warned {
			without = "shown, lint warns"
		}
		if line := fmt.Sprintf("| `%s` | %s | %s |\n", r.Kind, without, r.About); !strings.Contains(string(raw), line) {
			t.Errorf("docs/permissions.md lacks %s", line)
		}
	}
}

// TestPathNeeds_FindsWhatContainsIt checks that neither an alias nor a directory above hides what a
// path gives access to.
func TestPathNeeds_FindsWhatContainsIt(t *testing.T) {
	for _, c := range []struct {
		path  string
		write bool
		want  string
	}{
		{"/srv/x", true, "host-path"}, {"/etc/app.conf", true, "host-path"}, {"/etc/hosts", true, "host-path"}, {"/opt/x/docker.sock", true, "engine-socket"},
		{"/var/run/docker.sock", false, "engine-socket"}, {"/run", false, "engine-socket defx-files root-files"}, {"/", false, "engine-socket defx-files root-files"},
		{"/var", true, "defx-files root-files"}, {"/var/lib/defx/secrets/prod", false, "defx-files"}, {"/etc", true, "root-files"}, {"/etc", false, "root-files"},
		{"/etc/passwd", true, "root-files"}, {"/etc/passwd", false, "host-path"}, {"/etc/cron.d/x", true, "root-files"}, {"/bin/sh", true, "root-files"}, {"/lib/systemd/system/x.service", true, "root-files"},
		{"/etc/rc3.d/S01x", true, "root-files"}, {"/root/.ssh/authorized_keys", true, "root-files"}, {"/proc", false, "root-files"}, {"/usr/local/bin/x", true, "root-files"}, {"/etc/passwd-of-app", true, "host-path"},
	} {
		var got []string
		for _, k := range PathNeeds(c.path, c.write, NeedHostPath) {
			got = append(got, string(k))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s (write %v): %s, want %s", c.path, c.write, s, c.want)
		}
	}
}
