package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/lang/digest"
	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// Dir is a Store in a folder:
//
//	head.json        the newest generation's name, replaced atomically
//	leases.json      leases and the highest token ever given
//	objects/*.pack   an index line, then the objects of one Put
//	journal.jsonl    what an unfinished apply did (package apply writes it)
//	lock             flock around the swap of the head and of the leases
//
// Nothing is created before the first write, so that a plan leaves no trace.
type Dir struct {
	path string

	mu      sync.Mutex
	index   map[digest.Digest]where
	indexed map[string]bool // packs whose index was read

	reading  sync.Mutex  // one reads a generation at a time: the next one has it then
	newest   *Generation // as it was read last
	newestAt digest.Digest
}

type where struct {
	pack         string
	offset, size int64
}

// OpenDir is the store in a folder, which need not exist yet.
func OpenDir(path string) *Dir { return &Dir{path: path} }

// Path is the folder.
func (s *Dir) Path() string { return s.path }

// locked runs f while no other process changes the head or the leases.
func (s *Dir) locked(ctx context.Context, f func() error) error {
	if err := os.MkdirAll(s.path, 0o755); err != nil {
		return err
	}
	l := flock.New(filepath.Join(s.path, "lock"))
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if ok, err := l.TryLockContext(ctx, 5*time.Millisecond); !ok {
		return fmt.Errorf("locking %s: %w", s.path, err)
	}
	defer l.Unlock()
	return f()
}

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file durably: temporary file, fsync, rename, fsync of the folder.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, append(raw, '\n'))
}

func writeFile(path string, raw []byte) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Head reads the newest generation's name.
func (s *Dir) Head(context.Context) (Head, error) {
	var h Head
	err := readJSON(filepath.Join(s.path, "head.json"), &h)
	if errors.Is(err, fs.ErrNotExist) {
		return Head{}, nil
	}
	return h, err
}

// Swap moves the head from old to new.
func (s *Dir) Swap(ctx context.Context, old, new Head) error {
	return s.locked(ctx, func() error {
		now, err := s.Head(ctx)
		if err != nil {
			return err
		}
		if now != old {
			return ErrMoved
		}
		return writeJSON(filepath.Join(s.path, "head.json"), new)
	})
}

// maxPacks is how many packs may lie around before a Put joins them into one.
const maxPacks = 64

// Put keeps objects durably.
func (s *Dir) Put(ctx context.Context, objects ...[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(); err != nil {
		return err
	}
	fresh := map[digest.Digest][]byte{}
	for _, o := range objects {
		if d := digest.Bytes(o); s.index[d] == (where{}) {
			fresh[d] = o
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	dir := filepath.Join(s.path, "objects")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var joined []string
	if len(s.indexed) >= maxPacks {
		for d, w := range s.index {
			raw, err := s.read(d, w)
			if err != nil {
				return err
			}
			fresh[d] = raw
		}
		for name := range s.indexed {
			joined = append(joined, name)
		}
	}
	name, raw, index := pack(fresh)
	if err := writeFile(filepath.Join(dir, name), raw); err != nil {
		return err
	}
	for _, old := range joined {
		if old != name {
			os.Remove(filepath.Join(dir, old))
			delete(s.indexed, old)
		}
	}
	s.add(name, index)
	return nil
}

type packEntry struct {
	Digest digest.Digest `json:"digest"`
	Offset int64         `json:"offset"` // behind the index line
	Size   int64         `json:"size"`
}

// pack lays objects out in the order of their digests, behind one line that says where each is.
func pack(objects map[digest.Digest][]byte) (name string, raw []byte, index []packEntry) {
	var body bytes.Buffer
	keys := make([]digest.Digest, 0, len(objects))
	for d := range objects {
		keys = append(keys, d)
	}
	slices.Sort(keys)
	for _, d := range keys {
		index = append(index, packEntry{d, int64(body.Len()), int64(len(objects[d]))})
		body.Write(objects[d])
	}
	line, _ := json.Marshal(index) // plain data always encodes
	raw = append(append(line, '\n'), body.Bytes()...)
	base := int64(len(line) + 1)
	for i := range index {
		index[i].Offset += base
	}
	return digest.Bytes(raw).Hex()[:32] + ".pack", raw, index
}

func (s *Dir) add(name string, index []packEntry) {
	for _, e := range index {
		s.index[e.Digest] = where{name, e.Offset, e.Size}
	}
	s.indexed[name] = true
}

// refresh reads the index lines of packs not seen yet and forgets packs that were joined.
func (s *Dir) refresh() error {
	entries, err := os.ReadDir(filepath.Join(s.path, "objects"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names := map[string]bool{}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".pack") {
			names[e.Name()] = true
		}
	}
	for name := range s.indexed {
		if !names[name] {
			s.index = nil
		}
	}
	if s.index == nil {
		s.index, s.indexed = map[digest.Digest]where{}, map[string]bool{}
	}
	for name := range names {
		if s.indexed[name] {
			continue
		}
		index, err := readIndex(filepath.Join(s.path, "objects", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // joined meanwhile
		}
		if err != nil {
			return err
		}
		s.add(name, index)
	}
	return nil
}

func readIndex(path string) ([]packEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	var index []packEntry
	if err := dec.Decode(&index); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	base := dec.InputOffset() + 1
	for i := range index {
		e := &index[i]
		e.Offset += base
		if e.Size < 0 || e.Offset < base || e.Size > info.Size() || e.Offset > info.Size()-e.Size {
			return nil, fmt.Errorf("%s is damaged: its index leads out of it", path)
		}
	}
	return index, nil
}

// Get reads an object and checks it.
func (s *Dir) Get(_ context.Context, d digest.Digest) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 2 {
		if w, ok := s.index[d]; ok {
			raw, err := s.read(d, w)
			if !errors.Is(err, fs.ErrNotExist) {
				return raw, err
			}
			s.index = nil
		}
		if err := s.refresh(); err != nil {
			return nil, err
		}
		if _, ok := s.index[d]; !ok {
			return nil, fmt.Errorf("object %s: %w", d.Short(), ErrAbsent)
		}
	}
	return nil, fmt.Errorf("object %s: %w", d.Short(), ErrAbsent)
}

func (s *Dir) read(d digest.Digest, w where) ([]byte, error) {
	path := filepath.Join(s.path, "objects", w.pack)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make([]byte, w.size)
	if _, err := f.ReadAt(raw, w.offset); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if digest.Bytes(raw) != d {
		return nil, fmt.Errorf("%s is damaged: object %s does not have its digest", path, d.Short())
	}
	return raw, nil
}
