package sockets

import (
	"bufio"
	"net"
	"os"
	"strings"
	"testing"
)

func TestListening_FindsOwnProcess(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("there is no /proc/net here")
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, c := range []struct {
		protocol, address string
		port              int
	}{{"tcp", "127.0.0.1", tcp.Addr().(*net.TCPAddr).Port}, {"udp", "::", udp.LocalAddr().(*net.UDPAddr).Port}} {
		list := Listening(c.protocol, c.port)
		if len(list) != 1 || list[0].Address.String() != c.address && !list[0].Address.IsUnspecified() {
			t.Fatalf("%s: %v", c.protocol, list)
		}
		holders := Holders(list)
		if len(holders[0]) != 1 || holders[0][0].PID != os.Getpid() || holders[0][0].Command == "" {
			t.Errorf("%s: %+v", c.protocol, holders)
		}
		if group := Group(os.Getpid()); group != "" && group != "/" && !HeldIn([]string{group}, list)[0] {
			t.Errorf("%s: not held in %s", c.protocol, group)
		}
		if HeldIn([]string{"/elsewhere"}, list)[0] {
			t.Errorf("%s: held in a group that it is not in", c.protocol)
		}
	}
	tcp.Close()
	if list := Listening("tcp", tcp.Addr().(*net.TCPAddr).Port); len(list) > 0 {
		t.Errorf("a closed socket listens: %v", list)
	}
}

func TestParse_Tables(t *testing.T) {
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:23F2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0000000000000000 100 0 0 10 0
   1: 00000000:23F2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 112 1 0000000000000000 100 0 0 10 0
   2: 0100007F:23F3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 113 1 0000000000000000 100 0 0 10 0
   3: 0100007F:23F2 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 114 1 0000000000000000 100 0 0 10 0
`
	const tcp6 = `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:23F2 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 115 1
`
	var got []string
	for _, table := range []string{tcp, tcp6} {
		for _, s := range parse(bufio.NewScanner(strings.NewReader(table)), "tcp", 9202) {
			got = append(got, s.Address.String()+" "+s.inode)
		}
	}
	if text := strings.Join(got, ", "); text != "127.0.0.1 111, 0.0.0.0 112, ::1 115" {
		t.Error(text)
	}
}

func TestUnit_OfControlGroup(t *testing.T) {
	for group, want := range map[string]string{
		"/system.slice/redis.service": "redis.service", "/a.slice/b.service/child": "b.service",
		"/system.slice/docker-0123.scope": "docker-0123.scope", "/docker/0123": "", "": "",
	} {
		if got := Unit(group); got != want {
			t.Errorf("%s: %q, want %q", group, got, want)
		}
	}
	if !InGroup("/a/b/c", []string{"/a/b"}) || InGroup("/a/bc", []string{"/a/b"}) || InGroup("/a", []string{"", "/"}) {
		t.Error("a group is matched by its whole path")
	}
}
