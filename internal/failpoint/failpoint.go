// Package failpoint ends a process in the middle of its work, so that tests can
// kill it at each step and not only at random times.
//
// It knows how many steps were made. It refuses to know what they do. Invariant:
// unless a test calls EndAt, nothing here has an effect.
package failpoint

import (
	"sync/atomic"
	"syscall"
)

var (
	enabled atomic.Bool
	count   atomic.Int64
	last    int64
	only    string
)

// EndAt makes the n-th call of Hit (counted from 1) end the process as kill -9
// does. It must be called before the first call of Hit.
func EndAt(n int64) {
	last = n
	enabled.Store(true)
}

// EndAfter makes the first call of Hit with this name end the process. Like EndAt,
// it must be called before the first call of Hit.
func EndAfter(name string) {
	only = name
	EndAt(1)
}

// Hit marks a step before or after which a crash may leave something unfinished:
// a durable write, or a frame to or from a machine. The name is for EndAfter
// and for the readers of the source.
func Hit(name string) {
	if enabled.Load() && (only == "" || name == only) && count.Add(1) == last {
		syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	}
}
