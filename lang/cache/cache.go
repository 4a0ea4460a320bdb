// Package cache stores values under a key together with the files that they
// depend on.
//
// It knows files and bytes. It refuses to know what a value means. Invariant: a
// value is returned only if every file that was read when it was made still has
// the same content, and every file that was found absent is still absent. A
// stale hit would require a read that was not recorded, or a SHA-256 collision.
//
// The directory may be shared by processes and machines, and may be deleted at
// any time. An entry is one file that appears atomically and never changes; a
// damaged entry counts as absent.
package cache

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
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

// Read is a file that was read, or a candidate that was found absent.
type Read struct {
	Path   string // as the caller names it
	Digest digest.Digest
	Absent bool
}

// Cache is a directory of entries, KEY/DIGEST, where DIGEST covers the reads.
type Cache struct {
	dir string
	max int64
}

// DefaultMax is the default size limit of a cache in bytes.
const DefaultMax = 1 << 30

const (
	magic       = "defx-cache/1\n"
	maxVersions = 4              // entries per key: values are kept for this many states of the files
	touchAfter  = 24 * time.Hour // an entry whose time of use is more recent than this is not marked again
)

// Open returns the cache in a directory, which need not exist. max is its size
// limit in bytes; 0 means DefaultMax.
func Open(dir string, max int64) *Cache {
	if max == 0 {
		max = DefaultMax
	}
	return &Cache{dir, max}
}

// Find returns the value stored under a key for the current state of its files,
// and its reads. now returns the current state of a path; it is called only for
// the reads of entries. If there is no such value, why is the reason.
func (c *Cache) Find(key digest.Digest, now func(path string) Read) (value []byte, reads []Read, why string) {
	dir := filepath.Join(c.dir, key.Hex())
	why, fewest := "not in the cache", 0
	entries, _ := os.ReadDir(dir)
	for _, e := range newestFirst(entries) {
		name := filepath.Join(dir, e.name)
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		reads, value, ok := decodeEntry(raw)
		if !ok {
			os.Remove(name)
			continue
		}
		var bad []string
		for _, was := range reads {
			if is := now(was.Path); was.Absent && !is.Absent {
				bad = append(bad, was.Path+" appeared")
			} else if is.Absent && !was.Absent {
				bad = append(bad, was.Path+" was removed")
			} else if is.Digest != was.Digest {
				bad = append(bad, was.Path+" changed")
			}
		}
		if len(bad) == 0 {
			if time.Since(e.used) > touchAfter {
				os.Chtimes(name, time.Time{}, time.Now())
			}
			return value, reads, ""
		}
		if fewest == 0 || len(bad) < fewest { // the entry with the fewest differences explains the miss best
			if why, fewest = bad[0], len(bad); len(bad) > 1 {
				why += fmt.Sprintf(", and %d more", len(bad)-1)
			}
		}
	}
	return nil, nil, why
}

// Store stores a value with the files that it depends on. An error is ignored:
// the value is then not cached. Entries are not synced to disk, because a lost or
// damaged one only costs an evaluation.
func (c *Cache) Store(key digest.Digest, reads []Read, value []byte) {
	name, err := digest.Of("cache/1", reads)
	if err != nil {
		return
	}
	dir := filepath.Join(c.dir, key.Hex())
	if os.MkdirAll(dir, 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(dir, "new-*")
	if err != nil {
		return
	}
	_, err = f.Write(encodeEntry(reads, value))
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
		if i >= maxVersions {
			os.Remove(filepath.Join(dir, e.name))
		}
	}
}

// Trim removes the least recently used entries if the cache exceeds its size limit.
func (c *Cache) Trim() {
	type file struct {
		path string
		size int64
		used time.Time
	}
	var all []file
	total := int64(0)
	filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			all = append(all, file{path, info.Size(), info.ModTime()})
			total += info.Size()
		}
		return nil
	})
	if total <= c.max {
		return
	}
	slices.SortFunc(all, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range all {
		if total <= c.max*3/4 {
			return
		}
		if os.Remove(f.path) == nil {
			total -= f.size
			os.Remove(filepath.Dir(f.path)) // succeeds if the directory is empty
		}
	}
}

// entry is a file of the cache.
type entry struct {
	name string
	used time.Time
}

// newestFirst returns the entries of a directory by the time of their last use,
// without temporary files; Trim removes those that a crash left behind.
func newestFirst(entries []os.DirEntry) []entry {
	var out []entry
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasPrefix(e.Name(), "new-") {
			out = append(out, entry{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(out, func(a, b entry) int { return b.used.Compare(a.used) })
	return out
}

// crcTable is the polynomial of the checksum in entries.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

// encodeEntry returns the content of an entry: the magic, a checksum of all that
// follows, the length of the reads, the reads, the value.
func encodeEntry(reads []Read, value []byte) []byte {
	head, _ := json.Marshal(reads) // strings and booleans always encode
	var b bytes.Buffer
	b.WriteString(magic)
	b.Write(make([]byte, 4))
	binary.Write(&b, binary.BigEndian, uint32(len(head)))
	b.Write(head)
	b.Write(value)
	raw := b.Bytes()
	binary.BigEndian.PutUint32(raw[len(magic):], crc32.Checksum(raw[len(magic)+4:], crcTable))
	return raw
}

// decodeEntry decodes what encodeEntry wrote; ok is false if it is damaged.
func decodeEntry(raw []byte) (reads []Read, value []byte, ok bool) {
	if len(raw) < len(magic)+8 || string(raw[:len(magic)]) != magic {
		return nil, nil, false
	}
	raw = raw[len(magic):]
	if binary.BigEndian.Uint32(raw) != crc32.Checksum(raw[4:], crcTable) {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint32(raw[4:]))
	raw = raw[8:]
	if n > len(raw) || json.Unmarshal(raw[:n], &reads) != nil {
		return nil, nil, false
	}
	return reads, raw[n:], true
}

// EncodeParts concatenates values, each preceded by its length, so that decoding
// them needs no parsing.
func EncodeParts(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.AppendUvarint(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// DecodeParts decodes what EncodeParts wrote. The parts share raw's memory.
func DecodeParts(raw []byte) ([][]byte, error) {
	var out [][]byte
	for len(raw) > 0 {
		n, w := binary.Uvarint(raw)
		if w <= 0 || n > uint64(len(raw)-w) {
			return nil, errors.New("a part is truncated")
		}
		out = append(out, raw[w:w+int(n):w+int(n)])
		raw = raw[w+int(n):]
	}
	return out, nil
}
