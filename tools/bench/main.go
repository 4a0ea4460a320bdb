// Command bench compares defx with other evaluators on workloads that it writes
// itself. Runs are interleaved, and the minimum of each is reported, because other
// processes may use the machine too.
//
//	go -C tools run ./bench -defx ../bin/defx
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	defx            = flag.String("defx", "", "defx program to measure")
	runs            = flag.Int("runs", 5, "number of runs of each command")
	services        = flag.String("services", "1000,10000", "numbers of services in deployments")
	keep            = flag.String("keep", "", "folder for the workloads (default: a temporary one)")
	only            = flag.String("only", "", "measure only eval, plan or compose")
	compose         = flag.String("compose", "", "docker-compose program to compare with, on the local engine")
	composeServices = flag.Int("compose-services", 50, "number of services in the comparison with docker-compose")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	dir := *keep
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "defx-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	program, err := filepath.Abs(*defx)
	if err != nil {
		return err
	}
	if *only == "compose" {
		composeProgram, err := filepath.Abs(*compose)
		if err != nil {
			return err
		}
		return compareCompose(dir, program, composeProgram, *composeServices)
	}
	if *only != "plan" {
		if err := compareEvaluators(dir, program); err != nil {
			return err
		}
	}
	if *only == "eval" {
		return nil
	}
	return measurePlans(dir, program)
}

// Time limits of one run.
const (
	evalTimeout   = time.Minute
	deployTimeout = 20 * time.Minute
)

// cost is the minimum of several runs.
type cost struct {
	cpu, wall time.Duration
	kib       int64    // maximum resident set
	sum       [32]byte // of the output
	bytes     int      // length of the output
	fail      string   // error of the last failed run; "" if all succeeded
}

