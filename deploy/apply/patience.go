package apply

import (
	"context"
	"encoding/json"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// usualDeadline is the deadline of an action on a machine, without what its units' settings add.
const usualDeadline = 10 * time.Minute

// limit is how long a machine may work on an action before it restores the previous version,
// without what the unit's settings add.
func (r *run) limit() time.Duration {
	deadline := r.req.Deadline
	if deadline == 0 {
		deadline = usualDeadline
	}
	return deadline * 4 / 5
}

// patience returns what the settings of the old and the new unit add to the deadline of an action:
// the time to stop the old version and to start the new one, and back.
func (r *run) patience(ctx context.Context, a *plan.Action, old *plan.Record) time.Duration {
	var out time.Duration
	if old != nil && old.Digest != "" {
		out += r.settingsOf(ctx, old.Object)
	}
	if u := r.req.Plan.Find(a.Address); u != nil && a.Op != plan.Delete {
		out += r.settingsOf(ctx, u.Object)
	}
	return out
}

// settingsOf returns how long a unit may take to stop, to become ready and to soak, beyond what
// every unit may. It is 0 if the unit cannot be read.
func (r *run) settingsOf(ctx context.Context, object digest.Digest) time.Duration {
	raw, err := r.req.object(ctx, object)
	if err != nil {
		return 0
	}
	var u plan.Unit
	var spec struct {
		Stop   struct{ Timeout string }
		Ready  struct{ Timeout string }
		Update struct{ Soak string }
	}
	if json.Unmarshal(raw, &u) != nil || json.Unmarshal(u.Spec, &spec) != nil {
		return 0
	}
	duration := func(s string) time.Duration {
		d, _ := time.ParseDuration(s) // an invalid one is refused elsewhere
		return d
	}
	// A stop command, and a check of the whole set, may each last as long again.
	return 2*duration(spec.Stop.Timeout) + 2*duration(spec.Ready.Timeout) + duration(spec.Update.Soak)
}
