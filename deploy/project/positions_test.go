package project_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// TestPositions_SearchedOnce counts the child processes of a plan in which a few conflicts hold
// most services: one evaluates, and one searches all positions.
func TestPositions_SearchedOnce(t *testing.T) {
	w := newWorld(t, `
-- defx.jsonnet --
{
  name: 'big',
  libs: {
    base: { ['s%d' % i]: { service: { command: ['/bin/x'], ports: { p: 1000 + std.floor(i / 2) } } } for i in std.range(0, 9) },
    users: { ['u%d' % i]: { requires: ['base/s%d' % (i % 10)], service: { command: ['/bin/x'] } } for i in std.range(0, 99) },
  },
  machines: { box: { connect: 'dir:./box' } },
}
`)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "children")
	command := []string{"/bin/sh", "-c", `echo child >> "$1"; exec "$2" "$3"`, "sh", log, self, lang.WorkerVerb}
	p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{Command: command}, backends.NewSet(systemd.New()))
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Plan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Held) != 55 {
		t.Errorf("%d held, want 5 and the 50 that require them", len(d.Held))
	}
	for _, h := range d.Held {
		if !h.Err.Pos.Known() {
			t.Errorf("%s: no position: %v", h.Name, h.Err)
		}
	}
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), "child"); n != 2 {
		t.Errorf("%d child processes, want 2", n)
	}
}
