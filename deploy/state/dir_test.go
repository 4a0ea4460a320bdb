package state_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/deploy/state/statetest"
	"github.com/defx-dev/defx/internal/digest"
)

func TestDir_Contract(t *testing.T) {
	statetest.Run(t, func(t *testing.T) func() state.Store {
		dir := filepath.Join(t.TempDir(), "not", "there yet")
		return func() state.Store { return state.OpenDir(dir) }
	})
}

func TestDirGet_DetectsEveryFlippedBit(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := state.OpenDir(dir)
	object := []byte(`{"a":"some content"}`)
	if err := s.Put(ctx, object); err != nil {
		t.Fatal(err)
	}
	packs, _ := filepath.Glob(filepath.Join(dir, "objects", "*.pack"))
	raw, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			bad := append([]byte(nil), raw...)
			bad[i] ^= 1 << bit
			if err := os.WriteFile(packs[0], bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := state.OpenDir(dir).Get(ctx, digest.Bytes(object)); err == nil && string(got) != string(object) {
				t.Fatalf("byte %d, bit %d: Get returned %q", i, bit, got)
			}
		}
	}
}

// TestDirGC_AfterKilledGC: a killed GC leaves merged packs behind, so that objects
// exist twice; the next GC completes the work.
func TestDirGC_AfterKilledGC(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	objects := filepath.Join(dir, "objects")
	s := state.OpenDir(dir)
	live := map[digest.Digest]bool{}
	for i := range 10 {
		a, b := []byte("live"+strconv.Itoa(i)), []byte("dead"+strconv.Itoa(i))
		if err := s.Put(ctx, a, b); err != nil {
			t.Fatal(err)
		}
		live[digest.Bytes(a)] = true
	}
	before := filepath.Join(t.TempDir(), "objects")
	if err := os.CopyFS(before, os.DirFS(objects)); err != nil {
		t.Fatal(err)
	}
	alive := func(d digest.Digest) bool { return live[d] }
	if n, _, err := s.GC(ctx, state.Oldest{}, alive, false); err != nil || n != 10 {
		t.Fatalf("%d, %v", n, err)
	}
	packs, _ := os.ReadDir(before)
	for _, p := range packs[:len(packs)/2] { // not removed yet when GC was killed
		if err := os.Rename(filepath.Join(before, p.Name()), filepath.Join(objects, p.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(objects, ".half-written123"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(objects, ".half-written123"), long, long); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := state.OpenDir(dir).GC(ctx, state.Oldest{}, alive, false); err != nil {
			t.Fatal(err)
		}
	}
	s = state.OpenDir(dir)
	for d := range live {
		if _, err := s.Get(ctx, d); err != nil {
			t.Error(err)
		}
	}
	if n, _, err := s.GC(ctx, state.Oldest{}, alive, true); err != nil || n != 0 {
		t.Errorf("%d unreferenced objects left, %v", n, err)
	}
	if left, _ := os.ReadDir(objects); strings.Contains(left[0].Name(), "half") {
		t.Error("a stale temporary file was not removed")
	}
}