// measure runs a command once and updates best.
func measure(best *cost, timeout time.Duration, env []string, command ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	begin := time.Now()
	err := cmd.Run()
	wall := time.Since(begin)
	if err != nil {
		best.fail = fmt.Sprintf("%v: %s", err, strings.TrimSpace(stderr.String()))
		return
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() // including children
	kib := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	best.sum, best.bytes = sha256.Sum256(out.Bytes()), out.Len()
	if best.cpu == 0 || cpu < best.cpu {
		best.cpu = cpu
	}
	if best.wall == 0 || wall < best.wall {
		best.wall = wall
	}
	best.kib = max(best.kib, kib)
}

func (c cost) String() string {
	if c.fail != "" {
		return "more than a minute, or failed"
	}
	return fmt.Sprintf("%.2f s, %d MiB", c.cpu.Seconds(), c.kib>>10)
}

// compareEvaluators compares programs on single files.
func compareEvaluators(dir, program string) error {
	gojsonnet := filepath.Join(dir, "go-jsonnet")
	if out, err := exec.Command("go", "build", "-o", gojsonnet, "github.com/google/go-jsonnet/cmd/jsonnet").CombinedOutput(); err != nil {
		return fmt.Errorf("building go-jsonnet's command: %v\n%s", err, out)
	}
	others := [][]string{{gojsonnet}}
	names := []string{"go-jsonnet"}
	if cpp, err := exec.LookPath("jsonnet"); err == nil {
		others, names = append(others, []string{cpp}), append(names, "C++ jsonnet")
	}
	fmt.Printf("| workload | defx |")
	for _, n := range names {
		fmt.Printf(" %s | ratio |", n)
	}
	fmt.Printf("\n|---|---|%s\n", strings.Repeat("---|---|", len(names)))
	for _, w := range files {
		file := filepath.Join(dir, w.name+".jsonnet")
		if err := os.WriteFile(file, []byte(w.text), 0o644); err != nil {
			return err
		}
		costs := make([]cost, len(others)+1)
		for n := range *runs {
			measure(&costs[0], evalTimeout, nil, program, "eval", file)
			for i, o := range others {
				if n > 0 && (costs[i+1].cpu > 5*time.Second || costs[i+1].fail != "") { // one run is enough
					continue
				}
				measure(&costs[i+1], evalTimeout, nil, append(slices.Clone(o), file)...)
			}
		}
		fmt.Printf("| %s | %s |", w.name, costs[0])
		for i := range others {
			c := costs[i+1]
			note := ""
			if c.fail == "" && c.sum != costs[0].sum {
				note = " (different output)"
			}
			fmt.Printf(" %s%s | %.1f |", c, note, float64(c.cpu)/float64(costs[0].cpu))
		}
		fmt.Println()
	}
	if nix, err := exec.LookPath("nix-instantiate"); err == nil {
		file := filepath.Join(dir, "formats.nix")
		if err := os.WriteFile(file, []byte(nixFormats), 0o644); err != nil {
			return err
		}
		var c cost
		for range *runs {
			measure(&c, evalTimeout, nil, nix, "--eval", "--strict", "--json", file)
		}
		fmt.Printf("\nNix, the services of workload formats: %s %s\n", c, c.fail)
	}
	return nil
}

// measurePlans measures deployments: the first plan, a plan without changes, and a
// plan after a library was edited.
func measurePlans(dir, program string) error {
	fmt.Printf("\n| services | libraries | first plan | apply | plan without changes | one library edited |\n|---|---|---|---|---|---|\n")
	for _, s := range strings.Split(*services, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		w := world{max(1, n/100), min(n, 100)}
		root := filepath.Join(dir, "world"+s)
		os.RemoveAll(root)
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		if err := w.write(root); err != nil {
			return err
		}
		store := filepath.Join(dir, "cache"+s)
		plan := []string{program, "-C", root, "plan"}
		env := []string{"DEFX_CACHE=" + store}
		var first, apply, none, edited cost
		for range min(*runs, 3) {
			os.RemoveAll(store)
			measure(&first, deployTimeout, env, plan...)
		}
		measure(&apply, deployTimeout, env, program, "-C", root, "apply", "--yes")
		measure(&cost{}, deployTimeout, env, plan...)
		for i := range *runs {
			measure(&none, deployTimeout, env, plan...)
			if err := put(root, libraryName(0), w.library(0, fmt.Sprint("level", i))); err != nil {
				return err
			}
			measure(&edited, deployTimeout, env, plan...)
			if err := put(root, libraryName(0), w.library(0, "info")); err != nil {
				return err
			}
			measure(&cost{}, deployTimeout, env, plan...)
		}
		fmt.Printf("| %d | %d | %s | %s | %s | %s |\n", n, w.libraries, wallText(first), wallText(apply), wallText(none), wallText(edited))
	}
	return measureTerraform(dir)
}

// measureTerraform measures Terraform with a thousand terraform_data resources,
// which need no provider.
func measureTerraform(dir string) error {
	terraform, err := exec.LookPath("terraform")
	if err != nil {
		return nil
	}
	root := filepath.Join(dir, "terraform")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "resource \"terraform_data\" \"s%d\" {\n  input = { command = \"/usr/bin/svc --port %d\", level = \"info\" }\n}\n", i, 1000+i)
	}
	if err := put(root, "main.tf", b.String()); err != nil {
		return err
	}
	in := []string{terraform, "-chdir=" + root}
	measure(&cost{}, deployTimeout, nil, append(in, "init")...)
	var first, apply, none cost
	for range min(*runs, 3) {
		measure(&first, deployTimeout, nil, append(in, "plan")...)
	}
	measure(&apply, deployTimeout, nil, append(in, "apply", "-auto-approve")...)
	for range min(*runs, 3) {
		measure(&none, deployTimeout, nil, append(in, "plan")...)
	}
	fmt.Printf("\nTerraform, 1,000 terraform_data resources: first plan %s, apply %s, plan without changes %s\n", wallText(first), wallText(apply), wallText(none))
	return nil
}

// wallText returns wall time, CPU time and memory as text.
func wallText(c cost) string {
	if c.fail != "" {
		return "failed: " + c.fail
	}
	return fmt.Sprintf("%.2f s (%.2f s CPU), %d MiB", c.wall.Seconds(), c.cpu.Seconds(), c.kib>>10)
}
