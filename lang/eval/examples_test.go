package eval

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConformance_ExamplesOfTheRepository(t *testing.T) {
	t.Chdir("../../examples")
	n := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".jsonnet") && !strings.HasSuffix(path, ".libsonnet") {
			return err
		}
		code, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		c := &testCase{name: path, code: string(code)}
		if d := differ(evalWith(c), goJsonnet(c)); d != "" {
			t.Errorf("%s: %s", path, d)
		}
		return nil
	})
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	t.Logf("%d files", n)
}
