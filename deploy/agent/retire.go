package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Retire runs a unit's retire command before the unit is deleted for good. If the deletion
// is interrupted, the command runs again, until the unit is gone. It fails after timeout (0
// = 10 minutes).
func (h *Host) Retire(ctx context.Context, scope, address string, c Caller, timeout time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return err
	}
	if err := h.checkFence(scope, address, c); err != nil {
		return err
	}
	e := h.m.Scopes[scope][address]
	if e == nil || e.Retire == "" || h.supervisor == nil {
		return nil
	}
	d := &transaction{h: h, scope: scope, address: address, timeout: timeout}
	return d.unlocked(ctx, func(ctx context.Context) error {
		st, err := h.supervisor.State(ctx, e.Retire)
		if err != nil {
			return err
		}
		if st.Load != "loaded" { // an interrupted deletion already removed it, so it has run
			return nil
		}
		startedAt := time.Now()
		if err = h.supervisor.Start(ctx, e.Retire); err == nil {
			return nil
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if _, is := errors.AsType[*jobError](err); is {
			st, _ = h.supervisor.State(last, e.Retire)
			err = errors.New(exitReason(st, err))
		} else {
			err = errors.Join(err, h.supervisor.Stop(last, e.Retire))
		}
		err = fmt.Errorf("not deleted, because its retire command failed: %w", err)
		if lines := h.supervisor.Journal(last, []string{e.Retire}, startedAt, 20); len(lines) > 0 {
			err = fmt.Errorf("%w\n%s", err, strings.Join(lines, "\n"))
		}
		h.supervisor.Forget(last, e.Retire)
		return &Error{Code: CodeRetire, Summary: err.Error(), Hint: "to delete it without the command, apply it once more with retire: null"}
	})
}
