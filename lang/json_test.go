package lang

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-jsonnet"
)

// FuzzCompact compares compact and splitObject with encoding/json.
func FuzzCompact(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"x\"]} ,","c":null}],"é\n":-1.5e300,"":{},"z":[],"d":true}`, `{}`, `{"a":{"a":{}}}`, `{"\\":"\\\\","\"":"\\\""}`, `"text"`, `[[[]]]`} {
		f.Add(s)
	}
	vm := jsonnet.MakeVM()
	f.Fuzz(func(t *testing.T, in string) {
		if !json.Valid([]byte(in)) {
			t.Skip()
		}
		out, err := vm.EvaluateAnonymousSnippet("in", in) // JSON is Jsonnet, except some numbers and repeated names
		if err != nil {
			t.Skip()
		}
		got, err := compact(out)
		var want bytes.Buffer
		json.Compact(&want, []byte(out))
		if err != nil || string(got) != want.String() {
			t.Fatalf("%q became %q (%v), want %q", out, got, err, want.String())
		}
		var fields map[string]json.RawMessage
		if json.Unmarshal(got, &fields) != nil || fields == nil {
			return
		}
		list, err := splitObject(got)
		if err != nil || len(list) != len(fields) {
			t.Fatalf("%q: %d fields (%v), want %d", got, len(list), err, len(fields))
		}
		for _, m := range list {
			if string(m.value) != string(fields[m.name]) {
				t.Errorf("%q: %q is %q, want %q", got, m.name, m.value, fields[m.name])
			}
		}
	})
}

func TestSplitObject_Malformed(t *testing.T) {
	whole := `{"a":{"b":[1,"}"]},"c\"":"d"}`
	for n := range len(whole) {
		if list, err := splitObject([]byte(whole[:n])); err == nil {
			t.Errorf("%s was accepted as %v", whole[:n], list)
		}
	}
	for _, bad := range []string{`{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1]}`, `{,}`} {
		if list, err := splitObject([]byte(bad)); err == nil {
			t.Errorf("%s was accepted as %v", bad, list)
		}
	}
	if _, err := compact(strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)); err == nil {
		t.Error("nesting beyond the limit was accepted")
	}
}
