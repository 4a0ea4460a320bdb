package state

import (
	"io/fs"
	"syscall"
)

// fileIdentity returns the time of the last change of a file or its attributes,
// in nanoseconds, and its inode.
func fileIdentity(info fs.FileInfo) (ctime int64, inode uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ctim.Nano(), st.Ino
	}
	return 0, 0
}
