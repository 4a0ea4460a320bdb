// Package artifact digests and packs the content that services are made of:
// files, folders and archives below the deployment's root or below a declared
// library path, and files at URLs, which are identified by their checksum and
// fetched when they are needed.
//
// It knows file trees, tar, compression and HTTP. It refuses to know what the
// content is for. Invariant: a digest covers what is unpacked: names, content,
// links and execute permission. It covers no time, owner or other permission, no
// order and no compression, so that a folder and every archive of it have one
// digest. An archive is unpacked completely or refused.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Kinds of artifacts.
const (
	File = "file" // one file, which keeps its name
	Tree = "tree" // a folder, or an archive that is unpacked before it is sent
	Tar  = "tar"  // an archive at a URL, which is sent as it is and unpacked on the machine
)

// Source returns the artifacts of a deployment. It digests each path once.
type Source struct {
	root      string
	libraries []string // absolute folders, from -J
	cache     string   // folder of fetched files
	locked    map[string]plan.Artifact
	excluded  []string               // absolute folders that are no part of any artifact
	described map[string]description // by path

	fetching sync.Mutex // held during a fetch, because several machines may need the same file
}

// description is the result of Describe.
type description struct {
	a   plan.Artifact
	err error
}

// NewSource returns the artifacts below root and below the folders libraries.
// Fetched files are kept in the folder cache.
func NewSource(root string, libraries []string, cache string) *Source {
	return &Source{root: root, libraries: libraries, cache: cache, described: map[string]description{}}
}

// Exclude leaves out folders, given by their absolute paths, of the artifacts that they are
// inside of: what defx itself writes there would change the artifact with every apply.
func (s *Source) Exclude(dirs ...string) {
	for _, dir := range dirs {
		for _, p := range []string{filepath.Clean(dir), resolved(dir)} {
			if !slices.Contains(s.excluded, p) {
				s.excluded = append(s.excluded, p)
				s.described = map[string]description{}
			}
		}
	}
}

// resolved returns a path with the symbolic links of its folder resolved, as far as that exists.
func resolved(p string) string {
	if dir, err := filepath.EvalSymlinks(filepath.Dir(p)); err == nil {
		return filepath.Join(dir, filepath.Base(p))
	}
	return filepath.Clean(p)
}

// Lock sets the locked artifacts by path. A locked artifact is used where the path
// does not exist; where it exists it must have the locked content. Nil unlocks.
func (s *Source) Lock(locked map[string]plan.Artifact) {
	s.locked, s.described = locked, map[string]description{}
}

// DescribedPaths returns the paths that were described, sorted. It returns nil and
// false if describing one of them failed.
func (s *Source) DescribedPaths() ([]string, bool) {
	for _, d := range s.described {
		if d.err != nil {
			return nil, false
		}
	}
	return sets.Keys(s.described), true
}

// hintedError is an error with a hint what to do about it.
type hintedError struct{ msg, hint string }

func (e *hintedError) Error() string { return e.msg }
func (e *hintedError) Hint() string  { return e.hint }

// Describe returns the digest and kind of the content at a path, which is relative
// to the root or absolute and below a library folder, or at a URL, of which the
// checksum is given.
func (s *Source) Describe(t token.Token) (plan.Artifact, error) {
	if strings.Contains(t.Name, "://") {
		return describeURL(t.Name, t.Arg)
	}
	if d, ok := s.described[t.Name]; ok {
		return d.a, d.err
	}
	a, err := s.describe(t.Name)
	if was, ok := s.locked[t.Name]; ok {
		switch {
		case errors.Is(err, ErrNotFound):
			a, err = was, nil
		case err == nil && (a.Digest != was.Digest || a.Kind != was.Kind):
			err = &hintedError{fmt.Sprintf("it differs from the lock file (%s is locked, %s is present)", was.Digest.Brief(), a.Digest.Brief()),
				"if the change is intended, or the lock file is of an older defx: defx lock --update"}
		}
	}
	s.described[t.Name] = description{a, err}
	return a, err
}

// ErrNotFound means that a path does not exist.
var ErrNotFound = errors.New("there is no such file")

