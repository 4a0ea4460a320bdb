//go:build !unix

package transport

import (
	"os"
	"os/exec"
)

func detach(*exec.Cmd) {}

func isPrivate(os.FileInfo) bool { return false }
