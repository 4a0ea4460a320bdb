package project_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/failpoint"
	"github.com/defx-dev/defx/lang"
)

// applyVerb makes this test binary apply the deployment of a folder, in a process
// that can be killed.
const applyVerb = "__apply"

// killedLeaseTime is how long the lease of a killed process delays the next one.
const killedLeaseTime = 150 * time.Millisecond

// applyAsProcess applies the deployment in args[0], with the state in args[1], if
// there is one, and dies at step args[2], if there is one. It asks the machines
// first if args[3] says so.
func applyAsProcess(args []string) int {
	args = append(args, []string{"", "0", "false"}[len(args)-1:]...)
	if n, _ := strconv.ParseInt(args[2], 10, 64); n > 0 {
		failpoint.EndAt(n)
	}
	p, err := project.Open(args[0], "defx.jsonnet", args[1], lang.Config{}, backends.NewSet(systemd.New()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	d, err := p.Evaluate(context.Background())
	if err == nil {
		var res *apply.Result
		w := p.ApplyRequest(d)
		w.LeaseTime, w.LeaseWait = killedLeaseTime, time.Minute
		if args[3] == "true" {
			if err := w.RefreshMachines(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		w.OnEvent = func(e apply.Event) {
			if e.Err != nil {
				fmt.Fprintln(os.Stderr, e.Outcome, e.Action.Address, e.Err)
			}
		}
		if res, err = apply.Run(context.Background(), w); err == nil && len(res.Failed) > 0 {
			err = fmt.Errorf("failed: %v", res.Failed)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fleet writes a deployment of n services with reloads, timers, sockets and users.
// Each version changes, drops and adds some of them.
func fleet(w *world, n, version int) {
	w.write("defx.jsonnet", fmt.Sprintf(`
local defx = import 'defx/v1.libsonnet';
local v = %d;
{
  name: 'fleet',
  libs: {
    a: {
      ['s%%d' %% i]: {
        requires: if i %% 5 == 1 then ['s0'] else [],
        service: {
          command: ['/bin/run', '%%d' %% i],
          env: { V: '%%d' %% (if i %% 3 == 0 then v else 0) },
          ports: { p: 1000 + i },
        } + (if i %% 7 == 0 then { schedule: { every: '1m' } } else {})
          + (if i %% 7 == 1 then { user: 'u%%d' %% i } else {})
          + (if i %% 7 == 2 then { reload: { signal: 'HUP' }, files: { '/etc/f.conf': 'v%%d' %% v } } else {})
          + (if i %% 7 == 3 then { files: { '/etc/f.conf': 'v%%d' %% v } } else {})
          + (if i %% 7 == 4 then { package: defx.artifact('pkg'), args: ['./run'] } else {}),
      }
      for i in std.range(0, %d)
      if (i + v) %% 11 != 0 || i == 0
    },
  },
  machines: { m1: { connect: 'dir:./m1', address: '10.0.0.1' }, m2: { connect: 'dir:./m2', address: '10.0.0.2' } },
}
`, version, n))
	w.write("pkg/run", fmt.Sprintf("version %d", version))
}

// machines returns the trees of both machines.
func machines(t *testing.T, w *world) string {
	return machine(t, filepath.Join(w.dir, "m1")) + machine(t, filepath.Join(w.dir, "m2"))
}

func copyWorld(t *testing.T, from *world) *world {
	t.Helper()
	to := &world{t, filepath.Join(t.TempDir(), "w")}
	if out, err := exec.Command("cp", "-a", from.dir, to.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

func TestApply_KilledIsFinishedByTheNext(t *testing.T) {
	kills := 10 // 100 in continuous integration, 1000 by make torture
	if s := os.Getenv("DEFX_TEST_KILLS"); s != "" {
		kills, _ = strconv.Atoi(s)
	}
	before := newWorld(t, "")
	fleet(before, 60, 1)
	before.apply()

	undisturbed := copyWorld(t, before)
	fleet(undisturbed, 60, 2)
	begun := time.Now()
	if out, err := exec.Command(os.Args[0], applyVerb, undisturbed.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	took := time.Since(begun)
	want := machines(t, undisturbed)

	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DEFX_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d, %d kills within %s", seed, kills, took)
	r := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for n := range kills {
		w := copyWorld(t, before)
		fleet(w, 60, 2)
		cmd := exec.Command(os.Args[0], applyVerb, w.dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wait := time.Duration(r.Int64N(int64(took)))
		time.AfterFunc(wait, func() { cmd.Process.Kill() })
		begun := time.Now()
		if cmd.Wait() != nil {
			killed++
		} else { // the first run was slower: kill earlier
			took = min(took, time.Since(begun))
		}
		if out, err := exec.Command(os.Args[0], applyVerb, w.dir).CombinedOutput(); err != nil {
			t.Fatalf("kill %d after %s: the next apply failed: %v\n%s", n, wait, err, out)
		}
		if got := machines(t, w); got != want {
			t.Fatalf("kill %d after %s: the machines differ:\n%s", n, wait, firstDifference(got, want))
		}
		res := w.apply()
		if res.Wrote || !res.Changes.Empty() {
			t.Fatalf("kill %d after %s: a third apply still found changes: %+v", n, wait, res.Changes.Actions)
		}
		os.RemoveAll(w.dir)
	}
	t.Logf("%d of %d were killed before they ended", killed, kills)
	if killed < kills/10 {
		t.Errorf("only %d of %d applies were killed before they ended", killed, kills)
	}
}

// TestApply_BrokenLibraryAfterKillDeletesNothing checks that units which are
// absent because of an error are not deleted, even if the apply that deployed
// them was killed before it recorded them.
func TestApply_BrokenLibraryAfterKillDeletesNothing(t *testing.T) {
	for _, wait := range []time.Duration{60, 90, 120, 150} {
		w := newWorld(t, "")
		fleet(w, 60, 1)
		cmd := exec.Command(os.Args[0], applyVerb, w.dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(wait*time.Millisecond, func() { cmd.Process.Kill() })
		cmd.Wait()
		deployed := machines(t, &world{t, mkdirs(t, w.dir, "m1", "m2")})
		w.edit("defx.jsonnet", "service: {", "service: { {")
		w.write("a.libsonnet", "{ {")
		w.write("defx.jsonnet", "{ name: 'fleet', libs: { a: import 'a.libsonnet' }, machines: { m1: { connect: 'dir:./m1', address: '10.0.0.1' }, m2: { connect: 'dir:./m2', address: '10.0.0.2' } } }")
		res := w.apply()
		if res.Counts.Deleted+res.Counts.Updated+res.Counts.Created != 0 {
			t.Errorf("killed after %d ms: %+v", wait, res.Counts)
		}
		units := func(s string) int { return strings.Count(s, ".service") }
		if now := machines(t, w); units(now) < units(deployed) {
			t.Errorf("killed after %d ms: units were deleted", wait)
		}
		fleet(w, 60, 1)
		if res := w.apply(); len(res.Failed) > 0 {
			t.Errorf("killed after %d ms, fixed: %+v", wait, res)
		}
	}
}

func mkdirs(t *testing.T, dir string, names ...string) string {
	for _, n := range names {
		if err := os.MkdirAll(filepath.Join(dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func firstDifference(a, b string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	cut := func(s string) string { return s[max(0, i-200):min(len(s), i+200)] }
	return "got …" + cut(a) + "…\nwant …" + cut(b) + "…"
}
