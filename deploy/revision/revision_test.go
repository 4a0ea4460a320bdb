package revision_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/revision"
)

// repo is a git repository of a test.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T, options ...string) *repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &repo{t, dir}
	r.git(append([]string{"init", "-q"}, options...)...)
	r.write("deploy/defx.jsonnet", "{}\n")
	r.write("deploy/lib/a.libsonnet", strings.Repeat("// a line\n", 300))
	r.write("other/b", "b\n")
	r.commit("first")
	return r
}

// git runs git, which is independent of the user's configuration.
func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "protocol.file.allow=always", "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

func (r *repo) write(name, content string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) commit(message string) {
	r.git("add", "-A")
	r.git("commit", "-q", "-m", message)
}

// agrees checks the revision of a folder against what git says of it.
func (r *repo) agrees(folder string) {
	r.t.Helper()
	want := r.git("-C", folder, "rev-parse", "--short=12", "HEAD")
	if r.git("-C", folder, "status", "--porcelain", "--untracked-files=no", ".") != "" {
		want += "+"
	}
	if got := revision.Of(r.t.Context(), r.path(folder)); got != want {
		r.t.Errorf("%s: revision %q, git says %q", folder, got, want)
	}
}

// TestOf_AgreesWithGit: each case changes a repository; the revision is what git says.
func TestOf_AgreesWithGit(t *testing.T) {
	lib := "deploy/lib/a.libsonnet"
	for name, change := range map[string]func(r *repo){
		"clean":             func(r *repo) {},
		"changed":           func(r *repo) { r.write(lib, "{}\n") },
		"changed elsewhere": func(r *repo) { r.write("other/b", "c\n") },
		"same size":         func(r *repo) { r.write("deploy/defx.jsonnet", "[]\n") },
		"staged":            func(r *repo) { r.write(lib, "{}\n"); r.git("add", "-A") },
		"staged and back": func(r *repo) {
			r.write("deploy/defx.jsonnet", "[]\n")
			r.git("add", "-A")
			r.write("deploy/defx.jsonnet", "{}\n")
		},
		"new, not tracked": func(r *repo) { r.write("deploy/new", "") },
		"new, tracked":     func(r *repo) { r.write("deploy/new", ""); r.git("add", "-A") },
		"removed":          func(r *repo) { os.Remove(r.path(lib)) },
		"removed, staged":  func(r *repo) { r.git("rm", "-q", lib) },
		"touched":          func(r *repo) { os.Chtimes(r.path(lib), time.Time{}, time.Now().Add(time.Hour)) },
		"executable":       func(r *repo) { os.Chmod(r.path(lib), 0o755) },
		"replaced by link": func(r *repo) { os.Remove(r.path(lib)); os.Symlink("/etc/passwd", r.path(lib)) },
		"link":             func(r *repo) { os.Symlink("defx.jsonnet", r.path("deploy/l")); r.commit("link") },
		"detached":         func(r *repo) { r.git("checkout", "-q", "--detach") },
		"packed": func(r *repo) {
			for i := range 5 { // similar content becomes deltas
				r.write(lib, strings.Repeat("// a line\n", 300+i)+"{}\n")
				for j := range 40 {
					r.write("deploy/many/"+strings.Repeat("x", j+1), strings.Repeat("y", i))
				}
				r.commit("next")
			}
			r.git("gc", "-q", "--aggressive")
			r.git("pack-refs", "--all")
		},
		"index of version 4": func(r *repo) { r.git("update-index", "--index-version", "4") },
		"assumed unchanged":  func(r *repo) { r.git("update-index", "--assume-unchanged", lib); r.write(lib, "") },
		"merge conflict": func(r *repo) {
			r.git("checkout", "-q", "-b", "b")
			r.write(lib, "b\n")
			r.commit("b")
			r.git("checkout", "-q", "-")
			r.write(lib, "c\n")
			r.commit("c")
			exec.Command("git", "-C", r.dir, "merge", "-q", "b").Run()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			change(r)
			r.agrees("deploy")
			r.agrees(".")
		})
	}
}

