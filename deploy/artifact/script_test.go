package artifact

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDigest_EqualsFetchScript checks that the shell script that fetches packages
// on instances without defx computes the same digest.
func TestDigest_EqualsFetchScript(t *testing.T) {
	script, err := os.ReadFile("../../backends/ec2/fetch.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Repeat(name, len(name))), mode); err != nil {
			t.Fatal(err)
		}
	}
	digested := func() string {
		cmd := exec.Command("sh", "-c", "region=x domain=y\n"+string(script)+"tree")
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	add := []func(){
		func() { write("bin/web", 0o755) },
		func() { write("bin-web", 0o644) }, // sorts before bin/web, and after bin/
		func() { write("a 'b'/“c”", 0o600) },
		func() { write(`back\slash "quoted" $(x) %s`, 0o644) },
		func() { write(" blanks ", 0o711) },
		func() { write("-n", 0o644) },
		func() {
			if err := os.Symlink(`../nowhere "\`, filepath.Join(dir, "bin", "link")); err != nil {
				t.Fatal(err)
			}
		},
		func() {
			if err := os.Symlink("bin", filepath.Join(dir, "folder")); err != nil {
				t.Fatal(err)
			}
		},
		func() {
			if err := os.Symlink("bin", filepath.Join(dir, "-l")); err != nil { // not an option for readlink
				t.Fatal(err)
			}
		},
		func() {
			if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
	}
	for i, f := range add {
		f()
		want, err := Digest(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		if got := digested(); got != want.Hex() {
			t.Errorf("after %d: %s, want %s", i, got, want.Hex())
		}
		var packed bytes.Buffer
		if err := Pack(&packed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if got, err := DigestStream(Tree, &packed); err != nil || got != want {
			t.Errorf("after %d: packed %s, %v, want %s", i, got, err, want)
		}
	}
}
