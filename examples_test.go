package defx_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/transcript"
)

// build builds the program into a temporary directory.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "defx")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/defx")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

func TestReadme_TranscriptMatches(t *testing.T) {
	bin := build(t)
	for _, b := range transcript.Blocks(t, "README.md") {
		if strings.Contains(b, "defx init") {
			shell := transcript.Shell{Dir: t.TempDir(), Path: []string{filepath.Dir(bin)}}
			shell.Run(t, b)
			return
		}
	}
	t.Error("the README has no transcript of defx init")
}

// TestExamples_ReadmeStepsWork runs the steps of each README in a copy of the example whose
// path contains a space, and verifies the units with systemd-analyze.
func TestExamples_ReadmeStepsWork(t *testing.T) {
	bin := build(t)
	pages, err := filepath.Glob("examples/*/README.md")
	if err != nil || len(pages) < 3 {
		t.Fatalf("%v, %v", pages, err)
	}
	for _, page := range pages {
		name := filepath.Base(filepath.Dir(page))
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a copy of", name)
			if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cp", "-R", filepath.Dir(page), dir).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, f := range []string{"go.mod", "go.sum"} { // the steps build the example's own provider there
				raw, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(filepath.Dir(dir), f), raw, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			shell := transcript.Shell{Dir: dir, Path: []string{filepath.Dir(bin)}}
			for _, b := range transcript.Blocks(t, page) {
				shell.Run(t, b)
			}
			boxes, _ := filepath.Glob(filepath.Join(dir, "machines", "*"))
			verified := false
			for _, box := range append(boxes, filepath.Join(dir, "box")) {
				if _, err := os.Stat(filepath.Join(box, units)); err == nil { // a machine can have been emptied
					verify(t, box)
					verified = true
				}
			}
			entry, err := os.ReadFile(filepath.Join(dir, "defx.jsonnet"))
			if err != nil {
				t.Fatal(err)
			}
			if !verified && bytes.Contains(entry, []byte("machines:")) { // an example with only resources has no machines
				t.Error("no machine has units")
			}
		})
	}
}

// units is the systemd unit directory below the root of a machine.
const units = "etc/systemd/system"

// verify runs systemd-analyze verify on every unit of a folder machine. The only accepted
// complaints are about programs that are not installed here.
func verify(t *testing.T, box string) {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("DEFX_REQUIRE_SYSTEMD") == "1" {
			t.Fatal("systemd-analyze is required, but not installed")
		}
		t.Log("systemd-analyze is not installed: units are not verified")
		return
	}
	units := filepath.Join(box, units)
	entries, err := os.ReadDir(units)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--man=no", "--recursive-errors=yes"}
	for _, e := range entries {
		if !e.IsDir() {
			args = append(args, filepath.Join(units, e.Name()))
		}
	}
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+units+":", "SYSTEMD_LOG_COLOR=0")
	out, _ := cmd.CombinedOutput()
	for line := range bytes.Lines(out) {
		if !bytes.Contains(line, []byte("is not executable: No such file")) {
			t.Errorf("systemd-analyze: %s", line)
		}
	}
}
