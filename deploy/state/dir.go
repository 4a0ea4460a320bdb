package state

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// Dir is a Store in a folder:
//
//	head.json        the newest generation's name, replaced atomically
//	leases.json      leases and the highest token ever given
//	oldest.json     the oldest generation that is kept, once older ones were forgotten
//	objects/*.pack   an index line, then the objects of one Put or of several joined
//	journal.jsonl    what an unfinished apply did (package apply writes it)
//	lock             flock around the swap of the head and of the leases
//
// Nothing is created before the first write, so that a plan leaves no trace.
type Dir struct {
	path string

	mu      sync.Mutex
	index   map[digest.Digest]objectLocation
	indexed map[string]bool // packs whose index was read

	readMu   sync.Mutex  // one reads a generation at a time: the next one has it then
	newest   *Generation // as it was read last
	newestAt digest.Digest
}

type objectLocation struct {
	pack         string
	offset, size int64
}

// OpenDir is the store in a folder, which need not exist yet.
func OpenDir(path string) *Dir { return &Dir{path: path} }

// Path is the folder.
func (s *Dir) Path() string { return s.path }

// withLock runs f while no other process changes the head or the leases.
func (s *Dir) withLock(ctx context.Context, f func() error) error {
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
	return writeWith(path, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	})
}

func writeWith(path string, write func(io.Writer) error) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(write(w), w.Flush()); err != nil {
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
	return s.readHead("head.json")
}

// Swap moves the head from old to new.
func (s *Dir) Swap(ctx context.Context, old, new Head) error {
	return s.withLock(ctx, func() error {
		now, err := s.Head(ctx)
		if err != nil {
			return err
		}
		if now != old {
			return ErrHeadMoved
		}
		return writeJSON(filepath.Join(s.path, "head.json"), new)
	})
}

// maxPacks is how many packs may lie around before a Put joins small ones.
const maxPacks = 64

// Put keeps objects durably.
func (s *Dir) Put(ctx context.Context, objects ...[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for range 3 {
		if err = s.refresh(); err != nil {
			return err
		}
		fresh := map[digest.Digest][]byte{}
		for _, o := range objects {
			if d := digest.Bytes(o); s.index[d] == (objectLocation{}) {
				fresh[d] = o
			}
		}
		if len(fresh) == 0 {
			return nil
		}
		if err = s.rewrite(s.mergeCandidates(fresh), fresh, func(digest.Digest) bool { return true }); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.index = nil // what was to be joined was joined by another process meanwhile
	}
	return err
}

// mergeCandidates names packs to be joined with what is new: none as long as there are few,
// else the small half, and whatever is not larger than all smaller ones together.
// So each object is copied a number of times that grows with the logarithm of all.
func (s *Dir) mergeCandidates(fresh map[digest.Digest][]byte) []string {
	if len(s.indexed) < maxPacks {
		return nil
	}
	sizes, total := map[string]int64{}, int64(0)
	for _, w := range s.index {
		sizes[w.pack] += w.size
	}
	for _, raw := range fresh {
		total += int64(len(raw))
	}
	names := slices.SortedFunc(maps.Keys(s.indexed), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[a], sizes[b]), cmp.Compare(a, b))
	})
	n := 0
	for n < len(names) && (n < maxPacks/2 || sizes[names[n]] <= total) {
		total += sizes[names[n]]
		n++
	}
	return names[:n]
}

// rewrite makes one pack of what is new and of what is live in some packs, and
// removes these.
func (s *Dir) rewrite(packs []string, fresh map[digest.Digest][]byte, live func(digest.Digest) bool) error {
	dir := filepath.Join(s.path, "objects")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	index := make([]packEntry, 0, len(fresh))
	for d, raw := range fresh {
		index = append(index, packEntry{Digest: d, Size: int64(len(raw))})
	}
	old := map[string]bool{}
	for _, name := range packs {
		old[name] = true
	}
	for d, w := range s.index {
		if old[w.pack] && live(d) {
			index = append(index, packEntry{Digest: d, Size: w.size})
		}
	}
	if len(index) > 0 {
		name, err := s.writePack(dir, index, fresh)
		if err != nil {
			return err
		}
		delete(old, name)
		s.addIndex(name, index)
	}
	for name := range old {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		delete(s.indexed, name)
	}
	maps.DeleteFunc(s.index, func(_ digest.Digest, w objectLocation) bool { return old[w.pack] })
	return nil
}

