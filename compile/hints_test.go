package compile_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile"
)

// TestDecode_HintsWork checks hints, each of which is valid when it is followed.
func TestDecode_HintsWork(t *testing.T) {
	for _, c := range []struct{ wrong, hint, right string }{
		{`{"service":{"limits":{"memory":64}}}`, "write it with its unit: '64Mi'", `{"service":{"limits":{"memory":"64Mi"}}}`},
		{`{"service":{"limits":{"memory":"64"}}}`, "64Mi", `{"service":{"limits":{"memory":"64Mi"}}}`},
		{`{"service":{"limits":{"memory":"512k"}}}`, "1Mi or more", `{"service":{"limits":{"memory":"1Mi"}}}`},
		{`{"service":{"limits":{"memory":true}}}`, "a number with a unit: '512Mi'", `{"service":{"limits":{"memory":"512Mi"}}}`},
		{`{"service":{"ready":{"http":true}}}`, "a path: http: '/health'", `{"service":{"ready":{"http":"/health"}}}`},
		{`{"service":{"ready":{"tcp":true,"timeout":30}}}`, "write it with its unit: '30s'", `{"service":{"ready":{"tcp":true,"timeout":"30s"}}}`},
		{`{"service":{"stop":{"timeout":false}}}`, "a number with a unit: 500ms, 30s, 5m, 2h", `{"service":{"stop":{"timeout":"30s"}}}`},
		{`{"service":{"restart":true}}`, "one of always, on-failure, no", `{"service":{"restart":"always"}}`},
		{`{"service":{"files":{"/x":{"text":"a","mode":644}}}}`, "octal digits in quotes: mode: '0644'", `{"service":{"files":{"/x":{"text":"a","mode":"0644"}}}}`},
		{`{"service":{"env":{"A":1}}}`, "write it as a string: '1'", `{"service":{"env":{"A":"1"}}}`},
		{`{"service":{"user":1000}}`, "write it as a string: '1000'", `{"service":{"user":"1000"}}`},
	} {
		err := compile.Decode(json.RawMessage(c.wrong), &compile.Functionality{})
		if err == nil || !strings.Contains(err.Error(), "hint: "+c.hint) {
			t.Errorf("%s: %v, want the hint %q", c.wrong, err, c.hint)
		}
		if err := compile.Decode(json.RawMessage(c.right), &compile.Functionality{}); err != nil {
			t.Errorf("%s, as the hint says: %v", c.right, err)
		}
	}
}
