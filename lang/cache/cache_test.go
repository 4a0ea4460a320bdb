package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/defx-dev/defx/internal/digest"
)

// user makes this process that of another user, with a key of its own.
func user(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", dir)
	return dir
}

var (
	testKey   = digest.Bytes([]byte("key"))
	otherKey  = digest.Bytes([]byte("other"))
	testReads = []Read{{Path: "a", Digest: digest.Bytes([]byte("a"))}, {Path: "b", Absent: true}}
)

// now returns the state of files in which the reads of these tests are current.
func now(path string) Read {
	for _, r := range testReads {
		if r.Path == path {
			return r
		}
	}
	return Read{Path: path}
}

// found returns the value in a cache.
func found(dir string) string {
	value, _, _ := Open(dir, 0).Find(testKey, now)
	return string(value)
}

// entryOf returns the path of the only entry of a key.
func entryOf(t *testing.T, dir string, key digest.Digest) string {
	t.Helper()
	list, _ := filepath.Glob(filepath.Join(dir, key.Hex(), "*"))
	if len(list) != 1 {
		t.Fatalf("entries: %v", list)
	}
	return list[0]
}

// TestFind_BelievesOnlyThisUser: what another user stored, what was changed, and what was moved is
// not found. The control is the untouched entry.
func TestFind_BelievesOnlyThisUser(t *testing.T) {
	dir := t.TempDir()
	user(t)
	Open(dir, 0).Store(testKey, testReads, []byte("forged"))
	mine := user(t)
	if got := found(dir); got != "" {
		t.Errorf("the entry of another user: %q", got)
	}
	Open(dir, 0).Store(testKey, testReads, []byte("value"))
	if got := found(dir); got != "value" {
		t.Fatalf("the control: %q", got)
	}
	name := entryOf(t, dir, testKey)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// The content of a former version, whose checksum anybody could make.
	head := []byte("null")
	former := append([]byte("defx-cache/1\n\x00\x00\x00\x00"), binary.BigEndian.AppendUint32(nil, uint32(len(head)))...)
	former = append(append(former, head...), "forged"...)
	binary.BigEndian.PutUint32(former[13:], crc32.Checksum(former[17:], crc32.MakeTable(crc32.Castagnoli)))
	changed := map[string][]byte{"former version": former, "empty": {}, "longer": append(bytes.Clone(good), 'x'), "value": bytes.Replace(good, []byte("value"), []byte("forge"), 1)}
	for i := range 200 {
		raw := bytes.Clone(good)
		raw[rand.IntN(len(raw))] ^= byte(1 + rand.IntN(255))
		changed[fmt.Sprint("bit ", i)] = raw
		changed[fmt.Sprint("cut ", i)] = good[:rand.IntN(len(good))]
	}
	for what, raw := range changed {
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := found(dir); got != "" {
			t.Errorf("%s: %q", what, got)
		}
	}
	os.WriteFile(name, good, 0o600)
	if got := found(dir); got != "value" {
		t.Errorf("restored: %q", got)
	}
	// Under another key it would be the value of something else.
	os.Rename(filepath.Join(dir, testKey.Hex()), filepath.Join(dir, otherKey.Hex()))
	if got, _, _ := Open(dir, 0).Find(otherKey, now); got != nil {
		t.Errorf("moved to another key: %q", got)
	}
	info, err := os.Stat(filepath.Join(mine, "defx", "cache.key"))
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != keySize {
		t.Errorf("the key: %v, %v", info, err)
	}
}

// TestUserKey_IsPrivate: a key that others could know or choose is none.
func TestUserKey_IsPrivate(t *testing.T) {
	for what, plant := range map[string]func(path string) error{
		"readable by others": func(path string) error { return os.WriteFile(path, make([]byte, keySize), 0o644) },
		"a link": func(path string) error {
			other := filepath.Join(filepath.Dir(path), "other")
			os.WriteFile(other, make([]byte, keySize), 0o600)
			return os.Symlink(other, path)
		},
		"a FIFO":    func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"too short": func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"too long":  func(path string) error { return os.WriteFile(path, make([]byte, 10*keySize), 0o600) },
	} {
		user(t)
		path, err := KeyFile()
		if err != nil {
			t.Fatal(err)
		}
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := plant(path); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		Open(dir, 0).Store(testKey, testReads, []byte("value"))
		if key := UserKey(); key != nil || found(dir) != "" {
			t.Errorf("%s: %x is used", what, key)
		}
	}
	user(t)
	if a, b := UserKey(), UserKey(); len(a) != keySize || !bytes.Equal(a, b) {
		t.Errorf("%x, %x", a, b)
	}
}

