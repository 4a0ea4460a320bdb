//go:build !linux

package openfile

import (
	"os"
	"path/filepath"
)

// kernelFileSystem returns false: only the path shows it here.
func kernelFileSystem(*os.File) bool { return false }

// realPath returns the path of an open file without links; "" if it is unknown.
func realPath(f *os.File) string {
	path, _ := filepath.EvalSymlinks(f.Name())
	return path
}
