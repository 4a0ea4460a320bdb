package agent_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/backendtest"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// systemdUnit returns the canonical bytes of a service of the systemd backend.
func systemdUnit(t *testing.T, address string, spec graph.Spec) json.RawMessage {
	t.Helper()
	a, err := graph.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	spec.Command = []token.Text{token.Lit("/bin/sleep"), token.Lit("9")}
	b := systemd.New()
	p, _, errs := b.Render(backends.Input{Deployment: "test", Environment: "dev", Service: &graph.Service{Address: a, Spec: spec}})
	if errs != nil {
		t.Fatal(errs)
	}
	raw, err := digest.Canonical(&plan.Unit{Address: address, Backend: b.Name(), Encoding: b.Encoding(), Payload: p, Spec: json.RawMessage("{}")})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func text(s, mode string) graph.File { return graph.File{Text: token.Lit(s), Mode: mode} }

// withUmask sets the umask for the rest of a test.
func withUmask(t *testing.T, mask int) {
	old := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(old) })
}

func TestModes_DoNotDependOnUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("%04o", mask), func(t *testing.T) {
			if mask == 0o777 && os.Geteuid() != 0 {
				t.Skip("only root can open files again that it made without permissions")
			}
			dir := filepath.Join(t.TempDir(), "new", "box")
			if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			withUmask(t, mask)
			h := agent.OpenHost(dir, backends.NewSet(systemd.New()))
			defer h.Close()
			if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
				t.Fatal(err)
			}
			tree := fstest.MapFS{"bin/app": {Data: []byte("#!/bin/sh\n"), Mode: 0o700}, "conf/a": {Data: []byte("a"), Mode: 0o600}}
			d, err := artifact.Digest(tree)
			if err != nil {
				t.Fatal(err)
			}
			var packed bytes.Buffer
			if err := artifact.Pack(&packed, tree); err != nil {
				t.Fatal(err)
			}
			if err := h.PutArtifact(t.Context(), plan.Artifact{Digest: d, Kind: artifact.Tree, Path: "app"}, 0, &packed); err != nil {
				t.Fatal(err)
			}
			raw := systemdUnit(t, "app/web", graph.Spec{HostFiles: map[string]graph.File{"/etc/new/dir/open": text("open", "0644"), "/etc/new/dir/closed": text("closed", "0600")},
				Files: map[string]graph.File{"/etc/seen": text("seen", "0444")}})
			if _, err := h.ApplyUnit(t.Context(), scope, "app/web", caller(1), raw, nil, 0); err != nil {
				t.Fatal(err)
			}
			if err := h.FlushManifest(t.Context(), scope, 1); err != nil {
				t.Fatal(err)
			}
			store := "var/lib/defx/store/"
			for p, want := range map[string]fs.FileMode{
				".": 0o755, "etc": 0o755, "etc/new": 0o755, "etc/new/dir": 0o755, "etc/new/dir/open": 0o644, "etc/new/dir/closed": 0o600,
				"var": 0o755, "var/lib": 0o755, "var/lib/defx": 0o711, store: 0o711, "var/lib/defx/manifest.json": 0o600, "var/lib/defx/journal": 0o600, "var/lib/defx/fence.json": 0o600,
				store + d.Hex(): 0o755, store + d.Hex() + "/bin": 0o755, store + d.Hex() + "/bin/app": 0o555, store + d.Hex() + "/conf/a": 0o444,
				store + digest.Bytes(raw).Hex():                      0o400,
				store + digest.Bytes([]byte("seen")).Hex() + "-0444": 0o444,
			} {
				if info, err := os.Stat(filepath.Join(dir, p)); err != nil || info.Mode().Perm() != want {
					t.Errorf("%s: %v %v, want %v", p, info, err, want)
				}
			}
		})
	}
}

// TestModes_NoCopyIsMoreReadable looks for the text of files that only their owner may read.
func TestModes_NoCopyIsMoreReadable(t *testing.T) {
	dir := t.TempDir()
	h := agent.OpenHost(dir, backends.NewSet(systemd.New()))
	defer h.Close()
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	apply := func(mode string) {
		t.Helper()
		raw := systemdUnit(t, "app/web", graph.Spec{User: "root", HostFiles: map[string]graph.File{"/etc/closed": text("hidden words", mode)},
			Files: map[string]graph.File{"/etc/mine": text("hidden words", "0400")}})
		if _, err := h.ApplyUnit(t.Context(), scope, "app/web", caller(1), raw, nil, 0); err != nil {
			t.Fatal(err)
		}
		if err := h.FlushManifest(t.Context(), scope, 1); err != nil {
			t.Fatal(err)
		}
		found := 0
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Type()&fs.ModeSymlink != 0 {
				return err
			}
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && strings.Contains(string(raw), "hidden words") {
				if found++; info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s has mode %v and the text of a file with mode %s", p, info.Mode(), mode)
				}
			}
			return err
		})
		if err != nil || found < 3 {
			t.Fatal(found, err)
		}
	}
	apply("0600")
	// Copies that an older version left open are closed.
	store := filepath.Join(dir, "var/lib/defx/store")
	list, err := os.ReadDir(store)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if err := os.Chmod(filepath.Join(store, e.Name()), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	apply("0600")
}

