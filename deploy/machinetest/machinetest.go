// Package machinetest boots real machines for tests: Debian from a cached tree, with sshd,
// on a network of their own. Only tests use it.
//
// It knows containers, bridges and keys. It refuses to know what is done with the machines.
// Invariants: two processes never share a network; what a killed run left is removed when
// its network is used again; nothing outlives the test that requested it.
package machinetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is a network of machines.
type Lab struct {
	Dir      string // for files of the test
	Key      string // private key that every machine accepts
	Config   string // ssh_config with the names and keys of all machines
	Bin      string // folder to put first in PATH: its ssh uses Config
	Machines []*Machine
	Starting func(*Machine) error // called for a machine of Add while it boots

	t    testing.TB
	n    int      // number in the names of the bridge and in the addresses
	lock *os.File // held while this process owns the network
	base string   // folder of the machines' roots
	mu   sync.Mutex
}

// Machine is a booted Debian. It accepts logins of root, of "deploy", which may use sudo,
// and of "plain", which may not.
type Machine struct {
	Name    string
	Address string
	HostKey string // public key in the form of authorized_keys
	Root    string // its file system, as seen from the host

	lab    *Lab
	nspawn *exec.Cmd
	ended  chan struct{}
	out    bytes.Buffer
}

const (
	lockDir = "/run/defx-machinetest"
	timeout = 90 * time.Second // limit of every wait
)

