package eval

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConformance_Goldens compares with the files that go-jsonnet's own tests
// compare with: whole outputs, and the first line of errors.
func TestConformance_Goldens(t *testing.T) {
	t.Chdir(moduleDir(t))
	files, err := filepath.Glob("testdata/*.jsonnet")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".jsonnet")
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		o := Options{Importer: &FileImporter{}, Natives: natives, NoNewline: strings.Contains(name+".golden", "_no_newline")}
		if strings.HasPrefix(name, "testdata/extvar_") {
			o.ExtVars = suiteExt
		}
		if strings.HasSuffix(name, "_string_output") {
			o.Mode, o.StringFiles = String, true
		}
		want := goldens(t, name+".golden")
		if len(want) == 0 {
			continue
		}
		if _, single := want[""]; !single {
			o.Mode = Multi
		}
		r, err := New(o).EvaluateSnippet(context.Background(), name, string(code))
		got := map[string]string{}
		switch {
		case err != nil && o.Mode == Multi:
			got["error"] = err.Error()
		case err != nil:
			got[""] = err.Error()
		case o.Mode == Multi:
			for _, f := range r.Files {
				got[f.Name] = string(f.Content)
			}
		default:
			got[""] = string(r.Output)
		}
		for n, w := range want {
			g := got[n]
			if err != nil {
				g, w = firstLine(g), firstLine(w)
			}
			if g != w {
				t.Errorf("%s %s\n%s; want\n%s", name, n, clip(g), clip(w))
			}
			delete(got, n)
		}
		for n := range got {
			t.Errorf("%s: unexpected file %s", name, n)
		}
	}
}

// goldens returns what is expected: one output named "", or the files of a directory.
func goldens(t *testing.T, path string) map[string]string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	names := []string{path}
	if info.IsDir() {
		names, _ = filepath.Glob(filepath.Join(path, "*"))
	}
	out := map[string]string{}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		key := ""
		if info.IsDir() {
			key = filepath.Base(n)
		}
		out[key] = string(b)
	}
	return out
}
