package machinetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func (m *Machine) id() string { return m.lab.bridge() + "-" + m.Name }

// furnish creates the machine's root: the shared tree, and above it the files of this
// machine.
func (m *Machine) furnish(tree string) error {
	dir := filepath.Join(m.lab.base, m.Name)
	m.Root = filepath.Join(dir, "root")
	for _, d := range []string{"root", "upper", "work", "docker"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := command("mount", "-t", "overlay", "overlay", "-o", "lowerdir="+tree+",upperdir="+dir+"/upper,workdir="+dir+"/work", m.Root); err != nil {
		return err
	}
	old, _ := filepath.Glob(m.Root + "/etc/ssh/ssh_host_*")
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	key := m.Root + "/etc/ssh/ssh_host_ed25519_key"
	if err := command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key); err != nil {
		return err
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		return err
	}
	m.HostKey = strings.TrimSpace(string(pub))
	mine, err := os.ReadFile(m.lab.Key + ".pub")
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("10.213.%d.", m.lab.n)
	write := []struct {
		path, text string
		mode       os.FileMode
	}{
		{"etc/hostname", m.Name + "\n", 0o644},
		{"etc/machine-id", fmt.Sprintf("%032x\n", time.Now().UnixNano()+int64(m.lab.n)), 0o444},
		{"etc/systemd/network/10-test.network", "[Match]\nName=host0\n[Network]\nAddress=" + m.Address + "/24\nGateway=" + prefix + "1\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", 0o644},
		{"etc/ssh/sshd_config.d/test.conf", "UseDNS no\nMaxStartups 100\nPasswordAuthentication no\n", 0o644},
		{"etc/sudoers.d/deploy", "deploy ALL=(ALL) NOPASSWD: ALL\n", 0o440},
		{"root/.ssh/authorized_keys", string(mine), 0o600},
		{"home/deploy/.ssh/authorized_keys", string(mine), 0o600},
		{"home/plain/.ssh/authorized_keys", string(mine), 0o600},
	}
	for _, w := range write {
		p := filepath.Join(m.Root, w.path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, []byte(w.text), w.mode); err != nil {
			return err
		}
	}
	var users, shadows, groups, hosts strings.Builder
	for i, name := range []string{"deploy", "plain"} {
		id := 2001 + i
		fmt.Fprintf(&users, "%s:x:%d:%d::/home/%s:/bin/bash\n", name, id, id, name)
		fmt.Fprintf(&shadows, "%s:*:19000:0:99999:7:::\n", name)
		fmt.Fprintf(&groups, "%s:x:%d:\n", name, id)
		for _, p := range []string{"", "/.ssh", "/.ssh/authorized_keys"} {
			if err := os.Chown(m.Root+"/home/"+name+p, id, id); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(&hosts, "127.0.0.1 localhost\n")
	for _, other := range m.lab.Machines {
		fmt.Fprintf(&hosts, "%s %s\n", other.Address, other.Name)
	}
	for name, text := range map[string]string{"passwd": users.String(), "shadow": shadows.String(), "group": groups.String(), "hosts": hosts.String()} {
		f, err := os.OpenFile(m.Root+"/etc/"+name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	for _, mask := range []string{"apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "dpkg-db-backup.timer"} {
		if err := link(m.Root+"/etc/systemd/system/"+mask, "/dev/null"); err != nil {
			return err
		}
	}
	if err := link(m.Root+"/etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service", "/lib/systemd/system/systemd-networkd-wait-online.service"); err != nil {
		return err
	}
	return link(m.Root+"/etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service")
}

func link(at, to string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	os.Remove(at)
	return os.Symlink(to, at)
}

// start boots the machine in a control group of its own: two systemds in one group would
// stop each other's services.
func (m *Machine) start() {
	var join strings.Builder
	for _, dir := range cgroups() {
		g := filepath.Join(dir, m.id())
		os.MkdirAll(g, 0o755)
		fmt.Fprintf(&join, "echo $$ > %s/cgroup.procs; ", g)
	}
	m.nspawn = exec.Command("/bin/sh", "-c", join.String()+`exec systemd-nspawn "$@"`, "sh",
		"--bind="+filepath.Join(m.lab.base, m.Name, "docker")+":/var/lib/docker", "--register=no", "--keep-unit", "--quiet", "--network-bridge="+m.lab.bridge(), "--machine="+m.id(), "-D", m.Root, "-b")
	m.out.Reset()
	m.nspawn.Stdout, m.nspawn.Stderr = &m.out, &m.out
	m.nspawn.WaitDelay = time.Second
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	m.ended = make(chan struct{})
	err := m.nspawn.Start()
	go func() {
		defer close(m.ended)
		if err == nil {
			m.nspawn.Wait()
		}
	}()
}

// wait waits until sshd answers.
func (m *Machine) wait() error {
	until := time.Now().Add(timeout)
	for time.Now().Before(until) {
		select {
		case <-m.ended:
			return fmt.Errorf("the machine stopped while booting\n%s", m.out.String())
		default:
		}
		c, err := net.DialTimeout("tcp", m.Address+":22", time.Second)
		if err == nil {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			n, _ := c.Read(make([]byte, 4))
			c.Close()
			if n > 0 {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("sshd does not answer after %s\n%s", timeout, m.journal())
}

// Running reports whether the machine is up.
func (m *Machine) Running() bool {
	if m.ended == nil {
		return false
	}
	select {
	case <-m.ended:
		return false
	default:
		return true
	}
}

// leader returns the process id, on the host, of the machine's first process.
func (m *Machine) leader() (int, error) {
	until := time.Now().Add(timeout)
	for time.Now().Before(until) && m.Running() {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.nspawn.Process.Pid, m.nspawn.Process.Pid))
		for _, f := range strings.Fields(string(raw)) {
			comm, _ := os.ReadFile("/proc/" + f + "/comm")
			if strings.TrimSpace(string(comm)) == "systemd" {
				return strconv.Atoi(f)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return 0, fmt.Errorf("machine %s is not running", m.Name)
}

// JoinNetwork prepares a program of the host that runs in the machine's network namespace.
func (m *Machine) JoinNetwork(name string, args ...string) *exec.Cmd {
	m.lab.t.Helper()
	pid, err := m.leader()
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(pid), "-n", "--", name}, args...)...)
}

// Listen listens at an address that it adds to the machine's loopback interface.
func (m *Machine) Listen(ip string, port int) (net.Listener, error) {
	pid, err := m.leader()
	if err != nil {
		return nil, err
	}
	ns := fmt.Sprintf("/proc/%d/ns/net", pid)
	if err := command("nsenter", "--net="+ns, "ip", "addr", "replace", ip+"/32", "dev", "lo"); err != nil {
		return nil, err
	}
	there, err := os.Open(ns)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	// The thread is reused: if it ended, children started from it would get the signal of
	// their parent's death.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port))
	if origin := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); origin != nil {
		panic(origin) // this thread would stay in the wrong namespace
	}
	return l, err
}

// Try runs a bash script in the machine, as root, even without network or sshd. Like a login, it
// sees control groups as the machine's systemd names them.
func (m *Machine) Try(script string) (string, error) {
	pid, err := m.leader()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "-C", "--", "/bin/bash", "-c", script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER="}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Exec is like Try, but ends the test if the script fails.
func (m *Machine) Exec(script string) string {
	m.lab.t.Helper()
	out, err := m.Try(script)
	if err != nil {
		m.lab.t.Fatalf("machine %s: %s: %v\n%s", m.Name, script, err, out)
	}
	return out
}

func (m *Machine) journal() string {
	out, err := m.Try("journalctl -b --no-pager -n 150 -o short-monotonic")
	if err != nil {
		return err.Error() + "\n" + out
	}
	return out
}

// Kill stops the machine as a power failure would.
func (m *Machine) Kill() {
	if !m.Running() {
		return
	}
	syscall.Kill(m.nspawn.Process.Pid, syscall.SIGKILL)
	<-m.ended
	m.lab.unplug(m.Name)
	m.dockerGroups()
	for _, dir := range cgroups() {
		removeGroup(filepath.Join(dir, m.id()))
	}
}

// Start boots a machine that was killed, and waits until it answers.
func (m *Machine) Start() {
	m.lab.t.Helper()
	m.start()
	if err := m.wait(); err != nil {
		m.lab.t.Fatalf("machine %s: %v", m.Name, err)
	}
}

// Reboot kills the machine and boots it again.
func (m *Machine) Reboot() {
	m.lab.t.Helper()
	m.Kill()
	m.Start()
}

// signalSSH sends a signal to every sshd, including those of sessions.
func (m *Machine) signalSSH(signal string) {
	m.lab.t.Helper()
	m.Exec(`for p in /proc/[0-9]*; do if [ "$(cat $p/comm 2>/dev/null)" = sshd ]; then kill -` + signal + ` ${p#/proc/}; fi; done`)
}

// Freeze stops all sshds: connections are accepted, but nothing answers.
func (m *Machine) Freeze() { m.lab.t.Helper(); m.signalSSH("STOP") }

// Thaw lets the sshds continue.
func (m *Machine) Thaw() { m.lab.t.Helper(); m.signalSSH("CONT") }

// Cut disconnects the machine's network: packets are lost.
func (m *Machine) Cut() { m.lab.t.Helper(); m.lab.run("ip", "link", "set", "vb-"+m.id(), "down") }

// Heal connects the machine's network again.
func (m *Machine) Heal() { m.lab.t.Helper(); m.lab.run("ip", "link", "set", "vb-"+m.id(), "up") }
