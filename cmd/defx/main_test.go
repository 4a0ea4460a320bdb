package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/defx-dev/defx/internal/failpoint"
	"github.com/defx-dev/defx/lang"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb { // of a test that evaluates in this process
		os.Exit(lang.Worker(os.Stdin, os.Stdout))
	}
	testscript.Main(m, map[string]func(){"defx": func() {
		if step := os.Getenv("END_AFTER"); step != "" { // killed in the middle of an apply
			failpoint.Watch(func(name string) {
				if name == step {
					syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {} // until the signal arrives
				}
			})
		}
		os.Exit(run())
	}})
}

// TestCommands_Scripts runs the scripts in testdata/script with the real program.
func TestCommands_Scripts(t *testing.T) {
	servers, userState := startServers(t), t.TempDir()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("TERM", "xterm")
			e.Setenv("XDG_STATE_HOME", userState)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each process waits a second at its end under the race detector
			for k, v := range servers {
				e.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code, "edit": edit, "documents": documentsCommand},
	})
}

// code is the script command "code N COMMAND ARG...": it wants exactly that exit
// code, which "! exec" does not check.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		text, ok := strings.CutPrefix(err.Error(), "exit status ")
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = text
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// edit is the script command "edit FILE OLD NEW". OLD has to be in the file.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o644))
}
