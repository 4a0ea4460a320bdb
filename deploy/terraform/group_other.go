//go:build !linux

package terraform

import "syscall"

// ownGroup starts a command in a process group of its own, so that it can be ended
// together with its children.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
