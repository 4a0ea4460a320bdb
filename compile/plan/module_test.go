package plan_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// TestWhatIsSecretInAModuleIsNotShown, neither as it was nor as it will be.
func TestWhatIsSecretInAModuleIsNotShown(t *testing.T) {
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

// TestWhoIsTakenOutIsPutBack: what leads users to a service that stops acts
// after it, and what leads to one that goes on does not act.
func TestWhoIsTakenOutIsPutBack(t *testing.T) {
	spec := json.RawMessage(`{}`)
	run := func(s string) plan.Payload { return plan.Payload{Run: json.RawMessage(s)} }
	units := map[digest.Digest]*plan.Unit{
		"old": {Address: "app/web", Payload: run(`"old"`), Spec: spec}, "new": {Address: "app/web", Payload: run(`"new"`), Spec: spec},
		"soft-old": {Address: "app/web", Payload: run(`"old"`), Spec: spec, Graceful: true}, "soft-new": {Address: "app/web", Payload: run(`"new"`), Spec: spec, Graceful: true},
		"door": {Address: "module/door", Spec: spec, Drain: 1, Follows: []string{"app/web"}},
	}
	for name, c := range map[string]struct {
		before, after digest.Digest
		want          string
	}{
		"asked to start anew":    {"old", "old", "update app/web; update attach module/door after app/web"},
		"a change":               {"old", "new", "update app/web; update attach module/door after app/web"},
		"one without a gap":      {"soft-old", "soft-new", "update app/web"},
		"nothing happens to it":  {"old", "old", ""},
		"it stands nowhere else": {"", "new", "create app/web"},
	} {
		door := plan.Placed{Address: "module/door", Backend: "ec2", Digest: "sha256:d", Object: "door", Requires: []string{"app/web"}, Follows: []string{"app/web"}, Drain: 1}
		records := []plan.Record{{Address: "module/door", Backend: "ec2", Digest: "sha256:d", Object: "door", Requires: []string{"app/web"}, Follows: []string{"app/web"}, Drain: 1}}
		if c.before != "" {
			records = append(records, plan.Record{Address: "app/web", Machine: "m", Backend: "systemd", Digest: c.before, Object: c.before})
		}
		again := map[string]string{"asked to start anew": "app/web"}[name]
		cs, err := plan.Diff(plan.DiffInput{Records: records, Restart: again, Unit: func(d digest.Digest) (*plan.Unit, error) { return units[d], nil },
			Plan: &plan.Plan{Units: []plan.Placed{{Address: "app/web", Machine: "m", Backend: "systemd", Digest: c.after, Object: c.after}, door}}})
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, a := range cs.Actions {
			s := string(a.Op) + " " + a.Address
			if a.Verb == plan.Attach {
				s = string(a.Op) + " attach " + a.Address + " after " + strings.Join(a.WaitsFor, " ")
			}
			said = append(said, s)
		}
		if got := strings.Join(said, "; "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestOfWhatNobodyKnowsNothingIsRead: an interrupted apply left a record without an object.
func TestOfWhatNobodyKnowsNothingIsRead(t *testing.T) {
	cs, err := plan.Diff(plan.DiffInput{
		Plan:    &plan.Plan{Units: []plan.Placed{{Address: "module/pool", Backend: "ec2", Digest: "sha256:2", Object: "now"}}},
		Records: []plan.Record{{Address: "module/pool", Backend: "ec2"}},
		Unit: func(d digest.Digest) (*plan.Unit, error) {
			if d == "" {
				t.Error("nothing is asked for")
			}
			return &plan.Unit{Spec: json.RawMessage(`{}`)}, nil
		},
	})
	if err != nil || len(cs.Actions) != 1 || !cs.Actions[0].Certain {
		t.Errorf("%v %+v", err, cs)
	}
}

// TestAMachineMoreIsNoNewsForThoseThatStand: of a module that changes, only
// what reads a resource that changes, or what that reads, may change with it.
func TestAMachineMoreIsNoNewsForThoseThatStand(t *testing.T) {
	const one = `"one":{"type":"aws.instance","subnet":{"$text":[{"kind":"ref","name":"a","field":"output","arg":"id"}]}},"a":{"type":"aws.subnet","cidr":"10.0.1.0/24"}`
	for name, c := range map[string]struct {
		after string
		want  int
	}{
		"another machine":       {`{` + one + `,"two":{"type":"aws.instance"}}`, 1},
		"another image of it":   {`{` + strings.Replace(one, `"aws.instance"`, `"aws.instance","image":"ami-2"`, 1) + `}`, 2},
		"another network of it": {`{` + strings.Replace(one, "10.0.1.0", "10.0.2.0", 1) + `}`, 2},
	} {
		units := map[digest.Digest]*plan.Unit{"was": {Spec: json.RawMessage(`{` + one + `}`)}, "now": {Spec: json.RawMessage(c.after)}, "web": {Spec: json.RawMessage(`{}`)}}
		values := plan.Values{"one.output(id)": "i-1"}
		cs, err := plan.Diff(plan.DiffInput{
			Plan: &plan.Plan{Units: []plan.Placed{{Address: "app/web", Machine: "one", Backend: "systemd", Digest: "sha256:w", Object: "web", Values: values, Requires: []string{"module/pool"},
				Unknown: []string{"one.output(id)"}, Binds: plan.Values{"one.output(id)": "one.output(id)"}}, {Address: "module/pool", Backend: "ec2", Digest: "sha256:2", Object: "now"}}},
			Records: []plan.Record{{Address: "app/web", Machine: "one", Backend: "systemd", Digest: "sha256:w", Object: "web", Values: values, Requires: []string{"module/pool"}},
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
