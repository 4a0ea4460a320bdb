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
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"golang.org/x/sync/errgroup"
)

// WorkerVerb is the word with which this executable is started as a child.
const WorkerVerb = "__evaluate"

func (l Limits) withDefaults() Limits {
	if l.Time == 0 {
		l.Time = patience * 30 * time.Second
	}
	if l.Memory == 0 {
		l.Memory = 512 << 20
	}
	if l.Stack == 0 {
		l.Stack = 64 << 20
	}
	return l
}

// dead tells which bound a child ran into.
type dead struct{ why, hint string }

func (d *dead) Error() string { return d.why }

// spawn asks a child. Its death is a *dead. Tests that ask often do without a process.
var spawn = spawnChild

func spawnChild(ctx context.Context, r request) (*answer, error) {
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
		cmd.Env = append(cmd.Env, "GORACE="+race) // for the race detector of Go itself
	}
	cmd.Stdin = bytes.NewReader(in)
	var out bytes.Buffer
	last := &tail{}
	cmd.Stdout, cmd.Stderr = &out, last
	cmd.WaitDelay = time.Second
	dieWithParent(cmd)
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, &dead{fmt.Sprintf("evaluation took longer than %s", l.Time), "look for a recursion or a list that grows without an end"}
	case err != nil:
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return nil, fmt.Errorf("starting the evaluation: %w", err)
		}
		said := string(last.head)
		switch {
		case strings.Contains(said, "stack overflow") || strings.Contains(said, "stack exceeds"):
			return nil, &dead{fmt.Sprintf("evaluation needs more than %d MiB of stack", l.Stack>>20), "look for a value that contains itself, or nesting without an end"}
		case strings.Contains(said, "out of memory") || strings.Contains(said, "cannot allocate"),
			strings.HasPrefix(said, "SIGSEGV") && strings.Contains(said, "addr=0x0"): // Go's collector trips over memory that it did not get
			return nil, &dead{fmt.Sprintf("evaluation needs more than %d MiB of memory", l.Memory>>20), "look for a string or list that grows without an end"}
		}
		return nil, &dead{fmt.Sprintf("evaluation died: %v: %s", err, firstLine(said)), ""}
	}
	return decodeAnswers(out.Bytes())
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// tail keeps the beginning of what a dying child says; a crash can be long.
type tail struct{ head []byte }

func (t *tail) Write(p []byte) (int, error) {
	if room := 8192 - len(t.head); room > 0 {
		t.head = append(t.head, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// Evaluate evaluates an entry file: each library by itself, so that one that
// fails does not stop the others. The error is a diag.List if the entry file
// itself is at fault.
func Evaluate(ctx context.Context, c Config) (*Result, error) {
	if c.Cache == "" {
		return fresh(ctx, c)
	}
	res, err := cached(ctx, c)
	if err == nil && c.VerifyCache {
		err = verify(ctx, c, res)
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

func fresh(ctx context.Context, c Config) (*Result, error) {
	a, err := spawn(ctx, request{Config: c, Whole: &wholeRequest{All: true}})
	if err == nil {
		if len(a.Errors) > 0 {
			return nil, a.Errors.Sort()
		}
		if len(a.Names) <= batch {
			return a.Result, nil
		}
		var rest *Result
		if rest, err = some(ctx, c, a.Names[batch:]); err == nil {
			a.Result.Libraries = append(a.Result.Libraries, rest.Libraries...)
			a.Result.Reads = union(a.Result.Reads, rest.Reads)
			return a.Result, nil
		}
	}
	if _, is := errors.AsType[*dead](err); !is {
		return nil, err
	}
	return piecewise(ctx, c)
}

// batch is how many libraries one child evaluates: it remembers every file that
// it read, and its memory is bounded.
var batch = 256

// some evaluates libraries by their names. What kills a child is a *dead.
func some(ctx context.Context, c Config, names []string) (*Result, error) {
	all := &Result{}
	for part := range slices.Chunk(names, batch) {
		a, err := spawn(ctx, request{Config: c, Whole: &wholeRequest{Some: part}})
		if err != nil {
			return nil, err
		}
		if len(a.Errors) > 0 {
			return nil, a.Errors
		}
		if len(a.Result.Libraries) != len(part) {
			return nil, errors.New("the evaluation's answer lacks libraries")
		}
		all.Libraries = append(all.Libraries, a.Result.Libraries...)
		all.Reads = union(all.Reads, a.Result.Reads)
	}
	return all, nil
}

// piecewise evaluates the entry and each library in a child of its own, and
// each functionality of a library that kills its child.
func piecewise(ctx context.Context, c Config) (*Result, error) {
	a, err := spawn(ctx, request{Config: c, Whole: &wholeRequest{Entry: true}})
	if d, is := errors.AsType[*dead](err); is {
		return nil, diag.List{diag.Errorf("", "%s", d.why).In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("%s", d.hint)}
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
			res.Libraries[i], err = alone(gctx, c, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	place(ctx, c, res)
	return res, nil
}

func alone(ctx context.Context, c Config, name string) (Library, error) {
	out := Library{Name: name}
	// The names first: a library that kills whoever reads it does so here, once.
	names, err := spawn(ctx, request{Config: c, Whole: &wholeRequest{Only: name, Names: true}})
	if d, is := errors.AsType[*dead](err); is {
		out.Err = d.about("library "+name, "libs", name)
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if len(names.Errors) > 0 {
		out.Err = names.Errors[0]
		return out, nil
	}
	a, err := spawn(ctx, request{Config: c, Whole: &wholeRequest{Only: name}})
	if _, died := errors.AsType[*dead](err); !died {
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
		a, err := spawn(ctx, request{Config: c, Whole: &wholeRequest{Only: name, OnlyFunc: f}})
		switch d, is := errors.AsType[*dead](err); {
		case is:
			out.Functionalities = append(out.Functionalities, Functionality{Name: f, Err: d.about(name+"/"+f, "libs", name, f)})
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

func (d *dead) about(subject string, path ...string) *diag.Error {
	return diag.Errorf(subject, "%s", d.why).At(path...).WithHint("%s", d.hint)
}

// place gives errors without a position the one of their field. Of a library
// that cannot even be read only the entry file is asked.
func place(ctx context.Context, c Config, r *Result) {
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
		if found, err := find(ctx, c, locateRequest{Paths: paths, Shallow: group.shallow}); err == nil {
			for i, e := range group.errs {
				e.Pos = found[i]
			}
		}
	}
}
