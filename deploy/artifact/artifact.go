// Package artifact knows the content that services are made of: files, folders
// and tars below the deployment's root, or below a declared library path; and
// files at addresses, which are known by their sums and fetched when they are needed.
//
// It digests and packs them. It refuses to know what they are for. Invariant:
// the digest covers what runs and nothing else that a file system keeps: no
// time, no owner, no right but the one to execute.
package artifact

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// Kinds of artifacts.
const (
	File = "file" // one file, which keeps its name
	Tree = "tree" // a folder
	Tar  = "tar"  // an archive, plain or compressed by gzip, that is unpacked on the machine
)

// Source is where artifacts come from. Each path is digested once.
type Source struct {
	root   string
	also   []string // absolute folders of -J
	cache  string   // folder of what was fetched
	locked map[string]plan.Artifact
	seen   map[string]described

	fetching sync.Mutex // one address at a time: several machines may want the same
}

type described struct {
	a   plan.Artifact
	err error
}

// NewSource is the artifacts below root and below the library folders also.
// What is fetched is kept in the folder cache.
func NewSource(root string, also []string, cache string) *Source {
	return &Source{root: root, also: also, cache: cache, seen: map[string]described{}}
}

// Lock tells what lay at paths: it stands for what is not here now, and what
// is here must be the same. Nil lifts it.
func (s *Source) Lock(locked map[string]plan.Artifact) {
	s.locked, s.seen = locked, map[string]described{}
}

// Described lists the paths that were asked for, sorted, or nil and false if one
// of them is in order only in part.
func (s *Source) Described() ([]string, bool) {
	for _, d := range s.seen {
		if d.err != nil {
			return nil, false
		}
	}
	return slices.Sorted(maps.Keys(s.seen)), true
}

// problem is an error with what to do about it.
type problem struct{ what, hint string }

func (p *problem) Error() string { return p.what }
func (p *problem) Hint() string  { return p.hint }

// Describe gives digest and kind of what lies at a path: relative to the root,
// or absolute and below a library folder; or at an address, by its sum.
func (s *Source) Describe(t token.Token) (plan.Artifact, error) {
	if strings.Contains(t.Name, "://") {
		return remote(t.Name, t.Arg)
	}
	if d, ok := s.seen[t.Name]; ok {
		return d.a, d.err
	}
	a, err := s.describe(t.Name)
	if was, ok := s.locked[t.Name]; ok {
		switch {
		case errors.Is(err, ErrNotFound):
			a, err = was, nil
		case err == nil && (a.Digest != was.Digest || a.Kind != was.Kind):
			err = &problem{fmt.Sprintf("it is not what is locked (%s, and %s is here)", was.Digest.Brief(), a.Digest.Brief()),
				"if it is meant to be another: defx lock --update"}
		}
	}
	s.seen[t.Name] = described{a, err}
	return a, err
}

// ErrNotFound tells that nothing lies at a path.
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
		return a, errors.New("is neither a file nor a folder")
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
		a.Digest, err = Digest(single{root.FS(), path.Dir(rel), path.Base(rel)})
	}
	return a, err
}

func isTar(name string) bool {
	return strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}

// open finds the folder that a path may be read below.
func (s *Source) open(name string) (*os.Root, string, error) {
	if filepath.IsLocal(name) {
		root, err := os.OpenRoot(s.root)
		return root, path.Clean(name), err
	}
	if !filepath.IsAbs(name) { // a library folder beside the root
		name = filepath.Join(s.root, name)
	}
	for _, dir := range s.also {
		if rel, err := filepath.Rel(dir, name); err == nil && filepath.IsLocal(rel) {
			root, err := os.OpenRoot(dir)
			return root, filepath.ToSlash(rel), err
		}
	}
	return nil, "", errors.New("lies neither below the deployment's folder nor below a library path")
}

// Stream gives the content in the form in which it travels: a tar.
func (s *Source) Stream(a plan.Artifact) (io.ReadCloser, error) {
	if strings.Contains(a.Path, "://") {
		return s.fetched(a)
	}
	root, rel, err := s.open(a.Path)
	if err != nil {
		return nil, err
	}
	if _, err := root.Stat(rel); errors.Is(err, fs.ErrNotExist) {
		root.Close()
		return nil, diag.Errorf("", "artifact %q: its content is not here, only its digest %s in the lock", a.Path, a.Digest.Brief()).
			WithHint("build it, or apply from where it was built")
	}
	if a.Kind == Tar {
		f, err := root.Open(rel)
		root.Close()
		return f, err
	}
	tree := subtree(root, rel)
	if a.Kind == File {
		tree = single{root.FS(), path.Dir(rel), path.Base(rel)}
	}
	r, w := io.Pipe()
	go func() {
		defer root.Close()
		w.CloseWithError(Pack(w, tree))
	}()
	return r, nil
}

func subtree(root *os.Root, rel string) fs.FS {
	tree, err := fs.Sub(root.FS(), rel)
	if err != nil {
		panic(err) // rel is clean
	}
	return linked{tree, root.FS(), rel}
}

// linked adds the reading of links, which fs.Sub of an os.Root loses.
type linked struct {
	fs.FS
	whole fs.FS
	at    string
}

func (l linked) ReadLink(name string) (string, error) {
	return fs.ReadLink(l.whole, path.Join(l.at, name))
}
func (l linked) Lstat(name string) (fs.FileInfo, error) {
	return fs.Lstat(l.whole, path.Join(l.at, name))
}

// single is a folder of which only one file is seen.
type single struct {
	fs.FS
	dir, name string
}

func (s single) Open(name string) (fs.File, error) { return s.FS.Open(path.Join(s.dir, name)) }
func (s single) ReadDir(string) ([]fs.DirEntry, error) {
	info, err := fs.Stat(s.FS, path.Join(s.dir, s.name))
	if err != nil {
		return nil, err
	}
	return []fs.DirEntry{fs.FileInfoToDirEntry(info)}, nil
}

type entry struct {
	Name string `json:"name"`
	Exec bool   `json:"exec,omitempty"`
	Link string `json:"link,omitempty"`
	Sum  string `json:"sum,omitempty"`
}

// Digest covers names, kinds, rights to execute, content and targets of links of a
// folder, and nothing else that a file system keeps.
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
	return ofEntries(list)
}

// DigestStream is the digest of an artifact of a kind as it travels: what Stream gives.
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
	return ofEntries(list)
}

func ofEntries(list []entry) (digest.Digest, error) { return digest.Of("tree/1", list) }

// Pack writes a folder as the tar that an agent takes.
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
