package openfile_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/defx-dev/defx/internal/openfile"
)

// TestRead_RegularFilesOnly: whatever else lies at a path gives an error with a hint, at once.
func TestRead_RegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("file"), []byte("content"), 0o644))
	must(os.WriteFile(at("large"), nil, 0o644))
	must(os.Truncate(at("large"), 1<<40))
	must(os.Mkdir(at("folder"), 0o755))
	must(syscall.Mkfifo(at("fifo"), 0o644))
	l, err := net.Listen("unix", at("socket"))
	must(err)
	defer l.Close()
	must(os.Symlink("file", at("link")))
	must(os.Symlink("fifo", at("link to fifo")))
	must(os.Symlink("/dev/zero", at("device")))
	must(os.Symlink("/proc/self/environ", at("environ")))
	must(os.Symlink("/proc/self/root/"+at("file"), at("by proc")))
	must(os.Symlink("/etc/hostname", at("outside")))
	root, err := os.OpenRoot(dir)
	must(err)
	defer root.Close()
	for name, want := range map[string][3]string{ // of Read, ReadIn and OpenNoFollow: "" = it is read
		"file":         {"", "", ""},
		"link":         {"", "", "a symbolic link"},
		"large":        {"the limit is 100", "the limit is 100", "the limit is 100"},
		"folder":       {"a folder", "a folder", "a folder"},
		"fifo":         {"a FIFO", "a FIFO", "a FIFO"},
		"socket":       {"a socket", "a socket", "a socket"},
		"link to fifo": {"a FIFO", "a FIFO", "a symbolic link"},
		"device":       {"a device", "leads out", "a symbolic link"},
		"environ":      {"of the kernel", "leads out", "a symbolic link"},
		"by proc":      {"", "leads out", "a symbolic link"}, // an ordinary file under another name
		"outside":      {"", "leads out", "a symbolic link"},
	} {
		for i, read := range []func(context.Context) ([]byte, error){
			func(ctx context.Context) ([]byte, error) { return openfile.Read(ctx, at(name), 100) },
			func(ctx context.Context) ([]byte, error) { return openfile.ReadIn(ctx, root, name, 100) },
			func(ctx context.Context) ([]byte, error) {
				return openfile.ReadFrom(ctx, func() (*os.File, error) { return openfile.OpenNoFollow(at(name)) }, 100)
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			raw, err := read(ctx)
			cancel()
			if want[i] == "" {
				if err != nil {
					t.Errorf("%s, way %d: %v", name, i, err)
				}
				continue
			}
			e, refused := errors.AsType[*openfile.Error](err)
			if !refused || !strings.Contains(err.Error(), want[i]) || e.Hint() == "" {
				t.Errorf("%s, way %d: %q, %v, want %s", name, i, raw, err, want[i])
			}
		}
	}
}

// TestReadFrom_EndsWithItsContext: a file system that does not answer keeps nobody waiting.
func TestReadFrom_EndsWithItsContext(t *testing.T) {
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(interrupted) })
	if _, err := openfile.ReadFrom(ctx, func() (*os.File, error) { select {} }, 1); !errors.Is(err, interrupted) {
		t.Error(err)
	}
}
