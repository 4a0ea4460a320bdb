package transport

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A reader sees the end of a killed program even if a child holds the other end of its pipe.
func TestProcess_KillEndsReader(t *testing.T) {
	p, err := start("sh", "-c", "sleep 1000 & echo $!; wait")
	if err != nil {
		t.Fatal(err)
	}
	child, err := p.line()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if k, err := start("kill", child); err == nil {
			k.wait()
		}
	}()
	done := make(chan error, 1)
	go func() { _, err := p.line(); done <- err }()
	p.kill()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a line was read after the kill")
		}
	case <-time.After(20 * time.Second):
		t.Error("the reader hangs")
	}
}

// A machine that takes nothing of the program.
func TestBuild_SendStalls(t *testing.T) {
	before := stallTimeout
	defer func() { stallTimeout = before }()
	stallTimeout = 200 * time.Millisecond
	p, err := start("sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "defx")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o755); err != nil {
		t.Fatal(err)
	}
	err = (&build{path: path, size: 1 << 20}).send(p, p.kill)
	if f, ok := errors.AsType[*sshFailure](err); !ok || f.kind != "stalled" {
		t.Errorf("%v", err)
	}
	p.wait()
}
