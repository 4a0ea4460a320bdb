package agent

import "golang.org/x/sys/unix"

// diskFree returns the number of bytes available on the file system of p, or 0.
func diskFree(p string) uint64 {
	var s unix.Statfs_t
	if unix.Statfs(p, &s) != nil {
		return 0
	}
	return s.Bavail * uint64(s.Bsize)
}
