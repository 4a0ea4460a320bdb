package artifact

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/defx-dev/defx/internal/digest"
)

func TestNetworkOf(t *testing.T) {
	for address, want := range map[string]network{
		"93.184.216.34": public, "2606:4700::1": public, "8.8.8.8": public,
		"10.0.0.1": private, "192.168.1.1": private, "172.31.0.1": private, "100.64.0.1": private, "fd00::1": private, "fec0::1": private, "::ffff:10.0.0.1": private, "64:ff9b::a00:1": private,
		"127.0.0.1": loopback, "127.8.9.1": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback, "2002:7f00:1::": loopback,
		"169.254.169.254": linkLocal, "fe80::1": linkLocal, "0.0.0.0": linkLocal, "::": linkLocal, "fd00:ec2::254": linkLocal, "224.0.0.1": linkLocal, "64:ff9b::a9fe:a9fe": linkLocal,
	} {
		if got := networkOf(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}

// at serves on an address of this host.
func at(t *testing.T, address string, handler http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Skip(err) // other systems have only one loopback address
	}
	s := httptest.NewUnstartedServer(handler)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// TestFetch_Redirects: a server may redirect to public addresses and to its own kind. The other
// server is not even asked, and the error has no digest of its content.
func TestFetch_Redirects(t *testing.T) {
	defer func(f func(netip.Addr) network) { classify = f }(classify)
	classify = func(a netip.Addr) network {
		return map[string]network{"127.0.0.1": public, "127.0.0.2": private, "127.0.0.3": linkLocal, "127.0.0.4": public, "127.0.0.5": private}[a.String()]
	}
	var asked atomic.Int32
	content := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); io.WriteString(w, "secret") })
	redirect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	})
	for _, c := range []struct {
		from, to string
		refused  string
	}{
		{"127.0.0.1", "127.0.0.4", ""},
		{"127.0.0.1", "127.0.0.1", ""},
		{"127.0.0.2", "127.0.0.5", ""},
		{"127.0.0.2", "127.0.0.1", ""},
		{"127.0.0.1", "127.0.0.2", "a private address"},
		{"127.0.0.1", "127.0.0.3", "a link-local address"},
		{"127.0.0.2", "127.0.0.3", "a link-local address"},
	} {
		from, to := at(t, c.from, redirect), at(t, c.to, content)
		asked.Store(0)
		s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
		in, err := stream(t, s, from+"/app?to="+to+"/app", "secret")
		if err == nil {
			in.Close()
		}
		if c.refused == "" && (err != nil || asked.Load() != 1) {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
		if c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused) || asked.Load() != 0) {
			t.Errorf("%s to %s: %v, asked %d times", c.from, c.to, err, asked.Load())
		}
	}
	from, to := at(t, "127.0.0.1", redirect), at(t, "127.0.0.4", content)
	_, err := stream(t, NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache")), from+"/app?to="+to+"/app", "other")
	if sum := digest.Bytes([]byte("secret")).Hex(); err == nil || !strings.Contains(err.Error(), "checksum mismatch") || strings.Contains(err.Error(), sum[:8]) {
		t.Errorf("%v", err)
	}
	for target, want := range map[string]string{"ftp://127.0.0.4/x": "no URL of a file", "http://u:p@127.0.0.4/x": "no URL of a file", "/app": "redirects"} {
		if _, err := stream(t, NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache")), from+"/app?to="+target, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// TestFetch_RedirectThroughProxy: the proxy connects, so the host's addresses are checked.
func TestFetch_RedirectThroughProxy(t *testing.T) {
	defer func(f func(context.Context, string, string) ([]netip.Addr, error)) { resolve = f }(resolve)
	resolve = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if a, ok := map[string]string{"public.example": "93.184.216.34", "inside.example": "10.0.0.1"}[host]; ok {
			return []netip.Addr{netip.MustParseAddr(a)}, nil
		}
		return nil, errors.New("no such host")
	}
	f := &fetcher{isFirst: true, transport: &http.Transport{}}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9")
	check := func(address string) error {
		req, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { f.isFirst = false }()
		return f.throughProxy(req)
	}
	if err := check("http://public.example/x"); err != nil {
		t.Error(err)
	}
	if f.transport.Proxy == nil {
		t.Skip("the environment was read before")
	}
	for address, refused := range map[string]bool{"http://inside.example/x": true, "http://169.254.169.254/x": true, "http://public.example/y": false} {
		if err := check(address); (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
}
