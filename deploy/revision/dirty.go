package revision

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/openfile"
)

// Bounds of one comparison.
const (
	maxRead    = 4 << 30 // bytes of files and objects
	maxFolders = 100_000 // below the folder
	maxModules = 4       // repositories inside of each other
)

// isClean reports whether the tracked files below rel are those of the commit. An error means that
// they cannot be compared.
func (r *repository) isClean(ctx context.Context, commit, rel string) (bool, error) {
	name, err := hex.DecodeString(commit)
	if err != nil {
		return false, err
	}
	index, written, err := r.index(ctx, len(name))
	if err != nil {
		return false, err
	}
	prefix := ""
	if rel != "." {
		prefix = rel + "/"
	}
	index = slices.DeleteFunc(index, func(e entry) bool { return !strings.HasPrefix(e.path, prefix) })
	tree, err := r.treeOf(ctx, name, rel)
	if err != nil {
		return false, err
	}
	same, err := r.sameAsTree(ctx, index, tree, prefix)
	if !same || err != nil {
		return false, err
	}
	root, err := os.OpenRoot(r.worktree)
	if err != nil {
		return false, err
	}
	defer root.Close()
	for i := range index {
		if same, err := r.sameAsFile(ctx, root, &index[i], written); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

// index returns the tracked files and when the index was written.
func (r *repository) index(ctx context.Context, hashSize int) ([]entry, time.Time, error) {
	f, err := openfile.OpenIn(r.dir, "index")
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, errors.Join(err, f.Close())
	}
	raw, err := openfile.ReadFrom(ctx, func() (*os.File, error) { return f, nil }, maxIndex)
	if err != nil {
		return nil, time.Time{}, err
	}
	list, err := parseIndex(raw, hashSize)
	return list, info.ModTime(), err
}

// treeOf returns the hash of a folder in a commit; nil if the commit does not have it.
func (r *repository) treeOf(ctx context.Context, commit []byte, rel string) ([]byte, error) {
	raw, err := r.object(ctx, commit, "commit")
	if err != nil {
		return nil, err
	}
	first, _, _ := bytes.Cut(raw, []byte("\n"))
	text, ok := bytes.CutPrefix(first, []byte("tree "))
	if !ok || len(text) != 2*len(commit) {
		return nil, errObject
	}
	tree, err := hex.DecodeString(string(text))
	if err != nil || rel == "." {
		return tree, err
	}
	for part := range strings.SplitSeq(rel, "/") {
		var next []byte
		err := r.eachOfTree(ctx, tree, func(name string, mode uint32, hash []byte) error {
			if name == part && mode&0o170000 == modeFolder {
				next = slices.Clone(hash)
			}
			return nil
		})
		if err != nil || next == nil {
			return nil, err
		}
		tree = next
	}
	return tree, nil
}

// eachOfTree calls visit for each item of a folder.
func (r *repository) eachOfTree(ctx context.Context, tree []byte, visit func(name string, mode uint32, hash []byte) error) error {
	raw, err := r.object(ctx, tree, "tree")
	for err == nil && len(raw) > 0 {
		head, rest, ok := bytes.Cut(raw, []byte{0})
		var mode uint32
		text, name, spaced := strings.Cut(string(head), " ")
		if _, scanned := fmt.Sscanf(text, "%o", &mode); !ok || !spaced || scanned != nil || len(rest) < len(tree) {
			return errObject
		}
		err = visit(name, mode, rest[:len(tree)])
		raw = rest[len(tree):]
	}
	return err
}

// sameAsTree reports whether the index has exactly the files of a folder of the commit.
func (r *repository) sameAsTree(ctx context.Context, index []entry, tree []byte, prefix string) (bool, error) {
	tracked := make(map[string]*entry, len(index))
	for i := range index {
		if index[i].unmerged || index[i].planned {
			return false, nil
		}
		tracked[strings.TrimSuffix(index[i].path, "/")] = &index[i]
	}
	if tree == nil {
		return len(index) == 0, nil
	}
	folders, same := 0, true
	var walk func(tree []byte, prefix string) error
	walk = func(tree []byte, prefix string) error {
		if folders++; folders > maxFolders {
			return errObject
		}
		return r.eachOfTree(ctx, tree, func(name string, mode uint32, hash []byte) error {
			path := prefix + name
			e := tracked[path]
			switch {
			case !same:
			case e == nil && mode&0o170000 == modeFolder:
				return walk(hash, path+"/")
			case e == nil || e.kind() != mode&0o170000 || !bytes.Equal(e.hash, hash) || (e.mode^mode)&0o111 != 0 && e.kind() == modeFile:
				same = false
			default:
				delete(tracked, path)
			}
			return nil
		})
	}
	err := walk(tree, prefix)
	return same && len(tracked) == 0, err
}

// sameAsFile reports whether the file of an entry is in the folder as it is tracked. A file whose
// size and times are those of the index, and older than it, is not read.
func (r *repository) sameAsFile(ctx context.Context, root *os.Root, e *entry, written time.Time) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if e.ignored || e.kind() == modeFolder {
		return true, nil
	}
	name := filepath.FromSlash(e.path)
	if !filepath.IsLocal(name) {
		return false, errIndex
	}
	info, err := root.Lstat(name)
	if err != nil {
		return false, nil // removed, or below what is now a file or a link
	}
	switch e.kind() {
	case modeModule:
		return r.sameModule(ctx, name, info, e)
	case modeLink:
		if info.Mode().Type() != fs.ModeSymlink {
			return false, nil
		}
		target, err := root.Readlink(name)
		if err != nil {
			return false, err
		}
		return sum(e, strings.NewReader(target), int64(len(target)))
	case modeFile:
		if !info.Mode().IsRegular() || (info.Mode().Perm()&0o100 != 0) != (e.mode&0o100 != 0) {
			return false, nil
		}
	default:
		return false, errIndex
	}
	changed, known := changeTime(info)
	if known && info.Size()&0xffffffff == int64(e.size) && info.ModTime().Equal(e.mtime) && changed.Equal(e.ctime) && e.mtime.Before(written) {
		return true, nil
	}
	if err := r.spend(info.Size()); err != nil {
		return false, err
	}
	f, err := openfile.OpenIn(root, name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return sum(e, contextReader{ctx, io.LimitReader(f, info.Size())}, info.Size())
}

// spend fails if more bytes are read than one comparison may read.
func (r *repository) spend(n int64) error {
	if *r.budget -= n; *r.budget < 0 {
		return errors.New("too much content to be compared")
	}
	return nil
}

// sameModule reports whether a repository inside of this one has the tracked commit and is clean.
func (r *repository) sameModule(ctx context.Context, name string, info fs.FileInfo, e *entry) (bool, error) {
	if !info.IsDir() || r.depth >= maxModules {
		return false, nil
	}
	dir := filepath.Join(r.worktree, name)
	link, err := os.Lstat(filepath.Join(dir, ".git"))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // it is not checked out
	}
	if err != nil {
		return false, err
	}
	inner, err := open(ctx, dir, link)
	if err != nil {
		return false, err
	}
	defer inner.close()
	inner.depth, inner.budget = r.depth+1, r.budget
	commit, err := inner.head(ctx)
	if err != nil || commit != hex.EncodeToString(e.hash) {
		return false, err
	}
	return inner.isClean(ctx, commit, ".")
}

// sum reports whether content has the hash of an entry.
func sum(e *entry, r io.Reader, size int64) (bool, error) {
	h := newHash(len(e.hash))
	fmt.Fprintf(h, "blob %d\x00", size)
	if n, err := io.Copy(h, r); err != nil || n != size {
		return false, err
	}
	return bytes.Equal(h.Sum(nil), e.hash), nil
}

// newHash returns the hash of git for hashes of size bytes.
func newHash(size int) hash.Hash {
	if size == sha256.Size {
		return sha256.New()
	}
	return sha1.New()
}

// contextReader ends when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
