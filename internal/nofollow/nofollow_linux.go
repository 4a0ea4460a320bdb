package nofollow

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Root is a root folder. Its methods are those of os.Root but for what they follow: paths are
// relative to the folder, an absolute link leads to it, and ".." does not leave it.
type Root struct {
	dir   *os.File
	owner uint32 // counts as root
}

// OpenRoot opens a root folder.
func OpenRoot(name string) (*Root, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return &Root{os.NewFile(uintptr(fd), name), st.Uid}, nil
}

// Close closes the root folder.
func (r *Root) Close() error { return r.dir.Close() }

func (r *Root) isRoot(uid uint32) bool { return uid == 0 || uid == r.owner }

// folder is an open folder on the way to a path.
type folder struct {
	fd      int
	path    string // on the machine
	guarded bool   // root alone can change it and those above
}

// guards reports whether root alone can change a folder.
func (r *Root) guards(st *unix.Stat_t) bool { return r.isRoot(st.Uid) && st.Mode&0o022 == 0 }

const maxLinks = 40

// walk is a resolution of a path, component by component.
type walk struct {
	r     *Root
	stack []folder // from the root folder to the current one
	links int
}

func (r *Root) newWalk() (*walk, error) {
	fd, err := unix.FcntlInt(r.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	w := &walk{r: r, stack: []folder{{fd: fd, path: "/"}}}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		w.close()
		return nil, err
	}
	w.stack[0].guarded = r.guards(&st)
	return w, nil
}

func (w *walk) top() folder { return w.stack[len(w.stack)-1] }

func (w *walk) up(to int) {
	for len(w.stack) > to {
		unix.Close(w.top().fd)
		w.stack = w.stack[:len(w.stack)-1]
	}
}

func (w *walk) close() { w.up(0) }

// take returns the current folder, which the caller closes.
func (w *walk) take() folder {
	f := w.top()
	w.stack = w.stack[:len(w.stack)-1]
	w.close()
	return f
}

// to walks to the last component of a path, and through it if it is a link and through is set. It
// returns the name of the last component in the current folder.
func (w *walk) to(p string, through bool) (string, error) {
	todo := strings.Split(path.Clean(p), "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch last := len(todo) == 0; {
		case name == "" || name == ".":
			continue
		case name == "..":
			w.up(max(1, len(w.stack)-1))
			continue
		case last && !through:
			return name, nil
		default:
			more, done, err := w.enter(name, last)
			if err != nil || done {
				return name, err
			}
			if strings.HasPrefix(more, "/") {
				w.up(1)
			}
			if more != "" {
				todo = append(strings.Split(more, "/"), todo...)
			}
		}
	}
	return ".", nil
}

// enter walks through a folder or a link of the current folder. It returns where a link leads to,
// and done if the last component is neither.
func (w *walk) enter(name string, last bool) (link string, done bool, err error) {
	in := w.top()
	fd, err := unix.Openat(in.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", last && errors.Is(err, unix.ENOENT), errUnless(last && errors.Is(err, unix.ENOENT), err)
	}
	defer func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", false, err
	}
	full := path.Join(in.path, name)
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		w.stack = append(w.stack, folder{fd, full, in.guarded && w.r.guards(&st)})
		fd = -1
		return "", false, nil
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return "", last, errUnless(last, unix.ENOTDIR)
	}
	to, err := readlink(fd, "")
	if err != nil {
		return "", false, err
	}
	if !in.guarded || !w.r.isRoot(st.Uid) {
		return "", false, &Refused{full, fmt.Sprintf("is a symbolic link to %q, which is not followed because others than root could have made it", to)}
	}
	if w.links++; w.links > maxLinks {
		return "", false, unix.ELOOP
	}
	return path.Clean(to), false, nil
}

func errUnless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

func readlink(fd int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// noOpenat2 is set if the kernel does not have openat2, or a filter forbids it.
var noOpenat2 atomic.Bool

// direct opens the folder that contains p in one call, if there are no links on the way.
func (r *Root) direct(p string) (int, bool) {
	if noOpenat2.Load() || strings.HasPrefix(p, "..") {
		return -1, false
	}
	fd, err := unix.Openat2(int(r.dir.Fd()), path.Dir(p), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		noOpenat2.Store(true)
	}
	return fd, err == nil
}

// parent opens the folder that contains the last component of p, whose name it returns. If through
// is set, the last component is no link, or one that is refused.
func (r *Root) parent(p string, through bool) (fd int, name string, err error) {
	p = strings.TrimPrefix(path.Clean(p), "/")
	if p == "" {
		p = "."
	}
	if fd, ok := r.direct(p); ok {
		name := path.Base(p)
		var st unix.Stat_t
		if !through || unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
			return fd, name, nil
		}
		unix.Close(fd)
	}
	w, err := r.newWalk()
	if err != nil {
		return -1, "", err
	}
	name, err = w.to(p, through)
	if err != nil {
		w.close()
		return -1, "", err
	}
	return w.take().fd, name, nil
}

