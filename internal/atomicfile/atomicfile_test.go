package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite_ReplacesContentAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a file")
	for _, perm := range []os.FileMode{0o600, 0o644} {
		if err := Write(path, []byte(perm.String()), perm); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil || string(raw) != perm.String() {
			t.Fatalf("content %q, error %v", raw, err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != perm {
			t.Errorf("mode %v, want %v", info.Mode().Perm(), perm)
		}
	}
}

func TestWriteOwned_OwnUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteOwned(path, []byte("x"), 0o400, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("%v, error %v", info, err)
	}
	if err := WriteOwned(path, []byte("y"), 0o400, os.Getuid(), os.Getgid()); err != nil {
		t.Errorf("a read-only file cannot be replaced: %v", err)
	}
}

func TestWriteFunc_FailureKeepsPreviousContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Write(path, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := errors.New("disk full")
	err := WriteFunc(path, 0o644, func(w io.Writer) error {
		io.WriteString(w, "half")
		return want
	})
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	if raw, _ := os.ReadFile(path); string(raw) != "before" {
		t.Errorf("content %q after a failed write", raw)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d entries left in the directory, want 1", len(entries))
	}
}
