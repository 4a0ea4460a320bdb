package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Retire does what a unit wants done before it goes for good. It runs again if
// what follows is interrupted, until the unit is gone. After timeout (0 = 10
// minutes) it is given up.
func (h *Host) Retire(ctx context.Context, scope, address string, tok int64, timeout time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil {
		return err
	}
	if err := h.checkFence(scope, address, tok); err != nil {
		return err
	}
	e := h.m.Scopes[scope][address]
	if e == nil || e.Retire == "" || h.system == nil {
		return nil
	}
	d := &deed{h: h, scope: scope, address: address, timeout: timeout}
	return d.unlocked(ctx, func(ctx context.Context) error {
		st, err := h.system.State(ctx, e.Retire)
		if err != nil {
			return err
		}
		if st.Load != "loaded" { // an interrupted deletion took it away, so it has been done
			return nil
		}
		begun := time.Now()
		if err = h.system.Start(ctx, e.Retire); err == nil {
			return nil
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if _, is := errors.AsType[*failedJob](err); is {
			st, _ = h.system.State(last, e.Retire)
			err = errors.New(outcome(st, err))
		} else {
			err = errors.Join(err, h.system.Stop(last, e.Retire))
		}
		err = fmt.Errorf("it stays, because it cannot be retired: %w", err)
		if lines := h.system.Journal([]string{e.Retire}, begun, 20); len(lines) > 0 {
			err = fmt.Errorf("%w\n%s", err, strings.Join(lines, "\n"))
		}
		h.system.Forget(last, e.Retire)
		return fmt.Errorf("%w\n    hint: to let it go without, apply it once more with retire: null", err)
	})
}
