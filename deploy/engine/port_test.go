package engine

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestWhoHoldsAPortIsNamed(t *testing.T) {
	us := fmt.Sprintf("(process %d)", os.Getpid())
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if got := holder("tcp", tcp.Addr().(*net.TCPAddr).Port); !strings.HasSuffix(got, us) {
		t.Errorf("tcp: %q", got)
	}
	udp, err := net.ListenPacket("udp", ":0") // on the sixth version's table
	if err != nil {
		t.Fatal(err)
	}
	port := udp.LocalAddr().(*net.UDPAddr).Port
	if got := holder("udp", port); !strings.HasSuffix(got, us) {
		t.Errorf("udp: %q", got)
	}
	udp.Close()
	if got := holder("udp", port); got != "" {
		t.Errorf("nobody: %q", got)
	}
}
