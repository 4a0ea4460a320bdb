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

	"github.com/defx-dev/defx/backends"
)

// install writes what a unit needs: its own bytes and objects into the store,
// then its files in their order.
func (h *Host) install(raw json.RawMessage, e *Entry, l backends.Layout, u *undo) error {
	if e == nil {
		return nil
	}
	objects := append(slices.Clone(l.Objects), backends.Object{Name: e.Object.Hex(), Digest: e.Object, Content: raw, Mode: 0o444})
	for _, o := range objects {
		if err := h.keep(o); err != nil {
			return err
		}
	}
	dirs := map[string]bool{}
	for _, f := range l.Files {
		p := rel(f.Path)
		info, err := h.root.Lstat(p)
		if err == nil {
			if same, err := h.same(f, info); err != nil {
				return err
			} else if same {
				continue
			}
		}
		if err := u.remember(p, info, f.InPlace); err != nil {
			return err
		}
		if err := h.root.MkdirAll(path.Dir(p), 0o755); err != nil {
			return err
		}
		switch {
		case f.Link != "":
			err = h.link(p, f.Link)
		case f.InPlace && info != nil && info.Mode().IsRegular():
			err = h.rewrite(p, f.Content, f.Mode)
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

// keep puts an object into the store, where it never changes.
func (h *Host) keep(o backends.Object) error {
	p := path.Join(storePath, o.Name)
	if info, err := h.root.Lstat(p); err == nil && info.Size() == int64(len(o.Content)) {
		return nil
	}
	return h.replace(p, o.Content, o.Mode)
}

// same tells whether a path is already what a file should be.
func (h *Host) same(f backends.File, info fs.FileInfo) (bool, error) { return sameAt(h.root, f, info) }

func sameAt(root *os.Root, f backends.File, info fs.FileInfo) (bool, error) {
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

const temporary = ".defx-new"

// replace puts content at a path: a temporary file beside it, fsync, rename.
func (h *Host) replace(p string, raw []byte, mode fs.FileMode) error {
	tmp := p + temporary
	h.root.Remove(tmp) // one that a crash left may be read-only
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
		err = h.root.Rename(tmp, p)
	}
	if err != nil {
		h.root.Remove(tmp)
	}
	return err
}

// rewrite changes a file where it is, because a bind mount of it would not see
// another file under the same name.
func (h *Host) rewrite(p string, raw []byte, mode fs.FileMode) error {
	if err := h.root.Chmod(p, mode|0o200); err != nil { // who is not root needs the right to write
		return err
	}
	f, err := h.root.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Chmod(mode))
	return errors.Join(err, f.Sync(), f.Close())
}

func (h *Host) link(p, to string) error {
	tmp := p + temporary
	h.root.Remove(tmp)
	if err := h.root.Symlink(to, tmp); err != nil {
		return err
	}
	return h.root.Rename(tmp, p)
}

func (h *Host) syncDir(p string) error {
	d, err := h.root.Open(p)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeFiles removes what the unit owned and owns no more, unless others own it too.
func (h *Host) removeFiles(had []string, e *Entry, u *undo) error {
	dirs := map[string]bool{}
	for _, f := range had {
		if e != nil {
			if _, kept := slices.BinarySearch(e.Files, f); kept {
				continue
			}
		}
		p := rel(f)
		h.root.Remove(p + temporary) // an interrupted write may have left it
		if h.owners[f] > 1 {
			continue
		}
		info, err := h.root.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := u.remember(p, info, false); err != nil {
			return err
		}
		if err := h.root.Remove(p); err != nil {
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

// missingDirs lists the folders that a layout needs and that are not there.
func (h *Host) missingDirs(l backends.Layout) []string {
	var out []string
	for _, f := range l.Files {
		for d := path.Dir(f.Path); d != "/"; d = path.Dir(d) {
			if slices.Contains(out, d) {
				break
			}
			if _, err := h.root.Stat(rel(d)); err == nil {
				break
			}
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// removeDirs removes the folders that defx made and that are empty now, the
// deepest first, and lists them.
func (h *Host) removeDirs() []string {
	var gone []string
	for _, d := range slices.Backward(h.m.Dirs) {
		if strings.HasPrefix(base+"/", rel(d)+"/") {
			continue // the agent itself lives there
		}
		if err := h.root.Remove(rel(d)); err == nil || errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, d)
		}
	}
	return gone
}

// undo puts back what an action changed, the last change first.
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
	inPlace bool // what runs holds this very file
}

// remember keeps what stands at a path (info nil: nothing).
func (u *undo) remember(p string, info fs.FileInfo, inPlace bool) error {
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
		err = fmt.Errorf("/%s is neither a file nor a link", p)
	}
	if err == nil {
		u.steps = append(u.steps, s)
	}
	return err
}

// done tells whether a path is as it was already.
func (u *undo) done(s step) bool {
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

// content is what a regular file held before it was changed.
func (u *undo) content(p string) ([]byte, bool) {
	for _, s := range u.steps {
		if s.path == p && !s.absent && s.link == "" {
			return s.content, true
		}
	}
	return nil, false
}

// absent tells whether nothing was at a path that was changed.
func (u *undo) absent(p string) bool {
	return slices.ContainsFunc(u.steps, func(s step) bool { return s.path == p && s.absent })
}

// changed lists what was changed, as the machine sees it.
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
		if u.done(s) {
			continue // it never came to the change
		}
		var err error
		switch {
		case s.absent && u.h.owners["/"+s.path] > 1: // somebody else has come to share it
		case s.absent:
			if err = u.h.root.Remove(s.path); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		case s.link != "":
			err = u.h.link(s.path, s.link)
		default:
			info, statErr := u.h.root.Lstat(s.path)
			if statErr == nil && info.Mode().IsRegular() && s.inPlace {
				err = u.h.rewrite(s.path, s.content, s.mode)
			} else {
				err = u.h.replace(s.path, s.content, s.mode)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
