package engine

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// The agent and the runners that timers start are processes of their own. What
// they must not do at once on one unit, they do under locks on files, which go
// with whoever holds them.

// steadily does one short step of a job: no other one is done on it meanwhile,
// nor on its record. It must not be asked for inside of itself.
func steadily(ctx context.Context, record string, f func() error) error {
	return holding(ctx, flock.New(record+".lock"), f)
}

// within does f while nobody else does something with what lies at a path.
func within(ctx context.Context, path string, f func() error) error {
	return holding(ctx, flock.New(path, flock.SetFlag(os.O_RDONLY)), f)
}

func holding(ctx context.Context, l *flock.Flock, f func() error) error {
	defer l.Close()
	if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("%s cannot be locked: %w", l.Path(), err)
	}
	return f()
}
