package main

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/defx-dev/defx/internal/diag"
)

// stdout is where results are printed.
var stdout = &checkedFile{file: os.Stdout}

// checkedFile remembers the first error of writing to a file, so that no command can forget it: a
// plan that did not fit on the disk must not look complete.
type checkedFile struct {
	file *os.File

	mu  sync.Mutex
	err error
}

// Write implements io.Writer.
func (f *checkedFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err == nil {
			f.err = err
		}
	}
	return n, err
}

// failure returns the error for what could not be written; nil if all was, or if the reader closed
// the pipe, which is its choice.
func (f *checkedFile) failure() *diag.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil || errors.Is(f.err, syscall.EPIPE) {
		return nil
	}
	err := f.err
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	e := diag.Errorf("", "the output cannot be written: %v", err)
	e.Cause = f.err
	return e
}
