package compose

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/defx-dev/defx/lang"
)

var update = flag.Bool("update", false, "write the results to the golden files")

// TestRead_Goldens compares libraries and unsupported fields with golden files.
// End-to-end tests check that containers are equal.
func TestRead_Goldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			m, err := Read(context.Background(), file, Options{Out: "testdata"})
			if err != nil {
				t.Fatal(err)
			}
			text, err := lang.Format("library", m.Library)
			if err != nil {
				t.Fatalf("%v\n%s", err, m.Library)
			}
			here, err := filepath.Abs("testdata")
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(text, here, "/HERE")
			for _, u := range m.Unsupported {
				got += strings.ReplaceAll(fmt.Sprintf("// unsupported: %s.%s: %s\n", u.Service, u.Field, u.Why), here, "/HERE")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".libsonnet"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("(-want +got, -update to accept)\n%s", d)
			}
		})
	}
}

func TestRead_UnknownField(t *testing.T) {
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte("services:\n  web:\n    imgae: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(context.Background(), file, Options{Out: "."}); err == nil || !strings.Contains(err.Error(), "imgae") {
		t.Errorf("%v", err)
	}
}

func TestName_IsUnique(t *testing.T) {
	m := &importer{names: map[string]string{}}
	for _, s := range []string{"My_Web", "my-web", "-", strings.Repeat("x", 60)} {
		m.names[s] = m.name(s)
	}
	want := map[string]string{"My_Web": "my-web", "my-web": "my-web-2", "-": "service", strings.Repeat("x", 60): strings.Repeat("x", 40)}
	if d := cmp.Diff(want, m.names); d != "" {
		t.Error(d)
	}
}
