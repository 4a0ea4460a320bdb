package lang

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"golang.org/x/sync/errgroup"
)

// WorkerVerb is the command-line argument with which this executable is started
// as a child process, to run Worker.
const WorkerVerb = "__evaluate"

// Default limits. Programs are measured by what they need, not by what is fast: the memory of a
// child process, which collects garbage late, is up to three times that of the values alive in it.
const (
	DefaultTime   = 30 * time.Second
	DefaultMemory = 2 << 30   // bytes
	MinMemory     = 256 << 20 // bytes; a child process needs about half of it before it evaluates anything
)

// withDefaults returns l with the default for each zero field.
func (l Limits) withDefaults() Limits {
	if l.Time == 0 {
		l.Time = timeFactor * DefaultTime
	}
	if l.Memory == 0 {
		l.Memory = DefaultMemory
	}
	l.Memory = max(l.Memory, MinMemory)
	if l.Stack == 0 {
		l.Stack = 64 << 20
	}
	return l
}

// childLimitError is a limit that a child process exceeded.
type childLimitError struct{ summary, hint string }

// Error returns the limit that was exceeded.
func (d *childLimitError) Error() string { return d.summary }

// runChild sends a request to a child process. If the child exceeds a limit, the
// error is a *childLimitError. Some tests replace it to avoid the process.
var runChild = runChildProcess

// runChildProcess runs a child process for one request.
func runChildProcess(ctx context.Context, r request) (*response, error) {
	l := r.Config.Limits.withDefaults()
	command := r.Config.Command
	if len(command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		command = []string{self, WorkerVerb}
	}
	in, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, l.Time)
	defer cancel()
	cmd := exec.CommandContext(limited, command[0], command[1:]...)
	cmd.Env = []string{"DEFX_CHILD=1"} // evaluation sees no environment
	if race := os.Getenv("GORACE"); race != "" {
		cmd.Env = append(cmd.Env, "GORACE="+race) // the race detector's options
	}
	cmd.Stdin = bytes.NewReader(in)
	var out bytes.Buffer
	stderr := &stderrBuffer{}
	cmd.Stdout, cmd.Stderr = &out, stderr
	cmd.WaitDelay = time.Second
	dieWithParent(cmd)
	err = runConfined(cmd)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, &childLimitError{fmt.Sprintf("evaluation took longer than %s", l.Time), "look for endless recursion, or a list that grows without end; --max-time allows more"}
	case err != nil:
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return nil, fmt.Errorf("starting the evaluation: %w", err)
		}
		output := string(stderr.buf)
		switch {
		case strings.Contains(output, "stack overflow") || strings.Contains(output, "stack exceeds"):
			return nil, &childLimitError{fmt.Sprintf("evaluation needs more than %d MiB of stack", l.Stack>>20), "look for a value that contains itself, or endless nesting"}
		case strings.Contains(output, "out of memory") || strings.Contains(output, "cannot allocate"),
			strings.HasPrefix(output, "SIGSEGV") && strings.Contains(output, "addr=0x0"): // Go's garbage collector crashes if an allocation fails
			return nil, &childLimitError{fmt.Sprintf("evaluation needs more than %d MiB of memory", l.Memory>>20), "look for a string or list that grows without end; --max-memory allows more"}
		case wasKilled(exit):
			return nil, &childLimitError{"the system ended the evaluation, probably because no memory was left", "look for a string or list that grows without end; --max-memory bounds what evaluation may use"}
		}
		return nil, &childLimitError{fmt.Sprintf("the evaluation process failed: %v: %s", err, firstLine(output)), ""}
	}
	return decodeResponses(out.Bytes())
}

