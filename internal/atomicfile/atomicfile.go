// Package atomicfile replaces files atomically and durably.
//
// It knows temporary files, fsync and rename. It refuses to know what a file
// holds. Invariant: a reader of the path sees either the previous content or
// the new content, never a part of it, even after a power failure.
package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Write replaces the file at path with data and permission bits perm, which
// the umask does not change. The file and its directory are synced to disk.
func Write(path string, data []byte, perm fs.FileMode) error {
	return WriteFunc(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFunc is like Write, with the content that write produces. If write
// fails, the file at path stays as it was and the temporary file is removed.
func WriteFunc(path string, perm fs.FileMode, write func(io.Writer) error) error {
	return replace(path, perm, func(f *renameio.PendingFile) error { return write(f) })
}

// WriteOwned is like Write, for a file that belongs to the user and group with
// the given ids. It has that owner before it has any content.
func WriteOwned(path string, data []byte, perm fs.FileMode, uid, gid int) error {
	return replace(path, perm, func(f *renameio.PendingFile) error {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
		_, err := f.Write(data)
		return err
	})
}

func replace(path string, perm fs.FileMode, write func(*renameio.PendingFile) error) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(perm))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := write(f); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir flushes the entries of a directory to disk, so that a rename or a
// removal in it survives a power failure.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
