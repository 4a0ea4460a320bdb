// Package artifact digests and packs the content that services are made of:
// files, folders and tars below the deployment's root or below a declared library
// path, and files at URLs, which are identified by their checksum and fetched
// when they are needed.
//
// It knows file trees, tar and HTTP. It refuses to know what the content is for.
// Invariant: a digest covers names, content, links and execute permission, and no
// other metadata of the file system: no time, no owner, no other permission.
package artifact

import (
	"archive/tar"
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
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Kinds of artifacts.
const (
	File = "file" // one file, which keeps its name
	Tree = "tree" // a folder
	Tar  = "tar"  // an archive, plain or compressed by gzip, that is unpacked on the machine
)

// Source returns the artifacts of a deployment. It digests each path once.
type Source struct {
	root      string
	libraries []string // absolute folders, from -J
	cache     string   // folder of fetched files
	locked    map[string]plan.Artifact
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
				"if the change is intended: defx lock --update"}
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
	switch {
	case info.IsDir():
		a.Kind = Tree
		a.Digest, err = Digest(subtree(root, rel))
	case !info.Mode().IsRegular():
		return a, errors.New("it is neither a file nor a folder")
	case isTar(rel):
		a.Kind = Tar
		var f *os.File
		if f, err = root.Open(rel); err != nil {
			return a, err
		}
		defer f.Close()
		a.Digest, _, err = digest.Reader(f)
	default:
		a.Kind = File
		a.Digest, err = Digest(singleFile{root.FS(), path.Dir(rel), path.Base(rel)})
	}
	return a, err
}

func isTar(name string) bool {
	return strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
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
	if a.Kind == Tar {
		f, err := root.Open(rel)
		root.Close()
		return f, err
	}
	tree := subtree(root, rel)
	if a.Kind == File {
		tree = singleFile{root.FS(), path.Dir(rel), path.Base(rel)}
	}
	r, w := io.Pipe()
	go func() {
		defer root.Close()
		w.CloseWithError(Pack(w, tree))
	}()
	return r, nil
}

// subtree returns the folder rel of root as a file system.
func subtree(root *os.Root, rel string) fs.FS {
	tree, err := fs.Sub(root.FS(), rel)
	if err != nil {
		panic(err) // rel is clean
	}
	return linkFS{tree, root.FS(), rel}
}

// linkFS adds the reading of links, which fs.Sub of an os.Root does not support.
type linkFS struct {
	fs.FS
	parent fs.FS
	dir    string // of FS in parent
}

func (l linkFS) ReadLink(name string) (string, error) {
	return fs.ReadLink(l.parent, path.Join(l.dir, name))
}

func (l linkFS) Lstat(name string) (fs.FileInfo, error) {
	return fs.Lstat(l.parent, path.Join(l.dir, name))
}

// singleFile is a folder that appears to have only one file.
type singleFile struct {
	fs.FS
	dir, name string
}

func (s singleFile) Open(name string) (fs.File, error) { return s.FS.Open(path.Join(s.dir, name)) }

func (s singleFile) ReadDir(string) ([]fs.DirEntry, error) {
	info, err := fs.Stat(s.FS, path.Join(s.dir, s.name))
	if err != nil {
		return nil, err
	}
	return []fs.DirEntry{fs.FileInfoToDirEntry(info)}, nil
}

// entry is one item of a folder, as its digest covers it.
type entry struct {
	Name string `json:"name"`
	Exec bool   `json:"exec,omitempty"`
	Link string `json:"link,omitempty"`
	Sum  string `json:"sum,omitempty"`
}

// Digest returns the digest of a folder. It covers names, kinds, execute
// permissions, contents and link targets, and no other metadata.
func Digest(tree fs.FS) (digest.Digest, error) {
	var list []entry
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{Name: p}
		switch {
		case d.IsDir():
			e.Name += "/"
		case info.Mode()&fs.ModeSymlink != 0:
			if e.Link, err = fs.ReadLink(tree, p); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			f, err := tree.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			sum, _, err := digest.Reader(f)
			if err != nil {
				return err
			}
			e.Sum, e.Exec = sum.Hex(), info.Mode().Perm()&0o111 != 0
		default:
			return fmt.Errorf("%s is neither a file, a folder nor a link", p)
		}
		list = append(list, e)
		return nil
	})
	if err != nil {
		return "", err
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return digestEntries(list)
}

// DigestStream returns the digest of an artifact of a kind from what Stream returns.
func DigestStream(kind string, r io.Reader) (digest.Digest, error) {
	if kind == Tar {
		d, _, err := digest.Reader(r)
		return d, err
	}
	var list []entry
	for t := tar.NewReader(r); ; {
		head, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		e := entry{Name: head.Name}
		switch head.Typeflag {
		case tar.TypeDir:
		case tar.TypeSymlink:
			e.Link = head.Linkname
		case tar.TypeReg:
			sum, _, err := digest.Reader(t)
			if err != nil {
				return "", err
			}
			e.Sum, e.Exec = sum.Hex(), head.Mode&0o111 != 0
		default:
			return "", fmt.Errorf("%s is neither a file, a folder nor a link", head.Name)
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return digestEntries(list)
}

// digestEntries returns the digest of a folder with these entries, sorted by name.
func digestEntries(list []entry) (digest.Digest, error) { return digest.Of("tree/1", list) }

// Pack writes a folder as the tar that an agent accepts.
func Pack(w io.Writer, tree fs.FS) error {
	t := tar.NewWriter(w)
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		head := &tar.Header{Name: p, Mode: 0o444, Format: tar.FormatPAX}
		switch {
		case d.IsDir():
			head.Typeflag, head.Name, head.Mode = tar.TypeDir, p+"/", 0o755
			return t.WriteHeader(head)
		case info.Mode()&fs.ModeSymlink != 0:
			head.Typeflag = tar.TypeSymlink
			if head.Linkname, err = fs.ReadLink(tree, p); err != nil {
				return err
			}
			return t.WriteHeader(head)
		}
		if info.Mode().Perm()&0o111 != 0 {
			head.Mode = 0o555
		}
		f, err := tree.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		head.Typeflag, head.Size = tar.TypeReg, info.Size()
		if err := t.WriteHeader(head); err != nil {
			return err
		}
		_, err = io.Copy(t, f)
		return err
	})
	return errors.Join(err, t.Close())
}
