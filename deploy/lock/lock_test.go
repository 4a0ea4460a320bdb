package lock_test

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestFile_RoundTrip(t *testing.T) {
	dir := t.TempDir()
	f, err := lock.Read(t.Context(), dir)
	if err != nil || len(f.Environments) != 0 {
		t.Fatal(f, err)
	}
	d := digest.Bytes([]byte("x"))
	f.Environments["dev"] = lock.Section{Artifacts: map[string]lock.Artifact{"b": {d, "tree"}, "a": {d, "file"}}, Images: map[string]digest.Digest{"nginx:1": d}}
	if err := f.Copy("dev", "prod"); err != nil {
		t.Fatal(err)
	}
	f.Environments["dev"].Artifacts["b"] = lock.Artifact{Digest: digest.Bytes([]byte("y")), Kind: "tree"}
	if f.Environments["prod"].Artifacts["b"].Digest != d {
		t.Error("a change of the original changed its copy")
	}
	for range 2 {
		if err := f.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	first, _ := os.ReadFile(filepath.Join(dir, lock.Name))
	again, err := lock.Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Write(dir); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(filepath.Join(dir, lock.Name)); string(first) != string(second) {
		t.Errorf("%s\n%s", first, second)
	}
	if err := f.Copy("dve", "prod"); err == nil || !strings.Contains(err.Error(), `did you mean "dev"?`) {
		t.Error(err)
	}
}

func TestRead_DamagedFile(t *testing.T) {
	for _, text := range []string{"", "{", `{"apiVersion":"defx/v2","kind":"LockFile"}`, `{"apiVersion":"defx/v1","kind":"LockFile","more":1}`,
		`{"apiVersion":"defx/v1","kind":"LockFile","environments":{"a":{"images":{"x":"sha256:1"}}}}`,
		`{"apiVersion":"defx/v1","kind":"LockFile","environments":{"a":{"artifacts":{"x":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","kind":"zip"}}}}}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, lock.Name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Read(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestResolve_Tag(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	image := strings.TrimPrefix(server.URL, "http://") + "/acme/web:1"
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	want, _ := img.Digest()
	got, err := lock.Resolve(t.Context(), image)
	if err != nil || string(got) != want.String() {
		t.Fatal(got, err)
	}
	if _, err := lock.Resolve(t.Context(), image+"0"); err == nil || !strings.Contains(err.Error(), "acme/web:10") {
		t.Error(err)
	}
	server.Close()
	if _, err := lock.Resolve(t.Context(), image); err == nil || !strings.Contains(err.Error(), image) || !strings.Contains(err.Error(), "hint: ") {
		t.Error(err)
	}
	if _, err := lock.Resolve(t.Context(), "UPPER case"); err == nil || !strings.Contains(err.Error(), "UPPER case") {
		t.Error(err)
	}
}
