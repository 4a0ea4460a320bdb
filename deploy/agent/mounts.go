package agent

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/defx-dev/defx/backends"
)

// A unit that mounts a file on a path that does not exist makes systemd create an empty file
// there, on the machine itself. The manifest lists these mount points, so that they are removed
// with the last unit that uses them and are not taken for files of somebody else.

// missingMounts returns the mount points of a layout that do not exist yet.
func (h *Host) missingMounts(l backends.Layout) []string {
	var out []string
	for _, p := range l.MountPoints {
		if _, err := h.root.Lstat(rel(p)); errors.Is(err, fs.ErrNotExist) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// isMountPoint reports whether a file is an empty one that systemd made to mount something on it.
func (h *Host) isMountPoint(p string, info fs.FileInfo) bool {
	return slices.Contains(h.m.Mounts, p) && info.Mode().IsRegular() && info.Size() == 0
}

// mounted reports whether a unit has mounted a file on p. Replacing or removing what is below a
// mount would end the mount, even in another mount namespace.
func (h *Host) mounted(p string) bool { return h.mounts[p] > 0 }

// removeMounts removes the mount points that no unit uses once the entry at an address is next,
// and returns those that the manifest need no longer list. A file that has content by now belongs
// to somebody else and stays.
func (h *Host) removeMounts(current, next *Entry) ([]string, error) {
	var gone []string
	for _, p := range h.m.Mounts {
		if without(h.mounts[p], orNothing(current).Mounts, p) > 0 || slices.Contains(orNothing(next).Mounts, p) {
			continue
		}
		info, err := h.root.Lstat(rel(p))
		owned := without(h.owners[p], orNothing(current).Files, p) > 0 || slices.Contains(orNothing(next).Files, p)
		if err == nil && !owned && h.isMountPoint(p, info) {
			err = h.root.RemoveFile(rel(p))
		}
		if err != nil && !isNotOurs(err) {
			return nil, err
		}
		gone = append(gone, p)
	}
	return gone, nil
}

// without returns n less one if list has p.
func without(n int, list []string, p string) int {
	if slices.Contains(list, p) {
		n--
	}
	return n
}
