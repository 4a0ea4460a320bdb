// Package cache keeps values under a key and exactly what they were made of.
//
// It knows files and bytes. It refuses to know what a value means. Invariant: a
// value is found only if every file that its making read has the content that it
// had, and everything looked for in vain is still absent. So a wrong answer
// would need a reading that was not told, or two contents with one SHA-256.
//
// The folder may be shared by processes and by machines, and may be thrown away
// at any time: an entry is a file that appears whole and never changes, and one
// that is torn is none.
package cache

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/digest"
)

// Read is a file that a making read, or a candidate that it found absent.
type Read struct {
	Path   string // as the maker names it
	Digest digest.Digest
	Absent bool
}

// Cache is a folder of entries: KEY/READS.
type Cache struct {
	dir string
	max int64
}

// DefaultMax is how many bytes a cache may take.
const DefaultMax = 1 << 30

const (
	magic = "defx-cache/1\n"
	alike = 4              // entries of one key: as many states of its files are remembered
	fresh = 24 * time.Hour // an entry used within this time is not marked as used again
)

// Open is the cache in a folder, which need not exist. max is the size it may
// take in bytes; 0 means DefaultMax.
func Open(dir string, max int64) *Cache {
	if max == 0 {
		max = DefaultMax
	}
	return &Cache{dir, max}
}

// Find gives the value kept under a key whose files are as they were. now tells
// how a path is now; it is asked for the paths of the entries alone. Without a
// value, why says what stood in the way.
func (c *Cache) Find(key digest.Digest, now func(path string) Read) (value []byte, reads []Read, why string) {
	dir := filepath.Join(c.dir, key.Hex())
	why, fewest := "nothing is kept for it", 0
	entries, _ := os.ReadDir(dir)
	for _, e := range newestFirst(entries) {
		name := filepath.Join(dir, e.name)
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		reads, value, ok := open(raw)
		if !ok {
			os.Remove(name)
			continue
		}
		var bad []string
		for _, was := range reads {
			if is := now(was.Path); was.Absent && !is.Absent {
				bad = append(bad, was.Path+" appeared")
			} else if is.Absent && !was.Absent {
				bad = append(bad, was.Path+" is gone")
			} else if is.Digest != was.Digest {
				bad = append(bad, was.Path+" changed")
			}
		}
		if len(bad) == 0 {
			if time.Since(e.used) > fresh {
				os.Chtimes(name, time.Time{}, time.Now())
			}
			return value, reads, ""
		}
		if fewest == 0 || len(bad) < fewest { // the state most like this one tells best
			if why, fewest = bad[0], len(bad); len(bad) > 1 {
				why += fmt.Sprintf(", and %d more", len(bad)-1)
			}
		}
	}
	return nil, nil, why
}

// Store stores a value with what it was made of. A cache that cannot be written
// keeps nothing, and that is no error.
func (c *Cache) Store(key digest.Digest, reads []Read, value []byte) {
	name, err := digest.Of("cache/1", reads)
	if err != nil {
		return
	}
	dir := filepath.Join(c.dir, key.Hex())
	if os.MkdirAll(dir, 0o755) != nil {
		return
	}
	f, err := os.CreateTemp(dir, "new-*")
	if err != nil {
		return
	}
	_, err = f.Write(seal(reads, value))
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name.Hex()))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	entries, _ := os.ReadDir(dir)
	for i, e := range newestFirst(entries) {
		if i >= alike {
			os.Remove(filepath.Join(dir, e.name))
		}
	}
}

// Trim takes away what was used least lately, until the cache is within its size.
func (c *Cache) Trim() {
	type old struct {
		path string
		size int64
		used time.Time
	}
	var all []old
	total := int64(0)
	filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			all = append(all, old{path, info.Size(), info.ModTime()})
			total += info.Size()
		}
		return nil
	})
	if total <= c.max {
		return
	}
	slices.SortFunc(all, func(a, b old) int { return a.used.Compare(b.used) })
	for _, o := range all {
		if total <= c.max*3/4 {
			return
		}
		if os.Remove(o.path) == nil {
			total -= o.size
			os.Remove(filepath.Dir(o.path)) // if nothing is left there
		}
	}
}

type listed struct {
	name string
	used time.Time
}

// newestFirst lists entries by the time of their last use. What is being
// written is none yet; what was left half written goes after a day.
func newestFirst(entries []os.DirEntry) []listed {
	var out []listed
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasPrefix(e.Name(), "new-") {
			out = append(out, listed{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(out, func(a, b listed) int { return b.used.Compare(a.used) })
	return out
}

var table = crc32.MakeTable(crc32.Castagnoli)

// seal writes an entry: magic, a sum of all that follows, the length of the
// reads, the reads, the value.
func seal(reads []Read, value []byte) []byte {
	head, _ := json.Marshal(reads) // texts and a boolean always encode
	var b bytes.Buffer
	b.WriteString(magic)
	b.Write(make([]byte, 4))
	binary.Write(&b, binary.BigEndian, uint32(len(head)))
	b.Write(head)
	b.Write(value)
	raw := b.Bytes()
	binary.BigEndian.PutUint32(raw[len(magic):], crc32.Checksum(raw[len(magic)+4:], table))
	return raw
}

func open(raw []byte) (reads []Read, value []byte, ok bool) {
	if len(raw) < len(magic)+8 || string(raw[:len(magic)]) != magic {
		return nil, nil, false
	}
	raw = raw[len(magic):]
	if binary.BigEndian.Uint32(raw) != crc32.Checksum(raw[4:], table) {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint32(raw[4:]))
	raw = raw[8:]
	if n > len(raw) || json.Unmarshal(raw[:n], &reads) != nil {
		return nil, nil, false
	}
	return reads, raw[n:], true
}

// Lengths writes values one behind the other, each behind its length, so that
// reading them back costs no parsing.
func Lengths(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.AppendUvarint(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// Parts reads what Lengths wrote.
func Parts(raw []byte) ([][]byte, error) {
	var out [][]byte
	for len(raw) > 0 {
		n, w := binary.Uvarint(raw)
		if w <= 0 || n > uint64(len(raw)-w) {
			return nil, fmt.Errorf("an entry of the cache ends in the middle")
		}
		out = append(out, raw[w:w+int(n):w+int(n)])
		raw = raw[w+int(n):]
	}
	return out, nil
}
