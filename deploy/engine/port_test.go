package engine

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestPortHolder(t *testing.T) {
	self := fmt.Sprintf("(process %d", os.Getpid())
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if got, _ := portHolder("tcp", tcp.Addr().(*net.TCPAddr).Port); !strings.Contains(got, self) {
		t.Errorf("tcp: %q", got)
	}
	udp, err := net.ListenPacket("udp", ":0") // listed in the IPv6 table
	if err != nil {
		t.Fatal(err)
	}
	port := udp.LocalAddr().(*net.UDPAddr).Port
	if got, _ := portHolder("udp", port); !strings.Contains(got, self) {
		t.Errorf("udp: %q", got)
	}
	udp.Close()
	if got, _ := portHolder("udp", port); got != "" {
		t.Errorf("closed: %q", got)
	}
}
