package terraform

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/internal/digest"
)

// TestStage_KeepsArtifactsUntilCollected: an artifact is copied once, and refused if
// its content has another digest.
func TestStage_KeepsArtifactsUntilCollected(t *testing.T) {
	tree := fstest.MapFS{"bin/web": {Data: []byte("one"), Mode: 0o755}}
	d, err := artifact.Digest(tree)
	if err != nil {
		t.Fatal(err)
	}
	a := plan.Artifact{Digest: d, Kind: artifact.Tree, Path: "pack"}
	opened := 0
	open := func(context.Context, plan.Artifact) (io.ReadCloser, error) {
		opened++
		var b bytes.Buffer
		return io.NopCloser(&b), artifact.Pack(&b, tree)
	}
	s := &Runner{Dir: t.TempDir()}
	for range 2 {
		if err := s.Stage(t.Context(), []plan.Artifact{a}, open); err != nil {
			t.Fatal(err)
		}
	}
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
	tree["bin/web"].Data = []byte("two")
	other := a
	other.Digest = digest.Bytes([]byte("another"))
	if err := s.Stage(t.Context(), []plan.Artifact{other}, open); err == nil || !strings.Contains(err.Error(), "its content has digest") {
		t.Error(err)
	}
	list := func() (names []string) {
		all, err := os.ReadDir(filepath.Join(s.Dir, ".packages"))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			names = append(names, n.Name())
		}
		return names
	}
	if got := list(); len(got) != 1 || got[0] != d.Hex()+".tar" {
		t.Errorf("staged: %v", got)
	}
	if units, err := s.Units(t.Context(), "dev/shop"); err != nil || len(units) > 0 {
		t.Errorf("listed as modules: %v, %v", units, err)
	}
	for _, c := range []struct {
		live      map[digest.Digest]bool
		dry       bool
		gone, has int
	}{{map[digest.Digest]bool{d: true}, false, 0, 1}, {nil, true, 1, 1}, {nil, false, 1, 0}} {
		freed, gone, err := s.Collect(c.live, c.dry)
		if err != nil || len(gone) != c.gone || (freed > 0) != (c.gone > 0) || len(list()) != c.has {
			t.Errorf("%+v: %d bytes, %v, %v, left %v", c, freed, gone, err, list())
		}
	}
}
