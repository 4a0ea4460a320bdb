package transport

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// build is a program file that can be installed on a machine.
type build struct {
	path string
	size int64
	sum  string // SHA-256, hexadecimal
}

// architectures maps machine names of uname to Go's names of architectures.
var architectures = map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "i386": "386", "i686": "386",
	"armv6l": "arm", "armv7l": "arm", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64"}

var builds sync.Map // path → func() (*build, error): each file is hashed once

// build finds the program for a machine with the given system and architecture.
func (d Dialer) build(m *graph.Machine, system, machine string) (*build, error) {
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	if system != "Linux" {
		return nil, fail("it runs %s, but defx supports Linux machines only", system)
	}
	arch := architectures[machine]
	if arch == "" {
		arch = machine
	}
	path := ""
	if d.Builds != "" {
		candidate := filepath.Join(d.Builds, "defx-linux-"+arch)
		if _, err := os.Stat(candidate); err == nil {
			path = candidate
		}
	}
	if path == "" && runtime.GOOS == "linux" && arch == runtime.GOARCH {
		var err error
		if path, err = d.program(); err != nil {
			return nil, err
		}
	}
	if path == "" {
		return nil, fail("it is linux/%s, but this defx is for %s/%s", arch, runtime.GOOS, runtime.GOARCH).
			WithHint("use --agent DIR with a folder that has defx-linux-%s: GOOS=linux GOARCH=%s CGO_ENABLED=0 go build -o DIR/defx-linux-%s ./cmd/defx", arch, arch, arch)
	}
	f, _ := builds.LoadOrStore(path, sync.OnceValues(func() (*build, error) { return hashFile(path) }))
	return f.(func() (*build, error))()
}

func hashFile(path string) (*build, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &build{path, n, hex.EncodeToString(h.Sum(nil))}, nil
}
