package compile

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
)

// seeds are functionalities as libraries write them.
var seeds = []string{
	`{"service":{"command":["/bin/a","x"],"env":{"A":"1"},"ports":{"http":80,"u":{"port":53,"protocol":"udp"}},"files":{"/etc/a":"text","/etc/b":{"json":{"a":[1,true,"x"]},"mode":"0400"}},"ready":{"http":"/","port":"http"},"limits":{"cpu":"0.5","memory":"1Gi"},"schedule":{"cron":"0 3 * * *"}},"place":{"replicas":{"a":{},"b":null},"every":"machine"}}`,
	`{"external":{"host":"db.example.com","ports":{"sql":5432}},"exports":{"url":"x"}}`,
	`{"group":{"a":{"service":{"command":["/a"]}},"b":{"service":{"command":["/b"]},"requires":["a"]}},"requires":{"db":"lib/db"},"connects":{"all":{"all":{"port":"metrics"}}}}`,
	`{"resource":{"type":"aws.s3","name":"x"},"host":{"packages":["a=1"],"sysctl":{"vm.x":1},"modules":["m"],"users":{"u":{"uid":1000}}}}`,
	`{"service":{"command":["` + token.Encode(token.Token{Kind: token.Ref, Of: "me", Field: "host"}) + `"],"env":{"A":9007199254740993,"#doc":1,"B":null}}}`,
}

// FuzzDecode checks that the decoder never panics, and that what it accepts is the same after
// encoding and decoding.
func FuzzDecode(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var a Functionality
		d := &decoder{subject: "a/b"}
		d.decodeJSON(json.RawMessage(s), &a, []string{"libs", "a", "b"})
		for _, e := range d.errs {
			if e.Msg == "" || strings.Contains(e.Msg, "%!") || strings.Contains(e.Hint, "%!") {
				t.Fatalf("%q: %q, %q", s, e.Msg, e.Hint)
			}
		}
		if len(d.errs) > 0 {
			return
		}
		if a.Service == nil {
			return
		}
		raw, err := json.Marshal(a.Service)
		if err != nil {
			t.Fatalf("%q was accepted and cannot be written: %v", s, err)
		}
		back := reflect.New(reflect.TypeOf(*a.Service))
		if err := json.Unmarshal(raw, back.Interface()); err != nil {
			t.Fatalf("%q became %s, which cannot be read: %v", s, raw, err)
		}
		again, err := json.Marshal(back.Interface())
		if err != nil || string(again) != string(raw) {
			t.Fatalf("%q became\n%s\nand then\n%s, %v", s, raw, again, err)
		}
	})
}

// FuzzCompile runs the whole compiler on a functionality.
func FuzzCompile(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := &compiler{in: Input{Backends: []string{"systemd"}, Result: &lang.Result{Environment: "dev"},
			Artifact: func(token.Token) (plan.Artifact, error) { return plan.Artifact{}, nil }}, funcs: map[string]*function{}, libHeld: map[string]bool{}}
		fn, err := c.decode("a", "b", json.RawMessage(s))
		if err != nil {
			if err.Msg == "" || len(err.Path) == 0 {
				t.Fatalf("%q: message or path is missing: %v", s, err)
			}
			return
		}
		c.funcs["a/b"] = fn
		c.resolveAll()
		g := c.expand()
		out := &Output{Graph: g, exports: c.resolvedExports()}
		out.ExpandSets()
	})
}