// at calls f with the folder that contains the last component of p.
func (r *Root) at(op, p string, f func(dir int, name string) error) error {
	return r.within(op, p, false, f)
}

func (r *Root) within(op, p string, through bool, f func(dir int, name string) error) error {
	dir, name, err := r.parent(p, through)
	if err == nil {
		err = f(dir, name)
		unix.Close(dir)
	}
	if err == nil {
		return nil
	}
	if _, refused := errors.AsType[*Refused](err); refused {
		return err
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// handle opens a file without opening its content.
func handle(dir int, name string) (fd int, st unix.Stat_t, err error) {
	fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, err
	}
	if err = unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// Lstat describes a file.
func (r *Root) Lstat(p string) (fs.FileInfo, error) { return r.stat(p, false) }

// Stat describes a file; if it is a link of the system, that to which it leads.
func (r *Root) Stat(p string) (fs.FileInfo, error) { return r.stat(p, true) }

func (r *Root) stat(p string, through bool) (info fs.FileInfo, err error) {
	err = r.within("stat", p, through, func(dir int, name string) error {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), path.Base(p))
		defer f.Close()
		info, err = f.Stat()
		return err
	})
	return info, err
}

// Readlink returns where a symbolic link leads to.
func (r *Root) Readlink(p string) (to string, err error) {
	err = r.at("readlink", p, func(dir int, name string) error {
		to, err = readlink(dir, name)
		return err
	})
	return to, err
}

// Open opens a folder or a regular file for reading; a link of the system is followed.
func (r *Root) Open(p string) (f *os.File, err error) {
	err = r.within("open", p, true, func(dir int, name string) error {
		f, err = r.open(dir, name, p, os.O_RDONLY, 0)
		return err
	})
	return f, err
}

// OpenFile opens a regular file. One that exists is opened for writing only if it has no other name
// and belongs to root.
func (r *Root) OpenFile(p string, flags int, mode fs.FileMode) (f *os.File, err error) {
	err = r.at("open", p, func(dir int, name string) error {
		f, err = r.open(dir, name, p, flags, mode)
		return err
	})
	return f, err
}

func (r *Root) open(dir int, name, p string, flags int, mode fs.FileMode) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && flags&os.O_EXCL == 0 {
		if err := r.check(&st, p, flags); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Openat(dir, name, flags&^os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return nil, err
	}
	err = unix.Fstat(fd, &st)
	if err == nil {
		err = r.check(&st, p, flags)
	}
	if err == nil && flags&os.O_TRUNC != 0 {
		err = unix.Ftruncate(fd, 0)
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

// check refuses a file that others could have put in the place of one that root wrote.
func (r *Root) check(st *unix.Stat_t, p string, flags int) error {
	p = path.Join("/", p)
	writes := flags&(os.O_WRONLY|os.O_RDWR) != 0
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFDIR && !writes:
		return nil
	case kind == unix.S_IFLNK:
		return &Refused{p, "is a symbolic link, which is not followed"}
	case kind != unix.S_IFREG:
		return &Refused{p, "is " + kindText(kind) + ", not a regular file"}
	case writes && st.Nlink > 1:
		return &Refused{p, fmt.Sprintf("has %d names (hard links): writing to it would change a file elsewhere", st.Nlink)}
	case writes && flags&os.O_EXCL == 0 && !r.isRoot(st.Uid) && int(st.Uid) != os.Geteuid():
		return &Refused{p, fmt.Sprintf("belongs to user %d, who could read and change what is written to it", st.Uid)}
	}
	return nil
}

func kindText(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a device"
}

// ReadFile returns the content of a regular file.
func (r *Root) ReadFile(p string) ([]byte, error) {
	f, err := r.OpenFile(p, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Chmod changes the permissions of a folder, or of a regular file without other names.
func (r *Root) Chmod(p string, mode fs.FileMode) error {
	return r.at("chmod", p, func(dir int, name string) error {
		fd, st, err := handle(dir, name)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := r.check(&st, p, os.O_WRONLY); err != nil {
				return err
			}
		}
		return chmod(fd, mode)
	})
}

// chmod changes the permissions of what a handle is of.
func chmod(fd int, mode fs.FileMode) error {
	err := unix.Fchmodat(fd, "", uint32(mode.Perm()), unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) { // before Linux 6.6
		return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), uint32(mode.Perm()))
	}
	return err
}

