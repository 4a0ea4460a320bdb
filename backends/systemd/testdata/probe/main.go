// Command probe is the service of the tests that boot a real systemd: it records what it was given.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func state(name string) string { return os.Getenv("STATE_DIRECTORY") + "/" + name }

func run(verb string, args []string) error {
	switch verb {
	case "dump": // dump N arg… file…: all arguments, all variables, the content of the files
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		var out bytes.Buffer
		for _, a := range args[1 : 1+n] {
			out.WriteString("A" + a + "\x00")
		}
		for _, e := range os.Environ() {
			out.WriteString("E" + e + "\x00")
		}
		for _, f := range args[1+n:] {
			content, err := os.ReadFile(f)
			if err != nil {
				content = []byte(err.Error())
			}
			out.WriteString("F" + f + "=" + strings.ReplaceAll(string(content), "\x00", "<NUL>") + "\x00")
		}
		return os.WriteFile(state("dump"), out.Bytes(), 0o644)
	case "keep": // dump, and keep running
		if err := run("dump", args); err != nil {
			return err
		}
		notify("READY=1")
		time.Sleep(1 << 62)
	case "note": // note NAME [word…]: append a line with the results of the words
		f, err := os.OpenFile(state(args[0]), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintf(f, "uid=%v", os.Getuid() != 0)
		for _, w := range args[1:] {
			how, what, _ := strings.Cut(w, ":")
			switch how {
			case "env":
				fmt.Fprintf(f, " %s=%s", what, os.Getenv(what))
			case "read":
				c, err := os.ReadFile(os.Expand(what, os.Getenv))
				fmt.Fprintf(f, " %s=%s %v", what, bytes.TrimSpace(c), err)
			case "write":
				fmt.Fprintf(f, " write %s=%v", what, os.WriteFile(what, nil, 0o644) == nil)
			case "list":
				_, err := os.ReadDir(what)
				fmt.Fprintf(f, " list %s=%v", what, err == nil)
			case "cwd":
				d, _ := os.Getwd()
				fmt.Fprintf(f, " cwd=%s", d)
			case "listen":
				l, err := net.Listen("tcp", what)
				fmt.Fprintf(f, " listen=%v", err == nil)
				if err == nil {
					l.Close()
				}
			}
		}
		fmt.Fprintln(f)
		return nil
	case "fail":
		return fmt.Errorf("failed on request")
	case "serve": // keep running; record reloads; answer on an inherited listener
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		if err := run("note", append([]string{"serve"}, args...)); err != nil {
			return err
		}
		notify("READY=1")
		if os.Getenv("LISTEN_FDS") != "" {
			l, err := net.FileListener(os.NewFile(3, "listener"))
			if err != nil {
				return err
			}
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprintf(c, "hello from %s %s\n", os.Getenv("WHO"), os.Getenv("LISTEN_FDNAMES"))
					c.Close()
				}
			}()
		}
		for range hup {
			if err := run("note", append([]string{"reload"}, args...)); err != nil {
				return err
			}
		}
	case "dial":
		c, err := net.DialTimeout(args[0], args[1], 5*time.Second)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, c)
		return err
	}
	return nil
}

func notify(s string) {
	if c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET")); err == nil {
		c.Write([]byte(s))
		c.Close()
	}
}
