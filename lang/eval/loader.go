package eval

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// Importer finds files. Within one evaluation it returns the same contents
// whenever it returns the same foundAt.
type Importer interface {
	// Import returns the contents of the file that the file importedFrom, or ""
	// for none, calls importedPath, and its canonical name.
	Import(importedFrom, importedPath string) (contents []byte, foundAt string, err error)
}

// FileImporter imports files of the file system: relative to the importing
// file, then in the library directories, the last one first. It remembers what
// it read, and is not for concurrent use.
type FileImporter struct {
	JPaths []string

	files map[string]fileEntry
}

type fileEntry struct {
	contents []byte
	exists   bool
}

func (i *FileImporter) try(dir, path string) (fileEntry, string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if e, ok := i.files[path]; ok {
		return e, path, nil
	}
	var e fileEntry
	contents, err := os.ReadFile(path)
	switch {
	case err == nil:
		e = fileEntry{contents, true}
	case !os.IsNotExist(err):
		return fileEntry{}, "", err
	}
	if i.files == nil {
		i.files = map[string]fileEntry{}
	}
	i.files[path] = e
	return e, path, nil
}

// Import implements Importer.
func (i *FileImporter) Import(importedFrom, importedPath string) ([]byte, string, error) {
	dir, _ := filepath.Split(importedFrom)
	e, at, err := i.try(dir, importedPath)
	for n := len(i.JPaths) - 1; err == nil && !e.exists && n >= 0; n-- {
		e, at, err = i.try(i.JPaths[n], importedPath)
	}
	switch {
	case err != nil:
		return nil, "", err
	case !e.exists:
		return nil, "", fmt.Errorf("couldn't open import %#v: no match locally or in the Jsonnet library paths", importedPath)
	}
	return e.contents, at, nil
}

// Candidates returns the names that were looked for, and whether each exists.
func (i *FileImporter) Candidates() map[string]bool {
	out := make(map[string]bool, len(i.files))
	for name, e := range i.files {
		out[name] = e.exists
	}
	return out
}

// program is a file that is parsed, and compiled as far as it ran.
type program struct {
	err  error // of the parser
	root [2]*unit
}

const (
	fastRoot = iota
	preciseRoot
)

func (m *machine) root(p *program) *unit {
	if m.precise {
		return p.root[preciseRoot]
	}
	return p.root[fastRoot]
}

// The cache of programs is shared by all VMs of the process. Programs are
// immutable but for code that is compiled when it first runs.
var programs struct {
	sync.Mutex
	m     map[programKey]*program
	bytes int
}

type programKey struct {
	name, imported string
	sum            [sha256.Size]byte
}

// maxCached is the size of the sources whose programs are kept.
const maxCached = 64 << 20

// load parses a source, or finds it in the cache. name is what errors call the
// file, imported what its imports are relative to.
func (m *machine) load(at *site, name, imported string, source []byte) *program {
	if len(source) > m.limits.MaxSource {
		m.bound(at, fmt.Sprintf("%s is larger than %d bytes", name, m.limits.MaxSource))
	}
	key := programKey{name, imported, sha256.Sum256(source)}
	programs.Lock()
	p := programs.m[key]
	programs.Unlock()
	if p != nil {
		return p
	}
	if pos := scan(source); pos != nil {
		m.bound(at, fmt.Sprintf("%s:%d:%d expression is nested too deeply", name, pos.line, pos.column))
	}
	node, err := parse(m.ctx, name, string(source))
	if m.ctx.Err() != nil {
		panic(&failure{cancel: m.ctx.Err()})
	}
	p = newProgram(node, err, name, imported)
	programs.Lock()
	defer programs.Unlock()
	if programs.m == nil || programs.bytes > maxCached {
		programs.m, programs.bytes = map[programKey]*program{}, 0
	}
	programs.m[key] = p
	programs.bytes += len(source)
	return p
}

func newProgram(node ast.Node, err error, file, from string) *program {
	p := &program{err: err}
	if err == nil {
		p.root[fastRoot] = (&compiler{file: file, from: from}).newUnit(node, nil)
		p.root[preciseRoot] = (&compiler{file: file, from: from, precise: true}).newUnit(node, nil)
	}
	return p
}

// parse runs go-jsonnet's parser. It cannot be interrupted, so that a cancelled
// evaluation leaves it behind; scan has bounded what it does.
func parse(ctx context.Context, name, source string) (ast.Node, error) {
	type result struct {
		node ast.Node
		err  error
	}
	run := func() (r result) {
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("%s: the parser failed: %v", name, p)
			}
		}()
		r.node, r.err = jsonnet.SnippetToAST(name, source)
		return r
	}
	if ctx.Done() == nil || len(source) < 16<<10 {
		r := run()
		return r.node, r.err
	}
	done := make(chan result, 1)
	go func() { done <- run() }()
	select {
	case r := <-done:
		return r.node, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *machine) importFile(at *site, from, path string) ([]byte, string) {
	if m.opts.Importer == nil {
		m.fail(at, "import not available "+path)
	}
	contents, foundAt, err := m.opts.Importer.Import(from, path)
	if err != nil {
		m.fail(at, err.Error())
	}
	m.stats.Files[foundAt] = true
	return contents, foundAt
}

func (m *machine) importCode(at *site, from, path string) value {
	contents, foundAt := m.importFile(at, from, path)
	v, ok := m.files[foundAt]
	if !ok {
		p := m.load(at, foundAt, foundAt, contents)
		if p.err != nil {
			m.fail(at, p.err.Error())
		}
		v = m.delay(m.root(p), nil)
		m.files[foundAt] = v
	}
	if v.h.kind == kindThunk {
		v = m.force(v.thunk(), at)
		m.files[foundAt] = v
	}
	return v
}

func (m *machine) importText(at *site, from, path string) value {
	contents, foundAt := m.importFile(at, from, path)
	v, ok := m.texts[foundAt]
	if !ok {
		m.checkLength(len(contents))
		v = m.foreignText(string(contents))
		m.texts[foundAt] = v
	}
	return v
}

func (m *machine) importBytes(at *site, from, path string) value {
	contents, _ := m.importFile(at, from, path)
	return m.byteArray(contents)
}
