package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
)

// shared makes a machine on which /srv/app can be written by others than root, and belongs to
// another user if the test can give it away.
func shared(t *testing.T) (*agent.Host, string) {
	t.Helper()
	dir := t.TempDir()
	for p, mode := range map[string]os.FileMode{"": 0o755, "srv": 0o755, "srv/app": 0o777, "etc": 0o755, "etc/cron.d": 0o755} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, p), mode); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 && os.Chown(filepath.Join(dir, "srv/app"), 65534, 65534) == nil {
		os.Chmod(filepath.Join(dir, "srv/app"), 0o755)
	}
	h := agent.OpenHost(dir, backends.NewSet(systemd.New()))
	t.Cleanup(func() { h.Close() })
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	return h, dir
}

func withFiles(t *testing.T, files map[string]string) json.RawMessage {
	t.Helper()
	spec := graph.Spec{HostFiles: map[string]graph.File{}}
	for p, s := range files {
		spec.HostFiles[p] = text(s, "0600")
	}
	return systemdUnit(t, "shop/web", spec)
}

func change(h *agent.Host, raw json.RawMessage) error {
	_, err := h.ApplyUnit(context.Background(), scope, "shop/web", caller(1), raw, nil, time.Minute)
	return err
}

func exists(parts ...string) bool {
	_, err := os.Lstat(filepath.Join(parts...))
	return err == nil
}

const inShared = "/srv/app/conf/x"

