package project_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// TestModes_NoCopyOfContentIsReadableByOthers looks for the text of a file with mode 0600 in the
// state, the caches and the machine's folder.
func TestModes_NoCopyOfContentIsReadableByOthers(t *testing.T) {
	w := newWorld(t, `
-- defx.jsonnet --
{
  name: 'tiny',
  libs: { app: { web: { service: { command: ['/bin/sleep', '9'], hostFiles: { '/etc/closed': { text: 'hidden words', mode: '0600' } } } } } },
  machines: { box: { connect: 'dir:./box' } },
}
`)
	w.apply()
	cache := filepath.Join(w.dir, "cache")
	p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{Cache: cache}, backends.NewSet(systemd.New()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Evaluate(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, dir := range []string{".defx", "cache", "box"} {
		err := filepath.WalkDir(filepath.Join(w.dir, dir), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if dir != "box" && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", p, info.Mode())
			}
			if !d.Type().IsRegular() {
				return nil
			}
			raw, err := os.ReadFile(p)
			if strings.Contains(string(raw), "hidden words") {
				if found[dir]++; info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s has the text and mode %v", p, info.Mode())
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found["box"] < 2 {
		t.Errorf("the text was found %v times", found)
	}
}
