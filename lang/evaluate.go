package lang

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/defx-dev/defx/internal/diag"
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
type childLimitError struct {
	summary, hint string
	time          bool // it ran too long
	spent         bool // it did not run, because the budget had no time left
}

// Error returns the limit that was exceeded.
func (d *childLimitError) Error() string { return d.summary }

// runChild sends a request to a child process. If the child exceeds a limit, the
// error is a *childLimitError, and the response has what was evaluated until then;
// it may be nil. Some tests replace it to avoid the process.
var runChild = runChildProcess

// runChildProcess runs a child process for one request, within the budget.
func runChildProcess(ctx context.Context, r request) (a *response, err error) {
	b := budgetOf(ctx, r.Config.Limits)
	last := r.Locate != nil || r.File != nil // there is nothing to be kept for
	err = b.run(ctx, r.share, last, func(limit time.Duration) error {
		a, err = startChild(ctx, r, b, limit)
		return err
	})
	return a, err
}

// startChild runs a child process that may take the time limit.
func startChild(ctx context.Context, r request, b *budget, limit time.Duration) (*response, error) {
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
	out := &sharedBuffer{}
	limited, cancel := context.WithTimeout(ctx, max(limit, b.left(false)))
	defer cancel()
	atShare := time.AfterFunc(limit, func() {
		if r.Evaluation == nil || !r.Evaluation.All || out.Len() > 0 { // only libraries have shares: the entry, which is sent first, has all the time
			cancel()
		}
	})
	defer atShare.Stop()
	cmd := exec.CommandContext(limited, command[0], command[1:]...)
	cmd.Env = []string{"DEFX_CHILD=1"} // evaluation sees no environment
	if race := os.Getenv("GORACE"); race != "" {
		cmd.Env = append(cmd.Env, "GORACE="+race) // the race detector's options
	}
	cmd.Stdin = bytes.NewReader(in)
	stderr := &stderrBuffer{}
	cmd.Stdout, cmd.Stderr = out, stderr
	cmd.WaitDelay = time.Second
	dieWithParent(cmd)
	err = runConfined(cmd)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && limited.Err() != nil {
		return decodePartial(out.Bytes()), b.exceeded(limit)
	}
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return nil, fmt.Errorf("starting the evaluation: %w", err)
		}
		return decodePartial(out.Bytes()), diedOf(exit, string(stderr.buf), l)
	}
	return decodeResponses(out.Bytes())
}

// diedOf returns the limit that a child exceeded, by what it wrote at its end.
func diedOf(exit *exec.ExitError, output string, l Limits) *childLimitError {
	switch {
	case strings.Contains(output, "stack overflow") || strings.Contains(output, "stack exceeds"):
		return &childLimitError{summary: fmt.Sprintf("evaluation needs more than %d MiB of stack", l.Stack>>20), hint: "look for a value that contains itself, or endless nesting"}
	case strings.Contains(output, "out of memory") || strings.Contains(output, "cannot allocate"),
		strings.HasPrefix(output, "SIGSEGV") && strings.Contains(output, "addr=0x0"): // Go's garbage collector crashes if an allocation fails
		return &childLimitError{summary: fmt.Sprintf("evaluation needs more than %d MiB of memory", l.Memory>>20), hint: "look for a string or list that grows without end; --max-memory allows more"}
	case wasKilled(exit):
		return &childLimitError{summary: "the system ended the evaluation, probably because no memory was left", hint: "look for a string or list that grows without end; --max-memory bounds what evaluation may use"}
	}
	return &childLimitError{summary: fmt.Sprintf("the evaluation process failed: %v: %s", exit, firstLine(output))}
}

// sharedBuffer is a buffer whose length can be asked while it is written.
type sharedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sharedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

// Len returns how many bytes were written.
func (s *sharedBuffer) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Len()
}

// Bytes returns what was written, after the last write.
func (s *sharedBuffer) Bytes() []byte { return s.buf.Bytes() }

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
// process, and if that exceeds a limit, what it did not finish separately.
func evaluateUncached(ctx context.Context, c Config) (*Result, error) {
	ctx = WithBudget(ctx, c.Limits)
	i := newIsolation(ctx, c)
	a, err := runChild(ctx, request{Config: c, Evaluation: &evaluationRequest{All: true}, share: i.share(batchShare)})
	limit, exceeded := errors.AsType[*childLimitError](err)
	switch {
	case err != nil && !exceeded:
		return nil, err
	case exceeded && (a == nil || a.Result == nil): // not even the entry without its libraries
		return nil, diag.List{limit.errorAbout("").In(diag.Position{File: c.Entry, Line: 1, Col: 1})}
	case len(a.Errors) > 0:
		return nil, a.Errors.Sort()
	}
	res := a.Result
	if !exceeded && len(res.Libraries) == len(a.Names) {
		return res, nil
	}
	if i.collect(a); exceeded {
		i.suspectFirst(a.Names[:min(batchSize, len(a.Names))], limit)
	}
	if err := i.evaluate(ctx, a.Names); err != nil {
		return nil, err
	}
	res.Libraries = make([]Library, len(a.Names))
	for n, name := range a.Names {
		res.Libraries[n] = i.done[name]
	}
	res.Reads = unionReads(append(i.reads, res.EntryReads, res.Reads)...)
	attachPositions(ctx, c, res.Libraries)
	return res, nil
}

// batchSize is how many libraries one child process evaluates: it keeps every
// file that it read, and its memory is limited.
var batchSize = 256
