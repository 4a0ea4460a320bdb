// Package cache stores values under a key together with the files that they
// depend on.
//
// It knows files and bytes. It refuses to know what a value means. Invariant: a
// value is returned only if every file that was read when it was made still has
// the same content, and every file that was found absent is still absent. A
// stale hit would require a read that was not recorded, or a SHA-256 collision.
//
// The directory may be shared by processes, machines and users, and may be
// deleted at any time. An entry is one file that appears atomically and never
// changes. A damaged entry counts as absent, and so does what another user has
// stored (key.go). Whatever else lies in the directory is neither opened nor
// removed.
package cache

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
)

// Read is a file that was read, or a candidate that was found absent.
type Read struct {
	Path   string // as the caller names it
	Digest digest.Digest
	Absent bool
}

// Cache is a directory of entries, KEY/DIGEST, where DIGEST covers the reads.
type Cache struct {
	dir    string
	max    int64
	secret []byte // nil: nothing is found or stored
}

// DefaultMax is the default size limit of a cache in bytes.
const DefaultMax = 1 << 30

const (
	magic       = "defx-cache/2\n"
	maxVersions = 4              // entries per key: values are kept for this many states of the files
	maxListed   = 1000           // entries per key that are looked at
	maxEntry    = 512 << 20      // bytes of one entry
	touchAfter  = 24 * time.Hour // an entry whose time of use is more recent than this is not marked again
)

// Open returns the cache in a directory, which need not exist. max is its size
// limit in bytes; 0 means DefaultMax. It has only what this user stored.
func Open(dir string, max int64) *Cache {
	if max == 0 {
		max = DefaultMax
	}
	return &Cache{dir, max, UserKey()}
}

// folder opens the folder of a key. A link is no folder.
func (c *Cache) folder(key digest.Digest) (*os.Root, error) {
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return openFolder(root, key.Hex())
}

// openFolder opens a folder of root, which may not be a link.
func openFolder(root *os.Root, name string) (*os.Root, error) {
	was, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !was.IsDir() {
		return nil, errors.New("not a folder")
	}
	dir, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if is, err := dir.Stat("."); err != nil || !os.SameFile(was, is) {
		dir.Close()
		return nil, errors.New("the folder was replaced")
	}
	return dir, nil
}

