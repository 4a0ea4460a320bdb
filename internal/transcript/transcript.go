// Package transcript runs the console blocks of Markdown pages, so that tests
// can check that the pages are true.
//
// It knows the form of a block: a line that begins with "$ " is a command, and
// every other line is part of what the command before it prints. It refuses to
// know what the commands do. Invariant: a command that fails, or a line that
// is not printed, fails the test.
package transcript

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var console = regexp.MustCompile("(?s)```console\n(.*?)```")

// Blocks returns the console blocks of a page, in order. A page without any fails the test.
func Blocks(t testing.TB, page string) []string {
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

// Shell is where blocks are run.
type Shell struct {
	Dir  string   // current folder; cd in a block changes it
	Path []string // folders that come before those of $PATH
	Env  []string // further variables, as NAME=value
}

// Run runs a block: each command by sh -e, and each other line must be contained
// in what the command before it printed. Runs of white space count as one space.
func (s *Shell) Run(t testing.TB, block string) {
	t.Helper()
	var printed string
	for line := range strings.SplitSeq(strings.TrimSpace(block), "\n") {
		command, isCommand := strings.CutPrefix(line, "$ ")
		if !isCommand {
			if want := fold(line); want != "" && !strings.Contains(printed, want) {
				t.Errorf("%q was not printed:\n%s", want, printed)
			}
			continue
		}
		if dir, ok := strings.CutPrefix(command, "cd "); ok {
			s.Dir = filepath.Join(s.Dir, dir)
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", command)
		cmd.Dir = s.Dir
		path := append(append([]string{}, s.Path...), os.Getenv("PATH"))
		cmd.Env = append(append(os.Environ(), s.Env...), "PATH="+strings.Join(path, string(os.PathListSeparator)))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("$ %s: %v\n%s", command, err, out)
		}
		t.Logf("$ %s\n%s", command, out)
		printed = fold(string(out))
	}
}

// fold replaces every run of white space by one space.
func fold(text string) string { return strings.Join(strings.Fields(text), " ") }
