// Command graceful-server is a web server whose versions can run in parallel: it serves on
// inherited listeners, or shares its port with others, and finishes running requests when it
// has to stop.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getenv("WHO") == "nobody" {
		log.Fatal("WHO must not be nobody")
	}
	l, err := listener()
	if err != nil {
		log.Fatal(err)
	}
	var open sync.WaitGroup // connections
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(20 * time.Millisecond) // so that requests are in progress
		fmt.Fprintln(w, os.Getenv("WHO"))
	})}
	server.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		}
	}
	server.SetKeepAlivesEnabled(false)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		l.Close()
	}()
	// Shutdown would close connections that were accepted and whose request it has not read yet.
	server.Serve(l)
	open.Wait()
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
