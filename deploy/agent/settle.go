package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/defx-dev/defx/internal/poll"
)

// settleTime is how long after its start a process without a readiness check must still run.
// Tests set it to a shorter time.
var settleTime = 2 * time.Second

// started is a version whose process was started or reloaded through this Host.
type started struct {
	rollout *rollout
	at      time.Time
	checked bool // it has a readiness check, which it passed
}

// Settle checks once more that the versions of units that were started through this Host since the
// last FlushManifest still run: those without a readiness check not before settleTime after their
// start. It returns what happened to those that do not. Units that it does not know are not checked.
func (h *Host) Settle(ctx context.Context, scope string, addresses []string) (map[string]*Error, error) {
	h.mu.Lock()
	list := map[string]*started{}
	for _, a := range addresses {
		if s := h.started[scope+" "+a]; s != nil {
			list[a] = s
		}
	}
	h.mu.Unlock()
	out := map[string]*Error{}
	var mu sync.Mutex
	var all sync.WaitGroup
	free := make(chan struct{}, 10)
	for _, a := range slices.Sorted(maps.Keys(list)) {
		s := list[a]
		all.Go(func() {
			err := poll.Until(ctx, endPoll, func(ctx context.Context) (bool, error) {
				free <- struct{}{}
				defer func() { <-free }()
				last := s.checked || time.Since(s.at) >= settleTime
				return last, s.rollout.checkSettled(ctx)
			})
			if err != nil && ctx.Err() == nil {
				mu.Lock()
				defer mu.Unlock()
				out[a] = newError(err)
			}
		})
	}
	all.Wait()
	return out, ctx.Err()
}

// checkSettled fails if the version has ended since its start.
func (r *rollout) checkSettled(ctx context.Context) error {
	st, err := r.h.supervisor.State(ctx, r.layout.Unit)
	if err != nil {
		return err
	}
	ended := r.ended(st)
	if ended == "" {
		return nil
	}
	return r.withLogs(ctx, r.layout.Unit, errors.New(ended+" soon after its start"))
}

// ended describes how the process of the version ended after its start; empty if it did not.
func (r *rollout) ended(st SupervisorState) string {
	switch {
	case st.Active == "inactive" && st.Result == "success", st.Active == "inactive" && st.Result == "":
		return "it ended"
	case st.Active == "failed", st.Active == "inactive", isRestarting(st):
		return exitReason(st, errors.New("it ended"))
	case st.Restarts > r.first.Restarts:
		return fmt.Sprintf("it ended and was restarted (%s)", times(st.Restarts-r.first.Restarts))
	}
	return ""
}

// isRestarting reports whether a unit's process has ended, and its supervisor is about to start
// it again, or has just done so.
func isRestarting(st SupervisorState) bool {
	if st.Active != "activating" {
		return false
	}
	switch st.Sub {
	case "auto-restart", "auto-restart-queued", "restarting", "restarted":
		return true
	}
	return false
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
