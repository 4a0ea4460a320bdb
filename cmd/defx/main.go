// Command defx deploys services described in Jsonnet: it evaluates a deployment,
// plans it against its recorded state, and applies the difference.
//
// This package has one file for each command: flags become an options struct,
// a run function does the work with the deploy packages, and a view prints the
// result for people or as JSON. It knows people and terminals; what a plan or an
// apply is, the other packages know. It is large because each of 30 commands has
// its own flags, documents and texts. Invariant: results go to stdout, everything
// else to stderr; os.Exit is called in main only.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/external"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/terraform"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/heap"
)

// allBackends is the list of backends that this program has.
var allBackends = backends.NewSet(systemd.New(), docker.New(), ec2.New(), external.New())

// The garbage collector starts once gcFloor bytes are used: most runs end before
// that. Later it keeps at most gcHeadroom bytes beyond the live heap.
const (
	gcFloor    = 256 << 20
	gcHeadroom = 384 << 20
)

func main() { os.Exit(run()) }

// run executes the command line and returns the exit code.
func run() (code int) {
	defer func() { // the exit code of a Go panic is 2, which means pending changes here
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "error: internal error: %v\n%s", r, debug.Stack())
			code = exitFailure
		}
	}()
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb {
		return lang.Worker(os.Stdin, os.Stdout)
	}
	if len(os.Args) > 1 && os.Args[1] == terraform.WorkerVerb {
		return terraform.Worker(context.Background(), os.Stdin, os.Stdout)
	}
	heap.CollectLate(gcFloor, 100, gcHeadroom)
	ctx, cancel := interruptible()
	defer cancel()
	root := rootCommand()
	err := root.ExecuteContext(ctx)
	failed := stdout.failure()
	if failed != nil && (err == nil || errors.Is(err, failed.Cause)) {
		err, failed = failed, nil
	}
	if err == nil {
		return exitSuccess
	}
	code = exitFailure
	if e, ok := errors.AsType[*exitError](err); ok {
		code, err = e.code, e.err
	} else if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if ctx.Err() != nil {
		code = exitInterrupted
	}
	if err != nil {
		if e := stateFolderError(err); e != nil {
			err = e
		}
		printError(os.Stderr, usageError(root, err))
	}
	if failed != nil {
		printError(os.Stderr, failed)
	}
	return code
}

// changesNothing is set while a command runs that may end at any point.
var changesNothing atomic.Bool

// patience is how long such a command may take to end by itself after a signal.
const patience = 3 * time.Second

// interruptible returns a context that ends at the first Ctrl-C or SIGTERM. The
// second one ends the process, and the first one a command that changes nothing
// and does not end, because a file system or a program does not answer.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		late := make(<-chan time.Time)
		if changesNothing.Load() {
			late = time.After(patience)
		}
		select {
		case <-signals:
		case <-late:
			fmt.Fprintln(os.Stderr, "error: interrupted")
		}
		signal.Reset()
		syscall.Kill(os.Getpid(), syscall.SIGINT) // shells report it as 130
	}()
	return ctx, cancel
}
