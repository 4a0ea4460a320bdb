//go:build !unix

package cache

import "io/fs"

// isPrivate returns true: the mode does not show it here.
func isPrivate(fs.FileInfo) bool { return true }
