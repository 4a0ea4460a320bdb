package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/deploy/machinetest"
	"github.com/defx-dev/defx/internal/transcript"
)

// TestGetStarted_WorksAsWritten runs the commands of docs/get-started.md in
// order, from an empty folder, on a booted machine.
func TestGetStarted_WorksAsWritten(t *testing.T) {
	if os.Getenv("DEFX_E2E") != "1" {
		t.Skip("make e2e runs this")
	}
	const page, address = "../../docs/get-started.md", "root@web1.example.com"
	blocks := transcript.Blocks(t, page)
	if !strings.Contains(strings.Join(blocks, ""), address) {
		t.Fatalf("%s does not connect to %s", page, address)
	}
	if n := steps(t, page); n > 6 {
		t.Errorf("%s has %d steps, want 6 at most", page, n)
	}
	t.Parallel()
	lab := machinetest.Boot(t, 1)
	bins, err := built()
	if err != nil {
		t.Fatal(err)
	}
	shell := transcript.Shell{
		Dir:  t.TempDir(),
		Path: []string{bins, lab.Bin},
		Env:  []string{"XDG_RUNTIME_DIR=", "XDG_CACHE_HOME=" + t.TempDir(), "NO_COLOR=1"},
	}
	for _, b := range blocks {
		shell.Run(t, strings.ReplaceAll(b, address, "root@"+lab.Machines[0].Address))
	}
	if left, _ := filepath.Glob(filepath.Join(lab.Machines[0].Root, "etc/systemd/system/defx-*")); len(left) > 0 {
		t.Errorf("after the last step there are still units on the machine: %v", left)
	}
}

// steps counts the numbered headings of a page.
func steps(t *testing.T, page string) int {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		if heading, ok := strings.CutPrefix(line, "## "); ok && heading[0] >= '0' && heading[0] <= '9' {
			n++
		}
	}
	return n
}
