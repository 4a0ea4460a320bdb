// Server greets and counts its visitors in redis. It is the artifact of the
// webstack example.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8091", "address to serve on")
	flag.Parse()
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		n, err := count(os.Getenv("REDIS"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "%s, visitor %s\n", os.Getenv("GREETING"), n)
	})
	log.Printf("serving on %s, counting in %s", *listen, os.Getenv("REDIS"))
	log.Fatal(http.ListenAndServe(*listen, nil))
}

// count raises the number of visitors by one.
func count(redis string) (string, error) {
	c, err := net.DialTimeout("tcp", redis, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprint(c, "INCR visitors\r\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, ":") {
		return "", fmt.Errorf("redis said %q: %v", line, err)
	}
	return strings.TrimSpace(line[1:]), nil
}
