package lang

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang/cache"
	"github.com/defx-dev/defx/lang/heap"
	"golang.org/x/sync/errgroup"
)

// Evaluation runs in a child process, because nothing else can stop a Jsonnet
// program: go-jsonnet cannot be cancelled, and a Go process that runs out of
// stack or memory ends as a whole. The child sets its own limits, reads one
// request and writes one response. If it exceeds a limit, the parent repeats the
// request in smaller parts until the part at fault is isolated.

// request is what a child process is asked. Exactly one of its parts is set.
type request struct {
	Config     Config
	Evaluation *evaluationRequest `json:",omitempty"`
	Locate     *locateRequest     `json:",omitempty"`
	File       *EvalConfig        `json:",omitempty"`

	Transform *transformRequest `json:",omitempty"`
	Lint      *lintRequest      `json:",omitempty"`

	Environments bool `json:",omitempty"` // asks for the environments of the entry

	share time.Duration // how much of the budget's time the child may take; 0 = all that is left
}

// locateRequest asks for the positions of paths. Shallow reads no file but the entry.
type locateRequest struct {
	Paths   [][]string
	Shallow bool
}

// evaluationRequest asks for the values of libraries. Only, if set, is the single
// library to evaluate, and Funcs the functionalities of it to evaluate one after
// the other. Names asks for the names of the functionalities instead of their
// values.
type evaluationRequest struct {
	Entry bool     // the deployment without its libraries
	All   bool     // every library
	Some  []string `json:",omitempty"` // the named libraries
	Only  string   `json:",omitempty"`
	Funcs []string `json:",omitempty"`
	Names bool     `json:",omitempty"`
}

// response is what a child process returns.
type response struct {
	Errors    diag.List
	Result    *Result         `json:",omitempty"`
	Entry     bool            `json:",omitempty"` // this is the entry without its libraries, which follow
	At        int             `json:",omitempty"` // of a library that is sent by itself: its index among all libraries
	Names     []string        `json:",omitempty"` // of libraries, or of functionalities
	Positions []diag.Position `json:",omitempty"`
	Output    string          `json:",omitempty"`

	Values   map[string]json.RawMessage `json:",omitempty"` // functionalities after the transforms
	Findings diag.List                  `json:",omitempty"`

	Environments *Environments `json:",omitempty"`
}

// programMemory is the memory, in bytes, that the program needs beyond its data
// limit: its code, and what one large allocation may exceed the limit by.
// Subtracting it keeps the whole child process within its memory limit.
const programMemory = 96 << 20

// heapFloor is the heap size, in bytes, below which a child process collects no
// garbage: a library leaves nothing behind but its response.
const heapFloor = 160 << 20

// heapGrowth is how much, in bytes, the heap of a child process may grow between two collections.
const heapGrowth = 384 << 20

// Worker serves one request of a parent process, see WorkerVerb, and returns the
// exit code.
func Worker(in io.Reader, out io.Writer) int {
	var r request
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return 1
	}
	l := r.Config.Limits.withDefaults()
	debug.SetMaxStack(l.Stack)
	heap.CollectLate(heapFloor, 400, heapGrowth)
	if limitsMemory {
		debug.SetMemoryLimit((l.Memory - programMemory) / 4 * 3) // collect well below the hard limit: on a busy machine collecting takes time
		// RLIMIT_DATA limits what is allocated; RLIMIT_AS would also count what Go only reserves.
		if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: uint64(l.Memory - programMemory), Max: uint64(l.Memory - programMemory)}); err != nil {
			return 1
		}
	}
	a := &response{}
	var mu sync.Mutex
	var writeErr error
	// Parts are sent one by one: they need not all be kept in memory, and if a limit is exceeded
	// they are not lost.
	send := func(r *response) {
		raw := r.encode()
		mu.Lock()
		defer mu.Unlock()
		if _, err := out.Write(cache.EncodeParts(raw)); err != nil {
			writeErr = err
		}
	}
	switch {
	case r.File != nil:
		a.Output, a.Errors = evalFile(*r.File)
	case r.Locate != nil:
		a.Positions = answerLocate(r.Config, *r.Locate)
	case r.Transform != nil:
		answerTransform(r.Config, *r.Transform, a)
	case r.Lint != nil:
		answerLint(r.Config, *r.Lint, a)
	case r.Environments:
		answerEnvironments(r.Config, a)
	case r.Evaluation != nil:
		answerEvaluation(r.Config, *r.Evaluation, a, send)
	}
	if _, err := out.Write(cache.EncodeParts(a.encode())); err != nil || writeErr != nil {
		return 1
	}
	return 0
}