func (s *Source) describe(name string) (plan.Artifact, error) {
	a := plan.Artifact{Path: name}
	root, rel, err := s.open(name)
	if err != nil {
		return a, err
	}
	defer root.Close()
	info, err := root.Stat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return a, ErrNotFound
	}
	if err != nil {
		return a, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return a, errors.New("it is neither a file nor a folder")
	}
	l := &list{}
	if info.IsDir() {
		a.Kind = Tree
		err = walk(subtree(root, rel, s.leaveOut(root.Name())), l.add)
		if err == nil && len(l.entries) == 0 {
			err = &ArchiveError{"the folder is empty", "build its content first"}
		}
	} else {
		a.Kind, a.Content, err = describeFile(root, rel, l)
	}
	if err != nil {
		return a, err
	}
	if a.Content == nil {
		a.Content = l.content()
	}
	a.Digest, err = l.digest()
	return a, err
}

// describeFile adds a file, or what an archive has, to l. It returns no content for an archive.
func describeFile(root *os.Root, rel string, l *list) (kind string, c *plan.Content, err error) {
	f, err := openfile.OpenIn(root, rel)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	what, format, err := recognise(rel, f)
	if err != nil {
		return "", nil, err
	}
	if what == archive {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", nil, err
		}
		return Tree, nil, ReadArchive(f, l.add)
	}
	if err := walk(singleFile{root.FS(), path.Dir(rel), path.Base(rel)}, l.add); err != nil {
		return "", nil, err
	}
	c = l.content()
	c.Format = format
	return File, c, nil
}

// Fingerprint returns a digest that changes whenever the digest of the artifact at a path
// does. It reads an archive without unpacking it.
func (s *Source) Fingerprint(name string) (digest.Digest, error) {
	root, rel, err := s.open(name)
	if err == nil {
		defer root.Close()
		if info, err := root.Stat(rel); err == nil && info.Mode().IsRegular() {
			f, err := openfile.OpenIn(root, rel)
			if err != nil {
				return "", err
			}
			defer f.Close()
			sum, _, err := digest.Reader(f)
			if err != nil {
				return "", err
			}
			return digest.Of("file/1", []any{sum, info.Mode().Perm()&0o111 != 0})
		}
	}
	a, err := s.Describe(token.Token{Kind: token.Artifact, Name: name})
	return a.Digest, err
}

// open opens the folder below which a path may be read, and returns the path
// relative to it.
func (s *Source) open(name string) (*os.Root, string, error) {
	if filepath.IsLocal(name) {
		root, err := os.OpenRoot(s.root)
		return root, path.Clean(name), err
	}
	if !filepath.IsAbs(name) { // a library folder outside of the root
		name = filepath.Join(s.root, name)
	}
	for _, dir := range s.libraries {
		if rel, err := filepath.Rel(dir, name); err == nil && filepath.IsLocal(rel) {
			root, err := os.OpenRoot(dir)
			return root, filepath.ToSlash(rel), err
		}
	}
	return nil, "", errors.New("it is neither below the deployment's folder nor below a library path")
}

// Stream returns the content as the tar that is sent to machines. It fetches
// content at a URL first, unless that is cached.
func (s *Source) Stream(ctx context.Context, a plan.Artifact) (io.ReadCloser, error) {
	if strings.Contains(a.Path, "://") {
		return s.streamURL(ctx, a)
	}
	root, rel, err := s.open(a.Path)
	if err != nil {
		return nil, err
	}
	if _, err := root.Stat(rel); errors.Is(err, fs.ErrNotExist) {
		root.Close()
		return nil, diag.Errorf("", "artifact %q does not exist; the lock file has only its digest %s", a.Path, a.Digest.Brief()).
			WithHint("build it, or apply on the machine where it was built")
	}
	pack, err := packer(root, rel, s.leaveOut(root.Name()))
	if err != nil {
		root.Close()
		return nil, err
	}
	r, w := io.Pipe()
	go func() {
		defer root.Close()
		w.CloseWithError(pack(w))
	}()
	return r, nil
}

// packer returns the function that writes the file, folder or archive rel of root as a tar.
func packer(root *os.Root, rel string, leaveOut func(string) bool) (func(io.Writer) error, error) {
	info, err := root.Stat(rel)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return func(w io.Writer) error { return Pack(w, subtree(root, rel, leaveOut)) }, nil
	}
	f, err := openfile.OpenIn(root, rel)
	if err != nil {
		return nil, err
	}
	what, _, err := recognise(rel, f)
	if err == nil && what == archive {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil || what != archive {
		return func(w io.Writer) error { return Pack(w, singleFile{root.FS(), path.Dir(rel), path.Base(rel)}) }, errors.Join(err, f.Close())
	}
	return func(w io.Writer) error { return errors.Join(Repack(w, f), f.Close()) }, nil
}
