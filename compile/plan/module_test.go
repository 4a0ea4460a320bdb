package plan_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// TestDiff_MasksSensitiveFields checks the values before and after.
func TestDiff_MasksSensitiveFields(t *testing.T) {
	units := map[digest.Digest]*plan.Unit{
		"was": {Address: "module/pass", Sensitive: []string{"/pass/value"}, Spec: json.RawMessage(`{"pass":{"type":"aws.parameter","name":"/x","value":"hunter1"}}`)},
		"now": {Address: "module/pass", Sensitive: []string{"/pass/value"}, Spec: json.RawMessage(`{"pass":{"type":"aws.parameter","name":"/y","value":"hunter2"}}`)},
	}
	cs, err := plan.Diff(plan.DiffInput{
		Plan:    &plan.Plan{Units: []plan.Placed{{Address: "module/pass", Backend: "ec2", Digest: "sha256:2", Object: "now"}}},
		Records: []plan.Record{{Address: "module/pass", Backend: "ec2", Digest: "sha256:1", Object: "was"}},
		Unit:    func(d digest.Digest) (*plan.Unit, error) { return units[d], nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(cs)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "hunter") || len(cs.Actions) != 1 || len(cs.Actions[0].Changes) != 2 {
		t.Errorf("%s", raw)
	}
}

// TestDiff_RegistersBackendAgain checks that a module that forwards traffic to a service which
// stops acts after it, and that one whose service keeps running does not act.
func TestDiff_RegistersBackendAgain(t *testing.T) {
	spec := json.RawMessage(`{}`)
	run := func(s string) plan.Payload { return plan.Payload{Run: json.RawMessage(s)} }
	units := map[digest.Digest]*plan.Unit{
		"old": {Address: "app/web", Payload: run(`"old"`), Spec: spec}, "new": {Address: "app/web", Payload: run(`"new"`), Spec: spec},
		"graceful-old": {Address: "app/web", Payload: run(`"old"`), Spec: spec, Graceful: true}, "graceful-new": {Address: "app/web", Payload: run(`"new"`), Spec: spec, Graceful: true},
		"door": {Address: "module/door", Spec: spec, Traits: plan.Traits{Drain: 1, Follows: []string{"app/web"}}},
	}
	for name, c := range map[string]struct {
		before, after digest.Digest
		want          string
	}{
		"restart requested": {"old", "old", "update app/web; update attach module/door after app/web"},
		"an update":         {"old", "new", "update app/web; update attach module/door after app/web"},
		"a graceful update": {"graceful-old", "graceful-new", "update app/web"},
		"no change":         {"old", "old", ""},
		"not deployed yet":  {"", "new", "create app/web"},
	} {
		door := plan.Placed{Address: "module/door", Backend: "ec2", Digest: "sha256:d", Object: "door", Traits: plan.Traits{Requires: []string{"app/web"}, Follows: []string{"app/web"}, Drain: 1}}
		records := []plan.Record{{Address: "module/door", Backend: "ec2", Digest: "sha256:d", Object: "door", Traits: plan.Traits{Requires: []string{"app/web"}, Follows: []string{"app/web"}, Drain: 1}}}
		if c.before != "" {
			records = append(records, plan.Record{Address: "app/web", Machine: "m", Backend: "systemd", Digest: c.before, Object: c.before})
		}
		restart := map[string]string{"restart requested": "app/web"}[name]
		cs, err := plan.Diff(plan.DiffInput{Records: records, Restart: restart, Unit: func(d digest.Digest) (*plan.Unit, error) { return units[d], nil },
			Plan: &plan.Plan{Units: []plan.Placed{{Address: "app/web", Machine: "m", Backend: "systemd", Digest: c.after, Object: c.after}, door}}})
		if err != nil {
			t.Fatal(err)
		}
		var actions []string
		for _, a := range cs.Actions {
			s := string(a.Op) + " " + a.Address
			if a.Verb == plan.Attach {
				s = string(a.Op) + " attach " + a.Address + " after " + strings.Join(a.WaitsFor, " ")
			}
			actions = append(actions, s)
		}
		if got := strings.Join(actions, "; "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestDiff_RecordWithoutObjectIsNotRead uses a record as an interrupted apply leaves it.
func TestDiff_RecordWithoutObjectIsNotRead(t *testing.T) {
	cs, err := plan.Diff(plan.DiffInput{
		Plan:    &plan.Plan{Units: []plan.Placed{{Address: "module/pool", Backend: "ec2", Digest: "sha256:2", Object: "now"}}},
		Records: []plan.Record{{Address: "module/pool", Backend: "ec2"}},
		Unit: func(d digest.Digest) (*plan.Unit, error) {
			if d == "" {
				t.Error("an object without a digest is read")
			}
			return &plan.Unit{Spec: json.RawMessage(`{}`)}, nil
		},
	})
	if err != nil || len(cs.Actions) != 1 || !cs.Actions[0].Certain {
		t.Errorf("%v %+v", err, cs)
	}
}

// TestDiff_DropsUnaffectedReaders checks that of a module that changes, only readers of a
// resource that changes, or that reads one that changes, can change with it.
func TestDiff_DropsUnaffectedReaders(t *testing.T) {
	const one = `"one":{"type":"aws.instance","subnet":{"$text":[{"kind":"ref","name":"a","field":"output","arg":"id"}]}},"a":{"type":"aws.subnet","cidr":"10.0.1.0/24"}`
	for name, c := range map[string]struct {
		after string
		want  int
	}{
		"another machine":     {`{` + one + `,"two":{"type":"aws.instance"}}`, 1},
		"its image changes":   {`{` + strings.Replace(one, `"aws.instance"`, `"aws.instance","image":"ami-2"`, 1) + `}`, 2},
		"its network changes": {`{` + strings.Replace(one, "10.0.1.0", "10.0.2.0", 1) + `}`, 2},
	} {
		units := map[digest.Digest]*plan.Unit{"was": {Spec: json.RawMessage(`{` + one + `}`)}, "now": {Spec: json.RawMessage(c.after)}, "web": {Spec: json.RawMessage(`{}`)}}
		values := plan.Values{"one.output(id)": "i-1"}
		cs, err := plan.Diff(plan.DiffInput{
			Plan: &plan.Plan{Units: []plan.Placed{{Address: "app/web", Machine: "one", Backend: "systemd", Digest: "sha256:w", Object: "web", Values: values, Traits: plan.Traits{Requires: []string{"module/pool"}},
				Unknown: []string{"one.output(id)"}, Binds: plan.Values{"one.output(id)": "one.output(id)"}}, {Address: "module/pool", Backend: "ec2", Digest: "sha256:2", Object: "now"}}},
			Records: []plan.Record{{Address: "app/web", Machine: "one", Backend: "systemd", Digest: "sha256:w", Object: "web", Values: values, Traits: plan.Traits{Requires: []string{"module/pool"}}},
				{Address: "module/pool", Backend: "ec2", Digest: "sha256:1", Object: "was"}},
			Unit: func(d digest.Digest) (*plan.Unit, error) { return units[d], nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(cs.Actions) != c.want || cs.Summary.Unchanged+len(cs.Actions) != 2 {
			t.Errorf("%s: %d actions, %+v", name, len(cs.Actions), cs.Summary)
		}
	}
}
