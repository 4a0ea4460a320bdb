package artifact

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// elsewhere serves content and counts how often it is asked for.
func elsewhere(t *testing.T, content string) (string, *atomic.Int32) {
	var n atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/app", func(w http.ResponseWriter, _ *http.Request) { n.Add(1); io.WriteString(w, content) })
	mux.HandleFunc("/app.tar.gz", func(w http.ResponseWriter, _ *http.Request) { n.Add(1); io.WriteString(w, content) })
	mux.Handle("/moved/app", http.RedirectHandler("/app", http.StatusFound))
	mux.HandleFunc("/short/app", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		io.WriteString(w, content)
	})
	mux.HandleFunc("/slow/app", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, &n
}

func describe(t *testing.T, s *Source, address, content string) (io.ReadCloser, error) {
	t.Helper()
	a, err := s.Describe(token.Token{Kind: token.Artifact, Name: address, Arg: digest.Bytes([]byte(content)).Hex()})
	if err != nil {
		t.Fatal(err)
	}
	return s.Stream(a)
}

func TestAFileAtAnAddressIsFetchedOnce(t *testing.T) {
	url, n := elsewhere(t, "#!/bin/sh\n")
	s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
	for range 2 {
		in, err := describe(t, s, url+"/app", "#!/bin/sh\n")
		if err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(in)
		h, err := r.Next()
		if err != nil || h.Name != "app" || h.Mode != 0o555 {
			t.Fatal(h, err)
		}
		if raw, _ := io.ReadAll(r); string(raw) != "#!/bin/sh\n" {
			t.Errorf("%q", raw)
		}
		in.Close()
	}
	if n.Load() != 1 {
		t.Errorf("asked %d times", n.Load())
	}
	// What somebody changed in the cache is fetched again.
	cached, _ := filepath.Glob(filepath.Join(s.cache, "*", "app"))
	if len(cached) != 1 || os.WriteFile(cached[0], []byte("changed"), 0o755) != nil {
		t.Fatal(cached)
	}
	in, err := describe(t, s, url+"/app", "#!/bin/sh\n")
	if err != nil || n.Load() != 2 {
		t.Fatal(n.Load(), err)
	}
	in.Close()
	if in, err = describe(t, s, url+"/moved/app", "#!/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
}

func TestATarAtAnAddressHasItsSumAsDigest(t *testing.T) {
	url, _ := elsewhere(t, "not really a tar")
	s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
	in, err := describe(t, s, url+"/app.tar.gz", "not really a tar")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if raw, _ := io.ReadAll(in); string(raw) != "not really a tar" {
		t.Errorf("%q", raw)
	}
}

func TestWhatIsNotItIsRefused(t *testing.T) {
	defer func(d time.Duration, n int64) { fetchTime, fetchSize = d, n }(fetchTime, fetchSize)
	fetchTime, fetchSize = 300*time.Millisecond, 64
	url, _ := elsewhere(t, "content")
	long, _ := elsewhere(t, strings.Repeat("x", 65))
	s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
	for address, c := range map[string]struct{ content, want string }{
		url + "/app":             {"other", "another sum"},
		url + "/absent/x":        {"content", "404"},
		url + "/short/app":       {"content", "unexpected EOF"},
		url + "/slow/app":        {"content", "deadline"},
		long + "/app":            {strings.Repeat("x", 65), "more than 64 bytes"},
		"http://127.0.0.1:1/app": {"content", "refused"},
	} {
		in, err := describe(t, s, address, c.content)
		if err == nil {
			in.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v, want %s", address, err, c.want)
		}
	}
	if left, err := os.ReadDir(s.cache); err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		t.Error(left, err)
	}
}
