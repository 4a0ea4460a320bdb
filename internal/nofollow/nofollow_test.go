//go:build linux

package nofollow_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/defx-dev/defx/internal/nofollow"
	"golang.org/x/sys/unix"
)

// machine makes a root folder with /etc/x, which is not to be touched, and /srv, which belongs to
// another user, or which others can write if the test cannot give it away.
func machine(t *testing.T) (string, *nofollow.Root) {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	for _, d := range []string{"etc/sub", "srv/real"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"etc", "etc/sub"} {
		os.Chmod(filepath.Join(dir, d), 0o755)
	}
	if os.Geteuid() != 0 || os.Chown(filepath.Join(dir, "srv"), 65534, 65534) != nil {
		os.Chmod(filepath.Join(dir, "srv"), 0o777)
	}
	put(t, filepath.Join(dir, "etc/x"), "canary")
	put(t, filepath.Join(dir, "srv/real/x"), "own")
	root, err := nofollow.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return dir, root
}

func put(t *testing.T, p, content string) {
	t.Helper()
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tree describes all below a folder.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		info, err := d.Info()
		if err != nil {
			t.Fatal(err)
		}
		raw := []byte{}
		if info.Mode().IsRegular() {
			raw, _ = os.ReadFile(p)
		}
		fmt.Fprintln(&out, p, info.Mode(), string(raw))
		return nil
	})
	return out.String()
}

// both runs a test with openat2 and without.
func both(t *testing.T, f func(t *testing.T)) {
	t.Run("openat2", f)
	t.Run("components", func(t *testing.T) {
		t.Cleanup(nofollow.WithoutOpenat2())
		f(t)
	})
}

var writes = map[string]func(r *nofollow.Root, dir string) error{
	"create": func(r *nofollow.Root, dir string) error {
		f, err := r.OpenFile(dir+"/new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
		}
		return err
	},
	"truncate": func(r *nofollow.Root, dir string) error {
		f, err := r.OpenFile(dir+"/x", os.O_WRONLY|os.O_TRUNC, 0)
		if err == nil {
			f.Close()
		}
		return err
	},
	"chmod":       func(r *nofollow.Root, dir string) error { return r.Chmod(dir+"/x", 0o600) },
	"mkdir":       func(r *nofollow.Root, dir string) error { return r.Mkdir(dir+"/d", 0o700) },
	"mkdir all":   func(r *nofollow.Root, dir string) error { return r.MkdirAll(dir+"/d/e", 0o700) },
	"symlink":     func(r *nofollow.Root, dir string) error { return r.Symlink("x", dir+"/l") },
	"remove":      func(r *nofollow.Root, dir string) error { return r.Remove(dir + "/x") },
	"remove file": func(r *nofollow.Root, dir string) error { return r.RemoveFile(dir + "/x") },
	"remove dir":  func(r *nofollow.Root, dir string) error { return r.RemoveDir(dir + "/sub") },
	"remove all":  func(r *nofollow.Root, dir string) error { return r.RemoveAll(dir + "/x") },
	"rename from": func(r *nofollow.Root, dir string) error { return r.Rename(dir+"/x", "srv/y") },
	"rename to":   func(r *nofollow.Root, dir string) error { return r.Rename("srv/real/x", dir+"/x") },
	"read": func(r *nofollow.Root, dir string) error {
		_, err := r.ReadFile(dir + "/x")
		return err
	},
	"stat": func(r *nofollow.Root, dir string) error {
		_, err := r.Lstat(dir + "/x")
		return err
	},
}

func TestRoot_FollowsNoLinkOfOthers(t *testing.T) {
	both(t, func(t *testing.T) {
		for _, target := range []string{"../etc", "/etc", "../srv/../etc", "hop"} {
			for what, do := range writes {
				dir, root := machine(t)
				os.Symlink("../etc", filepath.Join(dir, "srv/hop"))
				os.Symlink(target, filepath.Join(dir, "srv/conf"))
				before := tree(t, filepath.Join(dir, "etc"))
				err := do(root, "srv/conf")
				refused, ok := errors.AsType[*nofollow.Refused](err)
				if !ok || refused.Path != "/srv/conf" || !strings.Contains(refused.Hint(), "/srv/conf") {
					t.Errorf("%s through a link to %s: %v", what, target, err)
				}
				if after := tree(t, filepath.Join(dir, "etc")); after != before {
					t.Errorf("%s through a link to %s changed\n%sto\n%s", what, target, before, after)
				}
				// The same without a link has its effect there.
				if err := do(root, "etc"); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if after := tree(t, filepath.Join(dir, "etc")); (after == before) != (what == "read" || what == "stat") {
					t.Errorf("%s is not seen", what)
				}
			}
		}
	})
}

