// Package sockets finds out which processes of this machine listen on a port.
//
// It reads the kernel's tables (proc_net(5)), the open files of processes and their control
// groups. It refuses to know units and containers. What cannot be read, for lack of permission
// or on another system than Linux, is missing in the result; it is no error.
package sockets

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// proc is the root of the kernel's files, except in tests.
var proc = "/proc"

// Socket is a socket that listens on a port.
type Socket struct {
	Address netip.Addr // unspecified: all
	inode   string
}

// Process is a process that has a socket open.
type Process struct {
	PID     int
	Command string // its name, without arguments, which may be secret
	Group   string // path of its control group
}

// Listening returns the sockets that listen on a port of a protocol, tcp or udp, with IPv4 and
// IPv6.
func Listening(protocol string, port int) []Socket {
	var out []Socket
	for _, table := range []string{protocol, protocol + "6"} {
		f, err := os.Open(proc + "/net/" + table)
		if err != nil {
			continue
		}
		out = append(out, parse(bufio.NewScanner(f), protocol, port)...)
		f.Close()
	}
	return out
}

func parse(lines *bufio.Scanner, protocol string, port int) []Socket {
	var out []Socket
	lines.Scan() // the head of the table
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		if protocol == "tcp" && f[3] != "0A" {
			break // the listening ones come first, and there may be many others
		}
		if protocol == "udp" && f[3] != "07" { // connected
			continue
		}
		address, local, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(local, 16, 16); err != nil || int(n) != port {
			continue
		}
		out = append(out, Socket{Address: parseAddress(address), inode: f[9]})
	}
	return out
}

// parseAddress reads an address as the kernel prints it: 32-bit words in the order of the host's
// bytes, which is little-endian on everything that defx runs on.
func parseAddress(s string) netip.Addr {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw)%4 != 0 {
		return netip.Addr{}
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	a, _ := netip.AddrFromSlice(raw)
	return a.Unmap()
}

// Holders returns the processes that have a socket open, for each of the list.
func Holders(list []Socket) [][]Process {
	out := make([][]Process, len(list))
	if len(list) == 0 {
		return out
	}
	for _, pid := range processes() {
		for i := range open(pid, list) {
			out[i] = append(out[i], Process{PID: pid, Command: command(pid), Group: Group(pid)})
		}
	}
	return out
}

// HeldIn reports for each socket of the list whether a process in one of the control groups, or
// below it, has it open.
func HeldIn(groups []string, list []Socket) []bool {
	out := make([]bool, len(list))
	if len(list) == 0 || len(groups) == 0 {
		return out
	}
	for _, pid := range processes() {
		if !InGroup(Group(pid), groups) {
			continue
		}
		for i := range open(pid, list) {
			out[i] = true
		}
	}
	return out
}

// InGroup reports whether a control group is one of groups, or below one.
func InGroup(group string, groups []string) bool {
	return slices.ContainsFunc(groups, func(g string) bool {
		return g != "" && g != "/" && (group == g || strings.HasPrefix(group, g+"/"))
	})
}

// processes returns the numbers of all processes.
func processes() []int {
	dir, err := os.Open(proc)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var out []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// open returns which sockets of the list a process has open, by index.
func open(pid int, list []Socket) map[int]bool {
	dir := filepath.Join(proc, strconv.Itoa(pid), "fd")
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	names, _ := f.Readdirnames(-1)
	f.Close()
	out := map[int]bool{}
	for _, n := range names {
		to, err := os.Readlink(dir + "/" + n)
		if err != nil || !strings.HasPrefix(to, "socket:[") {
			continue
		}
		inode := strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")
		for i, s := range list {
			if s.inode == inode {
				out[i] = true
			}
		}
	}
	return out
}

func command(pid int) string {
	name, _ := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "comm"))
	return string(bytes.TrimSpace(name))
}

// Group returns the path of a process's control group, in systemd's hierarchy if there are
// several; "" if it is unknown.
func Group(pid int) string {
	raw, _ := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
	out := ""
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && (parts[1] == "name=systemd" || parts[1] == "" && out == "") {
			out = parts[2]
		}
	}
	return out
}

// Unit returns the name of the systemd unit that a control group belongs to; "" if it is in none.
func Unit(group string) string {
	parts := strings.Split(group, "/")
	for _, p := range slices.Backward(parts) {
		if ext := filepath.Ext(p); ext == ".service" || ext == ".scope" {
			return p
		}
	}
	return ""
}
