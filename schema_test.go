package defx_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestWhatEvalPrintsIsValid holds what defx eval prints of each example, tokens
// and all, against what defx schema prints.
func TestWhatEvalPrintsIsValid(t *testing.T) {
	bin := build(t)
	say := func(dir string, args ...string) any {
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
	if err := c.AddResource("defx.json", say(".", "schema")); err != nil {
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
		if err := s.Validate(say(filepath.Dir(e), "eval")); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
}
