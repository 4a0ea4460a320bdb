package apply

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// The deadline of an action leaves time for what the settings of both units allow.
func TestPatience_FollowsSettings(t *testing.T) {
	req := &Request{Objects: map[digest.Digest][]byte{}, Plan: &plan.Plan{}}
	object := func(name digest.Digest, spec string) digest.Digest {
		raw, err := digest.Canonical(&plan.Unit{Address: "a/b", Spec: json.RawMessage(spec)})
		if err != nil {
			t.Fatal(err)
		}
		req.Objects[name] = raw
		return name
	}
	r := &run{req: req}
	old := &plan.Record{Address: "a/b", Digest: "old", Object: object("old", `{"stop":{"timeout":"45m"}}`)}
	req.Plan.Units = []plan.Placed{{Address: "a/b", Object: object("new", `{"ready":{"timeout":"20m"},"update":{"soak":"5m"}}`)}}
	update, remove := &plan.Action{Op: plan.Update, Address: "a/b"}, &plan.Action{Op: plan.Delete, Address: "a/b"}
	for _, c := range []struct {
		action  *plan.Action
		old     *plan.Record
		atLeast time.Duration
	}{{update, old, 70 * time.Minute}, {update, nil, 25 * time.Minute}, {remove, old, 45 * time.Minute}, {remove, nil, 0}} {
		if got := r.patience(t.Context(), c.action, c.old); got < c.atLeast || got > 2*c.atLeast {
			t.Errorf("%s: %s, want at least %s", c.action.Op, got, c.atLeast)
		}
	}
	if r.limit() != 8*time.Minute {
		t.Errorf("%s", r.limit())
	}
}
