package lang

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-jsonnet"
)

// FuzzCompact holds our reading of what evaluation gives against encoding/json.
func FuzzCompact(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"x\"]} ,","c":null}],"é\n":-1.5e300,"":{},"z":[],"d":true}`, `{}`, `{"a":{"a":{}}}`, `{"\\":"\\\\","\"":"\\\""}`, `"text"`, `[[[]]]`} {
		f.Add(s)
	}
	vm := jsonnet.MakeVM()
	f.Fuzz(func(t *testing.T, in string) {
		if !json.Valid([]byte(in)) {
			t.Skip()
		}
		out, err := vm.EvaluateAnonymousSnippet("in", in) // JSON is Jsonnet, but for some numbers and repeated names
		if err != nil {
			t.Skip()
		}
		got, err := compact(out)
		var want bytes.Buffer
		json.Compact(&want, []byte(out))
		if err != nil || string(got) != want.String() {
			t.Fatalf("%q became %q (%v), not %q", out, got, err, want.String())
		}
		var fields map[string]json.RawMessage
		if json.Unmarshal(got, &fields) != nil || fields == nil {
			return
		}
		list, err := members(got)
		if err != nil || len(list) != len(fields) {
			t.Fatalf("%q: %d fields (%v), not %d", got, len(list), err, len(fields))
		}
		for _, m := range list {
			if string(m.value) != string(fields[m.name]) {
				t.Errorf("%q: %q is %q, not %q", got, m.name, m.value, fields[m.name])
			}
		}
	})
}

func TestWhatIsTornIsNoObject(t *testing.T) {
	whole := `{"a":{"b":[1,"}"]},"c\"":"d"}`
	for n := range len(whole) {
		if list, err := members([]byte(whole[:n])); err == nil {
			t.Errorf("%s was read as %v", whole[:n], list)
		}
	}
	for _, bad := range []string{`{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1]}`, `{,}`} {
		if list, err := members([]byte(bad)); err == nil {
			t.Errorf("%s was read as %v", bad, list)
		}
	}
	if _, err := compact(strings.Repeat("[", deepest+1) + strings.Repeat("]", deepest+1)); err == nil {
		t.Error("brackets without an end were not refused")
	}
}