func TestOf_OtherLayouts(t *testing.T) {
	r := newRepo(t, "--object-format=sha256")
	r.agrees("deploy")
	r.write("deploy/defx.jsonnet", "[]\n")
	r.agrees("deploy")

	r = newRepo(t)
	tree := filepath.Join(t.TempDir(), "tree")
	r.git("worktree", "add", "-q", "-b", "other", tree)
	if got, want := revision.Of(t.Context(), filepath.Join(tree, "deploy")), r.git("rev-parse", "--short=12", "HEAD"); got != want {
		t.Errorf("additional checkout: %q, want %q", got, want)
	}

	library := newRepo(t)
	r.git("submodule", "--quiet", "add", library.dir, "deploy/vendored")
	r.commit("submodule")
	r.agrees("deploy")
	r.agrees("deploy/vendored/deploy")
	r.write("deploy/vendored/other/b", "changed\n")
	if got := revision.Of(t.Context(), r.path("deploy")); !strings.HasSuffix(got, "+") {
		t.Errorf("changed submodule: %q", got)
	}
}

// TestOf_RunsNothing: a repository, and a folder that looks like one, which name programs where
// git would run them. The control shows that git runs them.
func TestOf_RunsNothing(t *testing.T) {
	r := newRepo(t)
	canary := filepath.Join(t.TempDir(), "ran")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho ran >>"+canary+"\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := "[core]\n\tfsmonitor = " + program + "\n[filter \"x\"]\n\tclean = " + program + "\n\tprocess = " + program + "\n"
	f, err := os.OpenFile(r.path(".git/config"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(config)
	f.Close()
	r.write("deploy/.gitattributes", "* filter=x\n")
	r.write("deploy/HEAD", "ref: refs/heads/main\n")
	r.write("deploy/config", config+"[core]\n\tbare = false\n\tworktree = .\n")
	r.write("deploy/objects/x", "")
	r.write("deploy/refs/x", "")
	r.write("deploy/defx.jsonnet", "[]\n")

	want := r.git("rev-parse", "--short=12", "HEAD") + "+"
	os.Remove(canary)
	if got := revision.Of(t.Context(), r.path("deploy")); got != want {
		t.Errorf("revision %q, want %q", got, want)
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program of the repository ran")
	}
	exec.Command("git", "-C", r.dir, "status").Run()
	if _, err := os.Stat(canary); err != nil {
		t.Error("the control did not run: git ignores the configuration of this test")
	}
}

// TestOf_HostileRepository: whatever lies there, reading ends and gives no revision, or one that is
// marked.
func TestOf_HostileRepository(t *testing.T) {
	fifo := func(name string) func(*repo) {
		return func(r *repo) {
			os.RemoveAll(r.path(name))
			if err := syscall.Mkfifo(r.path(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(name, to string) func(*repo) {
		return func(r *repo) { os.RemoveAll(r.path(name)); os.Symlink(to, r.path(name)) }
	}
	write := func(name, content string) func(*repo) {
		return func(r *repo) { os.RemoveAll(r.path(name)); r.write(name, content) }
	}
	for name, c := range map[string]struct {
		change func(*repo)
		marked bool // the commit is known
	}{
		"HEAD is a FIFO":             {fifo(".git/HEAD"), false},
		"HEAD leads out":             {link(".git/HEAD", "/etc/hostname"), false},
		"HEAD is large":              {write(".git/HEAD", strings.Repeat("a", 1<<20)), false},
		"HEAD is text":               {write(".git/HEAD", "password\n"), false},
		"reference leads out":        {write(".git/HEAD", "ref: refs/../../other/b\n"), false},
		"reference names itself":     {write(".git/HEAD", "ref: refs/heads/x\n"), false},
		".git is a FIFO":             {fifo(".git"), false},
		".git is a link":             {link(".git", "/tmp"), false},
		".git names any folder":      {write(".git", "gitdir: /tmp\n"), false},
		"index is a FIFO":            {fifo(".git/index"), true},
		"index is cut":               {write(".git/index", "DIRC\x00\x00\x00\x02\xff\xff\xff\xff"), true},
		"index is no index":          {write(".git/index", strings.Repeat("x", 100)), true},
		"objects are gone":           {func(r *repo) { os.RemoveAll(r.path(".git/objects")); os.Mkdir(r.path(".git/objects"), 0o755) }, true},
		"tracked file is a FIFO":     {fifo("deploy/defx.jsonnet"), true},
		"tracked folder is a device": {link("deploy/lib", "/dev"), true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			commit := r.git("rev-parse", "--short=12", "HEAD")
			c.change(r)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			want := ""
			if c.marked {
				want = commit + "+"
			}
			if got := revision.Of(ctx, r.path("deploy")); got != want || ctx.Err() != nil {
				t.Errorf("revision %q, want %q", got, want)
			}
		})
	}
}
