package agent

import "golang.org/x/sys/unix"

// free is how many bytes are free where a path is.
func free(p string) uint64 {
	var s unix.Statfs_t
	if unix.Statfs(p, &s) != nil {
		return 0
	}
	return s.Bavail * uint64(s.Bsize)
}