// writePack makes a pack: one line that says where each object is, and the objects in
// the order of their digests. It says in the index where they came to be.
func (s *Dir) writePack(dir string, index []packEntry, fresh map[digest.Digest][]byte) (name string, err error) {
	slices.SortFunc(index, func(a, b packEntry) int { return cmp.Compare(a.Digest, b.Digest) })
	offset := int64(0)
	for i := range index {
		index[i].Offset = offset
		offset += index[i].Size
	}
	line, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	line = append(line, '\n')
	name = digest.Bytes(line).Hex()[:32] + ".pack" // objects are what their digests say
	err = writeWith(filepath.Join(dir, name), func(w io.Writer) error {
		if _, err := w.Write(line); err != nil {
			return err
		}
		for i := range index {
			e := &index[i]
			e.Offset += int64(len(line))
			raw, ok := fresh[e.Digest]
			if !ok {
				var err error
				if raw, err = s.readObject(e.Digest, s.index[e.Digest]); err != nil {
					return err
				}
			}
			if _, err := w.Write(raw); err != nil {
				return err
			}
		}
		return nil
	})
	return name, err
}

// Oldest reads which generations are kept.
func (s *Dir) Oldest(context.Context) (Head, error) { return s.readHead("oldest.json") }

// readHead reads the name of a generation; the zero Head if there is no such file.
func (s *Dir) readHead(file string) (h Head, err error) {
	if err = readJSON(filepath.Join(s.path, file), &h); errors.Is(err, fs.ErrNotExist) {
		return Head{}, nil
	}
	return h, err
}

// GC removes objects.
func (s *Dir) GC(ctx context.Context, oldest Head, live func(digest.Digest) bool, dry bool) (count int, size int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(); err != nil {
		return 0, 0, err
	}
	touched := map[string]bool{}
	for d, w := range s.index {
		if !live(d) {
			touched[w.pack] = true
			count++
			size += w.size
		}
	}
	if dry {
		return count, size, nil
	}
	if was, err := s.Oldest(ctx); err != nil {
		return 0, 0, err
	} else if oldest != was { // first: a history must not lead to what is not there any more
		if err := writeJSON(filepath.Join(s.path, "oldest.json"), oldest); err != nil {
			return 0, 0, err
		}
	}
	s.removeStale()
	if count == 0 {
		return 0, 0, nil
	}
	return count, size, s.rewrite(slices.Sorted(maps.Keys(touched)), nil, live)
}

// removeStale removes what a process that was killed had begun to write long ago.
func (s *Dir) removeStale() {
	entries, _ := os.ReadDir(filepath.Join(s.path, "objects"))
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasSuffix(e.Name(), ".pack") && time.Since(info.ModTime()) > time.Hour {
			os.Remove(filepath.Join(s.path, "objects", e.Name()))
		}
	}
}

type packEntry struct {
	Digest digest.Digest `json:"digest"`
	Offset int64         `json:"offset"` // behind the index line
	Size   int64         `json:"size"`
}

func (s *Dir) addIndex(name string, index []packEntry) {
	for _, e := range index {
		s.index[e.Digest] = objectLocation{name, e.Offset, e.Size}
	}
	s.indexed[name] = true
}

// refresh reads the index lines of packs not seen yet and forgets packs that were
// joined. It goes on until nothing came or went meanwhile: else an object on its way
// from one pack to another would be seen in neither.
func (s *Dir) refresh() error {
	var seen []string
	for range 1000 {
		names, err := s.packs()
		if err != nil || seen != nil && slices.Equal(names, seen) {
			return err
		}
		if seen = names; seen == nil {
			seen = []string{}
		}
		for name := range s.indexed {
			if _, there := slices.BinarySearch(names, name); !there {
				s.index = nil
			}
		}
		if s.index == nil {
			s.index, s.indexed = map[digest.Digest]objectLocation{}, map[string]bool{}
		}
		for _, name := range names {
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
			s.addIndex(name, index)
		}
	}
	return fmt.Errorf("%s changes all the time", filepath.Join(s.path, "objects"))
}

// packs lists them, sorted.
func (s *Dir) packs() (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.path, "objects"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".pack") {
			names = append(names, e.Name())
		}
	}
	return names, nil
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
	for range 100 {
		if w, ok := s.index[d]; ok {
			raw, err := s.readObject(d, w)
			if !errors.Is(err, fs.ErrNotExist) {
				return raw, err
			}
			s.index = nil
		}
		if err := s.refresh(); err != nil {
			return nil, err
		}
		if _, ok := s.index[d]; !ok {
			return nil, fmt.Errorf("object %s: %w", d.Short(), ErrNotFound)
		}
	}
	return nil, fmt.Errorf("object %s: %w", d.Short(), ErrNotFound)
}

func (s *Dir) readObject(d digest.Digest, w objectLocation) ([]byte, error) {
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
