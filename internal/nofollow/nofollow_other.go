//go:build !linux

package nofollow

import (
	"errors"
	"io/fs"
	"os"
	"path"
)

// Root is a root folder. Only Linux has machines of which others are users: here no link leads out
// of the folder, but those inside are followed.
type Root struct{ *os.Root }

// OpenRoot opens a root folder.
func OpenRoot(name string) (*Root, error) {
	r, err := os.OpenRoot(name)
	return &Root{r}, err
}

// Mkdir creates a folder with exactly these permissions.
func (r *Root) Mkdir(p string, mode fs.FileMode) error {
	if err := r.Root.Mkdir(p, mode); err != nil {
		return err
	}
	return r.Chmod(p, mode)
}

// RemoveFile removes what is not a folder.
func (r *Root) RemoveFile(p string) error {
	if info, err := r.Lstat(p); err == nil && info.IsDir() {
		return &fs.PathError{Op: "unlink", Path: p, Err: errors.New("it is a folder")}
	}
	return r.Remove(p)
}

// RemoveDir removes an empty folder.
func (r *Root) RemoveDir(p string) error {
	if info, err := r.Lstat(p); err == nil && !info.IsDir() {
		return &fs.PathError{Op: "rmdir", Path: p, Err: errors.New("it is not a folder")}
	}
	return r.Remove(p)
}

// ChownEmptyDir changes the owner of a folder that is empty.
func (r *Root) ChownEmptyDir(p string, uid, gid int) error { return r.Chown(p, uid, gid) }

// Guarded reports whether root alone can change the folders on the way to a path.
func (r *Root) Guarded(p string) bool { return path.Clean(p) == p }
