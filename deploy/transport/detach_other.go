//go:build !unix

package transport

import (
	"os"
	"os/exec"
)

func detach(*exec.Cmd) {}

func ours(os.FileInfo) bool { return false }
