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

// RequireDocker ends the test if the machines' tree has no docker engine.
func (l *Lab) RequireDocker() {
	l.t.Helper()
	if _, err := os.Stat(filepath.Join(l.Machines[0].Root, "usr/sbin/dockerd")); err == nil {
		return
	}
	missing := "the machines' tree has no docker engine: remove it and let .ci/run make it anew"
	if os.Getenv("DEFX_REQUIRE_DOCKER") == "1" {
		l.t.Fatal(missing)
	}
	l.t.Skip(missing)
}

// StartDocker starts a docker engine on the machine, beside its systemd: its
// groups are the host's, because a machine that is a container may make none.
func (m *Machine) StartDocker() {
	m.lab.t.Helper()
	pid, err := m.leader()
	if err != nil {
		m.lab.t.Fatal(err)
	}
	for try := 0; ; try++ {
		cmd := exec.Command("nsenter", "-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "--", "/bin/sh", "-c", `
# helpers of one that was killed hold ports, and no engine knows them any more
for p in /proc/[0-9]*; do case "$(cat $p/comm 2>/dev/null)" in docker-proxy) kill -9 ${p#/proc/};; esac; done
mount -o remount,bind,rw /sys/fs/cgroup
for d in /sys/fs/cgroup/*; do mount -o remount,bind,rw $d 2>/dev/null; done
mount -o remount,bind,rw /proc/sys 2>/dev/null
exec setsid dockerd --insecure-registry=10.213.0.0/16 --cgroup-parent=/`+m.id()+`-docker >>/var/log/dockerd.log 2>&1 </dev/null`)
		cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		if err := cmd.Start(); err != nil {
			m.lab.t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		if m.answers(ended) {
			return
		}
		if out, _ := m.Try("tail -50 /var/log/dockerd.log"); try == 3 || len(ended) == 0 {
			m.lab.t.Fatalf("machine %s: its docker engine does not answer\n%s", m.Name, out)
		}
		time.Sleep(2 * time.Second) // as its unit does, whose end is a new start
	}
}

// answers waits until the engine does, or ended.
func (m *Machine) answers(ended chan error) bool {
	for until := time.Now().Add(patient); time.Now().Before(until) && len(ended) == 0; time.Sleep(200 * time.Millisecond) {
		if _, err := m.Try("docker version >/dev/null 2>&1"); err == nil {
			return true
		}
	}
	return false
}

// StopDocker ends the engine, as a signal says (TERM, KILL).
func (m *Machine) StopDocker(signal string) {
	m.lab.t.Helper()
	m.Exec("kill -" + signal + " $(cat /var/run/docker.pid)")
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := m.Try("kill -0 $(cat /var/run/docker.pid 2>/dev/null || echo 99999999) 2>/dev/null"); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.lab.t.Fatalf("machine %s: its docker engine does not end", m.Name)
}

// ClearDocker ends what an engine that was killed, and is stopped, had forgotten: processes of
// containers, which answer in the place of new ones, and the networks that they were in.
func (m *Machine) ClearDocker() {
	m.lab.t.Helper()
	m.dockerGroups()
	m.Exec("pkill -9 -x docker-proxy; for f in /run/docker/netns/*; do umount -l $f 2>/dev/null; rm -f $f; done; true")
}

// dockerGroups removes the groups of containers, with all that runs in them.
func (m *Machine) dockerGroups() {
	all, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.id() + "-docker")
	one, _ := filepath.Glob("/sys/fs/cgroup/" + m.id() + "-docker")
	for _, dir := range append(all, one...) {
		removeGroup(dir)
	}
}

// Docker runs the docker command on the machine.
func (m *Machine) Docker(args ...string) string {
	m.lab.t.Helper()
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.TrimSpace(m.Exec(fmt.Sprintf("docker %s", strings.Join(words, " "))))
}
