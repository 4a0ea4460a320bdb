package engine

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// The agent and the runners that timers start are separate processes. Operations that must
// not run at the same time on one unit hold a lock on a file, which the system releases when
// the process ends.

// withRecordLock runs one short operation on a job and its record while no other process
// does. It must not be nested.
func withRecordLock(ctx context.Context, record string, f func() error) error {
	return lockFile(ctx, flock.New(record+".lock"), f)
}

// withFileLock runs f while no other process holds the lock of the file at path.
func withFileLock(ctx context.Context, path string, f func() error) error {
	return lockFile(ctx, flock.New(path, flock.SetFlag(os.O_RDONLY)), f)
}

func lockFile(ctx context.Context, l *flock.Flock, f func() error) error {
	defer l.Close()
	if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("cannot lock %s: %w", l.Path(), err)
	}
	return f()
}
