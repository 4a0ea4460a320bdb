package plan_test

import (
	"encoding/json"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// A plan mentions how long a stop may take if that is set to more than plan.LongStop.
func TestDiff_LongStops(t *testing.T) {
	units := map[digest.Digest]string{"slow": `{"stop":{"timeout":"45m"}}`, "quick": `{"stop":{"timeout":"30s"}}`, "plain": `{}`}
	record := func(address string, object digest.Digest) plan.Record {
		return plan.Record{Address: address, Machine: "m", Backend: "systemd", Digest: "sha256:1", Object: object}
	}
	p := &plan.Plan{Units: []plan.Placed{{Address: "a/changed", Machine: "m", Backend: "systemd", Digest: "sha256:2", Object: "plain"},
		{Address: "a/new", Machine: "m", Backend: "systemd", Digest: "sha256:3", Object: "slow"}}}
	cs, err := plan.Diff(plan.DiffInput{Plan: p, Records: []plan.Record{record("a/changed", "slow"), record("a/gone", "slow"), record("a/quick", "quick"), record("a/lost", "absent")},
		Unit: func(d digest.Digest) (*plan.Unit, error) {
			if units[d] == "" {
				return nil, nil
			}
			return &plan.Unit{Spec: json.RawMessage(units[d]), Payload: plan.Payload{Run: json.RawMessage(`"` + d + `"`)}}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, a := range cs.Actions {
		got[a.Address] = a.StopTimeout
	}
	for address, want := range map[string]string{"a/changed": "45m", "a/new": "", "a/gone": "45m", "a/quick": "", "a/lost": ""} {
		if text, is := got[address]; !is || text != want {
			t.Errorf("%s: %q, want %q", address, text, want)
		}
	}
}
