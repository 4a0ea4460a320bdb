package lang

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent makes the kernel kill the child when its parent ends.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// concealment counts the children from which this process is concealed.
var concealment struct {
	sync.Mutex
	children int
	dumpable int // as it was before
}

// conceal keeps other processes of the same user, children included, from reading this one: its
// environment may have credentials. The returned function ends that.
func conceal() (end func()) {
	c := &concealment
	c.Lock()
	defer c.Unlock()
	if c.children++; c.children == 1 {
		if c.dumpable, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); c.dumpable > 0 {
			unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		}
	}
	return func() {
		c.Lock()
		defer c.Unlock()
		if c.children--; c.children == 0 && c.dumpable == 1 {
			unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		}
	}
}

// runConfined runs a child that cannot read this process, also if both run as root, and that
// gains no rights by executing files.
func runConfined(cmd *exec.Cmd) error {
	defer conceal()()
	done := make(chan error)
	go func() {
		// What is taken from this thread is missing in its children. It ends with this goroutine,
		// which outlives the child: otherwise the child would die with it.
		runtime.LockOSThread()
		for capability := range uintptr(64) { // this fails for other users, who have none
			if capability != unix.CAP_DAC_OVERRIDE && capability != unix.CAP_DAC_READ_SEARCH { // to read sources
				unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
			}
		}
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		done <- cmd.Run()
	}()
	return <-done
}
