package eval

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEvaluate_FileWithImport(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"main.jsonnet": "{ a: (import 'lib.libsonnet') + 1 }", "lib.libsonnet": "41"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	res, err := New(Options{Importer: &FileImporter{}}).Evaluate(t.Context(), filepath.Join(dir, "main.jsonnet"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(string(res.Output)), ""); got != `{"a":42}` {
		t.Errorf("got %s", got)
	}
}
