package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/nofollow"
)

func TestStatCache_ReadsWhatChanged(t *testing.T) {
	before := clockResolution
	clockResolution = 0
	defer func() { clockResolution = before }()
	dir := t.TempDir()
	root, err := nofollow.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	file := filepath.Join(dir, "f")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := openStatCache(root)
	get := func() digest.Digest {
		t.Helper()
		info, err := root.Lstat("f")
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.file("/f", info)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	write("one")
	if got := get(); got != digest.Bytes([]byte("one")) || c.changed != 1 {
		t.Errorf("%s, %d records", got, c.changed)
	}
	known := c.known["/f"]
	known.Digest = "sha256:remembered"
	c.known["/f"] = known
	if got := get(); got != "sha256:remembered" {
		t.Errorf("an unchanged file was read again: %s", got)
	}
	write("two") // the same size
	if got := get(); got != digest.Bytes([]byte("two")) {
		t.Errorf("a changed file was not read: %s", got)
	}
	c.changed = statCacheRecords
	if err := os.MkdirAll(filepath.Join(dir, base), 0o755); err != nil {
		t.Fatal(err)
	}
	c.save()
	if again := openStatCache(root); again.known["/f"] != c.known["/f"] {
		t.Errorf("%v, want %v", again.known, c.known)
	}
	if err := os.WriteFile(filepath.Join(dir, statCachePath), []byte("{damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c = openStatCache(root); get() != digest.Bytes([]byte("two")) {
		t.Error("a damaged cache changes the result")
	}
}

func TestStatCache_DoesNotRememberWhatChangedAMomentAgo(t *testing.T) {
	dir := t.TempDir()
	root, err := nofollow.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := openStatCache(root)
	info, err := root.Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.file("/f", info); err != nil || len(c.known) > 0 {
		t.Errorf("%v, remembered %v", err, c.known)
	}
}
