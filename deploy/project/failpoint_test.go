package project_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
)

// small writes a deployment of which each version creates, changes, moves, renames
// and deletes something on two machines below the folder machines.
func small(w *world, machines string, version int) {
	moved, renamed := "one", "old"
	if version > 1 {
		moved, renamed = "two", "new"
	}
	w.write("defx.jsonnet", fmt.Sprintf(`
local defx = import 'defx/v1.libsonnet';
local v = '%[2]d';
{
  name: 'small',
  moved: if v == '2' then { 'a/old': 'a/new' } else { 'a/new': 'a/old' },
  libs: { a: {
    changed: { place: { machine: 'one' }, service: { command: ['/bin/changed'], env: { V: v }, files: { '/etc/f.conf': v } } },
    moves: { place: { machine: '%[3]s' }, service: { command: ['/bin/moves'] } },
    %[4]s: { place: { machine: 'one' }, service: { command: ['/bin/renamed'], dirs: { state: 'd' } } },
    package: { place: { machine: 'two' }, service: { package: defx.artifact('pkg'), command: ['bin/run'] } },
    stays: { place: { machine: 'two' }, service: { command: ['/bin/stays'], ports: { p: 1 } } },
    reads: { place: { machine: 'one' }, requires: { stays: 'stays' }, service: { command: ['/bin/reads'], env: { P: defx.dep('stays').port('p'), V: v } } },
    ['only' + v]: { place: { machine: if v == '1' then 'one' else 'two' }, service: { command: ['/bin/only'] } },
  } },
  machines: { one: { connect: 'dir:%[1]s/one', address: '10.0.0.1' }, two: { connect: 'dir:%[1]s/two', address: '10.0.0.2' } },
}
`, machines, version, moved, renamed))
	w.write("pkg/bin/run", fmt.Sprintf("#!/bin/sh\n# version %d\n", version))
	os.Chmod(filepath.Join(w.dir, "pkg/bin/run"), 0o755)
}

// applyKilledAt applies in a process that dies at step n, or not at all if n is 0,
// and that asks the machines first if refresh is set. It reports whether it died.
func applyKilledAt(t *testing.T, dir, state string, n int, refresh bool) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], applyVerb, dir, state, strconv.Itoa(n), strconv.FormatBool(refresh))
	out, err := cmd.CombinedOutput()
	if exit, is := err.(*exec.ExitError); is && !exit.Exited() {
		return true
	}
	if err != nil {
		t.Fatalf("step %d: %v\n%s", n, err, out)
	}
	return false
}

// TestApply_KilledAtEachStepIsFinishedFromElsewhere kills an apply before and after
// each durable write and each frame: of the state (head, intent, leases, packs), of
// the machines (records, journal, files) and of the connection. The next apply, in
// another folder that has only the state in common, finishes it; and one that wants
// what there was before leaves nothing of it.
func TestApply_KilledAtEachStepIsFinishedFromElsewhere(t *testing.T) {
	most := 15 // steps, evenly distributed
	if s := os.Getenv("DEFX_TEST_STEPS"); s != "" {
		most, _ = strconv.Atoi(s)
	}
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	machines := at("machines")
	one, two := &world{t, at("first")}, &world{t, at("second")}
	reset := func() {
		for _, dir := range []string{"machines", "state"} {
			copyFolder(t, at(dir+".before"), at(dir))
		}
	}
	both := func() string {
		return machine(t, filepath.Join(machines, "one")) + machine(t, filepath.Join(machines, "two"))
	}

	small(one, machines, 1)
	applyKilledAt(t, one.dir, at("state"), 0, false)
	(&world{t, root}).write("machines/one/var/lib/defx/default/small/a-old.0/d/data", "moves with its unit") // as if it had run
	before := both()
	for _, dir := range []string{"machines", "state"} {
		copyFolder(t, at(dir), at(dir+".before"))
	}
	small(one, machines, 2)
	applyKilledAt(t, one.dir, at("state"), 0, false)
	after := both()
	if before == after {
		t.Fatal("the versions do not differ")
	}

	// The number of steps: the first one at which the process does not die.
	steps := 1
	for lower := 0; ; {
		reset()
		if applyKilledAt(t, one.dir, at("state"), steps, true) {
			lower, steps = steps, steps*2
			continue
		}
		for upper := steps; upper-lower > 1; {
			reset()
			if middle := (lower + upper) / 2; applyKilledAt(t, one.dir, at("state"), middle, true) {
				lower = middle
			} else {
				upper = middle
			}
			steps = upper
		}
		break
	}
	t.Logf("an apply has %d steps", steps-1)
	if steps < 100 {
		t.Errorf("an apply has only %d steps", steps-1)
	}

	killed := 0
	every := max(1, steps/most)
	for n := 1; n < steps; n += every {
		for _, version := range []int{1, 2} {
			reset()
			if !applyKilledAt(t, one.dir, at("state"), n, true) {
				continue
			}
			killed++
			os.Remove(filepath.Join(at("state"), "small", "default", state.JournalName))
			small(two, machines, version)
			if applyKilledAt(t, two.dir, at("state"), 0, n/every%2 == 0) {
				t.Fatalf("step %d: the next apply died", n)
			}
			want := before
			if version == 2 {
				want = after
			}
			if got := both(); got != want {
				t.Fatalf("killed at step %d, then version %d: the machines differ:\n%s", n, version, firstDifference(got, want))
			}
			if u, err := apply.ReadUnfinished(t.Context(), state.OpenDir(filepath.Join(at("state"), "small", "default"))); err != nil || u != nil {
				t.Fatalf("killed at step %d, then version %d: %+v is still open, %v", n, version, u, err)
			}
		}
	}
	t.Logf("%d of %d converged", killed, killed)
	if killed < 2*min(most, steps-1)-2 {
		t.Errorf("only %d applies were killed", killed)
	}
}
