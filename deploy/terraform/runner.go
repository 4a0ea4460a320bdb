package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/gofrs/flock"
	"github.com/hashicorp/go-version"
)

// Runner is where the modules of one environment of one deployment are made.
type Runner struct {
	Dir        string   // of the modules: a folder each
	Cache      string   // of providers
	Root       string   // folder of the entry file: paths of external providers start there
	Executable []string // how the child is started; nil = this program with ChildVerb

	begin   sync.Once
	once    sync.Once
	program string
	missing error
	room    chan struct{}

	mu     sync.Mutex
	starts int
	shown  map[string]bool // modules whose plan Look has made: it is the one that is applied
}

// Starts is how often Terraform was started.
func (s *Runner) Starts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starts
}

// Program finds Terraform or OpenTofu and looks whether it is new enough.
func Program(ctx context.Context) (string, error) {
	const hint = "install Terraform %s or newer, or OpenTofu, or say where it is: DEFX_TERRAFORM=/path/to/terraform; services without resources are planned and applied without it"
	name := os.Getenv("DEFX_TERRAFORM")
	var path string
	var err error
	if name != "" {
		if path, err = exec.LookPath(name); err != nil {
			return "", diag.Errorf("", "DEFX_TERRAFORM is %q, and that cannot be run: %v", name, errors.Unwrap(err)).WithHint(hint, ec2.MinVersion)
		}
	} else if path, err = exec.LookPath("terraform"); err != nil {
		if path, err = exec.LookPath("tofu"); err != nil {
			return "", diag.Errorf("", "resources are made by Terraform, and neither terraform nor tofu is here").WithHint(hint, ec2.MinVersion)
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(limited, path, "version", "-json")
	cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1")
	raw, err := cmd.Output()
	var v struct {
		Version string `json:"terraform_version"`
	}
	if at := bytes.IndexByte(raw, '{'); err == nil && at >= 0 {
		err = json.Unmarshal(raw[at:], &v)
	}
	has, verr := version.NewVersion(v.Version)
	if err != nil || verr != nil {
		return "", diag.Errorf("", "%s does not tell its version", path).WithHint(hint, ec2.MinVersion)
	}
	if has.LessThan(version.Must(version.NewVersion(ec2.MinVersion))) {
		return "", diag.Errorf("", "%s is version %s, and %s is the oldest that will do", path, has, ec2.MinVersion).WithHint(hint, ec2.MinVersion)
	}
	return path, nil
}

func (s *Runner) ready(ctx context.Context) error {
	s.once.Do(func() {
		s.program, s.missing = Program(ctx)
	})
	return s.missing
}

func (s *Runner) folder(address string) string {
	a, _ := graph.ParseAddress(address)
	return filepath.Join(s.Dir, a.Name)
}

// Units lists what stands. A module at which Terraform is still at work,
// because the defx that started it died, is in doubt.
func (s *Runner) Units(_ context.Context, scope string) (map[string]*agent.Entry, error) {
	names, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := map[string]*agent.Entry{}
	for _, n := range names {
		if !n.IsDir() {
			continue
		}
		dir := filepath.Join(s.Dir, n.Name())
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

// Fence does nothing: whoever does something says its token.
func (s *Runner) Fence(context.Context, string, int64, []string) error { return nil }

// Missing finds nothing missing: modules have no artifacts.
func (s *Runner) Missing(context.Context, []digest.Digest) ([]digest.Digest, error) { return nil, nil }

// Put refuses: modules have no artifacts.
func (s *Runner) Put(context.Context, plan.Artifact, io.Reader) error {
	return errors.New("a module has no artifacts")
}

// FlushAll does nothing: entries are whole.
func (s *Runner) FlushAll(context.Context, string, int) error { return nil }

// Close does nothing: children end by themselves.
func (s *Runner) Close() error { return nil }

// ModuleRequest is one thing to be done to a module.
type ModuleRequest struct {
	Scope, Address string
	Token          int64
	Unit           json.RawMessage // nil: everything goes
	Values         plan.Values
	OnlyCreate     bool              // stop if anything that stands would change
	AllowDelete    bool              // of what keeps data or is protected
	Moved          map[string]string // resources that stand under another name: old → new
	SelfResource   string            // address of a resource that must not go, whatever was allowed: defx runs on it
}

// ApplyModule makes a module what it should be. The entry is what stands afterwards.
func (s *Runner) ApplyModule(ctx context.Context, a ModuleRequest) (e *agent.Entry, known bool, err error) {
	r, err := s.child(ctx, &job{Dir: s.folder(a.Address), Scope: a.Scope, Address: a.Address, Token: a.Token, Unit: a.Unit, Values: a.Values,
		OnlyCreate: a.OnlyCreate, AllowDelete: a.AllowDelete, Moved: a.Moved, Spare: a.SelfResource, Shown: a.Unit != nil && s.wasShown(a.Address)})
	if err != nil {
		return nil, false, err
	}
	if r.Fenced != 0 {
		err = &agent.ErrStaleToken{Address: a.Address, Token: r.Fenced}
	} else if r.Error != "" {
		err = errors.New(r.Error)
	}
	return r.Entry, r.Known, err
}

// Rename calls a module otherwise. Doing it again does nothing.
func (s *Runner) Rename(ctx context.Context, scope, former, address string) error {
	from, to := s.folder(former), s.folder(address)
	e, err := readEntry(from)
	if err == nil && e == nil { // it was done, or there is nothing
		from = to
		e, err = readEntry(to)
	}
	if err != nil || e == nil || e.Scope != scope {
		return err
	}
	lock := flock.New(filepath.Join(from, lockFile))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return fmt.Errorf("another Terraform is still at work in %s: %w", from, err)
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

// Status asks Terraform what it would do to a module. Of what is asked only scope,
// address, unit, values and names count.
func (s *Runner) Status(ctx context.Context, a ModuleRequest) (*plan.RefreshResult, error) {
	address := a.Address
	r, err := s.child(ctx, &job{Dir: s.folder(address), Scope: a.Scope, Address: address, Unit: a.Unit, Values: a.Values, Moved: a.Moved, Look: true})
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown == nil {
		s.shown = map[string]bool{}
	}
	s.shown[address] = len(r.Look.Changes) > 0 && !r.Again
	return r.Look, nil
}

func (s *Runner) wasShown(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown[address]
}

// needsTerraform tells whether a job is done by Terraform, and not by
// executables of the user's.
func (j *job) needsTerraform() bool {
	raw := j.Unit
	if raw == nil {
		raw, _ = os.ReadFile(filepath.Join(j.Dir, unitFile)) // without it nothing was ever made
	}
	var u plan.Unit
	return u.Decode(raw) != nil || u.Backend != external.Name
}

// child starts a process for a job and waits for its report. It goes on
// without us if we die.
func (s *Runner) child(ctx context.Context, j *job) (*report, error) {
	s.begin.Do(func() { s.room = make(chan struct{}, max(2, runtime.NumCPU())) }) // a provider takes half a gigabyte
	if j.needsTerraform() {
		if err := s.ready(ctx); err != nil {
			return nil, err
		}
	}
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	j.Root = s.Root
	j.Program, j.Cache, j.Deps = s.program, s.Cache, filepath.Join(s.Dir, depsFile)
	if until, ok := ctx.Deadline(); ok {
		j.Timeout = max(1, int(time.Until(until).Seconds()*0.9))
	}
	raw, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	argv := s.Executable
	if argv == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		argv = []string{self, WorkerVerb}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	var out, complaints bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &out, &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C for us, or our death, is none for it
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the process for %s ended: %w %s", j.Address, err, strings.TrimSpace(complaints.String()))
	}
	r := &report{}
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		return nil, fmt.Errorf("the process for %s said nothing: %w", j.Address, err)
	}
	s.mu.Lock()
	s.starts += r.Starts
	s.mu.Unlock()
	return r, nil
}
