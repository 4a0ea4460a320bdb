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

	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/failpoint"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang/cache"
	"github.com/gofrs/flock"
)

// Dir is a Store in a directory:
//
//	head.json        the head, replaced atomically; it is written before everything else
//	leases.json      the leases and the highest token ever issued
//	oldest.json      the oldest generation that is kept, once older ones were pruned
//	objects/*.pack   an index line, then the objects of one Put or of several merged packs
//	journal.jsonl    the progress of an apply (written by package apply; nothing depends on it)
//	lock             locked with flock while the head or the leases change
//
// Nothing is created before the first write: a plan leaves no files behind. Only
// the user can read the files. The first call of Head verifies all of them.
type Dir struct {
	path string

	// VerifiedCache is a cache outside of the state that remembers which packs
	// were verified, so that each is read once and not by every process; nil =
	// they are verified by each process.
	VerifiedCache *cache.Cache

	// Deployment and Environment are what the state is of, and what its generations must say.
	// Empty, anything is accepted.
	Deployment, Environment string

	verifyMu sync.Mutex // held while the files are verified
	verified bool       // they were, by this Dir

	mu      sync.Mutex // guards index and indexed
	index   map[digest.Digest]objectLocation
	indexed map[string]bool // packs whose index was read

	readMu   sync.Mutex    // held while a generation is read, so that concurrent callers read it once
	newest   *Generation   // the generation that was read last
	newestAt digest.Digest // its object
}

// objectLocation is the place of an object in a pack, in bytes.
type objectLocation struct {
	pack         string
	offset, size int64
}

// OpenDir returns the store in a directory, which need not exist yet.
func OpenDir(path string) *Dir { return &Dir{path: path} }

// Path returns the directory.
func (s *Dir) Path() string { return s.path }

// withLock runs f while this process holds the lock of the store, which keeps
// other processes from changing the head and the leases.
func (s *Dir) withLock(ctx context.Context, f func() error) error {
	if err := os.MkdirAll(s.path, dirMode); err != nil {
		return err
	}
	if info, err := os.Stat(s.path); err == nil && info.Mode().Perm() != dirMode { // versions before format 2 let others read it
		os.Chmod(s.path, dirMode) // without ownership it stays as its owner made it
	}
	l := flock.New(filepath.Join(s.path, "lock"), flock.SetPermissions(fileMode))
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	if ok, err := l.TryLockContext(ctx, 5*time.Millisecond); !ok {
		return fmt.Errorf("locking %s: %w", s.path, err)
	}
	defer l.Unlock()
	return f()
}

// Permissions of the state: nobody but the user can read it.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// writeFile replaces a file of the state atomically and durably.
func (s *Dir) writeFile(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	failpoint.Hit("state " + name)
	err = atomicfile.Write(filepath.Join(s.path, name), append(raw, '\n'), fileMode)
	failpoint.Hit("state " + name + " written")
	return err
}

// Head implements Store.
func (s *Dir) Head(ctx context.Context) (Head, error) {
	if err := s.verify(ctx); err != nil {
		return Head{}, err
	}
	return s.readHead()
}

// Swap implements Store.
func (s *Dir) Swap(ctx context.Context, old, new Head) error {
	return s.withLock(ctx, func() error {
		now, err := s.readHead()
		if err != nil {
			return err
		}
		if !now.Equal(old) {
			return ErrHeadMoved
		}
		if new.Format != Format || new.Lineage == "" || old.Lineage != "" && new.Lineage != old.Lineage {
			return fmt.Errorf("the new head has format %d and lineage %q, the old one lineage %q", new.Format, new.Lineage, old.Lineage)
		}
		return s.writeFile(headName, new)
	})
}

// Begin makes a state without generations the one of a lineage, whose next token
// is above token.
func (s *Dir) Begin(ctx context.Context, lineage string, token int64) (Head, error) {
	h := Head{Format: Format, Lineage: lineage}
	return h, s.withLock(ctx, func() error {
		now, err := s.readHead()
		if err != nil {
			return err
		}
		if now.Generation > 0 || len(now.Intents) > 0 {
			return ErrHeadMoved
		}
		if err := s.writeFile(headName, h); err != nil {
			return err
		}
		l, err := s.readLeases()
		if err != nil {
			return err
		}
		l.Last = max(l.Last, token)
		return s.writeFile(leasesName, l)
	})
}

// maxPacks is the number of packs from which on Put merges small ones.
const maxPacks = 64

