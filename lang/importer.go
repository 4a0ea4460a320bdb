package lang

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lib"
	"github.com/google/go-jsonnet"
)

// maxSource is the largest size of an imported file, in bytes.
const maxSource = 16 << 20

// embeddedPrefix starts the path under which a directory imports the embedded
// library: "<defx>/DIR/v1.libsonnet". The path carries the importing directory,
// so that the library can resolve relative paths from there.
const embeddedPrefix = "<defx>/"

// importer reads files below the root and the library directories and nowhere
// else, and records which files it read and which it found absent. A place is a
// path relative to the root, so that a moved checkout evaluates to the same
// bytes. It is safe for concurrent use by several VMs.
type importer struct {
	mu         sync.Mutex
	roots      []importRoot // the deployment's root, then library directories; the first match wins
	files      map[string]*importedFile
	reads      map[string]ReadRecord
	searchPath []ReadRecord // library directories, present or absent: they determine the candidates of every import

	prelude      atomic.Pointer[importedFile] // the content of preludeFile, once the entry is parsed
	environments atomic.Pointer[Environments] // of the entry, once they are evaluated
}

// importRoot is a directory that imports may read.
type importRoot struct {
	dir  *os.Root
	abs  string
	name string // relative to the deployment's root, or absolute
}

// importedFile is the result of reading one place.
type importedFile struct {
	contents jsonnet.Contents // as source code: without a byte order mark
	bytes    jsonnet.Contents // as it is; only if mark
	err      error
	absent   bool
	mark     bool // the file begins with a byte order mark
	invalid  int  // index of the first byte that is not UTF-8, or -1
}

// vendorFolder is the library directory of the deployment itself.
const vendorFolder = "vendor"

// newImporter opens the root and the library directories, which have no symbolic
// links in their paths. A library directory that does not exist is recorded as
// absent.
func newImporter(root string, jpath []string) (*importer, error) {
	i := &importer{files: map[string]*importedFile{}, reads: map[string]ReadRecord{}}
	dirs := []string{root}
	for _, j := range slices.Backward(jpath) { // the rightmost wins
		dirs = append(dirs, j)
	}
	vendor, err := resolveInside(root, vendorFolder)
	if errors.Is(err, fs.ErrNotExist) {
		vendor, err = filepath.Join(root, vendorFolder), nil
	}
	if err != nil {
		return nil, err
	}
	dirs = append(dirs, vendor)
	for n, dir := range dirs {
		r, err := os.OpenRoot(dir)
		if err != nil {
			if n > 0 && errors.Is(err, fs.ErrNotExist) {
				i.recordAbsent(relative(root, dir))
				i.searchPath = append(i.searchPath, i.reads[relative(root, dir)])
				continue
			}
			return nil, err
		}
		name := relative(root, dir)
		i.roots = append(i.roots, importRoot{r, dir, name})
		if n > 0 {
			i.reads[name] = ReadRecord{Path: name, Digest: dirDigest}
			i.searchPath = append(i.searchPath, i.reads[name])
		}
	}
	return i, nil
}

// dirDigest stands for the content of a library directory: only its existence
// matters.
const dirDigest = "folder"

// relative returns dir relative to root with forward slashes.
func relative(root, dir string) string {
	if rel, err := filepath.Rel(root, dir); err == nil {
		return filepath.ToSlash(rel)
	}
	return filepath.ToSlash(dir)
}

// source returns the text of a file that was imported.
func (i *importer) source(place string) (string, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f := i.files[place]
	if f == nil || f.err != nil || f.absent {
		return "", false
	}
	return f.contents.String(), true
}

// recordAbsent records that a place does not exist.
func (i *importer) recordAbsent(place string) { i.reads[place] = ReadRecord{Path: place, Absent: true} }

// recorder is the importer of one evaluator: it records in used what the current
// query read. A VM calls Import for every import expression that it evaluates,
// whether the file is parsed already or not, so the record is complete as long
// as evaluated values are discarded between queries.
type recorder struct {
	*importer
	used map[string]ReadRecord
}

// Import implements jsonnet.Importer.
func (r *recorder) Import(importedFrom, importedPath string) (jsonnet.Contents, string, error) {
	contents, place, tried, err := r.resolve(importedFrom, importedPath)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range tried {
		if read, known := r.reads[p]; known {
			r.used[p] = read
		}
	}
	return contents, place, err
}