// A link that somebody makes on the way to a file blocks that file, and nothing else.
func TestHostFiles_LinkOnTheWay(t *testing.T) {
	for _, target := range []string{"../../etc/cron.d", "/etc/cron.d", "", "nowhere"} {
		t.Run("to "+target, func(t *testing.T) {
			h, dir := shared(t)
			conf := filepath.Join(dir, "srv/app/conf")
			if target != "" {
				os.Symlink(target, conf)
			}
			err := change(h, withFiles(t, map[string]string{inShared: "x"}))
			if target == "" { // the attack's effect would be seen
				if err != nil || read(t, conf, "x") != "x" {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "/srv/app/conf is a symbolic link") {
				t.Errorf("got %v", err)
			}
			if exists(dir, "etc/cron.d/x") || exists(dir, "srv/app/nowhere") {
				t.Error("the link was followed")
			}
			if err := change(h, withFiles(t, map[string]string{"/etc/other": "y"})); err != nil || !exists(dir, "etc/other") {
				t.Errorf("without the file: %v", err)
			}
			if err := change(h, nil); err != nil || exists(dir, "etc/other") || !exists(conf) {
				t.Errorf("destroy: %v", err)
			}
		})
	}
}

// What lies where a link leads to is not removed in place of what defx wrote.
func TestHostFiles_LinkAfterDeploy(t *testing.T) {
	for _, c := range []struct{ what, target string }{{"relative", "../../etc"}, {"absolute", "/etc"}, {"no link", ""}} {
		for _, next := range []string{"dropped", "destroyed"} {
			t.Run(c.what+", "+next, func(t *testing.T) {
				h, dir := shared(t)
				if err := change(h, withFiles(t, map[string]string{inShared: "x"})); err != nil {
					t.Fatal(err)
				}
				os.WriteFile(filepath.Join(dir, "etc/x"), []byte("x"), 0o600)
				conf := filepath.Join(dir, "srv/app/conf")
				if c.target != "" {
					os.Rename(conf, conf+"2")
					os.Symlink(c.target, conf)
					if err := change(h, withFiles(t, map[string]string{inShared: "x", "/etc/y": "y"})); err == nil || !strings.Contains(err.Error(), "/srv/app/conf is") {
						t.Errorf("with the file: %v", err)
					}
				}
				raw := withFiles(t, nil)
				if next == "destroyed" {
					raw = nil
				}
				if err := change(h, raw); err != nil {
					t.Fatal(err)
				}
				if !exists(dir, "etc/x") || exists(conf) != (c.target != "") || exists(conf+"2/x") != (c.target != "") {
					t.Error("removed what was not defx's, or left what was")
				}
				if err := change(h, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// In a folder that others can write, only what defx wrote is removed; where root alone can write, an
// edited file is defx's all the same.
func TestHostFiles_SomethingElseInTheirPlace(t *testing.T) {
	for _, c := range []struct {
		what, file string
		replace    func(p string)
		stays      bool
	}{
		{"unchanged", inShared, func(string) {}, false},
		{"other content", inShared, func(p string) { os.WriteFile(p, []byte("other"), 0o600) }, true},
		{"a link", inShared, func(p string) { os.Remove(p); os.Symlink("y", p) }, true},
		{"a folder", inShared, func(p string) { os.Remove(p); os.Mkdir(p, 0o755) }, true},
		{"edited where root alone writes", "/etc/x", func(p string) { os.WriteFile(p, []byte("other"), 0o600) }, false},
		{"a folder where root alone writes", "/etc/x", func(p string) { os.Remove(p); os.Mkdir(p, 0o755) }, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			h, dir := shared(t)
			if err := change(h, withFiles(t, map[string]string{c.file: "x"})); err != nil {
				t.Fatal(err)
			}
			c.replace(filepath.Join(dir, c.file))
			if err := change(h, nil); err != nil {
				t.Fatal(err)
			}
			if exists(dir, c.file) != c.stays {
				t.Errorf("it is there: %v", !c.stays)
			}
		})
	}
}

// Links of the system are followed, in which root alone can write.
func TestHostFiles_LinkOfTheSystem(t *testing.T) {
	h, dir := shared(t)
	os.Mkdir(filepath.Join(dir, "usr"), 0o755)
	os.Mkdir(filepath.Join(dir, "usr/lib"), 0o755)
	os.Symlink("usr/lib", filepath.Join(dir, "lib"))
	if err := change(h, withFiles(t, map[string]string{"/lib/app/x": "x"})); err != nil || !exists(dir, "usr/lib/app/x") {
		t.Fatal(err)
	}
	if err := change(h, nil); err != nil || exists(dir, "usr/lib/app") || !exists(dir, "lib") {
		t.Error(err)
	}
}

// While somebody swaps folders and links, nothing is written or removed where the links lead to.
func TestHostFiles_SwappedLinks(t *testing.T) {
	rounds := 40
	if n, err := strconv.Atoi(os.Getenv("DEFX_TEST_SWAPS")); err == nil {
		rounds = n
	}
	h, dir := shared(t)
	elsewhere := filepath.Join(dir, "etc/cron.d")
	os.WriteFile(filepath.Join(elsewhere, "x"), []byte("canary"), 0o600)
	conf, aside, link := filepath.Join(dir, "srv/app/conf"), filepath.Join(dir, "srv/app/aside"), filepath.Join(dir, "srv/app/link")
	os.Symlink("../../etc/cron.d", link)
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if os.Rename(conf, aside) == nil || exists(aside) {
					os.Rename(link, conf)
					os.Rename(conf, link)
					os.Rename(aside, conf)
				}
			}
		}
	})
	written := 0
	for i := range rounds {
		if change(h, withFiles(t, map[string]string{inShared: fmt.Sprint(i)})) == nil {
			written++
		}
		change(h, withFiles(t, nil))
		list, err := os.ReadDir(elsewhere)
		if err != nil || len(list) != 1 || read(t, elsewhere, "x") != "canary" {
			t.Fatalf("round %d: %v, %v", i, list, err)
		}
	}
	close(stop)
	swaps.Wait()
	if written == 0 {
		t.Error("the file was never written")
	}
	os.Remove(conf) // a link, if the folder is aside
	os.RemoveAll(conf)
	if err := change(h, withFiles(t, map[string]string{inShared: "last"})); err != nil || read(t, conf, "x") != "last" {
		t.Errorf("afterwards: %v", err)
	}
	if err := change(h, nil); err != nil {
		t.Errorf("destroy: %v", err)
	}
}
