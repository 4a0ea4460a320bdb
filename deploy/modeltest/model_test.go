package modeltest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/defx-dev/defx/lang"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb {
		os.Exit(lang.Worker(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// length returns how many steps a sequence has: mostly few.
func length(r *rand.Rand) int {
	if r.IntN(8) == 0 {
		return growing + 8 + r.IntN(17)
	}
	return growing + 3 + r.IntN(5)
}

// sequence makes the steps in a new world, and returns what was violated first, and
// what was done.
func sequence(dir string, steps []step) (violations, log []string) {
	w := newWorld(dir)
	defer os.RemoveAll(dir)
	defer func() {
		if p := recover(); p != nil {
			violations, log = []string{fmt.Sprintf("panic: %v\n%s", p, debug.Stack())}, w.log
		}
	}()
	for _, s := range steps {
		if w.do(s); len(w.violations) > 0 {
			return w.violations, w.log
		}
	}
	w.finish()
	return w.violations, w.log
}

// finish applies everything until nothing is left to do.
func (w *world) finish() {
	w.finishing = true
	for _, s := range w.scopes {
		if s.settled == w.changes || len(s.want.services)+len(s.recorded) == 0 {
			continue
		}
		for range 2 {
			out := w.applyAndNote(s, options{repair: true, allowEmpty: map[string]bool{"@m1": true, "@m2": true, "@m3": true}})
			if len(w.violations) > 0 {
				return
			}
			if out.clean() {
				break
			}
		}
	}
}

// shrink drops steps as long as a sequence still fails, and returns the steps that are
// left, with their violations.
func shrink(dir string, steps []step, most int) ([]step, []string, []string) {
	try := 0
	run := func(list []step) ([]string, []string) {
		try++
		return sequence(filepath.Join(dir, "shrink"+strconv.Itoa(try)), list)
	}
	violations, log := run(steps)
	for size := max(1, len(steps)/2); size >= 1; size /= 2 {
		for i := 0; i+size <= len(steps) && try < most; {
			rest := slices.Concat(steps[:i], steps[i+size:])
			if v, l := run(rest); len(v) > 0 {
				steps, violations, log = rest, v, l
			} else {
				i += size
			}
		}
	}
	return steps, violations, log
}

func number(name string, usual uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return usual
}

// TestModel_RandomSequences makes random steps and compares the machines with what a
// simple model says must hold. The sequences are the same each time; DEFX_TEST_SEED is
// the seed of the first one, to repeat one or to try others.
func TestModel_RandomSequences(t *testing.T) {
	sequences := number("DEFX_TEST_SEQUENCES", 100) // 3000 in continuous integration, 200000 by make torture
	first := number("DEFX_TEST_SEED", 1)
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // nothing lives long
	t.Setenv("PATH", "")                              // there is no git, whose commits are of no interest
	dir := temporary(t)
	t.Logf("%d sequences from seed %d", sequences, first)
	failures := 0
	for n := range sequences {
		seed := first + n
		r := rand.New(rand.NewPCG(seed, 0))
		steps := randomSteps(r, length(r))
		violations, log := sequence(filepath.Join(dir, strconv.FormatUint(n, 10)), steps)
		if sequences == 1 {
			t.Log(strings.Join(log, "\n"))
		}
		if len(violations) == 0 {
			continue
		}
		if os.Getenv("DEFX_TEST_FIRST") != "" {
			t.Fatalf("seed %d violates\n\t%s", seed, strings.Join(violations, "\n\t"))
		}
		least, v, log := shrink(dir, steps, 150)
		if len(v) == 0 {
			v, log = violations, []string{"it did not fail again"}
		}
		t.Errorf("seed %d: %d steps\n\t%s\nviolates\n\t%s", seed, len(least), strings.Join(log, "\n\t"), strings.Join(v, "\n\t"))
		if failures++; failures == 3 {
			t.FailNow()
		}
	}
}
