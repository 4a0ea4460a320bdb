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

// A link that somebody made on the way to a directory is not followed; without it, the directory is made.
func TestMakeDir_FollowsNoLinkOfOthers(t *testing.T) {
	base := t.TempDir()
	app, etc := filepath.Join(base, "app"), filepath.Join(base, "etc")
	for _, d := range []string{app, etc} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(app, 0o777)
	for _, p := range []string{"conf/data", "conf"} {
		os.Symlink("../etc", filepath.Join(app, "conf"))
		if err := makeDir(filepath.Join(app, p), os.Getuid()); err == nil || !strings.Contains(err.Error(), app+"/conf is a symbolic link") {
			t.Errorf("%s: %v", p, err)
		}
		if list, _ := os.ReadDir(etc); len(list) != 0 {
			t.Errorf("%s: made %v", p, list)
		}
		os.Remove(filepath.Join(app, "conf"))
		if err := makeDir(filepath.Join(app, p), os.Getuid()); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		os.RemoveAll(filepath.Join(app, "conf"))
	}
}
