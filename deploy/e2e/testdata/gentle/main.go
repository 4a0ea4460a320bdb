// Command gentle is a web server whose versions can live at once: it serves on
// listeners that it inherits, or shares its port with others, and when told to
// end it finishes what it has begun.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getenv("WHO") == "nobody" {
		log.Fatal("nobody is no greeting")
	}
	l, err := listener()
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(20 * time.Millisecond) // so that there is something under way
		fmt.Fprintln(w, os.Getenv("WHO"))
	})}
	go server.Serve(l)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	server.Shutdown(context.Background())
}

func listener() (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") != "" {
		return net.FileListener(os.NewFile(3, "listener"))
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return err
	}}
	return config.Listen(context.Background(), "tcp", os.Getenv("LISTEN"))
}