// TestCache_WhateverLiesThere: nothing that somebody put into the folder blocks, is followed, is
// removed or stops the cache from working.
func TestCache_WhateverLiesThere(t *testing.T) {
	user(t)
	outside := t.TempDir()
	precious := filepath.Join(outside, testKey.Hex())
	if err := os.WriteFile(precious, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	hash := func(i int) string { return digest.Bytes([]byte{byte(i)}).Hex() }
	for what, plant := range map[string]func(dir, folder string){
		"FIFOs":   func(_, f string) { syscall.Mkfifo(filepath.Join(f, hash(1)), 0o644) },
		"folders": func(_, f string) { os.MkdirAll(filepath.Join(f, hash(1), "x"), 0o755) },
		"links":   func(_, f string) { os.Symlink(precious, filepath.Join(f, hash(1))) },
		"devices": func(_, f string) { os.Symlink("/dev/zero", filepath.Join(f, hash(1))) },
		"a large file": func(_, f string) {
			os.WriteFile(filepath.Join(f, hash(1)), nil, 0o644)
			os.Truncate(filepath.Join(f, hash(1)), 1<<40)
		},
		"many files": func(_, f string) {
			for i := range 50 {
				os.WriteFile(filepath.Join(f, hash(i)), nil, 0o644)
			}
		},
		"other files":      func(_, f string) { os.WriteFile(filepath.Join(f, "notes.txt"), []byte("precious"), 0o644) },
		"a link as folder": func(d, f string) { os.Remove(f); os.Symlink(outside, f) },
		"a file as folder": func(d, f string) { os.Remove(f); os.WriteFile(f, nil, 0o644) },
		"a FIFO as folder": func(d, f string) { os.Remove(f); syscall.Mkfifo(f, 0o644) },
		"the user's folders": func(d, _ string) {
			os.MkdirAll(filepath.Join(d, "projects/a"), 0o755)
			os.WriteFile(filepath.Join(d, "projects/a/x"), []byte("precious"), 0o644)
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			folder := filepath.Join(dir, testKey.Hex())
			os.Mkdir(folder, 0o755)
			plant(dir, folder)
			done := make(chan bool)
			go func() {
				defer close(done)
				c := Open(dir, 1) // everything exceeds the limit
				if value, _, _ := c.Find(testKey, now); value != nil {
					t.Errorf("found %q", value)
				}
				c.Store(testKey, testReads, []byte("value"))
				value, _, _ := c.Find(testKey, now)
				if works := !strings.HasSuffix(what, "as folder"); works != (string(value) == "value") {
					t.Errorf("afterwards found %q", value)
				}
				c.Trim()
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("it hangs")
			}
			for _, name := range []string{precious, filepath.Join(folder, "notes.txt"), filepath.Join(dir, "projects/a/x")} {
				if raw, err := os.ReadFile(name); err == nil && string(raw) != "precious" || name == precious && err != nil {
					t.Errorf("%s: %q, %v", name, raw, err)
				}
			}
			if what == "other files" || what == "the user's folders" {
				kept := 0
				filepath.WalkDir(dir, func(_ string, d os.DirEntry, _ error) error {
					if d.Name() == "notes.txt" || d.Name() == "x" {
						kept++
					}
					return nil
				})
				if kept != 1 {
					t.Error("a file that is no entry was removed")
				}
			}
			if list, _ := os.ReadDir(outside); len(list) != 1 {
				t.Errorf("files outside: %v", list)
			}
		})
	}
}

// TestTrim_RemovesTheOldest: entries are removed by their last use.
func TestTrim_RemovesTheOldest(t *testing.T) {
	user(t)
	dir := t.TempDir()
	c := Open(dir, 100_000)
	for i := range 10 {
		key := digest.Bytes([]byte{byte(i)})
		c.Store(key, nil, make([]byte, 20_000))
		old := time.Now().Add(time.Duration(i-10) * time.Hour)
		os.Chtimes(entryOf(t, dir, key), old, old)
	}
	c.Trim()
	for i := range 10 {
		value, _, _ := c.Find(digest.Bytes([]byte{byte(i)}), nil)
		if kept := i > 6; kept != (value != nil) {
			t.Errorf("entry %d: kept %v", i, value != nil)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	b.Setenv("XDG_STATE_HOME", b.TempDir())
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := Open(b.TempDir(), 0)
			c.Store(testKey, testReads, make([]byte, size))
			b.SetBytes(int64(size))
			for b.Loop() {
				if value, _, _ := c.Find(testKey, now); value == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}
