package artifact

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// leftOut are the names, at any depth of a folder, that are no part of an artifact: data of
// version control systems and state of defx.
var leftOut = []string{".git", ".hg", ".svn", ".jj", ".defx"}

// machineMark is a file of every folder that is a machine (connect: 'dir:…').
const machineMark = "var/lib/defx/journal"

// subtree returns the folder rel of root as a file system without what leaveOut reports.
func subtree(root *os.Root, rel string, leaveOut func(path string) bool) fs.FS {
	tree, err := fs.Sub(root.FS(), rel)
	if err != nil {
		panic(err) // rel is clean
	}
	return folder{tree, root.FS(), rel, leaveOut}
}

// folder is a folder of a file system. It adds the reading of links, which fs.Sub of an
// os.Root does not support, and leaves out what is no part of an artifact.
type folder struct {
	fs.FS
	parent   fs.FS
	dir      string                 // of FS in parent
	leaveOut func(path string) bool // of a path relative to parent
}

func (f folder) ReadLink(name string) (string, error) {
	return fs.ReadLink(f.parent, path.Join(f.dir, name))
}

func (f folder) Lstat(name string) (fs.FileInfo, error) {
	return fs.Lstat(f.parent, path.Join(f.dir, name))
}

func (f folder) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(list, func(e fs.DirEntry) bool {
		if slices.Contains(leftOut, e.Name()) {
			return true
		}
		p := path.Join(f.dir, name, e.Name())
		if !e.IsDir() {
			return false
		}
		if _, err := fs.Stat(f.parent, path.Join(p, machineMark)); err == nil {
			return true
		}
		return f.leaveOut != nil && f.leaveOut(p)
	}), err
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

// entry is one item of a folder, as its digest covers it. The name of a folder ends in "/".
type entry struct {
	Name string `json:"name"`
	Exec bool   `json:"exec,omitempty"`
	Link string `json:"link,omitempty"`
	Sum  string `json:"sum,omitempty"`
}

// A list collects the entries of a folder or an archive.
type list struct {
	entries map[string]entry // by the name without "/"
}

// add adds an item and the folders above it. The content of a regular file is read from r.
func (l *list) add(item Item, r io.Reader) error {
	e := entry{Name: item.Name}
	switch item.Kind {
	case Folder:
		e.Name += "/"
	case Symlink:
		e.Link = item.Target
	case HardLink:
		e = l.entries[item.Target]
		e.Name = item.Name
	case Regular:
		sum, n, err := digest.Reader(r)
		if err != nil {
			return err
		}
		if n != item.Size {
			return fmt.Errorf("%q changes while it is read", item.Name)
		}
		e.Sum, e.Exec = sum.Hex(), item.Exec
	}
	if l.entries == nil {
		l.entries = map[string]entry{}
	}
	for dir := path.Dir(item.Name); dir != "." && l.entries[dir].Name == ""; dir = path.Dir(dir) {
		l.entries[dir] = entry{Name: dir + "/"}
	}
	l.entries[item.Name] = e
	return nil
}

// digest returns the digest of the folder with these entries.
func (l *list) digest() (digest.Digest, error) {
	sorted := make([]entry, 0, len(l.entries))
	for _, e := range l.entries {
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return digestEntries(sorted)
}

// content returns what plans check uses of the artifact against.
func (l *list) content() *plan.Content {
	c := &plan.Content{Files: map[string]bool{}, Links: map[string]string{}, Folders: map[string]bool{}}
	for name, e := range l.entries {
		switch {
		case strings.HasSuffix(e.Name, "/"):
			c.Folders[name] = true
		case e.Link != "":
			c.Links[name] = e.Link
		default:
			c.Files[name] = e.Exec
		}
	}
	return c
}

// digestEntries returns the digest of a folder with these entries, sorted by name.
func digestEntries(list []entry) (digest.Digest, error) { return digest.Of("tree/2", list) }

// walk calls visit for each item of a folder, in lexical order.
func walk(tree fs.FS, visit func(item Item, r io.Reader) error) error {
	check := &itemChecker{seen: map[string]ItemKind{}}
	return fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		item := Item{Name: p}
		var r io.Reader
		switch {
		case d.IsDir():
		case info.Mode()&fs.ModeSymlink != 0:
			item.Kind = Symlink
			if item.Target, err = fs.ReadLink(tree, p); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			f, err := tree.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			item.Kind, item.Exec, item.Size, r = Regular, info.Mode().Perm()&0o111 != 0, info.Size(), f
		default:
			return &ArchiveError{fmt.Sprintf("%q is neither a file, a folder nor a link", p), "move it to another folder"}
		}
		if err := check.check(item); err != nil {
			return err
		}
		return visit(item, r)
	})
}

// Digest returns the digest of a folder. It covers names, kinds, execute permissions,
// contents and link targets, and no other metadata, so that a folder and any tar of it have
// the same digest.
func Digest(tree fs.FS) (digest.Digest, error) {
	l := &list{}
	if err := walk(tree, l.add); err != nil {
		return "", err
	}
	return l.digest()
}

// DigestFolder returns the digest of the folder name below root.
func DigestFolder(root *os.Root, name string) (digest.Digest, error) {
	info, err := root.Stat(name)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a folder", name)
	}
	return Digest(subtree(root, path.Clean(name), nil))
}

// DigestStream returns the digest of an artifact of a kind from what Stream returns.
func DigestStream(kind string, r io.Reader) (digest.Digest, error) {
	if kind == Tar {
		d, _, err := digest.Reader(r)
		return d, err
	}
	l := &list{}
	if err := ReadArchive(r, l.add); err != nil {
		return "", err
	}
	return l.digest()
}

// Pack writes a folder as the tar that an agent accepts.
func Pack(w io.Writer, tree fs.FS) error {
	t := tar.NewWriter(w)
	return errors.Join(walk(tree, func(item Item, r io.Reader) error { return writeItem(t, item, r) }), t.Close())
}

// Repack writes an archive as the tar that an agent accepts.
func Repack(w io.Writer, r io.Reader) error {
	t := tar.NewWriter(w)
	return errors.Join(ReadArchive(r, func(item Item, r io.Reader) error { return writeItem(t, item, r) }), t.Close())
}

// writeItem writes an item to a tar with fixed permissions and times.
func writeItem(t *tar.Writer, item Item, r io.Reader) error {
	head := &tar.Header{Name: item.Name, Linkname: item.Target, Size: item.Size, Mode: int64(FileMode(item)), Format: tar.FormatPAX}
	switch item.Kind {
	case Folder:
		head.Typeflag, head.Name = tar.TypeDir, item.Name+"/"
	case Symlink:
		head.Typeflag = tar.TypeSymlink
	case HardLink:
		head.Typeflag = tar.TypeLink
	case Regular:
		head.Typeflag = tar.TypeReg
	}
	if err := t.WriteHeader(head); err != nil || item.Kind != Regular {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}

// FileMode returns the permissions that an item has on a machine: everyone may read it and
// nobody may change it, whatever its archive and the umask say.
func FileMode(item Item) fs.FileMode {
	switch {
	case item.Kind == Folder:
		return 0o755
	case item.Exec:
		return 0o555
	}
	return 0o444
}

// leaveOut reports whether a folder below root, by its path there, is no part of an artifact.
func (s *Source) leaveOut(root string) func(rel string) bool {
	return func(rel string) bool {
		p := filepath.Join(root, filepath.FromSlash(rel))
		return slices.Contains(s.excluded, p)
	}
}
