package terraform

import "syscall"

// ownGroup starts a command in a process group of its own, so that it can be ended
// together with its children. It ends with this process.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
