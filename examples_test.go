package defx_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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

var console = regexp.MustCompile("(?s)```console\n(.*?)```")

// blocks returns the console blocks of a page.
func blocks(t *testing.T, page string) []string {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range console.FindAllStringSubmatch(string(raw), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatalf("%s has no console block", page)
	}
	return out
}

// replay runs the lines of a block that start with $ in a directory, and checks that their
// output contains the other lines, ignoring white space.
func replay(t *testing.T, bin, dir, block string) string {
	t.Helper()
	var all strings.Builder
	var output string
	for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
		command, run := strings.CutPrefix(line, "$ ")
		if !run {
			if want := strings.Join(strings.Fields(line), " "); want != "" && !strings.Contains(output, want) {
				t.Errorf("%q is not in the output:\n%s", want, output)
			}
			continue
		}
		if to, ok := strings.CutPrefix(command, "cd "); ok {
			dir = filepath.Join(dir, to)
			continue
		}
		cmd := exec.Command("sh", "-ec", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("$ %s: %v\n%s", command, err, out)
		}
		all.Write(out)
		output = strings.Join(strings.Fields(string(out)), " ")
	}
	return all.String()
}

func TestReadme_TranscriptWorks(t *testing.T) {
	bin := build(t)
	for _, b := range blocks(t, "README.md") {
		if strings.Contains(b, "defx init") {
			replay(t, bin, t.TempDir(), b)
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
			for _, b := range blocks(t, page) {
				replay(t, bin, dir, b)
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
	// The real unit names contain a colon, which the tool would interpret differently, so it
	// gets the aliases that link to them.
	entries, err := os.ReadDir(units)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--man=no", "--recursive-errors=yes"}
	for _, e := range entries {
		if !e.IsDir() && !strings.Contains(e.Name(), ":") {
			args = append(args, e.Name())
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