// Put implements Store.
func (s *Dir) Put(ctx context.Context, objects ...[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for range 3 {
		if err = s.refresh(); err != nil {
			return err
		}
		added := map[digest.Digest][]byte{}
		for _, o := range objects {
			if d := digest.Bytes(o); s.index[d] == (objectLocation{}) {
				added[d] = o
			}
		}
		if len(added) == 0 {
			return nil
		}
		if err = s.rewrite(s.mergeCandidates(added), added, func(digest.Digest) bool { return true }); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.index = nil // another process has merged one of the packs: read the indexes again
	}
	return err
}

// mergeCandidates returns the packs to merge with the added objects: none while
// there are fewer than maxPacks, else the smaller half and each further pack
// that is not larger than all smaller ones together. An object is therefore
// copied O(log n) times for n bytes in the store.
func (s *Dir) mergeCandidates(added map[digest.Digest][]byte) []string {
	if len(s.indexed) < maxPacks {
		return nil
	}
	sizes, total := map[string]int64{}, int64(0)
	for _, w := range s.index {
		sizes[w.pack] += w.size
	}
	for _, raw := range added {
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

// rewrite replaces packs by one that holds the added objects and the live
// objects of these packs.
func (s *Dir) rewrite(packs []string, added map[digest.Digest][]byte, live func(digest.Digest) bool) error {
	dir := filepath.Join(s.path, objectsName)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	index := make([]packEntry, 0, len(added))
	for d, raw := range added {
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
		name, err := s.writePack(dir, index, added)
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

// writePack writes a pack: an index line, then the objects in the order of
// their digests. It updates the offsets in index to offsets in the file.
func (s *Dir) writePack(dir string, index []packEntry, added map[digest.Digest][]byte) (name string, err error) {
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
	name = digest.Bytes(line).Hex()[:32] + ".pack" // the index determines the content: it names the objects by digest
	failpoint.Hit("state pack")
	err = atomicfile.WriteFunc(filepath.Join(dir, name), fileMode, func(out io.Writer) error {
		w := bufio.NewWriterSize(out, 1<<20)
		if _, err := w.Write(line); err != nil {
			return err
		}
		for i := range index {
			e := &index[i]
			e.Offset += int64(len(line))
			raw, ok := added[e.Digest]
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
		return w.Flush()
	})
	return name, err
}

// Oldest implements Store.
func (s *Dir) Oldest(context.Context) (Oldest, error) { return s.readOldest() }

// GC implements Store.
func (s *Dir) GC(ctx context.Context, oldest Oldest, live func(digest.Digest) bool, dry bool) (count int, size int64, err error) {
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
	} else if oldest.Format = Format; oldest.Object != "" && oldest != was { // before objects are removed: History must not follow parents that are gone
		if err := s.writeFile(oldestName, oldest); err != nil {
			return 0, 0, err
		}
	}
	s.removeStale()
	if count == 0 {
		return 0, 0, nil
	}
	return count, size, s.rewrite(sets.Keys(touched), nil, live)
}

// removeStale removes temporary files older than an hour, which a killed
// process has left behind.
func (s *Dir) removeStale() {
	entries, _ := os.ReadDir(filepath.Join(s.path, objectsName))
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasSuffix(e.Name(), ".pack") && !strings.Contains(e.Name(), asideMark) && time.Since(info.ModTime()) > time.Hour {
			os.Remove(filepath.Join(s.path, objectsName, e.Name()))
		}
	}
}

// packEntry is the entry of one object in the index line of a pack.
type packEntry struct {
	Digest digest.Digest `json:"digest"`
	Offset int64         `json:"offset"` // bytes after the index line
	Size   int64         `json:"size"`   // bytes
}

// addIndex adds the index of a pack, with offsets from the start of the file.
func (s *Dir) addIndex(name string, index []packEntry) {
	for _, e := range index {
		s.index[e.Digest] = objectLocation{name, e.Offset, e.Size}
	}
	s.indexed[name] = true
}

// refresh reads the indexes of new packs and drops the index if a pack was
// removed. It repeats this until the list of packs is stable: otherwise an
// object that moves from one pack to another would be found in neither.
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
			index, err := s.readIndex(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // merged and removed in the meantime
			}
			if err != nil {
				return err
			}
			s.addIndex(name, index)
		}
	}
	return fmt.Errorf("%s keeps changing", filepath.Join(s.path, objectsName))
}

// packs returns the file names of all packs, sorted.
func (s *Dir) packs() (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.path, objectsName))
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

// readIndex reads the index line of a pack and returns it with offsets from the
// start of the file.
func (s *Dir) readIndex(pack string) ([]packEntry, error) {
	f, err := openfile.Open(filepath.Join(s.path, objectsName, pack))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	var index []packEntry
	if err := dec.Decode(&index); err != nil {
		return nil, s.damaged(filepath.Join(objectsName, pack), fmt.Errorf("its index cannot be read: %w", err))
	}
	if len(index) == 0 {
		return nil, s.damaged(filepath.Join(objectsName, pack), errors.New("its index is empty"))
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
			return nil, s.damaged(filepath.Join(objectsName, pack), errors.New("its index points beyond the end of the file"))
		}
	}
	return index, nil
}

// Get implements Store.
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

// readObject reads an object from its pack and verifies its digest.
func (s *Dir) readObject(d digest.Digest, w objectLocation) ([]byte, error) {
	name := filepath.Join(objectsName, w.pack)
	f, err := openfile.Open(filepath.Join(s.path, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make([]byte, w.size)
	if _, err := f.ReadAt(raw, w.offset); err != nil {
		return nil, s.damaged(name, err)
	}
	if digest.Bytes(raw) != d {
		return nil, s.damaged(name, fmt.Errorf("object %s does not have its digest", d.Short()))
	}
	return raw, nil
}
