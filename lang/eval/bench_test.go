package eval

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func workloads(t testing.TB) []*testCase {
	t.Helper()
	files, err := filepath.Glob("testdata/bench/*.jsonnet")
	if err != nil || len(files) == 0 {
		t.Fatal("no workloads: ", err)
	}
	var cases []*testCase
	for _, f := range files {
		code, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, &testCase{name: strings.TrimSuffix(filepath.Base(f), ".jsonnet"), code: string(code)})
	}
	return cases
}

// forget empties the cache of programs, so that each run is a cold one.
func forget() {
	programs.Lock()
	programs.m = nil
	programs.Unlock()
}

func TestWorkloads_SameOutput(t *testing.T) {
	for _, c := range workloads(t) {
		got := evalWith(c)
		if d := differ(got, goJsonnet(c)); d != "" || got.failed {
			t.Errorf("%s: %s%s", c.name, d, got.line)
		}
	}
}

// TestMain runs one workload if it is a child of TestWorkloads_Cost.
func TestMain(m *testing.M) {
	file := os.Getenv("DEFX_EVAL_CHILD_FILE")
	if file == "" {
		os.Exit(m.Run())
	}
	code, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	run := evalWith
	if os.Getenv("DEFX_EVAL_CHILD") == "go-jsonnet" {
		run = goJsonnet
	}
	if r := run(&testCase{name: file, code: string(code)}); r.failed {
		fmt.Fprintln(os.Stderr, r.line)
		os.Exit(1)
	}
	os.Exit(0)
}

// cost runs a file in a process of its own, and returns its processor time and
// its peak of memory in MiB.
func cost(t *testing.T, engine, file string) (time.Duration, float64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DEFX_EVAL_CHILD="+engine, "DEFX_EVAL_CHILD_FILE="+file)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(engine, file, err)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), float64(u.Maxrss) / 1024
}

// TestWorkloads_Cost prints what each workload costs, beside go-jsonnet,
// interleaved. DEFX_EVAL_COST is the number of rounds; DEFX_EVAL_COST_FILES may
// name other files.
func TestWorkloads_Cost(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("DEFX_EVAL_COST"))
	if rounds == 0 {
		t.Skip("DEFX_EVAL_COST is not set")
	}
	pattern := cmp.Or(os.Getenv("DEFX_EVAL_COST_FILES"), "testdata/bench/*.jsonnet")
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		var cpu [2][]time.Duration
		var mem [2]float64
		for range rounds {
			for i, engine := range []string{"eval", "go-jsonnet"} {
				d, m := cost(t, engine, f)
				cpu[i] = append(cpu[i], d)
				mem[i] = max(mem[i], m)
			}
		}
		a, b := median(cpu[0]), median(cpu[1])
		t.Logf("%-24s CPU %8.1f ms, go-jsonnet %8.1f ms: %6.1f times; peak %6.1f MiB, go-jsonnet %6.1f MiB",
			filepath.Base(f), ms(a), ms(b), float64(b)/float64(a), mem[0], mem[1])
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func BenchmarkEvaluate(b *testing.B) {
	for _, c := range workloads(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				forget()
				if r := evalWith(c); r.failed {
					b.Fatal(r.line)
				}
			}
		})
	}
}
