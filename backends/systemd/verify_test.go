package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
)

// analyze returns the path of systemd-analyze, or skips the test.
func analyze(t *testing.T) string {
	t.Helper()
	p, err := exec.LookPath("systemd-analyze")
	switch {
	case err == nil:
		return p
	case os.Getenv("DEFX_REQUIRE_SYSTEMD") == "1":
		t.Fatal("DEFX_REQUIRE_SYSTEMD is set, but systemd-analyze is not installed")
	default:
		t.Skip("systemd-analyze is not installed")
	}
	return ""
}

// TestUnits_PassSystemdAnalyze checks every unit of every golden case with systemd-analyze. Any output
// is a failure, except for programs in the store, which are missing here.
func TestUnits_PassSystemdAnalyze(t *testing.T) {
	tool := analyze(t)
	for file, old := range goldenCases(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			var c goldenCase
			c.read(t, old)
			p, _, errs := New().Render(c.input())
			if len(errs) > 0 {
				t.Skip("a case that is refused")
			}
			l, err := New().Realize(p, version, valueOf)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			writeLayout(t, root, l)
			verify(t, tool, root)
		})
	}
}

// verify checks the files of all units below root.
func verify(t *testing.T, tool, root string) {
	t.Helper()
	dir := filepath.Join(root, unitDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--man=no", "--recursive-errors=yes"}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".wants") {
			continue
		}
		args = append(args, filepath.Join(dir, e.Name()))
	}
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":", "SYSTEMD_LOG_COLOR=0")
	out, _ := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "Command "+backends.StorePath+"/") && strings.Contains(line, "is not executable: No such file") {
			continue
		}
		if strings.Contains(line, "Command modprobe is not executable: No such file") { // not every machine that runs tests has it
			continue
		}
		t.Errorf("systemd-analyze: %s", line)
	}
}

func writeLayout(t *testing.T, root string, l backends.Layout) {
	t.Helper()
	for _, f := range l.Files {
		p := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if f.Link != "" {
			err = os.Symlink(f.Link, p)
		} else {
			err = os.WriteFile(p, f.Content, f.Mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestVerify_DetectsFaults checks that systemd-analyze reports a fault in each kind of unit.
func TestVerify_DetectsFaults(t *testing.T) {
	tool := analyze(t)
	l := realize(t, full())
	for i, f := range l.Files {
		if f.Link != "" || strings.HasSuffix(f.Path, ".conf") || !strings.HasPrefix(f.Path, unitDir+"/") {
			continue
		}
		root := t.TempDir()
		broken := l
		broken.Files = append([]backends.File(nil), l.Files...)
		broken.Files[i].Content = []byte(strings.Replace(string(f.Content), "[Unit]\n", "[Unit]\nNoSuchDirective=1\n", 1))
		writeLayout(t, root, broken)
		cmd := exec.Command(tool, "verify", "--man=no", "defx-dev-zalora.target", filepath.Base(strings.TrimSuffix(l.Name, ".service"))+".service")
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+filepath.Join(root, unitDir)+":")
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), "NoSuchDirective") {
			t.Errorf("a fault in %s was not reported: %s", f.Path, out)
		}
	}
}