// Import resolves a path relative to the file importedFrom.
func (i *importer) Import(importedFrom, importedPath string) (jsonnet.Contents, string, error) {
	contents, place, _, err := i.resolve(importedFrom, importedPath)
	return contents, place, err
}

// resolve is like Import and also returns the candidate places that it tried.
func (i *importer) resolve(importedFrom, importedPath string) (contents jsonnet.Contents, place string, tried []string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	none := jsonnet.Contents{}
	if prelude := i.prelude.Load(); importedFrom == driver && importedPath == preludeFile && prelude != nil {
		return prelude.contents, preludeFile, nil, nil
	}
	if strings.HasPrefix(importedPath, lib.Prefix) {
		raw, ok := lib.Read(importedPath)
		if !ok {
			return none, "", nil, fmt.Errorf("couldn't open import %q: the embedded library has %s", importedPath, strings.Join(lib.Names(), ", "))
		}
		place := embeddedPrefix + path.Join(path.Dir(importedFrom), strings.TrimPrefix(importedPath, lib.Prefix))
		if i.files[place] == nil {
			i.files[place] = &importedFile{contents: jsonnet.MakeContentsRaw(raw), invalid: -1}
		}
		return i.files[place].contents, place, nil, nil
	}
	if path.IsAbs(importedPath) {
		return none, "", nil, fmt.Errorf("couldn't open import %q: absolute paths cannot be imported; use a path relative to this file, or a library directory (-J)", importedPath)
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
		f := i.load(place)
		if f.absent {
			continue
		}
		if f.err != nil {
			return none, "", tried, fmt.Errorf("couldn't open import %q: %w", importedPath, f.err)
		}
		if f.invalid < 0 && !f.mark {
			return f.contents, place, tried, nil
		}
		contents, at, err := i.importUnusual(f, place, importedFrom, importedPath)
		if err != nil {
			return none, "", tried, fmt.Errorf("couldn't open import %q: %w", importedPath, err)
		}
		return contents, at, tried, nil
	}
	return none, "", tried, fmt.Errorf("couldn't open import %q: tried %s", importedPath, strings.Join(tried, ", "))
}

// load reads a place, once.
func (i *importer) load(place string) *importedFile {
	if f := i.files[place]; f != nil {
		return f
	}
	f := &importedFile{invalid: -1}
	i.files[place] = f
	raw, err := i.readRegular(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.absent = true
		i.recordAbsent(place)
	case err != nil:
		f.err = err
	default:
		i.reads[place] = ReadRecord{Path: place, Digest: digest.Bytes(raw)}
		if f.mark = strings.HasPrefix(string(raw), byteOrderMark); f.mark {
			f.bytes = jsonnet.MakeContentsRaw(raw)
			raw = raw[len(byteOrderMark):]
		}
		f.invalid = firstInvalidByte(string(raw))
		f.contents = jsonnet.MakeContentsRaw(raw)
		if bad := checkSource(place, string(raw)); bad != nil && isCode(place) {
			f.err = &positionedError{bad}
		}
	}
	return f
}

// isCode reports whether a place is Jsonnet source by its name.
func isCode(place string) bool {
	return strings.HasSuffix(place, ".jsonnet") || strings.HasSuffix(place, ".libsonnet")
}

// readRegular reads a regular file below the first root that contains the place.
func (i *importer) readRegular(place string) ([]byte, error) {
	abs := filepath.FromSlash(place)
	if !filepath.IsAbs(abs) {
		abs = filepath.Join(i.roots[0].abs, abs)
	}
	for _, r := range i.roots {
		rel, err := filepath.Rel(r.abs, abs)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		raw, err := openfile.ReadOpened(func() (*os.File, error) { return openfile.OpenIn(r.dir, rel) }, maxSource)
		if e, refused := errors.AsType[*openfile.Error](err); refused && e.Outside {
			return nil, fmt.Errorf("%s is a symbolic link to a file outside %s", place, r.name)
		} else if refused {
			return nil, fmt.Errorf("%s %s", place, e.Msg)
		}
		return raw, err
	}
	return nil, fmt.Errorf("%s is outside the deployment's directory and the library directories", place)
}

// readRecords returns all files read and candidates found absent, sorted by path.
func (i *importer) readRecords() []ReadRecord {
	i.mu.Lock()
	defer i.mu.Unlock()
	return sortedReads(i.reads)
}

// sortedReads returns records sorted by path.
func sortedReads(reads map[string]ReadRecord) []ReadRecord {
	out := []ReadRecord{}
	for _, p := range sets.Keys(reads) {
		out = append(out, reads[p])
	}
	return out
}