// Find returns the value stored under a key for the current state of its files,
// and its reads. now returns the current state of a path; it is called only for
// the reads of entries. If there is no such value, why is the reason.
func (c *Cache) Find(key digest.Digest, now func(path string) Read) (value []byte, reads []Read, why string) {
	why, fewest := "not in the cache", 0
	if c.secret == nil {
		return nil, nil, "there is no key for the cache in the user's state folder"
	}
	dir, err := c.folder(key)
	if err != nil {
		return nil, nil, why
	}
	defer dir.Close()
	entries := list(dir)
	for _, e := range entries[:min(len(entries), 2*maxVersions)] {
		raw, err := openfile.ReadOpened(func() (*os.File, error) { return openEntry(dir, e) }, maxEntry)
		if err != nil {
			continue
		}
		reads, value, ok := c.decode(key, raw)
		if !ok { // damaged, or somebody else's
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
			if time.Since(e.ModTime()) > touchAfter {
				dir.Chtimes(e.Name(), time.Time{}, time.Now())
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

// openEntry opens an entry that was listed. It does not follow a link that has
// replaced it since.
func openEntry(dir *os.Root, listed fs.FileInfo) (*os.File, error) {
	f, err := openfile.OpenIn(dir, listed.Name())
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !os.SameFile(info, listed) {
		f.Close()
		return nil, errors.New("the entry was replaced")
	}
	return f, nil
}

// Store stores a value with the files that it depends on. An error is ignored:
// the value is then not cached. Entries are not synced to disk, because a lost or
// damaged one only costs an evaluation.
func (c *Cache) Store(key digest.Digest, reads []Read, value []byte) {
	name, err := digest.Of("cache/1", reads)
	if err != nil || c.secret == nil || os.MkdirAll(c.dir, 0o700) != nil {
		return
	}
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return
	}
	defer root.Close()
	if err := root.Mkdir(key.Hex(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return
	}
	dir, err := openFolder(root, key.Hex())
	if err != nil {
		return
	}
	defer dir.Close()
	write(dir, name.Hex(), c.encode(key, reads, value))
	for i, e := range list(dir) {
		if i >= maxVersions {
			dir.Remove(e.Name())
		}
	}
}

// tempPrefix begins the names of files that are being written.
const tempPrefix = "new-"

// write makes a file appear with all of its content, or not at all.
func write(dir *os.Root, name string, content []byte) {
	temp := tempPrefix + rand.Text()
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	_, err = f.Write(content)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = dir.Rename(temp, name)
	}
	if err != nil {
		dir.Remove(temp)
	}
}

// Trim removes the least recently used entries if the cache exceeds its size
// limit, and what crashes left behind. It removes nothing that is not an entry.
func (c *Cache) Trim() {
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return
	}
	defer root.Close()
	type file struct {
		folder, name string
		info         fs.FileInfo
	}
	var all []file
	total := int64(0)
	for _, folder := range names(root, 0) {
		if !isHash(folder) {
			continue
		}
		dir, err := openFolder(root, folder)
		if err != nil {
			continue
		}
		for _, name := range names(dir, 0) {
			info, err := dir.Lstat(name)
			if err == nil && info.Mode().IsRegular() && (isHash(name) || strings.HasPrefix(name, tempPrefix)) {
				all = append(all, file{folder, name, info})
				total += info.Size()
			}
		}
		dir.Close()
	}
	if total <= c.max {
		return
	}
	slices.SortFunc(all, func(a, b file) int { return a.info.ModTime().Compare(b.info.ModTime()) })
	for _, f := range all {
		if total <= c.max*3/4 {
			return
		}
		dir, err := openFolder(root, f.folder)
		if err != nil {
			continue
		}
		if dir.Remove(f.name) == nil {
			total -= f.info.Size()
		}
		dir.Close()
		root.Remove(f.folder) // succeeds if the folder is empty
	}
}

// names returns the names in a folder, in any order; at most limit, unless that is 0.
func names(dir *os.Root, limit int) []string {
	f, err := dir.Open(".")
	if err != nil {
		return nil
	}
	defer f.Close()
	if limit == 0 {
		limit = -1
	}
	list, _ := f.Readdirnames(limit)
	return list
}

// isHash reports whether a name is that of an entry or of its folder.
func isHash(name string) bool {
	for _, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(name) == 64
}

// list returns the entries of a folder by the time of their last use, the newest
// first, without temporary files; Trim removes those that a crash left behind.
func list(dir *os.Root) []fs.FileInfo {
	var out []fs.FileInfo
	for _, name := range names(dir, maxListed) {
		if !isHash(name) {
			continue
		}
		if info, err := dir.Lstat(name); err == nil && info.Mode().IsRegular() {
			out = append(out, info)
		}
	}
	slices.SortFunc(out, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	return out
}

// encode returns the content of an entry: the magic, the code of all that
// follows, the length of the reads, the reads, the value.
func (c *Cache) encode(key digest.Digest, reads []Read, value []byte) []byte {
	head, _ := json.Marshal(reads) // strings and booleans always encode
	raw := make([]byte, 0, len(magic)+sha256.Size+4+len(head)+len(value))
	raw = append(raw, magic...)
	raw = append(raw, make([]byte, sha256.Size)...)
	raw = binary.BigEndian.AppendUint32(raw, uint32(len(head)))
	raw = append(append(raw, head...), value...)
	copy(raw[len(magic):], code(c.secret, key.Hex(), raw[len(magic)+sha256.Size:]))
	return raw
}

// decode decodes what encode wrote; ok is false if it is damaged, or if another
// user wrote it, or under another key.
func (c *Cache) decode(key digest.Digest, raw []byte) (reads []Read, value []byte, ok bool) {
	if len(raw) < len(magic)+sha256.Size+4 || string(raw[:len(magic)]) != magic {
		return nil, nil, false
	}
	raw = raw[len(magic):]
	if !hmac.Equal(raw[:sha256.Size], code(c.secret, key.Hex(), raw[sha256.Size:])) {
		return nil, nil, false
	}
	raw = raw[sha256.Size:]
	n := int(binary.BigEndian.Uint32(raw))
	raw = raw[4:]
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
	out, rest := DecodeFirstParts(raw)
	if len(rest) > 0 {
		return nil, errors.New("a part is truncated")
	}
	return out, nil
}

// DecodeFirstParts decodes as many parts as are complete, and returns the rest.
func DecodeFirstParts(raw []byte) (out [][]byte, rest []byte) {
	for len(raw) > 0 {
		n, w := binary.Uvarint(raw)
		if w <= 0 || n > uint64(len(raw)-w) {
			break
		}
		out = append(out, raw[w:w+int(n):w+int(n)])
		raw = raw[w+int(n):]
	}
	return out, raw
}