// Boot boots n machines, named m1, m2, …, and waits until they answer ssh.
func Boot(t testing.TB, n int) *Lab {
	t.Helper()
	tree := os.Getenv("DEFX_TEST_SYSTEMD_ROOT")
	missing := ""
	switch {
	case tree == "":
		missing = "DEFX_TEST_SYSTEMD_ROOT names no system tree to boot"
	case os.Getuid() != 0:
		missing = "booting a tree needs root"
	default:
		for _, tool := range []string{"systemd-nspawn", "ip", "ssh", "ssh-keygen", "nsenter"} {
			if _, err := exec.LookPath(tool); err != nil {
				missing = tool + " is not installed"
			}
		}
		if _, err := os.Stat(filepath.Join(tree, "usr/sbin/sshd")); err != nil {
			missing = tree + " has no sshd: remove it and let .ci/run create it again"
		}
	}
	if missing != "" {
		if os.Getenv("DEFX_REQUIRE_SYSTEMD") == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	l := &Lab{t: t, Dir: t.TempDir()}
	l.network()
	t.Cleanup(l.tearDown)
	l.Key = filepath.Join(l.Dir, "key")
	l.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", l.Key)
	for i := range n {
		l.Machines = append(l.Machines, &Machine{lab: l, Name: fmt.Sprintf("m%d", i+1), Address: fmt.Sprintf("10.213.%d.%d", l.n, i+11)})
	}
	l.each(func(m *Machine) error { return m.furnish(tree) })
	l.config()
	l.each(func(m *Machine) error { m.start(); return m.wait() })
	return l
}

// Network returns the network of the lab's machines.
func (l *Lab) Network() string { return fmt.Sprintf("10.213.%d.0/24", l.n) }

// Add boots one more machine at a given address of the network. It accepts no logins except
// those that the script boot sets up; that runs once during the first boot, as cloud-init
// would run it.
func (l *Lab) Add(name, address, boot string) (*Machine, error) {
	m := &Machine{lab: l, Name: name, Address: address}
	l.mu.Lock()
	l.Machines = append(l.Machines, m) // in the list, so that it knows its own name
	l.mu.Unlock()
	if err := m.furnish(os.Getenv("DEFX_TEST_SYSTEMD_ROOT")); err != nil {
		return nil, err
	}
	for _, p := range []string{"/root/.ssh", "/home/deploy/.ssh", "/home/plain/.ssh"} {
		if err := os.RemoveAll(m.Root + p); err != nil {
			return nil, err
		}
	}
	unit := "[Unit]\nBefore=ssh.service\n[Service]\nType=oneshot\nExecStart=/usr/local/sbin/user-data\n[Install]\nWantedBy=multi-user.target\n"
	for path, f := range map[string]struct {
		text string
		mode os.FileMode
	}{"usr/local/sbin/user-data": {boot, 0o755}, "etc/systemd/system/user-data.service": {unit, 0o644}} {
		if err := os.WriteFile(filepath.Join(m.Root, path), []byte(f.text), f.mode); err != nil {
			return nil, err
		}
	}
	if err := link(m.Root+"/etc/systemd/system/multi-user.target.wants/user-data.service", "/etc/systemd/system/user-data.service"); err != nil {
		return nil, err
	}
	m.start()
	if l.Starting != nil {
		if err := l.Starting(m); err != nil {
			return m, err
		}
	}
	return m, m.wait()
}

// each runs f for all machines concurrently, and ends the test if one fails.
func (l *Lab) each(f func(*Machine) error) {
	l.t.Helper()
	errs := make([]error, len(l.Machines))
	var all sync.WaitGroup
	for i, m := range l.Machines {
		all.Go(func() {
			if err := f(m); err != nil {
				errs[i] = fmt.Errorf("machine %s: %w", m.Name, err)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		l.t.Fatal(err)
	}
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func (l *Lab) run(name string, args ...string) {
	l.t.Helper()
	if err := command(name, args...); err != nil {
		l.t.Fatal(err)
	}
}

// Gateway returns this host's address in the lab's network.
func (l *Lab) Gateway() string { return fmt.Sprintf("10.213.%d.1", l.n) }

func (l *Lab) bridge() string { return fmt.Sprintf("dxt%d", l.n) }

// network reserves a number that no living process uses, and creates its bridge.
func (l *Lab) network() {
	l.t.Helper()
	if err := os.MkdirAll(lockDir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	for l.n = 1; l.n < 250; l.n++ {
		f, err := os.OpenFile(filepath.Join(lockDir, strconv.Itoa(l.n)), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			l.t.Fatal(err)
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			l.lock = f
			break
		}
		f.Close()
	}
	if l.lock == nil {
		l.t.Fatal("all test networks are in use")
	}
	l.base = filepath.Join(os.TempDir(), "defx-"+l.bridge())
	l.cleanUp()
	if err := os.MkdirAll(l.base, 0o755); err != nil {
		l.t.Fatal(err)
	}
	l.run("ip", "link", "add", l.bridge(), "type", "bridge")
	l.run("ip", "addr", "add", fmt.Sprintf("10.213.%d.1/24", l.n), "dev", l.bridge())
	l.run("ip", "link", "set", l.bridge(), "up")
	if _, err := exec.LookPath("iptables"); err == nil {
		command("iptables", l.rule("-I")...) // fails if nothing filters bridges, and then is not needed
	}
}

// rule returns iptables arguments that let machines of this network reach each other: a
// docker daemon on the host filters bridged packets and drops foreign ones.
func (l *Lab) rule(do string) []string {
	return []string{"-w", "10", do, "FORWARD", "-i", l.bridge(), "-o", l.bridge(), "-j", "ACCEPT"}
}

// cleanUp removes everything that has this network's number.
func (l *Lab) cleanUp() {
	for range 50 {
		pids := l.machineProcesses()
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], l.base+"/") {
			unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
	os.RemoveAll(l.base)
	l.unplug("*")
	if _, err := os.Stat("/sys/class/net/" + l.bridge()); err == nil {
		command("ip", "link", "del", l.bridge())
	}
	for range 10 {
		if command("iptables", l.rule("-D")...) != nil {
			break
		}
	}
	for _, dir := range cgroups() {
		groups, _ := filepath.Glob(filepath.Join(dir, l.bridge()+"-*"))
		for _, g := range groups {
			removeGroup(g)
		}
	}
}

// unplug removes the network interfaces of machines that were killed, because the kernel
// delays that.
func (l *Lab) unplug(name string) {
	cables, _ := filepath.Glob("/sys/class/net/vb-" + l.bridge() + "-" + name)
	for _, c := range cables {
		command("ip", "link", "del", filepath.Base(c)) // it may disappear by itself
	}
}

// machineProcesses returns the processes that run machines of this network.
func (l *Lab) machineProcesses() []int {
	var out []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		raw, _ := os.ReadFile(p)
		if bytes.HasPrefix(raw, []byte("systemd-nspawn\x00")) && bytes.Contains(raw, []byte("\x00--machine="+l.bridge()+"-")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			out = append(out, pid)
		}
	}
	return out
}

// cgroups returns the hierarchies in which systemd keeps its processes.
func cgroups() []string {
	if _, err := os.Stat("/sys/fs/cgroup/systemd"); err == nil {
		return []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"}
	}
	return []string{"/sys/fs/cgroup"}
}

func removeGroup(dir string) {
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			raw, _ := os.ReadFile(p)
			for _, f := range strings.Fields(string(raw)) {
				if pid, _ := strconv.Atoi(f); pid > 1 {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		return nil
	})
	for range 50 {
		var dirs []string
		filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			os.Remove(dirs[i])
		}
		if _, err := os.Stat(dir); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (l *Lab) tearDown() {
	for _, m := range l.Machines {
		if l.t.Failed() && m.Running() {
			l.t.Logf("journal of %s:\n%s", m.Name, m.journal())
		}
	}
	for _, m := range l.Machines {
		m.Kill()
	}
	l.cleanUp()
	l.lock.Close()
}

// config writes the ssh_config of the machines, and an ssh that uses it.
func (l *Lab) config() {
	l.t.Helper()
	var config, known strings.Builder
	hosts := filepath.Join(l.Dir, "known_hosts")
	for _, m := range l.Machines {
		fmt.Fprintf(&config, "Host %s\n  HostName %s\n", m.Name, m.Address)
		fmt.Fprintf(&known, "%s %s\n", m.Address, m.HostKey)
	}
	fmt.Fprintf(&config, "Host *\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile /dev/null\n", l.Key, hosts)
	l.Config, l.Bin = filepath.Join(l.Dir, "ssh_config"), filepath.Join(l.Dir, "bin")
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.MkdirAll(l.Bin, 0o755); err != nil {
		l.t.Fatal(err)
	}
	// ssh's shared connection must not outlive the test.
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s -o ControlPersist=no \"$@\"\n", ssh, l.Config)
	for name, text := range map[string]string{l.Config: config.String(), hosts: known.String()} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(l.Bin, "ssh"), []byte(script), 0o755); err != nil {
		l.t.Fatal(err)
	}
}

// Env returns this process's environment with the lab's ssh first in PATH.
func (l *Lab) Env() []string {
	return append(os.Environ(), "PATH="+l.Bin+":"+os.Getenv("PATH"))
}
