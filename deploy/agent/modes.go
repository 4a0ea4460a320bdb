package agent

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/defx-dev/defx/internal/nofollow"
)

// Permissions do not depend on the umask: every file and folder is given its own explicitly.
//
// The agent's folder and the store can be entered by everyone and listed by nobody but root:
// services run programs of packages there, under names that contain a digest. Each object has
// the permissions that its user asked for, so that no copy of it is more readable than the
// original. All else in the agent's folder is root's alone.
const (
	publicDir  fs.FileMode = 0o755 // of packages, and of folders for host files
	enterDir   fs.FileMode = 0o711 // of the agent's folder and the store
	privateDir fs.FileMode = 0o700 // of everything else in the agent's folder
	ownFile    fs.FileMode = 0o600 // of the agent's own records, and of units, which contain the text of host files
)

// dirMode returns the permissions of a folder that the agent makes, by its path on the machine
// without a leading "/".
func dirMode(p string) fs.FileMode {
	switch {
	case p == base || p == storePath:
		return enterDir
	case p == programsPath:
		return publicDir
	case len(p) > len(base) && p[:len(base)+1] == base+"/":
		return privateDir
	}
	return publicDir
}

// dirMaker is a root folder in which folders are made.
type dirMaker interface {
	Stat(p string) (fs.FileInfo, error)
	Mkdir(p string, mode fs.FileMode) error // with exactly these permissions
}

// makeDirs makes a folder and those above it that are missing with exactly the given
// permissions. Folders that exist keep theirs.
func makeDirs(root dirMaker, p string, mode fs.FileMode) error {
	return makeDirsFunc(root, p, func(string) fs.FileMode { return mode })
}

// makeDirsFunc is makeDirs with permissions for each path.
func makeDirsFunc(root dirMaker, p string, mode func(p string) fs.FileMode) error {
	if p == "." || p == "/" || p == "" {
		return nil
	}
	info, err := root.Stat(p)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: p, Err: errors.New("it exists and is not a folder")}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeDirsFunc(root, path.Dir(p), mode); err != nil {
		return err
	}
	if err := root.Mkdir(p, mode(p)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// prepareDirs makes the agent's folders below a machine's root and sets their permissions, also
// of those that an older version made.
func prepareDirs(machine string) error {
	if _, err := os.Stat(machine); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(machine), publicDir); err != nil {
			return err
		}
		if err := os.Mkdir(machine, publicDir); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Chmod(machine, publicDir); err != nil {
			return err
		}
	}
	root, err := nofollow.OpenRoot(machine)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := makeDirsFunc(root, storePath, dirMode); err != nil {
		return err
	}
	for _, dir := range []string{base, storePath, base + "/units", base + "/containers", base + "/done", base + "/runs", base + "/secrets", base + "/facts", programsPath} {
		info, err := root.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.IsDir() && info.Mode().Perm() != dirMode(dir) {
			if err := root.Chmod(dir, dirMode(dir)); err != nil {
				return err
			}
		}
	}
	return nil
}