// wasKilled reports whether a process was ended by SIGKILL, as the kernel does it when memory
// runs out.
func wasKilled(err *exec.ExitError) bool {
	status, ok := err.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// firstLine returns the first line of s.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// stderrBuffer keeps the beginning of what a child process writes to standard
// error: a Go crash can be long.
type stderrBuffer struct{ buf []byte }

// Write implements io.Writer.
func (t *stderrBuffer) Write(p []byte) (int, error) {
	if space := 8192 - len(t.buf); space > 0 {
		t.buf = append(t.buf, p[:min(space, len(p))]...)
	}
	return len(p), nil
}

// Evaluate evaluates an entry file, each library by itself, so that an error in
// one does not affect the others. The error is a diag.List if the entry file
// itself is at fault.
func Evaluate(ctx context.Context, c Config) (*Result, error) {
	if bad := checkArguments(c); bad != nil {
		return nil, diag.List{bad}
	}
	if c.Cache == "" {
		return evaluateUncached(ctx, c)
	}
	res, err := evaluateCached(ctx, c)
	if err == nil && c.VerifyCache {
		err = verifyCache(ctx, c, res)
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

// evaluateUncached evaluates everything without the cache: first in one child
// process, and if that exceeds a limit, separately.
func evaluateUncached(ctx context.Context, c Config) (*Result, error) {
	a, err := runChild(ctx, request{Config: c, Evaluation: &evaluationRequest{All: true}})
	if err == nil {
		if len(a.Errors) > 0 {
			return nil, a.Errors.Sort()
		}
		if len(a.Names) <= batchSize {
			return a.Result, nil
		}
		var rest *Result
		if rest, err = evaluateSome(ctx, c, a.Names[batchSize:]); err == nil {
			a.Result.Libraries = append(a.Result.Libraries, rest.Libraries...)
			a.Result.Reads = unionReads(a.Result.Reads, rest.Reads)
			return a.Result, nil
		}
	}
	if _, is := errors.AsType[*childLimitError](err); !is {
		return nil, err
	}
	return evaluateSeparately(ctx, c)
}

// batchSize is how many libraries one child process evaluates: it keeps every
// file that it read, and its memory is limited.
var batchSize = 256

// evaluateSome evaluates the named libraries. If a child process exceeds a limit,
// the error is a *childLimitError.
func evaluateSome(ctx context.Context, c Config, names []string) (*Result, error) {
	all := &Result{}
	for part := range slices.Chunk(names, batchSize) {
		a, err := runChild(ctx, request{Config: c, Evaluation: &evaluationRequest{Some: part}})
		if err != nil {
			return nil, err
		}
		if len(a.Errors) > 0 {
			return nil, a.Errors
		}
		if len(a.Result.Libraries) != len(part) {
			return nil, errors.New("the evaluation process sent a response without all libraries")
		}
		all.Libraries = append(all.Libraries, a.Result.Libraries...)
		all.Reads = unionReads(all.Reads, a.Result.Reads)
	}
	return all, nil
}

// evaluateSeparately evaluates the entry and each library in a child process of
// its own, and each functionality of a library that exceeds a limit.
func evaluateSeparately(ctx context.Context, c Config) (*Result, error) {
	a, err := runChild(ctx, request{Config: c, Evaluation: &evaluationRequest{Entry: true}})
	if d, is := errors.AsType[*childLimitError](err); is {
		return nil, diag.List{diag.Errorf("", "%s", d.summary).In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("%s", d.hint)}
	}
	if err != nil {
		return nil, err
	}
	if len(a.Errors) > 0 {
		return nil, a.Errors.Sort()
	}
	res := a.Result
	res.Libraries = make([]Library, len(a.Names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, name := range a.Names {
		g.Go(func() (err error) {
			res.Libraries[i], err = isolateLibrary(gctx, c, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	attachPositions(ctx, c, res)
	return res, nil
}

// isolateLibrary evaluates one library in its own child process and, if that
// exceeds a limit, each of its functionalities in its own.
func isolateLibrary(ctx context.Context, c Config, name string) (Library, error) {
	out := Library{Name: name}
	// The names come first: a library that exceeds a limit when it is merely read does so here, once.
	names, err := runChild(ctx, request{Config: c, Evaluation: &evaluationRequest{Only: name, Names: true}})
	if d, is := errors.AsType[*childLimitError](err); is {
		out.Err = d.errorAbout("library "+name, "libs", name)
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if len(names.Errors) > 0 {
		out.Err = names.Errors[0]
		return out, nil
	}
	a, err := runChild(ctx, request{Config: c, Evaluation: &evaluationRequest{Only: name}})
	if _, died := errors.AsType[*childLimitError](err); !died {
		if err != nil {
			return out, err
		}
		if len(a.Errors) > 0 {
			out.Err = a.Errors[0]
			return out, nil
		}
		return a.Result.Libraries[0], nil
	}
	for _, f := range names.Names {
		a, err := runChild(ctx, request{Config: c, Evaluation: &evaluationRequest{Only: name, OnlyFunc: f}})
		switch d, is := errors.AsType[*childLimitError](err); {
		case is:
			out.Functionalities = append(out.Functionalities, Functionality{Name: f, Err: d.errorAbout(name+"/"+f, "libs", name, f)})
		case err != nil:
			return out, err
		case len(a.Errors) > 0:
			out.Functionalities = append(out.Functionalities, Functionality{Name: f, Err: a.Errors[0]})
		default:
			out.Functionalities = append(out.Functionalities, a.Result.Libraries[0].Functionalities...)
		}
	}
	return out, nil
}

// errorAbout returns the limit as an error about a subject.
func (d *childLimitError) errorAbout(subject string, path ...string) *diag.Error {
	return diag.Errorf(subject, "%s", d.summary).At(path...).WithHint("%s", d.hint)
}

// attachPositions sets the position of errors that only have a path. For a
// library that cannot even be read, only the entry file is searched.
func attachPositions(ctx context.Context, c Config, r *Result) {
	var libs, funcs []*diag.Error
	for _, l := range r.Libraries {
		if l.Err != nil && !l.Err.Pos.Known() {
			libs = append(libs, l.Err)
		}
		for _, f := range l.Functionalities {
			if f.Err != nil && !f.Err.Pos.Known() {
				funcs = append(funcs, f.Err)
			}
		}
	}
	for _, group := range []struct {
		errs    []*diag.Error
		shallow bool
	}{{libs, true}, {funcs, len(libs) > 0}} {
		if len(group.errs) == 0 {
			continue
		}
		paths := make([][]string, len(group.errs))
		for i, e := range group.errs {
			paths[i] = e.Path
		}
		if found, err := locateInChild(ctx, c, locateRequest{Paths: paths, Shallow: group.shallow}); err == nil {
			for i, e := range group.errs {
				e.Pos = found[i]
			}
		}
	}
}
