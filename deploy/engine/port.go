package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portHolder returns the process of this machine that listens on a port, as far as the
// kernel's socket tables (proc_net(5)) and the open files of processes can be read.
func portHolder(protocol string, port int) string {
	sockets := map[string]bool{}
	for _, table := range []string{protocol, protocol + "6"} {
		raw, _ := os.ReadFile("/proc/net/" + table)
		for line := range strings.Lines(string(raw)) {
			f := strings.Fields(line)
			if len(f) < 10 || protocol == "tcp" && f[3] != "0A" { // TCP_LISTEN
				continue
			}
			_, local, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseUint(local, 16, 16); err == nil && int(n) == port {
				sockets["socket:["+f[9]+"]"] = true
			}
		}
	}
	if len(sockets) == 0 {
		return ""
	}
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, file := range files {
		if to, _ := os.Readlink(file); sockets[to] {
			pid := strings.Split(file, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("%s (process %s)", bytes.TrimSpace(name), pid)
		}
	}
	return ""
}