func TestPutArtifact_RefusesWhatIsNotWhole(t *testing.T) {
	h, dir := host(t, &backendtest.Fake{})
	var two bytes.Buffer
	w := tar.NewWriter(&two)
	for range 2 {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}), func() error { _, err := w.Write([]byte("x")); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"twice": two.Bytes(), "truncated": two.Bytes()[:700], "nothing": nil, "no tar": []byte("text")} {
		a := plan.Artifact{Digest: digest.Bytes(raw), Kind: artifact.Tar, Path: name}
		if err := h.PutArtifact(t.Context(), a, 0, bytes.NewReader(raw)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "var/lib/defx/store")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestMountPoints_LeaveNothing plays the part of systemd: it makes an empty file where a unit
// mounts one and there is none.
func TestMountPoints_LeaveNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/own.conf"), nil, 0o644); err != nil { // empty, but the machine's own
		t.Fatal(err)
	}
	set := backends.NewSet(systemd.New())
	h := agent.OpenHost(dir, set)
	defer func() { h.Close() }()
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	exists := func(p string) bool { _, err := os.Lstat(filepath.Join(dir, p)); return err == nil }
	mount := func(paths ...string) {
		for _, p := range paths {
			if p = filepath.Join(dir, p); os.MkdirAll(filepath.Dir(p), 0o755) != nil {
				t.Fatal(p)
			}
			f, err := os.OpenFile(p, os.O_CREATE, 0o444)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	apply := func(address string, spec *graph.Spec) {
		t.Helper()
		var raw json.RawMessage
		if spec != nil {
			raw = systemdUnit(t, address, *spec)
		}
		if _, err := h.ApplyUnit(t.Context(), scope, address, caller(1), raw, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	files := &graph.Spec{Files: map[string]graph.File{"/etc/greet.conf": text("x", ""), "/etc/own.conf": text("x", ""), "/opt/a/b/c.conf": text("x", "")}}
	apply("app/one", files)
	mount("etc/greet.conf", "opt/a/b/c.conf")
	apply("app/two", &graph.Spec{Files: map[string]graph.File{"/etc/greet.conf": text("y", "")}})
	apply("app/one", nil)
	if !exists("etc/greet.conf") || !exists("etc/own.conf") || exists("opt") {
		t.Errorf("after the first: greet.conf %v, own.conf %v, opt %v", exists("etc/greet.conf"), exists("etc/own.conf"), exists("opt"))
	}
	// A restarted agent still knows, and a host file may take the place without ending the mount.
	if err := h.FlushManifest(t.Context(), scope, 1); err != nil {
		t.Fatal(err)
	}
	h.Close()
	h = agent.OpenHost(dir, set)
	inode := func() uint64 {
		info, err := os.Stat(filepath.Join(dir, "etc/greet.conf"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	was := inode()
	apply("app/three", &graph.Spec{HostFiles: map[string]graph.File{"/etc/greet.conf": text("hello", "0644")}})
	if got := read(t, dir, "etc/greet.conf"); got != "hello" || inode() != was {
		t.Errorf("%q, inode %d, was %d", got, inode(), was)
	}
	apply("app/three", nil)
	if !exists("etc/greet.conf") || inode() != was || read(t, dir, "etc/greet.conf") != "" {
		t.Error("the mount point of the second is gone")
	}
	apply("app/two", nil)
	if exists("etc/greet.conf") || !exists("etc/own.conf") {
		t.Errorf("at the end: greet.conf %v, own.conf %v", exists("etc/greet.conf"), exists("etc/own.conf"))
	}
	apply("app/three", &graph.Spec{HostFiles: map[string]graph.File{"/etc/greet.conf": text("hello", "0644")}})
	apply("app/three", nil)
	// A changed list of files leaves nothing either, and content of somebody else stays.
	apply("app/one", files)
	mount("etc/greet.conf", "opt/a/b/c.conf")
	if err := os.WriteFile(filepath.Join(dir, "etc/greet.conf"), []byte("theirs"), 0o644); err != nil {
		os.Chmod(filepath.Join(dir, "etc/greet.conf"), 0o644)
		if err := os.WriteFile(filepath.Join(dir, "etc/greet.conf"), []byte("theirs"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	apply("app/one", &graph.Spec{Files: map[string]graph.File{"/etc/other.conf": text("x", "")}})
	if exists("opt") || read(t, dir, "etc/greet.conf") != "theirs" {
		t.Error("after a change of files")
	}
}