// encode returns the response as JSON, followed by the values of its libraries as
// raw bytes: these are most of a response, and neither side has to parse them.
func (a *response) encode() []byte {
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
	parts[0] = mustMarshal(a)
	return cache.EncodeParts(parts...)
}

// decodeResponses decodes the responses of a child process and inserts the parts
// that were sent one by one into the last response.
func decodeResponses(raw []byte) (*response, error) {
	list, err := cache.DecodeParts(raw)
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("the evaluation process sent a truncated response: %w", err)
	}
	all, err := decodeAll(list)
	if err != nil {
		return nil, err
	}
	a := all[len(all)-1]
	for _, one := range all[:len(all)-1] {
		if one.Entry {
			continue
		}
		if a.Result == nil || one.At >= len(a.Result.Libraries) || one.Result == nil || len(one.Result.Libraries) != 1 {
			return nil, errors.New("the evaluation process sent libraries that were not requested")
		}
		a.Result.Libraries[one.At] = one.Result.Libraries[0]
	}
	return a, nil
}

// decodeAll decodes responses on all cores.
func decodeAll(list [][]byte) ([]*response, error) {
	all := make([]*response, len(list))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range list {
		g.Go(func() (err error) {
			all[i], err = decodeResponse(list[i])
			return err
		})
	}
	return all, g.Wait()
}

// decodePartial decodes what a child process sent before it exceeded a limit: the
// entry, if it was requested, and libraries or functionalities in the order in
// which they were sent. It returns nil if there is nothing.
func decodePartial(raw []byte) *response {
	list, _ := cache.DecodeFirstParts(raw)
	all, err := decodeAll(list)
	if err != nil || len(all) == 0 {
		return nil
	}
	a := &response{Result: &Result{}}
	if all[0].Entry {
		a, all = all[0], all[1:]
	}
	slices.SortStableFunc(all, func(a, b *response) int { return a.At - b.At })
	for _, one := range all {
		if one.Result != nil && len(one.Result.Libraries) == 1 {
			a.Result.Libraries = append(a.Result.Libraries, one.Result.Libraries[0])
		}
	}
	return a
}

// decodeResponse decodes what encode wrote.
func decodeResponse(raw []byte) (*response, error) {
	parts, err := cache.DecodeParts(raw)
	if err != nil || len(parts) == 0 {
		return nil, fmt.Errorf("the evaluation process sent a truncated response: %w", err)
	}
	a := &response{}
	if err := json.Unmarshal(parts[0], a); err != nil {
		return nil, fmt.Errorf("the evaluation process sent an unreadable response: %w", err)
	}
	parts = parts[1:]
	if a.Result != nil {
		for i := range a.Result.Libraries {
			for j := range a.Result.Libraries[i].Functionalities {
				if len(parts) < 2 {
					return nil, errors.New("the evaluation process sent a response without values")
				}
				f := &a.Result.Libraries[i].Functionalities[j]
				f.Value, f.Base = nilIfEmpty(parts[0]), nilIfEmpty(parts[1])
				parts = parts[2:]
			}
		}
	}
	return a, nil
}

// nilIfEmpty returns raw, or nil if it is empty.
func nilIfEmpty(raw []byte) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	return raw
}
