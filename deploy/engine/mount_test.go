package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends/docker"
)

// A mounted directory of the machine is created only where that is asked for, and only once.
func TestMakeDirs_CreatesMissing(t *testing.T) {
	base := t.TempDir()
	made, other := filepath.Join(base, "a/b/data"), filepath.Join(base, "other")
	c := &docker.Container{Mounts: []docker.Mount{
		{Path: made, Target: made, Create: true, Owner: os.Getuid()},
		{Path: other, Target: other},
		{Volume: "v", Target: "/v"},
	}}
	if err := makeDirs(c); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(made)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Lstat(other); err == nil {
		t.Error("a directory that belongs to others was created")
	}
	if list, _ := os.ReadDir(filepath.Dir(made)); len(list) != 1 {
		t.Errorf("leftovers: %v", list)
	}

	// One that exists is left unchanged, empty or not.
	if err := os.Chmod(made, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, fill := range []bool{false, true} {
		if fill {
			if err := os.WriteFile(filepath.Join(made, "db"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := makeDirs(c); err != nil {
			t.Fatal(err)
		}
		now, err := os.Stat(made)
		if err != nil || !os.SameFile(info, now) || now.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", now, err)
		}
	}
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeDir(other, os.Getuid()); err == nil || !strings.Contains(err.Error(), other+" is not a directory") {
		t.Errorf("%v", err)
	}
}