// Mkdir creates a folder with exactly these permissions.
func (r *Root) Mkdir(p string, mode fs.FileMode) error {
	return r.at("mkdir", p, func(dir int, name string) error {
		if err := unix.Mkdirat(dir, name, uint32(mode.Perm())); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode == unix.S_IFDIR|uint32(mode.Perm()) {
			return nil
		}
		d, err := emptyDir(dir, name, p)
		if errors.Is(err, unix.EACCES) && os.Geteuid() != 0 { // the umask leaves its owner nothing
			fd, _, err := handle(dir, name)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return chmod(fd, mode)
		}
		if err != nil {
			return err
		}
		defer d.Close()
		return unix.Fchmod(int(d.Fd()), uint32(mode.Perm()))
	})
}

// emptyDir opens a folder that is empty, and so not one of others with their files in it.
func emptyDir(dir int, name, p string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(fd), p)
	if _, err := d.Readdirnames(1); !errors.Is(err, io.EOF) {
		d.Close()
		return nil, cmp.Or(err, error(unix.ENOTEMPTY))
	}
	return d, nil
}

// ChownEmptyDir changes the owner of a folder that is empty.
func (r *Root) ChownEmptyDir(p string, uid, gid int) error {
	return r.at("chown", p, func(dir int, name string) error {
		d, err := emptyDir(dir, name, p)
		if err != nil {
			return err
		}
		defer d.Close()
		return unix.Fchown(int(d.Fd()), uid, gid)
	})
}

// Chown changes the owner of a folder, or of a regular file without other names.
func (r *Root) Chown(p string, uid, gid int) error {
	return r.at("chown", p, func(dir int, name string) error {
		fd, st, err := handle(dir, name)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if int(st.Uid) == uid && int(st.Gid) == gid {
			return nil
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := r.check(&st, p, os.O_WRONLY|os.O_EXCL); err != nil {
				return err
			}
		}
		return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
	})
}

// MkdirAll creates a folder and those above it that are missing, with exactly these permissions.
func (r *Root) MkdirAll(p string, mode fs.FileMode) error {
	p = path.Clean(p)
	if p == "." || p == "/" {
		return nil
	}
	info, err := r.Stat(p)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: p, Err: unix.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := r.MkdirAll(path.Dir(p), mode); err != nil {
		return err
	}
	if err := r.Mkdir(p, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Symlink creates a symbolic link.
func (r *Root) Symlink(to, p string) error {
	return r.at("symlink", p, func(dir int, name string) error { return unix.Symlinkat(to, dir, name) })
}

// Rename renames a file or folder.
func (r *Root) Rename(from, to string) error {
	return r.at("rename", from, func(dir int, name string) error {
		return r.at("rename", to, func(toDir int, toName string) error { return unix.Renameat(dir, name, toDir, toName) })
	})
}

// RemoveFile removes what is not a folder.
func (r *Root) RemoveFile(p string) error {
	return r.at("unlink", p, func(dir int, name string) error { return unix.Unlinkat(dir, name, 0) })
}

// RemoveDir removes an empty folder.
func (r *Root) RemoveDir(p string) error {
	return r.at("rmdir", p, func(dir int, name string) error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
}

// Remove removes a file or an empty folder.
func (r *Root) Remove(p string) error {
	return r.at("remove", p, func(dir int, name string) error {
		err := unix.Unlinkat(dir, name, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			if e := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); !errors.Is(e, unix.ENOTDIR) {
				return e
			}
		}
		return err
	})
}

// RemoveAll removes a file, or a folder with all that is in it.
func (r *Root) RemoveAll(p string) error {
	err := r.at("remove", p, removeAll)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func removeAll(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if e := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); e == nil || errors.Is(e, unix.ENOTDIR) {
		return errUnless(e == nil, err)
	}
	fd, st, err := handle(dir, name)
	if err != nil {
		return err
	}
	if st.Mode&0o700 != 0o700 {
		chmod(fd, 0o700)
	}
	unix.Close(fd)
	if fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAll(int(d.Fd()), n); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// OpenRoot opens a folder as a root, for content of others that lies in it alone: what it has is not
// followed out of it.
func (r *Root) OpenRoot(p string) (root *os.Root, err error) {
	err = r.within("open", p, true, func(dir int, name string) error {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		root, err = os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
		return err
	})
	return root, err
}

// Guarded reports whether root alone can change the folders on the way to a path: then nobody else
// put there what is there.
func (r *Root) Guarded(p string) bool {
	w, err := r.newWalk()
	if err != nil {
		return false
	}
	defer w.close()
	_, err = w.to(p, false)
	return err == nil && w.top().guarded
}
