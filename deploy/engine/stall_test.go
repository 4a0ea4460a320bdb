package engine

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

func shortStall(t *testing.T) {
	before := stallTimeout
	t.Cleanup(func() { stallTimeout = before })
	stallTimeout = 300 * time.Millisecond
}

// A pull lasts as long as the engine reports progress, and fails when it stops.
func TestPull_Stalls(t *testing.T) {
	shortStall(t)
	var count atomic.Int64 // of messages
	socket := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		messages := count.Load()
		for range messages {
			fmt.Fprintln(w, `{"status":"Downloading"}`)
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		if messages != 10 {
			<-r.Context().Done()
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	api, err := client.New(client.WithHost("unix://" + socket))
	if err != nil {
		t.Fatal(err)
	}
	for _, messages := range []int64{0, 2, 10} {
		count.Store(messages)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := pullImage(ctx, api, "shop.example/x@sha256:"+strings.Repeat("a", 64), "")
		cancel()
		if stalled := err != nil && strings.Contains(err.Error(), "no progress for 300ms"); stalled != (messages != 10) || err != nil && !stalled {
			t.Errorf("%d messages: %v", messages, err)
		}
	}
}

func TestStallTransport(t *testing.T) {
	shortStall(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pieces := 6
		switch r.URL.Path {
		case "/silent":
			<-r.Context().Done()
			return
		case "/stalls":
			pieces = 1
		}
		for range pieces {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		if r.URL.Path == "/stalls" {
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	c := &http.Client{Transport: &stallTransport{http.DefaultTransport}}
	for path, want := range map[string]string{"/silent": "", "/stalls": "x", "/slow": "xxxxxx"} {
		got := ""
		res, err := c.Get(server.URL + path)
		if err == nil {
			var raw []byte
			raw, err = io.ReadAll(res.Body)
			res.Body.Close()
			got = string(raw)
		}
		if stalled := err != nil && strings.Contains(err.Error(), "no progress for 300ms"); got != want || stalled != (path != "/slow") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	// A request body that the peer does not accept.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := c.Post("http://"+l.Addr().String(), "text/plain", io.LimitReader(zeros{}, 64<<20)); err == nil || !strings.Contains(err.Error(), "no progress for 300ms") {
		t.Errorf("%v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
