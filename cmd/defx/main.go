// Command defx turns Jsonnet into running services: it evaluates a deployment,
// plans it against its state, and applies the difference.
//
// This package is flags, wiring and printing, one file a verb. It knows people
// and terminals; what a plan or an apply is, the packages to its left know.
// Invariant: results go to stdout, everything else to stderr; os.Exit is called
// in main alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/external"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/terraform"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/heap"
)

// all is the list of backends that this program has.
var all = backends.NewSet(systemd.New(), docker.New(), ec2.New(), external.New())

// Exit codes.
const (
	exitDone    = 0
	exitError   = 1
	exitChanges = 2   // changes pending, with --exit-code
	exitPartly  = 3   // held or failed units
	exitStopped = 130 // Ctrl-C
)

// exit ends a verb with a code other than 1. Its error, if any, is still to be told.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

func main() { os.Exit(run()) }

// floor is how much memory, in bytes, is used before any of it is collected:
// most runs end before they have used it up.
const floor = 256 << 20

// most is what is used at most beside what is needed, in bytes.
const most = 384 << 20

func run() (code int) {
	defer func() { // a crash must not be taken for pending changes, whose code is 2
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "error: internal error: %v\n%s", r, debug.Stack())
			code = exitError
		}
	}()
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb {
		return lang.Worker(os.Stdin, os.Stdout)
	}
	if len(os.Args) > 1 && os.Args[1] == terraform.WorkerVerb {
		return terraform.Worker(os.Stdin, os.Stdout)
	}
	heap.CollectLate(floor, 100, most)
	ctx, stop := stoppable()
	defer stop()
	root := rootCommand()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	code = exitError
	if e, ok := errors.AsType[*exit](err); ok {
		code, err = e.code, e.err
	} else if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if ctx.Err() != nil {
		code = exitStopped
	}
	if err != nil {
		tell(os.Stderr, usageError(root, err))
	}
	return code
}

// stoppable ends its context at the first Ctrl-C or SIGTERM, and the process at the second.
func stoppable() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		signal.Reset()
		syscall.Kill(os.Getpid(), syscall.SIGINT) // shells show it as 130
	}()
	return ctx, cancel
}

// tell writes an error in the one shape that all have. What wraps errors with
// positions says more than they do, and is written as it is.
func tell(w *os.File, err error) {
	s := styleFor(w, colorFlag)
	switch e := err.(type) {
	case diag.List:
		for _, one := range e {
			fmt.Fprintln(w, s.problem(one))
		}
	case *diag.Error:
		fmt.Fprintln(w, s.problem(e))
	default:
		fmt.Fprintln(w, s.red("error:"), clean(err.Error()))
	}
}
