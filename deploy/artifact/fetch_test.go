package artifact

import (
	"archive/tar"
	"context"
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

// serve serves content and counts the requests.
func serve(t *testing.T, content string) (string, *atomic.Int32) {
	var n atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/app", func(w http.ResponseWriter, _ *http.Request) { n.Add(1); io.WriteString(w, content) })
	mux.HandleFunc("/app.tar.gz", func(w http.ResponseWriter, _ *http.Request) { n.Add(1); io.WriteString(w, content) })
	mux.Handle("/moved/app", http.RedirectHandler("/app", http.StatusFound))
	mux.HandleFunc("/short/app", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		io.WriteString(w, content)
	})
	mux.HandleFunc("/silent/app", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/stalled/app", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		io.WriteString(w, content)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, &n
}

// stream describes the content of a URL and returns its stream.
func stream(t *testing.T, s *Source, address, content string) (io.ReadCloser, error) {
	t.Helper()
	a, err := s.Describe(token.Token{Kind: token.Artifact, Name: address, Arg: digest.Bytes([]byte(content)).Hex()})
	if err != nil {
		t.Fatal(err)
	}
	return s.Stream(t.Context(), a)
}

func TestFetch_FileOnce(t *testing.T) {
	url, n := serve(t, "#!/bin/sh\n")
	s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
	for range 2 {
		in, err := stream(t, s, url+"/app", "#!/bin/sh\n")
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
		t.Errorf("%d requests, want 1", n.Load())
	}
	// A file that was changed in the cache is fetched again.
	cached, _ := filepath.Glob(filepath.Join(s.cache, "*", "app"))
	if len(cached) != 1 || os.WriteFile(cached[0], []byte("changed"), 0o755) != nil {
		t.Fatal(cached)
	}
	in, err := stream(t, s, url+"/app", "#!/bin/sh\n")
	if err != nil || n.Load() != 2 {
		t.Fatal(n.Load(), err)
	}
	in.Close()
	if in, err = stream(t, s, url+"/moved/app", "#!/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
}

func TestFetch_TarHasItsChecksumAsDigest(t *testing.T) {
	content := string(compressed(t, "gzip", tarOf(t, tarFile("bin/app", 0o755, "#!/bin/sh\n"))))
	url, _ := serve(t, content)
	s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
	in, err := stream(t, s, url+"/app.tar.gz", content)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if raw, _ := io.ReadAll(in); string(raw) != content {
		t.Errorf("%d bytes, want the %d that were served", len(raw), len(content))
	}
}

// TestFetch_FormatIsCheckedBeforeSending checks that nothing is sent that a machine could not
// unpack completely, or would not unpack although it is an archive.
func TestFetch_FormatIsCheckedBeforeSending(t *testing.T) {
	whole := string(tarOf(t, tarFile("app", 0o755, strings.Repeat("x", 3000))))
	for name, c := range map[string]struct{ path, content, want string }{
		"no tar":        {"/app.tar.gz", "not a tar", "content is none"},
		"truncated tar": {"/app.tar.gz", whole[:1500], "truncated"},
		"hidden tar":    {"/app", whole, "does not say so"},
		"zip":           {"/app.tar.gz", "PK\x03\x04rest of it", "a zip archive"},
	} {
		url, _ := serve(t, c.content)
		s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
		if _, err := stream(t, s, url+c.path, c.content); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if left, _ := os.ReadDir(s.cache); len(left) > 0 {
			t.Errorf("%s: kept %v", name, left)
		}
	}
}

func TestFetch_Failures(t *testing.T) {
	defer func(d time.Duration, n int64) { stallTimeout, maxFetchSize = d, n }(stallTimeout, maxFetchSize)
	stallTimeout, maxFetchSize = 300*time.Millisecond, 64
	url, _ := serve(t, "content")
	long, _ := serve(t, strings.Repeat("x", 65))
	s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
	for address, c := range map[string]struct{ content, want string }{
		url + "/app":             {"other", "checksum mismatch"},
		url + "/absent/x":        {"content", "404"},
		url + "/short/app":       {"content", "unexpected EOF"},
		url + "/silent/app":      {"content", "sent nothing for 300ms"},
		url + "/stalled/app":     {"content", "sent nothing for 300ms"},
		long + "/app":            {strings.Repeat("x", 65), "larger than 64 bytes"},
		"http://127.0.0.1:1/app": {"content", "refused"},
	} {
		in, err := stream(t, s, address, c.content)
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

// TestFetch_SlowDownload checks that a download which makes progress may take
// longer than stallTimeout.
func TestFetch_SlowDownload(t *testing.T) {
	defer func(d time.Duration) { stallTimeout = d }(stallTimeout)
	stallTimeout = 500 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for _, c := range "content" {
			io.WriteString(w, string(c))
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	}))
	defer server.Close()
	in, err := stream(t, NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache")), server.URL+"/app", "content")
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
}

func TestFetch_StopsWithItsContext(t *testing.T) {
	url, _ := serve(t, "content")
	s := NewSource(t.TempDir(), nil, filepath.Join(t.TempDir(), "cache"))
	a, err := s.Describe(token.Token{Kind: token.Artifact, Name: url + "/silent/app", Arg: digest.Bytes([]byte("content")).Hex()})
	if err != nil {
		t.Fatal(err)
	}
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(interrupted) })
	begun := time.Now()
	if _, err := s.Stream(ctx, a); !errors.Is(err, interrupted) {
		t.Errorf("error %v, want the cause of the context", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}
