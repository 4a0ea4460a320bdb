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

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/deploy/lock"
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
init) ` + initCommand + `
	printf 'provider "registry.terraform.io/acme/box" {\n  version = "1.2.3"\n  hashes = [\n    "h1:abc=",\n  ]\n}\n' >.terraform.lock.hcl ;;
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

// lockBox locks the provider of these tests.
func lockBox(ctx context.Context, r *Runner, version string) (lock.TerraformProvider, error) {
	return r.Lock(ctx, testSource, ec2.Required{Version: version, Types: []string{"box_box"}}, lock.TerraformProvider{})
}

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

// TestLock_InterruptedReturnsWithinASecond: whatever Terraform is doing, Lock
// returns the cancellation at once, and neither Terraform nor its children are left.
func TestLock_InterruptedReturnsWithinASecond(t *testing.T) {
	for name, c := range map[string]struct{ init, providers, during string }{
		"download":              {"sleep 600", "", "init"},
		"download ignores INT":  {"trap '' INT; sleep 600; sleep 600", "", "init"},
		"provider":              {"true", "sleep 600", "providers"},
		"provider in a subtree": {"true", "(sleep 600 & wait)", "providers"},
	} {
		t.Run(name, func(t *testing.T) {
			r, calls := fakeTerraform(t, c.init, c.providers)
			var at time.Time
			_, err := lockBox(interruptAfterCall(t, calls, c.during, &at), r, "")
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

// TestLock_InterruptedWhileWaitingForCache: another process is downloading.
func TestLock_InterruptedWhileWaitingForCache(t *testing.T) {
	r, _ := fakeTerraform(t, "true", testSchema)
	if err := os.MkdirAll(r.Cache, 0o700); err != nil {
		t.Fatal(err)
	}
	defer holdLock(t, filepath.Join(r.Cache, lockFile))()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := lockBox(ctx, r, ""); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 1300*time.Millisecond {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

// TestLock_RunsTheProviderForItsSchemaOnly: without resource types that are not built in, the
// provider is downloaded and does not run.
func TestLock_RunsTheProviderForItsSchemaOnly(t *testing.T) {
	r, calls := fakeTerraform(t, "true", testSchema)
	p, err := lockBox(t.Context(), r, "")
	if err != nil || p.Version != "1.2.3" || p.Address != "registry.terraform.io/acme/box" || len(p.Hashes) != 1 || !strings.Contains(string(p.Schema), "box_box") {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = r.Lock(t.Context(), testSource, ec2.Required{}, p); err != nil || p.Schema != nil {
		t.Errorf("%+v, %v", p, err)
	}
	if n := len(callsOf(t, calls, "providers")); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	if left, _ := filepath.Glob(filepath.Join(r.Cache, ".schema-*")); len(left) > 0 {
		t.Errorf("temporary directories are left: %v", left)
	}
}

// TestLocked_TerraformsLockFile: the locked providers replace those of the same source, and what
// Terraform chose is compared with them.
func TestLocked_TerraformsLockFile(t *testing.T) {
	deps := []byte("# comment\n\nprovider \"registry.terraform.io/acme/box\" {\n  version     = \"2.0.0\"\n  constraints = \">= 1.0.0\"\n  hashes = [\n    \"h1:other=\",\n    \"zh:00ff\",\n  ]\n}\n\n" +
		"provider \"registry.terraform.io/acme/crate\" {\n  version = \"3.0.0\"\n  hashes = [\n    \"h1:crate=\",\n  ]\n}\n")
	locked := map[string]lock.TerraformProvider{testSource: {Address: "registry.terraform.io/acme/box", Version: "1.2.3", Hashes: []string{"h1:abc=", "zh:11"}}}
	if err := checkLocked(deps, []string{testSource, "acme/crate"}, locked); err == nil || !strings.Contains(err.Error(), "2.0.0") {
		t.Errorf("another version: %v", err)
	}
	now := withLocked(deps, locked)
	if got, ok := lockedIn(now, testSource); !ok || got.Version != "1.2.3" || strings.Join(got.Hashes, " ") != "h1:abc= zh:11" {
		t.Errorf("%+v\n%s", got, now)
	}
	if got, ok := lockedIn(now, "acme/crate"); !ok || got.Version != "3.0.0" {
		t.Errorf("%+v\n%s", got, now)
	}
	if again := withLocked(now, locked); string(again) != string(now) {
		t.Errorf("not stable:\n%s\n%s", now, again)
	}
	if err := checkLocked(now, []string{testSource, "acme/crate"}, locked); err != nil {
		t.Error(err)
	}
	changed := []byte(strings.ReplaceAll(strings.ReplaceAll(string(now), "h1:abc=", "h1:abd="), "zh:11", "zh:12"))
	if err := checkLocked(changed, []string{testSource}, locked); err == nil {
		t.Error("another package of the same version was accepted")
	}
	if err := unlocked([]string{testSource, "acme/crate"}, locked); err == nil || !strings.Contains(err.Error(), "acme/crate") || !strings.Contains(err.Error(), "defx providers lock") {
		t.Errorf("%v", err)
	}
}

// TestLock_StalledDownloadFails: a download that makes no progress is ended, and a
// slow one is not.
func TestLock_StalledDownloadFails(t *testing.T) {
	previous := stallTimeout
	stallTimeout = 500 * time.Millisecond
	defer func() { stallTimeout = previous }()

	r, _ := fakeTerraform(t, "sleep 600", "")
	begin := time.Now()
	_, err := lockBox(t.Context(), r, "")
	if _, stalled := errors.AsType[*StalledError](err); !stalled || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}

	for name, step := range map[string]string{"output": "echo x", "file": "echo x >>$TMPDIR/provider.zip"} {
		r, _ := fakeTerraform(t, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do "+step+"; sleep 0.1; done", testSchema)
		if _, err := lockBox(t.Context(), r, ""); err != nil {
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
