package cache

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/defx-dev/defx/internal/openfile"
)

// Everybody who may write to the folder of a cache could make defx deploy anything, if its entries
// were believed. So each entry has a code (HMAC) made with a key that lies elsewhere: in the user's own
// state folder, readable by that user only. Entries that others made are not found.

// keySize is the size of a key in bytes.
const keySize = 32

// keys caches the results of UserKey by path.
var keys struct {
	sync.Mutex
	known map[string][]byte
}

// KeyFile returns the path of the user's key: defx/cache.key in the folder for state, which is
// $XDG_STATE_HOME or ~/.local/state.
func KeyFile() (string, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "defx", "cache.key"), nil
}

// UserKey returns the user's key, and makes it if there is none. It returns nil if there can be
// none: then nothing is cached.
func UserKey() []byte {
	path, err := KeyFile()
	if err != nil {
		return nil
	}
	keys.Lock()
	defer keys.Unlock()
	if key := keys.known[path]; key != nil {
		return key
	}
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeKey(path); err == nil {
			key, err = readKey(path)
		}
	}
	if err != nil {
		return nil
	}
	if keys.known == nil {
		keys.known = map[string][]byte{}
	}
	keys.known[path] = key
	return key
}

// readKey reads a key, which must belong to this user and be readable by nobody else.
func readKey(path string) ([]byte, error) {
	f, err := openfile.OpenNoFollow(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !isPrivate(info) {
		return nil, errors.New("the key is not private")
	}
	key, err := openfile.ReadAll(f, keySize)
	if err == nil && len(key) != keySize {
		err = errors.New("the key is incomplete")
	}
	return key, err
}

// makeKey writes a new key, unless another process does it first.
func makeKey(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key := make([]byte, keySize)
	rand.Read(key)
	f, err := os.CreateTemp(dir, "cache.key-") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// code returns the code of an entry: of the key that it is stored under and its content.
func code(secret []byte, under string, content []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(magic))
	h.Write([]byte(under))
	h.Write(content)
	return h.Sum(nil)
}
