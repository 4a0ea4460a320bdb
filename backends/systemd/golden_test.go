package systemd

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
)

var update = flag.Bool("update", false, "write the current output into the golden files")

// goldenCase is the section "service.json" of an archive: a placed service.
type goldenCase struct {
	Address graph.Address   `json:"address"`
	Spec    graph.Spec      `json:"spec"`
	Options json.RawMessage `json:"systemd"`
	Local   []graph.Address `json:"local"`    // services on the same machine
	Require []graph.Address `json:"requires"` // the required ones of Local
	Fact    *graph.Fact     `json:"fact"`     // instead of a service
}

func (c goldenCase) input() backends.Input {
	in := input(c.Address.Name, c.Spec)
	in.Service.Address, in.Service.Options, in.Local = c.Address, c.Options, c.Local
	in.Service.Fact = c.Fact
	in.Service.Requires = []graph.Edge{{To: c.Require}}
	return in
}

func goldenCases(t *testing.T) map[string]*archive {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	out := map[string]*archive{}
	for _, f := range files {
		a, err := readArchive(f)
		if err != nil {
			t.Fatal(err)
		}
		out[f] = a
	}
	return out
}

func (c *goldenCase) read(t *testing.T, a *archive) {
	t.Helper()
	if len(a.sections) == 0 || a.sections[0].name != "service.json" {
		t.Fatal("the first section is not service.json")
	}
	if err := spec.DecodeStrict([]byte(a.sections[0].data), c); err != nil {
		t.Fatal(err)
	}
}

// TestRender_Golden compares layouts, and errors, with the golden files.
func TestRender_Golden(t *testing.T) {
	for file, old := range goldenCases(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			var c goldenCase
			c.read(t, old)
			got := &archive{comment: old.comment, sections: old.sections[:1:1]}
			p, _, errs := New().Render(c.input())
			if len(errs) > 0 {
				var b strings.Builder
				for _, e := range errs {
					fmt.Fprintf(&b, "%s:\n%s\n", strings.Join(e.Path, "."), e)
				}
				got.add("errors", b.String())
			} else {
				l, err := New().Realize(p, version, valueOf)
				if err != nil {
					t.Fatal(err)
				}
				got.add("start", strings.Join(l.Start, "\n"))
				for _, o := range l.Objects {
					got.add(fmt.Sprintf("%s/%s", backends.StorePath, o.Name), string(o.Content))
				}
				for _, f := range l.Files {
					name := f.Path
					if f.Link != "" {
						name += " -> " + f.Link
					}
					if f.Shared {
						name += " (shared)"
					}
					got.add(name, string(f.Content))
				}
			}
			want, have := old.String(), got.String()
			if want == have {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(have), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("(-want +got, -update to accept)\n%s", cmp.Diff(want, have))
		})
	}
}
