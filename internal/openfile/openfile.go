// Package openfile opens and reads files that somebody else may have prepared:
// sources, lock files, caches and recorded state.
//
// It knows file types, sizes and file systems. It refuses to know what a file
// holds. Invariant: only regular files are opened, a FIFO, a device or a socket
// neither blocks nor is read, no more than the size limit is read, and a file of
// the kernel (/proc, /sys, /dev) is refused under whatever name it is opened.
package openfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Error is the reason why a file that exists is not read.
type Error struct {
	Path    string
	Msg     string // such as "is a FIFO, not a regular file"
	Outside bool   // it is a link that leads out of the folder that may be read
	hint    string
}

// Error returns the path and the reason.
func (e *Error) Error() string { return e.Path + " " + e.Msg }

// Hint returns what to do about the error.
func (e *Error) Hint() string { return e.hint }

// Small is a size limit, in bytes, for files that people write by hand.
const Small = 16 << 20

// Open opens the regular file at path for reading. Links are followed.
func Open(path string) (*os.File, error) {
	return open(path, func() (fs.FileInfo, error) { return os.Stat(path) }, func(flag int) (*os.File, error) { return os.OpenFile(path, flag, 0) })
}

// OpenNoFollow is like Open, and refuses a symbolic link in the last component.
func OpenNoFollow(path string) (*os.File, error) {
	return open(path, func() (fs.FileInfo, error) { return os.Lstat(path) },
		func(flag int) (*os.File, error) { return os.OpenFile(path, flag|syscall.O_NOFOLLOW, 0) })
}

// OpenIn opens the regular file name below root. Links that lead out of root are refused.
func OpenIn(root *os.Root, name string) (*os.File, error) {
	path := filepath.Join(root.Name(), name)
	f, err := open(path, func() (fs.FileInfo, error) { return root.Stat(name) }, func(flag int) (*os.File, error) { return root.OpenFile(name, flag, 0) })
	if err != nil && strings.Contains(err.Error(), "escapes from parent") { // package os exports no such error
		return nil, &Error{Path: path, Msg: "is a symbolic link that leads out of " + root.Name(), Outside: true, hint: "replace it by the file itself"}
	}
	return f, err
}

// open opens a file after it was seen to be a regular one, and looks again: it may have been
// replaced in between. Opening a FIFO would block without O_NONBLOCK, and opening some devices
// has effects.
func open(path string, stat func() (fs.FileInfo, error), openIt func(flag int) (*os.File, error)) (*os.File, error) {
	info, err := stat()
	if err != nil {
		return nil, err
	}
	if err := checkRegular(path, info); err != nil {
		return nil, err
	}
	f, err := openIt(os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil {
		err = checkRegular(path, info)
	}
	if err == nil {
		err = checkKernelFile(path, f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func checkRegular(path string, info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return &Error{Path: path, Msg: "is " + kindOf(info.Mode()) + ", not a regular file", hint: "replace it by a regular file"}
}

// kindOf names the type of a file.
func kindOf(m fs.FileMode) string {
	switch m.Type() {
	case fs.ModeDir:
		return "a folder"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// kernelFolders are the folders of files that are no content of anybody.
var kernelFolders = []string{"/proc", "/sys", "/dev"}

// KernelFolder returns the folder of the kernel's files that has the absolute path, or "".
// Shared memory below /dev/shm holds ordinary files.
func KernelFolder(path string) string {
	for _, dir := range kernelFolders {
		if (path == dir || strings.HasPrefix(path, dir+"/")) && !strings.HasPrefix(path, "/dev/shm/") {
			return dir
		}
	}
	return ""
}

// checkKernelFile refuses files of the kernel.
func checkKernelFile(path string, f *os.File) error {
	if kernelFileSystem(f) || KernelFolder(realPath(f)) != "" {
		return &Error{Path: path, Msg: "is a file of the kernel or of a process, not content", hint: "copy the text that is needed into a file of its own"}
	}
	return nil
}

// Read returns the content of the regular file at path, which may have at most limit bytes. It
// returns as soon as ctx ends, even if the file system does not answer.
func Read(ctx context.Context, path string, limit int64) ([]byte, error) {
	return ReadFrom(ctx, func() (*os.File, error) { return Open(path) }, limit)
}

// ReadIn is like Read for the file name below root.
func ReadIn(ctx context.Context, root *os.Root, name string, limit int64) ([]byte, error) {
	return ReadFrom(ctx, func() (*os.File, error) { return OpenIn(root, name) }, limit)
}

// ReadBelow is like Read for the file name below the folder dir.
func ReadBelow(ctx context.Context, dir, name string, limit int64) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return ReadIn(ctx, root, name, limit)
}

// ReadFrom returns the content of the file that open opens, and closes it.
func ReadFrom(ctx context.Context, open func() (*os.File, error), limit int64) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	type result struct {
		raw []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		raw, err := ReadOpened(open, limit)
		done <- result{raw, err}
	}()
	select {
	case r := <-done:
		return r.raw, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ReadOpened is ReadFrom for callers without a context.
func ReadOpened(open func() (*os.File, error), limit int64) ([]byte, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f, limit)
}

// ReadAll returns the content of an open file, which may have at most limit bytes.
func ReadAll(f *os.File, limit int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tooLarge := func(size string) error {
		return &Error{Path: f.Name(), Msg: fmt.Sprintf("has %s bytes, the limit is %d", size, limit), hint: "remove what does not belong into it"}
	}
	if info.Size() > limit {
		return nil, tooLarge(fmt.Sprint(info.Size()))
	}
	raw := make([]byte, 0, info.Size()+1)
	for {
		if len(raw) == cap(raw) {
			raw = append(raw, 0)[:len(raw)]
		}
		n, err := f.Read(raw[len(raw):cap(raw)])
		raw = raw[:len(raw)+n]
		if int64(len(raw)) > limit { // it grows while it is read
			return nil, tooLarge("more")
		}
		if errors.Is(err, io.EOF) {
			return raw, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
