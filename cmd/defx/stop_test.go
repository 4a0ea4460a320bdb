package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestApply_FirstInterruptFinishesRunningActions interrupts an apply whose output
// is not read: it cannot finish, because the pipe is full.
func TestApply_FirstInterruptFinishesRunningActions(t *testing.T) {
	const services = 500 // their events are more than the pipe holds
	dir := t.TempDir()
	entry := fmt.Sprintf("{ name: 'many', machines: { box: { connect: 'dir:./box' } },\n  libs: { a: { ['s%%d' %% i]: { service: { command: ['/bin/a'] } } for i in std.range(1, %d) } } }\n", services)
	if err := os.WriteFile(filepath.Join(dir, "defx.jsonnet"), []byte(entry), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("defx", "apply", "--yes", "--json", "--parallel", "1")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReaderSize(out, 16)
	if first, err := lines.ReadString('\n'); err != nil || !strings.Contains(first, `"kind":"Action"`) {
		t.Fatalf("%q, %v\n%s", first, err, stderr.String())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d, want %d\n%s", code, exitInterrupted, stderr.String())
	}
	for _, want := range []string{"stopping: running actions are finished", "error: interrupted before the end\n    hint: run defx apply again to finish"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in\n%s", want, stderr.String())
		}
	}
	started, done := strings.Count(string(rest), `"started"`)+1, strings.Count(string(rest), `"done"`)
	if started != done || done == services {
		t.Errorf("%d were started and %d of %d done", started, done, services)
	}
	again := exec.Command("defx", "apply", "--yes")
	again.Dir = dir
	last, err := again.CombinedOutput()
	if want := fmt.Sprintf("Generation 2: %d created; %d unchanged; ", services-done, done); err != nil || !strings.Contains(string(last), want) {
		t.Errorf("%q is not in %q, %v", want, last[max(0, len(last)-200):], err)
	}
}
