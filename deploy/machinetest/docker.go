package machinetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// RequireDocker skips the test if the machines' tree has no docker engine.
func (l *Lab) RequireDocker() {
	l.t.Helper()
	if _, err := os.Stat(filepath.Join(l.Machines[0].Root, "usr/sbin/dockerd")); err == nil {
		return
	}
	missing := "the machines' tree has no docker engine: remove it and let .ci/run create it again"
	if os.Getenv("DEFX_REQUIRE_DOCKER") == "1" {
		l.t.Fatal(missing)
	}
	l.t.Skip(missing)
}

// StartDocker starts a docker engine on the machine. Its control groups are on the host,
// because a machine that is itself a container cannot create any.
func (m *Machine) StartDocker() {
	m.lab.t.Helper()
	pid, err := m.leader()
	if err != nil {
		m.lab.t.Fatal(err)
	}
	for try := 0; ; try++ {
		cmd := exec.Command("nsenter", "-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "--", "/bin/sh", "-c", `
# docker-proxy processes of a killed engine still hold ports
for p in /proc/[0-9]*; do case "$(cat $p/comm 2>/dev/null)" in docker-proxy) kill -9 ${p#/proc/};; esac; done
mount -o remount,bind,rw /sys/fs/cgroup
for d in /sys/fs/cgroup/*; do mount -o remount,bind,rw $d 2>/dev/null; done
mount -o remount,bind,rw /proc/sys 2>/dev/null
exec setsid dockerd --insecure-registry=10.213.0.0/16 --cgroup-parent=/`+m.id()+`-docker >>/var/log/dockerd.log 2>&1 </dev/null`)
		cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		if err := cmd.Start(); err != nil {
			m.lab.t.Fatal(err)
		}
		exited := make(chan error, 1)
		go func() { exited <- cmd.Wait() }()
		if m.waitForDocker(exited) {
			return
		}
		if out, _ := m.Try("tail -50 /var/log/dockerd.log"); try == 3 || len(exited) == 0 {
			m.lab.t.Fatalf("machine %s: its docker engine does not answer\n%s", m.Name, out)
		}
		time.Sleep(2 * time.Second) // as docker.service does before it restarts
	}
}

// waitForDocker waits until the engine answers, or its process has ended.
func (m *Machine) waitForDocker(exited chan error) bool {
	for until := time.Now().Add(timeout); time.Now().Before(until) && len(exited) == 0; time.Sleep(200 * time.Millisecond) {
		if _, err := m.Try("docker version >/dev/null 2>&1"); err == nil {
			return true
		}
	}
	return false
}

// StopDocker stops the engine with a signal (TERM, KILL).
func (m *Machine) StopDocker(signal string) {
	m.lab.t.Helper()
	m.Exec("kill -" + signal + " $(cat /var/run/docker.pid)")
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := m.Try("kill -0 $(cat /var/run/docker.pid 2>/dev/null || echo 99999999) 2>/dev/null"); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.lab.t.Fatalf("machine %s: its docker engine does not end", m.Name)
}

// ClearDocker removes what a killed engine left and the next one does not know: processes of
// its containers, whose ports would answer instead of new ones, and their network
// namespaces. The engine must be stopped.
func (m *Machine) ClearDocker() {
	m.lab.t.Helper()
	m.dockerGroups()
	m.Exec("pkill -9 -x docker-proxy; for f in /run/docker/netns/*; do umount -l $f 2>/dev/null; rm -f $f; done; true")
}

// dockerGroups removes the control groups of containers, with all processes in them.
func (m *Machine) dockerGroups() {
	all, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.id() + "-docker")
	one, _ := filepath.Glob("/sys/fs/cgroup/" + m.id() + "-docker")
	for _, dir := range append(all, one...) {
		removeGroup(dir)
	}
}

// Docker runs the docker command on the machine, and returns its output.
func (m *Machine) Docker(args ...string) string {
	m.lab.t.Helper()
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.TrimSpace(m.Exec(fmt.Sprintf("docker %s", strings.Join(words, " "))))
}
