// Package poll waits for conditions that can only be asked repeatedly.
//
// It knows intervals and cancellation; the caller sets a deadline on ctx. It refuses to know what is
// waited for.
package poll

import (
	"context"
	"time"
)

// Until calls done immediately and then every interval until it reports true
// or returns an error, or until ctx ends. It returns the error of done, or the
// cause of ctx.
func Until(ctx context.Context, interval time.Duration, done func(context.Context) (bool, error)) error {
	for {
		if ok, err := done(ctx); ok || err != nil {
			return err
		}
		if err := Sleep(ctx, interval); err != nil {
			return err
		}
	}
}

// Sleep waits for d, or until ctx ends; then it returns the cause of ctx.
func Sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
