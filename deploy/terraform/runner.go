package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/external"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/gofrs/flock"
	"github.com/hashicorp/go-version"
)

// Runner applies the modules of one environment of one deployment.
type Runner struct {
	Dir        string   // directory of the modules, each in a subdirectory
	Cache      string   // directory of downloaded providers
	Root       string   // directory of the entry file, to which paths of external providers are relative
	Executable []string // command of the worker; nil = this program with WorkerVerb

	slotsOnce   sync.Once
	slots       chan struct{} // limits the number of concurrent workers
	programOnce sync.Once
	program     string // path of Terraform or OpenTofu
	programErr  error

	mu      sync.Mutex
	planned map[string]bool // addresses whose saved plan is to be applied, because Status made and reported it
}

// Program returns the path of Terraform or OpenTofu, and an error if there is none
// or it is too old.
func Program(ctx context.Context) (string, error) {
	const hint = "install Terraform %s or newer, or OpenTofu, or set DEFX_TERRAFORM=/path/to/terraform; services without resources do not need it"
	name := os.Getenv("DEFX_TERRAFORM")
	var path string
	var err error
	if name != "" {
		if path, err = exec.LookPath(name); err != nil {
			return "", diag.Errorf("", "DEFX_TERRAFORM is %q, which cannot be executed: %v", name, errors.Unwrap(err)).WithHint(hint, ec2.MinVersion)
		}
	} else if path, err = exec.LookPath("terraform"); err != nil {
		if path, err = exec.LookPath("tofu"); err != nil {
			return "", diag.Errorf("", "resources are created by Terraform, but neither terraform nor tofu was found").WithHint(hint, ec2.MinVersion)
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(limited, path, "version", "-json")
	cmd.Env, cmd.WaitDelay = append(os.Environ(), "CHECKPOINT_DISABLE=1"), interruptDelay
	raw, err := cmd.Output()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	var v struct {
		Version string `json:"terraform_version"`
	}
	if at := bytes.IndexByte(raw, '{'); err == nil && at >= 0 {
		err = json.Unmarshal(raw[at:], &v)
	}
	has, verr := version.NewVersion(v.Version)
	if err != nil || verr != nil {
		return "", diag.Errorf("", "%s version -json does not print a version", path).WithHint(hint, ec2.MinVersion)
	}
	if has.LessThan(version.Must(version.NewVersion(ec2.MinVersion))) {
		return "", diag.Errorf("", "%s is version %s, but at least %s is required", path, has, ec2.MinVersion).WithHint(hint, ec2.MinVersion)
	}
	return path, nil
}

// findProgram sets program, once.
func (r *Runner) findProgram(ctx context.Context) error {
	r.programOnce.Do(func() {
		r.program, r.programErr = Program(ctx)
	})
	return r.programErr
}

// moduleDir returns the directory of a module.
func (r *Runner) moduleDir(address string) string {
	a, _ := graph.ParseAddress(address)
	return filepath.Join(r.Dir, a.Name)
}

// Units lists the deployed modules. A module whose worker is still running, because
// the defx that started it was killed, is listed as uncertain: without a digest.
func (r *Runner) Units(_ context.Context, scope string) (map[string]*agent.Entry, error) {
	names, err := os.ReadDir(r.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := map[string]*agent.Entry{}
	for _, n := range names {
		if !n.IsDir() {
			continue
		}
		dir := filepath.Join(r.Dir, n.Name())
		e, err := readEntry(dir)
		if err != nil {
			return nil, err
		}
		if e == nil || e.Scope != scope {
			continue
		}
		lock := flock.New(filepath.Join(dir, lockFile))
		if free, err := lock.TryLock(); err == nil && free {
			lock.Unlock()
		} else {
			e.Digest, e.Object, e.Values = "", "", nil
		}
		out[e.Address] = &e.Entry
	}
	return out, nil
}

// ModuleRequest is a change of one module.
type ModuleRequest struct {
	Scope, Address string
	Caller         agent.Caller
	TTL            time.Duration   // of the lease that the worker holds on the module; 0 = it holds none
	Unit           json.RawMessage // nil: delete the module
	Values         plan.Values
	OnlyCreate     bool              // fail if an existing resource would change
	AllowDelete    bool              // the user has confirmed the deletion of protected resources and of those with data
	Moved          map[string]string // renamed resources: old address → new
	SelfResource   string            // address of the machine that defx runs on, which is never deleted
}

// ApplyModule creates, updates or deletes a module and returns its entry afterwards,
// or nil if it does not exist. If known is false the state of the module is unknown,
// or nothing was started.
func (r *Runner) ApplyModule(ctx context.Context, mr ModuleRequest) (e *agent.Entry, known bool, err error) {
	res, err := r.runWorker(ctx, &workerRequest{Dir: r.moduleDir(mr.Address), Scope: mr.Scope, Address: mr.Address, Caller: mr.Caller, TTL: mr.TTL, Unit: mr.Unit, Values: mr.Values,
		OnlyCreate: mr.OnlyCreate, AllowDelete: mr.AllowDelete, Moved: mr.Moved, SelfResource: mr.SelfResource, UsePlan: mr.Unit != nil && r.hasPlan(mr.Address)})
	if err != nil {
		return nil, false, err
	}
	if res.Fenced != nil {
		err = res.Fenced
	} else if res.Error != "" {
		err = errors.New(res.Error)
	}
	return res.Entry, res.Known, err
}

// Rename changes the address of a module. It does nothing if that was done already.
func (r *Runner) Rename(ctx context.Context, scope, former, address string) error {
	from, to := r.moduleDir(former), r.moduleDir(address)
	e, err := readEntry(from)
	if err == nil && e == nil { // renamed already, or there is no such module
		from = to
		e, err = readEntry(to)
	}
	if err != nil || e == nil || e.Scope != scope {
		return err
	}
	lock := flock.New(filepath.Join(from, lockFile))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return fmt.Errorf("another Terraform is still running in %s: %w", from, err)
	}
	defer lock.Unlock()
	if from != to {
		if err := os.Rename(from, to); err != nil {
			return err
		}
	}
	e.Address = address
	return e.write(to)
}

// Status returns what Terraform would change in a module. It uses the fields Scope,
// Address, Unit, Values and Moved of the request.
func (r *Runner) Status(ctx context.Context, mr ModuleRequest) (*plan.RefreshResult, error) {
	res, err := r.runWorker(ctx, &workerRequest{Dir: r.moduleDir(mr.Address), Scope: mr.Scope, Address: mr.Address, Unit: mr.Unit, Values: mr.Values, Moved: mr.Moved, Status: true})
	if err == nil && res.Error != "" {
		err = errors.New(res.Error)
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.planned == nil {
		r.planned = map[string]bool{}
	}
	r.planned[mr.Address] = len(res.Status.Changes) > 0 && !res.Replan
	return res.Status, nil
}

// hasPlan reports whether Status has made a plan that is to be applied.
func (r *Runner) hasPlan(address string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.planned[address]
}

// needsTerraform reports whether a request needs Terraform. An external provider is
// a set of executables and does not.
func (q *workerRequest) needsTerraform() bool {
	raw := q.Unit
	if raw == nil {
		raw, _ = os.ReadFile(filepath.Join(q.Dir, unitFile)) // without this file nothing was ever created
	}
	var u plan.Unit
	return u.Decode(raw) != nil || u.Backend != external.Name
}

// runWorker starts a worker process and waits for its response. If ctx ends, a
// worker that only reports the status is terminated and runWorker returns; one
// that changes a module continues, also if this process is killed.
func (r *Runner) runWorker(ctx context.Context, q *workerRequest) (*workerResponse, error) {
	r.slotsOnce.Do(func() { r.slots = make(chan struct{}, max(2, runtime.NumCPU())) }) // a provider needs half a gigabyte of memory
	if q.needsTerraform() {
		if err := r.findProgram(ctx); err != nil {
			return nil, err
		}
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	providers, err := lock.ReadProviders(ctx, r.Root)
	if err != nil {
		return nil, err
	}
	q.Root, q.State, q.Locked, q.External = r.Root, filepath.Dir(r.Dir), providers.Terraform, providers.External
	q.Program, q.Cache, q.Deps = r.program, r.Cache, filepath.Join(r.Dir, depsFile)
	if until, ok := ctx.Deadline(); ok {
		q.Timeout = max(1, int(time.Until(until).Seconds()*0.9))
	}
	raw, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return nil, err
	}
	argv := r.Executable
	if argv == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		argv = []string{self, WorkerVerb}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C in the terminal does not reach it
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	interrupted := ctx.Done()
	if !q.Status {
		interrupted = nil
	}
	select {
	case err = <-exited:
	case <-interrupted:
		cmd.Process.Signal(syscall.SIGTERM) // it interrupts Terraform and exits
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("the worker process of %s failed: %w %s", q.Address, err, strings.TrimSpace(stderr.String()))
	}
	res := &workerResponse{}
	if err := json.Unmarshal(stdout.Bytes(), res); err != nil {
		return nil, fmt.Errorf("the worker process of %s sent no response: %w", q.Address, err)
	}
	return res, nil
}
