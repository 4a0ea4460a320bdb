package project_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// TestModes_NoCopyOfContentIsReadableByOthers looks for the text of a file with mode 0600 in the
// state, the caches and the machine's folder.
func TestModes_NoCopyOfContentIsReadableByOthers(t *testing.T) {
	for _, mask := range []int{0, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", mask), func(t *testing.T) {
			old := syscall.Umask(mask)
			defer syscall.Umask(old)
			testModes(t)
		})
	}
}

func testModes(t *testing.T) {
	t.Helper()
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
	found, seen := map[string]int{}, map[string]bool{}
	for _, dir := range []string{".defx", "cache", "box"} {
		err := filepath.WalkDir(filepath.Join(w.dir, dir), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			own, inBox := strings.CutPrefix(p, filepath.Join(w.dir, "box/var/lib/defx")+"/")
			closed := dir != "box" || inBox && !strings.HasPrefix(own, "store")
			if mode := info.Mode().Perm(); closed && mode&0o077 != 0 || strings.HasSuffix(p, "/var/lib/defx") && mode != 0o711 {
				t.Errorf("%s has mode %v", p, info.Mode())
			}
			seen[dir] = seen[dir] || closed
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
	if len(seen) != 3 || !seen["box"] || !seen[".defx"] {
		t.Errorf("files that are to be closed were found in %v", seen)
	}
	if found["box"] < 2 {
		t.Errorf("the text was found %v times", found)
	}
}
