package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/pflag"
)

func TestWithHint_KeepsAnEarlierHint(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for want, err := range map[string]error{
		"cause\n    hint: new":            cause,
		"about: cause\n    hint: new":     fmt.Errorf("about: %w", cause),
		"cause\n    hint: old":            diag.Errorf("", "%v", cause).WithHint("old"),
		"about: cause\n    hint: old":     fmt.Errorf("about: %w", diag.Errorf("", "%v", cause).WithHint("old")),
		"position: cause\n    hint: mine": fmt.Errorf("position: %w\n    hint: mine", cause),
	} {
		got := withHint(err, "new")
		if got.Error() != want || !errors.Is(got, cause) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPrintDiagnostics_OneForm(t *testing.T) {
	t.Parallel()
	placed := diag.Errorf("a/web", "wrong").In(diag.Position{File: "x.jsonnet", Line: 3, Col: 7}).WithHint("right")
	var b strings.Builder
	for _, err := range []error{errors.New("plain"), placed, diag.List{placed, diag.Errorf("", "second")}} {
		printDiagnostics(&b, style{}, diagnostics(err))
	}
	want := "error: plain\nx.jsonnet:3:7: a/web: wrong\n    hint: right\nx.jsonnet:3:7: a/web: wrong\n    hint: right\nerror: second\n"
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
}

func TestFlagError_NamesTheExpectedValue(t *testing.T) {
	t.Parallel()
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.Duration("wait", 0, "")
	f.Int("number", 0, "")
	f.Bool("yes", false, "")
	for want, arg := range map[string][2]string{
		"--wait: \"5\" is not a duration\n    hint: a duration such as 5s": {"wait", "5"},
		"--number: \"many\" is not a whole number":                         {"number", "many"},
		"--yes: \"maybe\" is neither true nor false":                       {"yes", "maybe"},
	} {
		if got := flagError(f.Set(arg[0], arg[1]), "--"+arg[0]).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestEnvironmentValues_Lists(t *testing.T) {
	t.Parallel()
	root := rootCommand()
	for name, want := range map[string]string{"jpath": "[a b]", "tla-str": "[a:b]", "env": "[a:b]"} {
		if got := fmt.Sprint(environmentValues(root.PersistentFlags().Lookup(name), "a:b")); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestPlan_ErrorsComeLast runs a plan with stdout and stderr on one pipe, as on a terminal.
func TestPlan_ErrorsComeLast(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	entry := "{ name: 'last', machines: { box: { connect: 'dir:./box' } }, libs: { a: { good: { service: { command: ['/bin/a'] } }, bad: { sevice: {} } } } }\n"
	if err := os.WriteFile(filepath.Join(dir, "defx.jsonnet"), []byte(entry), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"plan"}, {"apply", "--yes"}, {"graph"}, {"lint"}} {
		cmd := exec.Command("defx", args...)
		cmd.Dir = dir
		out, _ := cmd.CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if cmd.ProcessState.ExitCode() != exitPartial || len(lines) < 3 || !strings.HasPrefix(strings.TrimSpace(lines[len(lines)-1]), "held: a/bad skipped") {
			t.Errorf("%v: exit code %d\n%s", args, cmd.ProcessState.ExitCode(), out)
		}
	}
}
