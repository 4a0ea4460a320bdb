package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const tool = "#!/bin/sh\necho tool\n"

// startServers starts a registry with the image acme/web:1, and a server with the
// file /files/tool.sh. It returns the variables that name them in scripts.
func startServers(t *testing.T) map[string]string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/v2/", registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	mux.HandleFunc("/files/tool.sh", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, tool) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/acme/web:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"SERVER": server.URL, "REGISTRY": host, "SUM": digest.Bytes([]byte(tool)).Hex()}
}
