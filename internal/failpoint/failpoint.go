// Package failpoint ends a process in the middle of its work, so that tests can
// kill it at each step and not only at random times.
//
// It knows how many steps were made. It refuses to know what they do. Invariant:
// unless a test calls EndAt or Watch, nothing here has an effect.
package failpoint

import (
	"sync/atomic"
	"syscall"
)

var (
	enabled atomic.Bool
	count   atomic.Int64
	last    int64
	watcher atomic.Pointer[func(name string)]
)

// EndAt makes the n-th call of Hit (counted from 1) end the process as kill -9
// does. It must be called before the first call of Hit.
func EndAt(n int64) {
	last = n
	enabled.Store(true)
}

// Watch makes each call of Hit call f with the name of the step, until the returned
// function is called. f may be called concurrently.
func Watch(f func(name string)) (stop func()) {
	watcher.Store(&f)
	return func() { watcher.Store(nil) }
}

// Hit marks a step before or after which a crash may leave something unfinished:
// a durable write, or a frame to or from a machine.
func Hit(name string) {
	if f := watcher.Load(); f != nil {
		(*f)(name)
	}
	if enabled.Load() && count.Add(1) == last {
		syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	}
}
