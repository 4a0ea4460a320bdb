package lang

import (
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
	"sync/atomic"
	"syscall"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/lib"
	"github.com/google/go-jsonnet"
)

// maxSource is the size of a file that may be imported, in bytes.
const maxSource = 16 << 20

// embedded begins the place of the embedded library as a given folder sees it:
// "<defx>/FOLDER/v1.libsonnet". So the library knows who imported it, and a
// relative path in it means what it means there.
const embedded = "<defx>/"

// importer reads below the root and the library folders and nowhere else, and
// remembers what it read and what it looked for in vain. A place is a path
// relative to the root, so that a moved checkout evaluates to the same bytes.
// It is safe for many VMs at once.
type importer struct {
	mu    sync.Mutex
	roots []importRoot // the deployment's root first, then library folders, the first wins
	seen  map[string]*imported
	reads map[string]ReadRecord
	roads []ReadRecord // library folders, present or absent: they decide where is looked

	head atomic.Pointer[imported] // what headFile holds, once the entry is known
}

type importRoot struct {
	dir  *os.Root
	abs  string
	name string // relative to the deployment's root, or absolute
}

type imported struct {
	contents jsonnet.Contents
	err      error
	absent   bool
}

func newImporter(root string, jpath []string) (*importer, error) {
	i := &importer{seen: map[string]*imported{}, reads: map[string]ReadRecord{}}
	dirs := []string{root}
	for _, j := range slices.Backward(jpath) { // the right-most wins
		dirs = append(dirs, j)
	}
	dirs = append(dirs, filepath.Join(root, "vendor"))
	for n, dir := range dirs {
		r, err := os.OpenRoot(dir)
		if err != nil {
			if n > 0 && errors.Is(err, fs.ErrNotExist) {
				i.absent(relative(root, dir))
				i.roads = append(i.roads, i.reads[relative(root, dir)])
				continue
			}
			return nil, err
		}
		name := relative(root, dir)
		i.roots = append(i.roots, importRoot{r, dir, name})
		if n > 0 {
			i.reads[name] = ReadRecord{Path: name, Digest: folder}
			i.roads = append(i.roads, i.reads[name])
		}
	}
	return i, nil
}

// folder stands for the content of a library folder: that it is there is all
// that counts of itself.
const folder = "folder"

func relative(root, dir string) string {
	if rel, err := filepath.Rel(root, dir); err == nil {
		return filepath.ToSlash(rel)
	}
	return filepath.ToSlash(dir)
}

func (i *importer) absent(place string) { i.reads[place] = ReadRecord{Path: place, Absent: true} }

// recorder is an importer as one evaluator sees it: it tells what was read since
// somebody asked. A VM asks for every import that it evaluates, parsed before or
// not, so that nothing is missed as long as it forgets values in between.
type recorder struct {
	*importer
	used map[string]ReadRecord
}

func (r *recorder) Import(importedFrom, importedPath string) (jsonnet.Contents, string, error) {
	contents, place, tried, err := r.find(importedFrom, importedPath)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range tried {
		if read, known := r.reads[p]; known {
			r.used[p] = read
		}
	}
	return contents, place, err
}

// Import finds a path as the file importedFrom means it.
func (i *importer) Import(importedFrom, importedPath string) (jsonnet.Contents, string, error) {
	contents, place, _, err := i.find(importedFrom, importedPath)
	return contents, place, err
}

// find gives also the places that it looked at.
func (i *importer) find(importedFrom, importedPath string) (contents jsonnet.Contents, place string, tried []string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	none := jsonnet.Contents{}
	if head := i.head.Load(); importedFrom == driver && importedPath == headFile && head != nil {
		return head.contents, headFile, nil, nil
	}
	if strings.HasPrefix(importedPath, lib.Prefix) {
		raw, ok := lib.Read(importedPath)
		if !ok {
			return none, "", nil, fmt.Errorf("couldn't open import %q: the embedded library has %s", importedPath, strings.Join(lib.Names(), ", "))
		}
		place := embedded + path.Join(path.Dir(importedFrom), strings.TrimPrefix(importedPath, lib.Prefix))
		if i.seen[place] == nil {
			i.seen[place] = &imported{contents: jsonnet.MakeContentsRaw(raw)}
		}
		return i.seen[place].contents, place, nil, nil
	}
	if path.IsAbs(importedPath) {
		return none, "", nil, fmt.Errorf("couldn't open import %q: absolute paths are not imported; use a path relative to this file, or a library folder (-J)", importedPath)
	}
	candidates := []string{path.Join(path.Dir(importedFrom), importedPath)}
	for _, r := range i.roots[1:] {
		candidates = append(candidates, path.Join(r.name, importedPath))
	}
	for _, place := range candidates {
		if slices.Contains(tried, place) {
			continue
		}
		tried = append(tried, place)
		f := i.read(place)
		if f.absent {
			continue
		}
		if f.err != nil {
			return none, "", tried, fmt.Errorf("couldn't open import %q: %w", importedPath, f.err)
		}
		return f.contents, place, tried, nil
	}
	return none, "", tried, fmt.Errorf("couldn't open import %q: looked for %s", importedPath, strings.Join(tried, ", "))
}

// read reads a place once.
func (i *importer) read(place string) *imported {
	if f := i.seen[place]; f != nil {
		return f
	}
	f := &imported{}
	i.seen[place] = f
	raw, err := i.open(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.absent = true
		i.absent(place)
	case err != nil:
		f.err = err
	default:
		i.reads[place] = ReadRecord{Path: place, Digest: digest.Bytes(raw)}
		f.contents = jsonnet.MakeContentsRaw(raw)
		if bad := scan(place, string(raw)); bad != nil && isCode(place) {
			f.err = &located{bad}
		}
	}
	return f
}

func isCode(place string) bool {
	return strings.HasSuffix(place, ".jsonnet") || strings.HasSuffix(place, ".libsonnet")
}

// open reads a regular file below the first root that holds the place.
func (i *importer) open(place string) ([]byte, error) {
	abs := filepath.FromSlash(place)
	if !filepath.IsAbs(abs) {
		abs = filepath.Join(i.roots[0].abs, abs)
	}
	for _, r := range i.roots {
		rel, err := filepath.Rel(r.abs, abs)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		// A FIFO would block at open, a device might never end.
		f, err := r.dir.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			if strings.Contains(err.Error(), "escapes") {
				return nil, fmt.Errorf("%s leads out of %s through a symbolic link", place, r.name)
			}
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		switch {
		case err != nil:
			return nil, err
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("%s is not a regular file", place)
		case info.Size() > maxSource:
			return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed", place, info.Size(), maxSource)
		}
		raw, err := io.ReadAll(io.LimitReader(f, maxSource+1))
		if err == nil && len(raw) > maxSource {
			err = fmt.Errorf("%s has more than the %d bytes allowed", place, maxSource)
		}
		return raw, err
	}
	return nil, fmt.Errorf("%s is outside the deployment's folder and the library folders", place)
}

// list gives what was read and looked for, sorted by path.
func (i *importer) list() []ReadRecord {
	i.mu.Lock()
	defer i.mu.Unlock()
	return sortedReads(i.reads)
}

func sortedReads(reads map[string]ReadRecord) []ReadRecord {
	out := []ReadRecord{}
	for _, p := range slices.Sorted(maps.Keys(reads)) {
		out = append(out, reads[p])
	}
	return out
}
