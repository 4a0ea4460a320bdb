// Package revision reads which commit of a git repository a folder is checked
// out from.
//
// It knows the files of a repository: HEAD, references, the index, and the
// objects of commits and folders. It refuses to know git's configuration: it
// runs no program, applies no filter and no attribute, and asks no remote.
// Invariant: whatever lies in the folder and its repository, reading them ends,
// changes nothing, and gives nothing but the name of a commit.
//
//	revision.go  finding the repository; HEAD and references
//	index.go     the files that are tracked
//	object.go    objects, loose and packed
//	dirty.go     comparing HEAD, the index and the folder
package revision

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/defx-dev/defx/internal/openfile"
)

// shown is how many digits of a commit's name are shown.
const shown = 12

// Of returns the commit of the repository that dir belongs to, and a + if tracked files below dir
// differ from it or cannot be compared. It returns "" if there is no repository that can be read.
func Of(ctx context.Context, dir string) string {
	r, err := find(ctx, dir)
	if err != nil {
		return ""
	}
	defer r.close()
	commit, err := r.head(ctx)
	if err != nil {
		return ""
	}
	rel, err := filepath.Rel(r.worktree, r.from)
	if err != nil {
		return ""
	}
	out := commit[:shown]
	if clean, err := r.isClean(ctx, commit, filepath.ToSlash(rel)); err != nil || !clean {
		out += "+"
	}
	return out
}

// repository is a checkout and its data.
type repository struct {
	worktree string   // absolute path of the checkout
	from     string   // absolute path of the folder that was asked for
	dir      *os.Root // of this checkout: HEAD and index
	common   *os.Root // of all checkouts of the repository: references and objects
	depth    int      // of repositories inside of each other
	budget   *int64   // bytes that may still be read
}

var errNone = errors.New("there is no repository")

// find returns the repository that a folder belongs to: of the nearest folder above it, or itself,
// that has .git.
func find(ctx context.Context, dir string) (*repository, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if info, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			r, err := open(ctx, at, info)
			if err == nil {
				budget := int64(maxRead)
				r.from, r.budget = dir, &budget
			}
			return r, err
		}
		if at == filepath.Dir(at) {
			return nil, errNone
		}
	}
}

// open opens the repository of a checkout by its .git: a folder, or a file that names one.
func open(ctx context.Context, worktree string, info fs.FileInfo) (*repository, error) {
	link := filepath.Join(worktree, ".git")
	switch {
	case info.IsDir():
		return openDir(worktree, link, link)
	case !info.Mode().IsRegular():
		return nil, errNone
	}
	raw, err := openfile.Read(ctx, link, 4096)
	if err != nil {
		return nil, err
	}
	target, ok := strings.CutPrefix(strings.TrimRight(string(raw), "\r\n"), "gitdir: ")
	if !ok || target == "" {
		return nil, errNone
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(worktree, target)
	}
	if target, err = filepath.EvalSymlinks(target); err != nil {
		return nil, err
	}
	if common := filepath.Dir(filepath.Dir(target)); filepath.Base(filepath.Dir(target)) == "worktrees" && pointsBack(ctx, target, link) {
		return openDir(worktree, target, common)
	}
	if isSubmodule(worktree, target) {
		return openDir(worktree, target, target)
	}
	return nil, errNone
}

// pointsBack reports whether the data of an additional checkout name that checkout's .git.
func pointsBack(ctx context.Context, target, link string) bool {
	raw, err := openfile.Read(ctx, filepath.Join(target, "gitdir"), 4096)
	if err != nil {
		return false
	}
	back := strings.TrimRight(string(raw), "\r\n")
	if !filepath.IsAbs(back) {
		back = filepath.Join(target, back)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(back))
	return err == nil && filepath.Join(dir, filepath.Base(back)) == link
}

// isSubmodule reports whether the data in target are those of a submodule checked out in
// worktree: they are below the folder modules of a repository around it.
func isSubmodule(worktree, target string) bool {
	for at := filepath.Dir(worktree); ; at = filepath.Dir(at) {
		if strings.HasPrefix(target, filepath.Join(at, ".git", "modules")+string(filepath.Separator)) {
			return true
		}
		if at == filepath.Dir(at) {
			return false
		}
	}
}

// openDir opens the data of a repository, which must look like some.
func openDir(worktree, dir, common string) (*repository, error) {
	for _, name := range []string{"objects", "refs"} {
		if info, err := os.Lstat(filepath.Join(common, name)); err != nil || !info.IsDir() {
			return nil, errNone
		}
	}
	r := &repository{worktree: worktree, from: worktree}
	var err error
	if r.dir, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	if r.common, err = os.OpenRoot(common); err != nil {
		r.dir.Close()
		return nil, err
	}
	return r, nil
}

func (r *repository) close() {
	r.dir.Close()
	r.common.Close()
}

var (
	hashRE = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	refRE  = regexp.MustCompile(`^refs(/[^\x00-\x20\x7f~^:?*\[\\/]+)+$`)
)

// Size limits in bytes.
const (
	maxRef        = 4096
	maxPackedRefs = 64 << 20
)

// head returns the commit that is checked out.
func (r *repository) head(ctx context.Context) (string, error) {
	raw, err := openfile.ReadIn(ctx, r.dir, "HEAD", maxRef)
	for range 5 { // references may name others
		if err != nil {
			return "", err
		}
		text := strings.TrimRight(string(raw), "\r\n")
		if hashRE.MatchString(text) {
			return text, nil
		}
		name, symbolic := strings.CutPrefix(text, "ref: ")
		if !symbolic || !refRE.MatchString(name) || path.Clean(name) != name {
			return "", errNone
		}
		raw, err = r.ref(ctx, name)
	}
	return "", errNone
}

// ref returns the content of a reference.
func (r *repository) ref(ctx context.Context, name string) ([]byte, error) {
	raw, err := openfile.ReadIn(ctx, r.common, filepath.FromSlash(name), maxRef)
	if !errors.Is(err, fs.ErrNotExist) {
		return raw, err
	}
	packed, err := openfile.ReadIn(ctx, r.common, "packed-refs", maxPackedRefs)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(packed) {
		hash, ref, ok := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(" "))
		if ok && string(ref) == name {
			return hash, nil
		}
	}
	return nil, errNone
}
