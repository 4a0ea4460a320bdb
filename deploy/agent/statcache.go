package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/nofollow"
)

// statCache remembers the digests of files, and what stat reported of them then. While that is
// the same, a file is not read again. It is sound because a write changes the ctime, except within
// the clock's resolution: so a file that changed a moment ago is not remembered.
//
// The file of the cache is written only when much had to be read, and can be deleted at any time.
type statCache struct {
	root *nofollow.Root

	mu      sync.Mutex
	known   map[string]statRecord // path → its digest
	read    int64                 // bytes that were read and are remembered since
	changed int                   // number of new records
}

// statRecord is the digest of a file or folder with this stat data.
type statRecord struct {
	Stat   string        `json:"stat"`
	Digest digest.Digest `json:"digest"`
}

const (
	statCachePath = base + "/statcache.json"

	// The cache is written after so many new records, or bytes that had to be read for them.
	statCacheRecords = 200
	statCacheBytes   = 4 << 20
)

// clockResolution is more than the resolution of file times on any file system.
var clockResolution = 2 * time.Second

func openStatCache(root *nofollow.Root) *statCache {
	c := &statCache{root: root, known: map[string]statRecord{}}
	if raw, err := root.ReadFile(statCachePath); err == nil && json.Unmarshal(raw, &c.known) != nil || c.known == nil {
		c.known = map[string]statRecord{}
	}
	return c
}

// save writes the cache if that is worth it. Errors do not matter: it is a cache.
func (c *statCache) save() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed < statCacheRecords && c.read < statCacheBytes {
		return
	}
	for p := range c.known {
		if _, err := c.root.Lstat(rel(p)); errors.Is(err, fs.ErrNotExist) {
			delete(c.known, p)
		}
	}
	if raw, err := json.Marshal(c.known); err == nil {
		(&Host{root: c.root}).replace(statCachePath, raw, 0o600)
	}
}

// statText is what stat reports of a file, without the access time; "" if the system does not
// tell enough.
func statText(info fs.FileInfo) (text string, changed int64) {
	inode, changed, ok := fileID(info)
	if !ok {
		return "", 0
	}
	raw, _ := json.Marshal([]any{info.Mode(), info.Size(), info.ModTime().UnixNano(), changed, inode})
	return string(raw), changed
}

// file returns the digest of a regular file.
func (c *statCache) file(p string, info fs.FileInfo) (digest.Digest, error) {
	stat, changed := statText(info)
	return c.lookUp(p, stat, changed, info.Size(), func() (digest.Digest, error) {
		raw, err := c.root.ReadFile(rel(p))
		return digest.Bytes(raw), err
	})
}

// tree returns the digest of an artifact that is a folder.
func (c *statCache) tree(p string) (digest.Digest, error) {
	dir, err := c.root.OpenRoot(rel(p))
	if err != nil {
		return "", err
	}
	defer dir.Close()
	sum, newest, size := digest.New(), int64(0), int64(0)
	err = fs.WalkDir(dir.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := dir.Lstat(name)
		if err != nil {
			return err
		}
		text, changed := statText(info)
		if text == "" {
			newest = time.Now().UnixNano()
		}
		newest, size = max(newest, changed), size+info.Size()
		_, err = sum.Write([]byte(path.Clean(name) + "\x00" + text + "\x00"))
		return err
	})
	if err != nil {
		return "", err
	}
	return c.lookUp(p, string(sum.Digest()), newest, size, func() (digest.Digest, error) { return artifact.Digest(dir.FS()) })
}

func (c *statCache) lookUp(p, stat string, changed, size int64, read func() (digest.Digest, error)) (digest.Digest, error) {
	c.mu.Lock()
	have, known := c.known[p]
	c.mu.Unlock()
	if known && stat != "" && have.Stat == stat {
		return have.Digest, nil
	}
	begin := time.Now()
	d, err := read()
	if err != nil || stat == "" || begin.UnixNano()-changed < int64(clockResolution) {
		return d, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[p] = statRecord{stat, d}
	c.changed++
	c.read += size
	return d, nil
}

// artifactDigest returns the digest of an artifact in the store; known is false if its content
// cannot be compared with its digest.
func (c *statCache) artifactDigest(a plan.Artifact) (d digest.Digest, known bool, err error) {
	p := "/" + path.Join(storePath, a.Digest.Hex())
	if a.Kind == "tar" { // its digest is that of the archive
		_, err := c.root.Stat(rel(p))
		return a.Digest, false, err
	}
	d, err = c.tree(p)
	return d, true, err
}
