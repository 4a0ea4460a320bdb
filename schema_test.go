package defx_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestSchema_AcceptsOutputOfEval validates the output of defx eval for each example, including
// tokens, against the output of defx schema.
func TestSchema_AcceptsOutputOfEval(t *testing.T) {
	bin := build(t)
	document := func(dir string, args ...string) any {
		t.Helper()
		cmd := exec.Command(bin, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: %v", dir, args, err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("defx.json", document(".", "schema")); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("defx.json")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := filepath.Glob("examples/*/defx.jsonnet")
	if err != nil || len(entries) < 4 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		if err := s.Validate(document(filepath.Dir(e), "eval")); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
}
