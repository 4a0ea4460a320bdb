package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/internal/failpoint"
	"github.com/defx-dev/defx/internal/nofollow"
)

// install writes a unit: its canonical bytes and objects into the store, then its files in
// order. If that fails, the objects that it has written are removed: the disk may be full.
func (h *Host) install(raw json.RawMessage, e *Entry, l backends.Layout, u *undo) (err error) {
	if e == nil {
		return nil
	}
	var written []string
	defer func() {
		if err != nil {
			for _, p := range written {
				h.root.Remove(p)
			}
		}
	}()
	objects := append(slices.Clone(l.Objects), backends.Object{Name: e.Object.Hex(), Digest: e.Object, Content: raw, Mode: 0o400}) // it has the text of host files
	for _, o := range objects {
		wrote, err := h.putObject(o)
		if err != nil {
			return err
		}
		if wrote {
			written = append(written, path.Join(storePath, o.Name))
		}
	}
	dirs := map[string]bool{}
	for _, f := range l.Files {
		p := rel(f.Path)
		info, err := h.root.Lstat(p)
		switch {
		case err == nil:
			if same, err := h.matches(f, info); err != nil {
				return err
			} else if same {
				continue
			}
		case !isMissing(err):
			return err
		}
		if err := u.save(p, info, f.InPlace); err != nil {
			return err
		}
		if err := makeDirsFunc(h.root, path.Dir(p), dirMode); err != nil {
			return err
		}
		switch {
		case f.Link != "":
			err = h.link(p, f.Link)
		case (f.InPlace || h.mounted(f.Path)) && info != nil && info.Mode().IsRegular():
			err = h.overwrite(p, f.Content, f.Mode)
		default:
			err = h.replace(p, f.Content, f.Mode)
		}
		if err != nil {
			return err
		}
		dirs[path.Dir(p)] = true
	}
	for d := range dirs {
		if err := h.syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// putObject writes an object into the store, where it never changes. It reports whether the
// object was not there.
func (h *Host) putObject(o backends.Object) (bool, error) {
	p := path.Join(storePath, o.Name)
	if info, err := h.root.Lstat(p); err == nil && info.Mode().IsRegular() && info.Size() == int64(len(o.Content)) {
		if info.Mode().Perm() != o.Mode {
			return false, h.root.Chmod(p, o.Mode)
		}
		return false, nil
	}
	return true, h.replace(p, o.Content, o.Mode)
}

// matches reports whether what info describes already equals f.
func (h *Host) matches(f backends.File, info fs.FileInfo) (bool, error) {
	return fileMatches(h.root, f, info)
}

func fileMatches(root *nofollow.Root, f backends.File, info fs.FileInfo) (bool, error) {
	if f.Link != "" {
		if info.Mode()&fs.ModeSymlink == 0 {
			return false, nil
		}
		to, err := root.Readlink(rel(f.Path))
		return to == f.Link, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm() != f.Mode || info.Size() != int64(len(f.Content)) {
		return false, nil
	}
	raw, err := root.ReadFile(rel(f.Path))
	return bytes.Equal(raw, f.Content), err
}

const tmpSuffix = ".defx-new"

// replace atomically replaces the file at p: temporary file, fsync, rename.
func (h *Host) replace(p string, raw []byte, mode fs.FileMode) error {
	tmp := p + tmpSuffix
	h.root.RemoveFile(tmp) // one left by a crash may be read-only
	f, err := h.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Chmod(mode))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		failpoint.Hit("machine file")
		err = h.root.Rename(tmp, p)
		failpoint.Hit("machine file written")
	}
	if err != nil {
		h.root.RemoveFile(tmp)
	}
	return err
}

// overwrite changes a file in place, because a bind mount would not see another inode under
// the same name.
func (h *Host) overwrite(p string, raw []byte, mode fs.FileMode) error {
	f, err := h.root.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(err, fs.ErrPermission) { // without root, writing needs permission
		if err := h.root.Chmod(p, mode|0o200); err != nil {
			return err
		}
		f, err = h.root.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Chmod(mode))
	return errors.Join(err, f.Sync(), f.Close())
}

func (h *Host) link(p, to string) error {
	tmp := p + tmpSuffix
	h.root.RemoveFile(tmp)
	if err := h.root.Symlink(to, tmp); err != nil {
		return err
	}
	err := h.root.Rename(tmp, p)
	if err != nil {
		h.root.RemoveFile(tmp)
	}
	return err
}

func (h *Host) syncDir(p string) error {
	d, err := h.root.Open(p)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// isMissing reports whether an error means that a file does not exist.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// isNotOurs reports whether an error means that what defx wrote at a path is not there any more:
// what is there, or would be reached by a link that somebody made, is not defx's.
func isNotOurs(err error) bool {
	_, refused := errors.AsType[*nofollow.Refused](err)
	return refused || isMissing(err)
}

// written finds what defx wrote at paths of a unit, in the layouts of its versions.
type written struct {
	h       *Host
	layouts []backends.Layout
}

// has reports whether what info describes can be what defx wrote. In a folder that root alone can
// change, an edited file counts as such; in others its content must be that of the record.
func (w written) has(f string, info fs.FileInfo) bool {
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		return false
	}
	if w.h.root.Guarded(rel(f)) {
		return true
	}
	known := false
	for _, l := range w.layouts {
		for _, file := range l.Files {
			if file.Path != f {
				continue
			}
			known = true
			file.Mode = info.Mode().Perm()
			if same, err := w.h.matches(file, info); same && err == nil {
				return true
			}
		}
	}
	return !known
}

// removeFiles deletes files that the unit no longer owns, except those that other units own and
// those that somebody has put in the place of what defx wrote.
func (h *Host) removeFiles(had []string, e *Entry, wrote written, u *undo) error {
	dirs := map[string]bool{}
	for _, f := range had {
		p := rel(f)
		h.root.RemoveFile(p + tmpSuffix) // an interrupted write may have left it
		if e != nil {
			if _, kept := slices.BinarySearch(e.Files, f); kept {
				continue
			}
		}
		if h.owners[f] > 1 {
			continue
		}
		info, err := h.root.Lstat(p)
		if err != nil && !isNotOurs(err) {
			return err
		}
		if err != nil || !wrote.has(f, info) {
			continue
		}
		if err := u.save(p, info, false); err != nil {
			return err
		}
		if h.mounted(f) && info.Mode().IsRegular() {
			if err := h.overwrite(p, nil, 0o444); err != nil {
				return err
			}
			continue
		}
		if err := h.root.RemoveFile(p); err != nil && !isNotOurs(err) {
			return err
		}
		dirs[path.Dir(p)] = true
	}
	for d := range dirs {
		if err := h.syncDir(d); err != nil && !isNotOurs(err) {
			return err
		}
	}
	return nil
}

// missingDirs returns the folders that a layout needs and that do not exist yet.
func (h *Host) missingDirs(l backends.Layout) []string {
	var out []string
	paths := slices.Clone(l.MountPoints)
	for _, f := range l.Files {
		paths = append(paths, f.Path)
	}
	for _, p := range paths {
		for d := path.Dir(p); d != "/"; d = path.Dir(d) {
			if slices.Contains(out, d) {
				break
			}
			if _, err := h.root.Stat(rel(d)); !isMissing(err) {
				break
			}
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// removeDirs deletes folders that were created for owned files or mount points and that are now
// empty, deepest first, and returns them. A folder above a mount point may be made at any time,
// so it is among them only if the mount point is one of those that are gone.
func (h *Host) removeDirs(gone []string) []string {
	above := map[string]bool{}
	for _, p := range h.m.Mounts {
		if slices.Contains(gone, p) {
			continue
		}
		for d := path.Dir(p); d != "/"; d = path.Dir(d) {
			above[d] = true
		}
	}
	var removed []string
	for _, d := range slices.Backward(h.m.Dirs) {
		if above[d] {
			continue
		}
		if strings.HasPrefix(base+"/", rel(d)+"/") {
			continue // the agent's own files are there
		}
		if err := h.root.RemoveDir(rel(d)); err == nil || isNotOurs(err) {
			removed = append(removed, d)
		}
	}
	return removed
}

// undo restores what an action changed, latest change first.
type undo struct {
	h     *Host
	steps []step
}

type step struct {
	path    string
	content []byte
	link    string
	mode    fs.FileMode
	absent  bool
	inPlace bool // overwrite instead of replace: a running process has this inode mounted
}

// save records what is at a path before it changes; info is nil if nothing is.
func (u *undo) save(p string, info fs.FileInfo, inPlace bool) error {
	s := step{path: p, absent: info == nil, inPlace: inPlace}
	var err error
	switch {
	case info == nil:
	case info.Mode()&fs.ModeSymlink != 0:
		s.link, err = u.h.root.Readlink(p)
	case info.Mode().IsRegular():
		s.mode = info.Mode().Perm()
		s.content, err = u.h.root.ReadFile(p)
	default:
		err = fmt.Errorf("/%s is not a file or link", p)
	}
	if err == nil {
		u.steps = append(u.steps, s)
	}
	return err
}

// unchanged reports whether a path is still (or again) as saved.
func (u *undo) unchanged(s step) bool {
	info, err := u.h.root.Lstat(s.path)
	switch {
	case err != nil:
		return s.absent && errors.Is(err, fs.ErrNotExist)
	case s.absent:
		return false
	case s.link != "":
		to, err := u.h.root.Readlink(s.path)
		return err == nil && to == s.link
	}
	raw, err := u.h.root.ReadFile(s.path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm() == s.mode && bytes.Equal(raw, s.content)
}

// content returns what a regular file contained before it was changed.
func (u *undo) content(p string) ([]byte, bool) {
	for _, s := range u.steps {
		if s.path == p && !s.absent && s.link == "" {
			return s.content, true
		}
	}
	return nil, false
}

// absent reports whether a changed path did not exist before.
func (u *undo) absent(p string) bool {
	return slices.ContainsFunc(u.steps, func(s step) bool { return s.path == p && s.absent })
}

// changed returns the changed paths as absolute paths.
func (u *undo) changed() []string {
	out := make([]string, 0, len(u.steps))
	for _, s := range u.steps {
		out = append(out, "/"+s.path)
	}
	return out
}

func (u *undo) run() error {
	var errs []error
	for _, s := range slices.Backward(u.steps) {
		if u.unchanged(s) {
			continue // the change was never made
		}
		var err error
		switch {
		case s.absent && u.h.owners["/"+s.path] > 1: // another unit has come to share it
		case s.absent:
			if err = u.h.root.RemoveFile(s.path); err != nil && isNotOurs(err) {
				err = nil
			}
		case s.link != "":
			err = u.h.link(s.path, s.link)
		default:
			info, statErr := u.h.root.Lstat(s.path)
			if statErr == nil && info.Mode().IsRegular() && s.inPlace {
				err = u.h.overwrite(s.path, s.content, s.mode)
			} else {
				err = u.h.replace(s.path, s.content, s.mode)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