func TestRoot_FollowsLinksOfTheSystem(t *testing.T) {
	both(t, func(t *testing.T) {
		for _, target := range []string{"etc", "/etc", "../../etc", "srv/../etc", "second"} {
			dir, root := machine(t)
			os.Symlink("etc", filepath.Join(dir, "second"))
			os.Symlink(target, filepath.Join(dir, "conf"))
			if raw, err := root.ReadFile("conf/x"); err != nil || string(raw) != "canary" {
				t.Errorf("through a link to %s: %q, %v", target, raw, err)
			}
			if info, err := root.Stat("conf"); err != nil || !info.IsDir() {
				t.Errorf("a link to %s: %v, %v", target, info, err)
			}
			if info, err := root.Lstat("conf"); err != nil || info.Mode()&fs.ModeSymlink == 0 {
				t.Errorf("a link to %s: %v, %v", target, info, err)
			}
			os.Chmod(dir, 0o775) // a folder that others can write
			reopened, err := nofollow.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := reopened.ReadFile("conf/x"); err == nil {
				t.Errorf("a link to %s is followed in a folder that others can write", target)
			}
			reopened.Close()
			os.Chmod(dir, 0o755)
			os.Remove(filepath.Join(dir, "conf"))
			os.Symlink("conf", filepath.Join(dir, "conf"))
			if _, err := root.ReadFile("conf/x"); !errors.Is(err, syscall.ELOOP) {
				t.Errorf("a link to itself: %v", err)
			}
		}
	})
}

func TestRoot_DoesNotLeaveItself(t *testing.T) {
	both(t, func(t *testing.T) {
		dir, root := machine(t)
		put(t, filepath.Join(filepath.Dir(dir), "outside"), "outside")
		for _, p := range []string{"../outside", "etc/../../outside", "/../outside"} {
			if raw, err := root.ReadFile(p); err == nil {
				t.Errorf("%s: %q", p, raw)
			}
		}
	})
}

func TestRoot_RefusesWhatIsNoFileOfItsOwn(t *testing.T) {
	both(t, func(t *testing.T) {
		dir, root := machine(t)
		os.Link(filepath.Join(dir, "etc/x"), filepath.Join(dir, "srv/hard"))
		os.Symlink("../etc/x", filepath.Join(dir, "srv/link"))
		syscall.Mkfifo(filepath.Join(dir, "srv/fifo"), 0o666)
		before := tree(t, filepath.Join(dir, "etc"))
		write := func(p string) error {
			f, err := root.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
			if err == nil {
				f.Close()
			}
			return err
		}
		for _, p := range []string{"srv/hard", "srv/link", "srv/fifo"} {
			done := make(chan error, 3)
			go func() {
				done <- write(p)
				done <- root.Chmod(p, 0o600)
				_, err := root.ReadFile(p)
				if p == "srv/hard" { // reading changes nothing
					err = &nofollow.Refused{}
				}
				done <- err
			}()
			for range 3 {
				select {
				case err := <-done:
					if _, ok := errors.AsType[*nofollow.Refused](err); !ok {
						t.Errorf("%s: %v", p, err)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: waits", p)
				}
			}
			if err := root.RemoveFile(p); err != nil { // the name alone
				t.Error(err)
			}
		}
		if after := tree(t, filepath.Join(dir, "etc")); after != before {
			t.Errorf("changed\n%sto\n%s", before, after)
		}
		if err := write("srv/real/x"); err != nil {
			t.Error(err)
		}
	})
}

func TestRoot_MkdirHasExactPermissions(t *testing.T) {
	_, root := machine(t)
	for _, mask := range []int{0, 0o077} {
		old := syscall.Umask(mask)
		err := root.MkdirAll(fmt.Sprintf("a%o/b", mask), 0o755)
		syscall.Umask(old)
		info, serr := root.Stat(fmt.Sprintf("a%o/b", mask))
		if err != nil || serr != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("umask %o: %v, %v, %v", mask, info, err, serr)
		}
	}
}

func TestRoot_GuardedByRootAlone(t *testing.T) {
	_, root := machine(t)
	for p, want := range map[string]bool{"etc/x": true, "etc/sub/y": true, "srv/x": false, "srv/real/x": false} {
		if got := root.Guarded(p); got != want {
			t.Errorf("%s: %v", p, got)
		}
	}
}

// exchange swaps a folder and a link to another until the returned function is called.
func exchange(t *testing.T, dir string) func() {
	t.Helper()
	if err := os.Symlink("../etc", filepath.Join(dir, "srv/link")); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "srv/link"), unix.AT_FDCWD, filepath.Join(dir, "srv/real"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// While a folder and a link are swapped all the time, nothing is written, removed or changed where the link
// leads to.
func TestRoot_SwappedLinks(t *testing.T) {
	rounds := 300
	if n, err := strconv.Atoi(os.Getenv("DEFX_TEST_SWAPS")); err == nil {
		rounds = n
	}
	both(t, func(t *testing.T) {
		dir, root := machine(t)
		os.Mkdir(filepath.Join(dir, "srv/real/sub"), 0o755)
		before := tree(t, filepath.Join(dir, "etc"))
		stop := exchange(t, dir)
		defer stop()
		reached := 0
		for i := range rounds {
			for _, do := range writes {
				if do(root, "srv/real") == nil {
					reached++
				}
			}
			root.RemoveAll("srv/real/new")
			if after := tree(t, filepath.Join(dir, "etc")); after != before {
				t.Fatalf("round %d changed\n%sto\n%s", i, before, after)
			}
		}
		if reached == 0 {
			t.Error("the folder was never reached")
		}
	})
	t.Run("the attack is seen", func(t *testing.T) {
		dir, _ := machine(t)
		stop := exchange(t, dir)
		defer stop()
		for begin := time.Now(); time.Since(begin) < 20*time.Second; {
			os.WriteFile(filepath.Join(dir, "srv/real/escaped"), nil, 0o600)
			if _, err := os.Lstat(filepath.Join(dir, "etc/escaped")); err == nil {
				return
			}
		}
		t.Error("os.WriteFile did not follow the link")
	})
}
