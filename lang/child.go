package lang

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang/cache"
	"github.com/defx-dev/defx/lang/heap"
	"github.com/defx-dev/defx/lang/lint"
	"golang.org/x/sync/errgroup"
)

// Evaluation happens in a child process, because nothing else can stop a
// Jsonnet program: go-jsonnet cannot be cancelled, and a Go program that runs
// out of stack or memory dies whole. The child bounds itself, reads one request
// and writes one answer. If it dies, its parent asks again in smaller pieces,
// until the piece that kills is alone.

// request is what a child is asked. Exactly one of the parts is set.
type request struct {
	Config Config
	Whole  *wholeRequest  `json:",omitempty"`
	Locate *locateRequest `json:",omitempty"`
	File   *EvalConfig    `json:",omitempty"`

	Transform *transformRequest `json:",omitempty"`
	Lint      *lintRequest      `json:",omitempty"`
}

// locateRequest asks where paths are written. Shallow reads no file but the entry.
type locateRequest struct {
	Paths   [][]string
	Shallow bool
}

// wholeRequest asks for libraries. Only, if set, is the one to evaluate, and
// OnlyFunc the one functionality of it; Names asks for the names of the
// functionalities instead of their values.
type wholeRequest struct {
	Entry    bool     // the deployment without its libraries
	All      bool     // every library
	Some     []string `json:",omitempty"` // these libraries
	Only     string   `json:",omitempty"`
	OnlyFunc string   `json:",omitempty"`
	Names    bool     `json:",omitempty"`
}

// answer is what a child says.
type answer struct {
	Errors    diag.List
	Result    *Result         `json:",omitempty"`
	At        int             `json:",omitempty"` // of a library that is told before the others: its place among them
	Names     []string        `json:",omitempty"` // of libraries, or of functionalities
	Positions []diag.Position `json:",omitempty"`
	Output    string          `json:",omitempty"`

	Values   map[string]json.RawMessage `json:",omitempty"` // of functionalities, transformed
	Findings []lint.Finding             `json:",omitempty"`
}

// code is what the program itself needs beside its data, and what one great
// allocation may pass the bound by, in bytes: with it the whole child stays
// within what it is allowed.
const code = 96 << 20

// floor is how much memory a child uses before it collects any of it, in bytes:
// each library leaves nothing behind but its answer.
const floor = 160 << 20

// Worker serves one request of a parent process: it is what the hidden verb of
// the program runs. It gives the exit code.
func Worker(in io.Reader, out io.Writer) int {
	var r request
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return 1
	}
	l := r.Config.Limits.withDefaults()
	debug.SetMaxStack(l.Stack)
	heap.CollectLate(floor, 400, math.MaxInt)
	if bounded {
		debug.SetMemoryLimit(l.Memory * 5 / 8) // collect well before the hard bound: on a busy machine collecting takes its time
		// RLIMIT_DATA bounds what is allocated; RLIMIT_AS would count what Go only reserves.
		if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: uint64(l.Memory - code), Max: uint64(l.Memory - code)}); err != nil {
			return 1
		}
	}
	a := &answer{}
	var mu sync.Mutex
	var torn error
	told := func(n int, l *Library) { // what is told need not be kept: there may be very many
		raw := (&answer{At: n, Result: &Result{Libraries: []Library{*l}}}).encode()
		*l = Library{}
		mu.Lock()
		defer mu.Unlock()
		if _, err := out.Write(cache.Lengths(raw)); err != nil {
			torn = err
		}
	}
	switch {
	case r.File != nil:
		a.Output, a.Errors = evalFile(*r.File)
	case r.Locate != nil:
		a.Positions = locate(r.Config, *r.Locate)
	case r.Transform != nil:
		transform(r.Config, *r.Transform, a)
	case r.Lint != nil:
		lintAll(r.Config, *r.Lint, a)
	case r.Whole != nil:
		whole(r.Config, *r.Whole, a, told)
	}
	if _, err := out.Write(cache.Lengths(a.encode())); err != nil || torn != nil {
		return 1
	}
	return 0
}

// encode writes an answer as JSON, with the values of libraries behind it as
// they are: most of an answer, and neither side has to read them.
func (a *answer) encode() []byte {
	parts := [][]byte{nil}
	if a.Result != nil {
		for i := range a.Result.Libraries {
			for j := range a.Result.Libraries[i].Functionalities {
				f := &a.Result.Libraries[i].Functionalities[j]
				parts = append(parts, f.Value, f.Base)
				f.Value, f.Base = nil, nil
			}
		}
	}
	parts[0] = must(a)
	return cache.Lengths(parts...)
}

// decodeAnswers puts libraries that were told one by one where they belong.
func decodeAnswers(raw []byte) (*answer, error) {
	list, err := cache.Parts(raw)
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("the evaluation's answer is torn: %w", err)
	}
	all := make([]*answer, len(list))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range list {
		g.Go(func() (err error) {
			all[i], err = decodeAnswer(list[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	a := all[len(all)-1]
	for _, one := range all[:len(all)-1] {
		if a.Result == nil || one.At >= len(a.Result.Libraries) || one.Result == nil || len(one.Result.Libraries) != 1 {
			return nil, errors.New("the evaluation's answer tells of libraries that nobody asked for")
		}
		a.Result.Libraries[one.At] = one.Result.Libraries[0]
	}
	return a, nil
}

func decodeAnswer(raw []byte) (*answer, error) {
	parts, err := cache.Parts(raw)
	if err != nil || len(parts) == 0 {
		return nil, fmt.Errorf("the evaluation's answer is torn: %w", err)
	}
	a := &answer{}
	if err := json.Unmarshal(parts[0], a); err != nil {
		return nil, fmt.Errorf("the evaluation's answer is not readable: %w", err)
	}
	parts = parts[1:]
	if a.Result != nil {
		for i := range a.Result.Libraries {
			for j := range a.Result.Libraries[i].Functionalities {
				if len(parts) < 2 {
					return nil, errors.New("the evaluation's answer lacks values")
				}
				f := &a.Result.Libraries[i].Functionalities[j]
				f.Value, f.Base = value(parts[0]), value(parts[1])
				parts = parts[2:]
			}
		}
	}
	return a, nil
}

// value is what stands for nothing if it is empty.
func value(raw []byte) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	return raw
}
