// Command bench measures defx on workloads that it writes itself, beside other
// evaluators of the same files, all in one run: runs are interleaved, and of
// each the least is told, since others may use the machine too.
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
	defx     = flag.String("defx", "", "the defx to measure")
	runs     = flag.Int("runs", 5, "runs of each")
	services = flag.String("services", "1000,10000", "sizes of deployments, in services")
	keep     = flag.String("keep", "", "folder for the workloads (default a temporary one)")
	only     = flag.String("only", "", "eval, plan or compose")
	compose  = flag.String("compose", "", "a docker-compose to measure beside, on the engine that is here")
	beside   = flag.Int("beside", 50, "services of that")
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
		theirs, err := filepath.Abs(*compose)
		if err != nil {
			return err
		}
		return besideCompose(dir, program, theirs, *beside)
	}
	if *only != "plan" {
		if err := evaluators(dir, program); err != nil {
			return err
		}
	}
	if *only == "eval" {
		return nil
	}
	return plans(dir, program)
}

// patience is how long a program may take.
const patience = time.Minute

// muchPatience is how long a deployment may take.
const muchPatience = 20 * time.Minute

// cost is the least of several runs.
type cost struct {
	cpu, wall time.Duration
	kib       int64
	sum       [32]byte // of what was printed
	bytes     int
	fail      string
}

func measure(best *cost, most time.Duration, env []string, command ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	begin := time.Now()
	err := cmd.Run()
	wall := time.Since(begin)
	if err != nil {
		best.fail = fmt.Sprintf("%v: %s", err, strings.TrimSpace(complaints.String()))
		return
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() // with its children
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

// evaluators compares whole programs on single files.
func evaluators(dir, program string) error {
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
			measure(&costs[0], patience, nil, program, "eval", file)
			for i, o := range others {
				if n > 0 && (costs[i+1].cpu > 5*time.Second || costs[i+1].fail != "") { // once is enough to tell
					continue
				}
				measure(&costs[i+1], patience, nil, append(slices.Clone(o), file)...)
			}
		}
		fmt.Printf("| %s | %s |", w.name, costs[0])
		for i := range others {
			c := costs[i+1]
			note := ""
			if c.fail == "" && c.sum != costs[0].sum {
				note = " (other bytes)"
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
			measure(&c, patience, nil, nix, "--eval", "--strict", "--json", file)
		}
		fmt.Printf("\nNix, the same services as in formats: %s %s\n", c, c.fail)
	}
	return nil
}

// plans measures whole deployments: the first plan, one without changes, and one
// after a library changed.
func plans(dir, program string) error {
	fmt.Printf("\n| services | libraries | first plan | apply | plan without changes | one library touched |\n|---|---|---|---|---|---|\n")
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
		var first, apply, none, touched cost
		for range min(*runs, 3) {
			os.RemoveAll(store)
			measure(&first, muchPatience, env, plan...)
		}
		measure(&apply, muchPatience, env, program, "-C", root, "apply", "--yes")
		measure(&cost{}, muchPatience, env, plan...)
		for i := range *runs {
			measure(&none, muchPatience, env, plan...)
			if err := put(root, libraryName(0), w.library(0, fmt.Sprint("level", i))); err != nil {
				return err
			}
			measure(&touched, muchPatience, env, plan...)
			if err := put(root, libraryName(0), w.library(0, "info")); err != nil {
				return err
			}
			measure(&cost{}, muchPatience, env, plan...)
		}
		fmt.Printf("| %d | %d | %s | %s | %s | %s |\n", n, w.libraries, wallOf(first), wallOf(apply), wallOf(none), wallOf(touched))
	}
	return besideTerraform(dir)
}

// besideTerraform measures a thousand of Terraform's own resources, which stand
// for nothing and ask nobody.
func besideTerraform(dir string) error {
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
	measure(&cost{}, muchPatience, nil, append(in, "init")...)
	var first, apply, none cost
	for range min(*runs, 3) {
		measure(&first, muchPatience, nil, append(in, "plan")...)
	}
	measure(&apply, muchPatience, nil, append(in, "apply", "-auto-approve")...)
	for range min(*runs, 3) {
		measure(&none, muchPatience, nil, append(in, "plan")...)
	}
	fmt.Printf("\nTerraform, 1,000 resources of its own: first plan %s, apply %s, plan without changes %s\n", wallOf(first), wallOf(apply), wallOf(none))
	return nil
}

func wallOf(c cost) string {
	if c.fail != "" {
		return "failed: " + c.fail
	}
	return fmt.Sprintf("%.2f s (%.2f s CPU), %d MiB", c.wall.Seconds(), c.cpu.Seconds(), c.kib>>10)
}
