package terraform

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakeTerraform makes a shell script the Terraform of this test. Its subcommands init
// and providers run the given commands. It returns a Runner and the path of a file
// with one line for each call.
func fakeTerraform(t *testing.T, initCommand, providersCommand string) (*Runner, string) {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	script := `#!/bin/sh
echo "$1 $$" >>"` + calls + `"
case "$1" in
version) echo '{"terraform_version":"1.11.4"}' ;;
init) ` + initCommand + ` ;;
providers) ` + providersCommand + ` ;;
esac
`
	program := filepath.Join(dir, "terraform")
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DEFX_TERRAFORM", program)
	return &Runner{Dir: filepath.Join(dir, "modules"), Cache: filepath.Join(dir, "cache")}, calls
}

const (
	testSource = "acme/box"
	testSchema = `echo '{"format_version":"1.0","provider_schemas":{"registry.terraform.io/acme/box":{"resource_schemas":{"box_box":{"version":0,"block":{}}}}}}'`
)

// callsOf returns the calls of a subcommand as process IDs.
func callsOf(t *testing.T, file, subcommand string) (pids []int) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if name, pid, _ := strings.Cut(strings.TrimSpace(line), " "); name == subcommand {
			n, _ := strconv.Atoi(pid)
			pids = append(pids, n)
		}
	}
	return pids
}

// groupRuns reports whether a process group has processes, not counting zombies.
func groupRuns(group int) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:])) // state, parent, group, …
		if fields[2] == strconv.Itoa(group) && fields[0] != "Z" {
			return true
		}
	}
	return false
}

// interruptAfterCall cancels a context as soon as a subcommand was called, and sets
// at to that time.
func interruptAfterCall(t *testing.T, file, subcommand string, at *time.Time) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(callsOf(t, file, subcommand)) == 0 && t.Context().Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		*at = time.Now()
		cancel()
	}()
	return ctx
}

// TestSchema_InterruptedReturnsWithinASecond: whatever Terraform is doing, Schema
// returns the cancellation at once, and neither Terraform nor its children are left.
func TestSchema_InterruptedReturnsWithinASecond(t *testing.T) {
	for name, c := range map[string]struct{ init, providers, during string }{
		"download":              {"sleep 600", "", "init"},
		"download ignores INT":  {"trap '' INT; sleep 600; sleep 600", "", "init"},
		"provider":              {"true", "sleep 600", "providers"},
		"provider in a subtree": {"true", "(sleep 600 & wait)", "providers"},
	} {
		t.Run(name, func(t *testing.T) {
			r, calls := fakeTerraform(t, c.init, c.providers)
			var at time.Time
			_, err := r.Schema(interruptAfterCall(t, calls, c.during, &at), testSource, "")
			if took := time.Since(at); !errors.Is(err, context.Canceled) || took > time.Second {
				t.Errorf("%v after %s", err, took)
			}
			pid := callsOf(t, calls, c.during)[0]
			for range 100 { // killed processes disappear a little later
				if !groupRuns(pid) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if groupRuns(pid) {
				t.Error("processes are left")
			}
			if left, _ := filepath.Glob(filepath.Join(r.Cache, ".schema-*")); len(left) > 0 {
				t.Errorf("temporary directories are left: %v", left)
			}
		})
	}
}

// TestSchema_InterruptedWhileWaitingForCache: another process is downloading.
func TestSchema_InterruptedWhileWaitingForCache(t *testing.T) {
	r, _ := fakeTerraform(t, "true", testSchema)
	if err := os.MkdirAll(r.Cache, 0o700); err != nil {
		t.Fatal(err)
	}
	defer holdLock(t, filepath.Join(r.Cache, lockFile))()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := r.Schema(ctx, testSource, ""); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 1300*time.Millisecond {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

// TestSchema_FailedQueryIsNotRepeated: each provider is asked at most once.
func TestSchema_FailedQueryIsNotRepeated(t *testing.T) {
	r, calls := fakeTerraform(t, "echo 'Error: no such host' >&2; exit 1", "")
	for range 3 {
		if _, err := r.Schema(t.Context(), testSource, ""); err == nil || !strings.Contains(err.Error(), "no such host") {
			t.Errorf("%v", err)
		}
	}
	if n := len(callsOf(t, calls, "init")); n != 1 {
		t.Errorf("terraform init ran %d times", n)
	}
	r.Schema(t.Context(), testSource, ">= 2")
	if n := len(callsOf(t, calls, "init")); n != 2 {
		t.Errorf("terraform init ran %d times for two versions", n)
	}
}

// TestSchema_IsCached: another Runner reads the schema from the cache directory.
func TestSchema_IsCached(t *testing.T) {
	r, calls := fakeTerraform(t, "true", testSchema)
	for _, r := range []*Runner{r, r, {Dir: r.Dir, Cache: r.Cache}} {
		if s, err := r.Schema(t.Context(), testSource, ""); err != nil || s.Resources["box_box"] == nil {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	if n := len(callsOf(t, calls, "providers")); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
}

// TestSchema_StalledDownloadFails: a download that makes no progress is ended, and a
// slow one is not.
func TestSchema_StalledDownloadFails(t *testing.T) {
	previous := stallTimeout
	stallTimeout = 500 * time.Millisecond
	defer func() { stallTimeout = previous }()

	r, _ := fakeTerraform(t, "sleep 600", "")
	begin := time.Now()
	_, err := r.Schema(t.Context(), testSource, "")
	if _, stalled := errors.AsType[*StalledError](err); !stalled || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}

	for name, step := range map[string]string{"output": "echo x", "file": "echo x >>$TMPDIR/provider.zip"} {
		r, _ := fakeTerraform(t, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do "+step+"; sleep 0.1; done", testSchema)
		if _, err := r.Schema(t.Context(), testSource, ""); err != nil {
			t.Errorf("progress by %s: %v", name, err)
		}
	}
}

// TestStatus_InterruptedReturnsWithinASecond: the worker is terminated.
func TestStatus_InterruptedReturnsWithinASecond(t *testing.T) {
	r, calls := fakeTerraform(t, "", "")
	r.Executable = []string{"/bin/sh", "-c", `echo "worker $$" >>"` + calls + `"; exec sleep 600`}
	var at time.Time
	_, err := r.Status(interruptAfterCall(t, calls, "worker", &at), ModuleRequest{Scope: "dev/shop", Address: "module/network", Unit: []byte("{}")})
	if took := time.Since(at); !errors.Is(err, context.Canceled) || took > time.Second {
		t.Errorf("%v after %s", err, took)
	}
	pid := callsOf(t, calls, "worker")[0]
	for range 100 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the worker is still running")
}
