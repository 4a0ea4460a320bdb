package agent_test

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/internal/digest"
)

// A large artifact's connection is cut repeatedly until all of it has arrived.
func TestPutArtifact_ResumesAfterCut(t *testing.T) {
	content := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{1}).Read(content)
	tree := fstest.MapFS{"bin/large": {Data: content, Mode: 0o755}, "small": {Data: []byte("x"), Mode: 0o644}}
	d, err := artifact.Digest(tree)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if err := artifact.Pack(&packed, tree); err != nil {
		t.Fatal(err)
	}
	a := plan.Artifact{Digest: d, Path: "large", Kind: "tree"}
	dir := t.TempDir()
	// send tries once over a connection that breaks after bytesLeft, and returns the offset
	// at which it started.
	send := func(a plan.Artifact, stream []byte, bytesLeft int) (int64, error) {
		t.Helper()
		here, there := net.Pipe()
		served := make(chan struct{})
		go func() {
			agent.Serve(t.Context(), there, agent.OpenHost(dir, backends.NewSet()))
			there.Close()
			close(served)
		}()
		defer func() { here.Close(); <-served }()
		client, err := agent.NewClient(t.Context(), &cutter{here, bytesLeft})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		missing, err := client.Missing(t.Context(), []digest.Digest{a.Digest})
		if err != nil {
			t.Fatal(err)
		}
		offset, lacks := missing[a.Digest]
		if !lacks {
			return -1, nil
		}
		return offset, client.Put(t.Context(), a, offset, bytes.NewReader(stream[offset:]))
	}
	last := int64(-1)
	tries := 0
	for ; ; tries++ {
		offset, err := send(a, packed.Bytes(), 2<<20)
		if offset <= last {
			t.Fatalf("try %d begins at %d, the one before at %d", tries, offset, last)
		}
		if last = offset; err == nil {
			break
		}
	}
	if tries != 2 {
		t.Errorf("5 MiB over connections of 2 MiB each took %d cuts", tries)
	}
	got, err := os.ReadFile(filepath.Join(dir, "var/lib/defx/store", d.Hex(), "bin/large"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes arrived, %v", len(got), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "var/lib/defx/store/*.defx-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	// A partial upload of other bytes is detected by its digest, and the next attempt starts
	// over.
	other := fstest.MapFS{"other": {Data: content, Mode: 0o644}}
	if a.Digest, err = artifact.Digest(other); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "var/lib/defx/store", a.Digest.Hex()+".defx-part"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	packed.Reset()
	if err := artifact.Pack(&packed, other); err != nil {
		t.Fatal(err)
	}
	if offset, err := send(a, packed.Bytes(), 1<<30); offset != 1000 || err == nil {
		t.Errorf("%d, %v", offset, err)
	}
	if offset, err := send(a, packed.Bytes(), 1<<30); offset != 0 || err != nil {
		t.Errorf("%d, %v", offset, err)
	}
	if offset, _ := send(a, packed.Bytes(), 1<<30); offset != -1 {
		t.Error("it is still missing")
	}
}
