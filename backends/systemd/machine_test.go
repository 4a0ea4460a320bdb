package systemd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/internal/digest"
)

// machine is a container that boots a copy-on-write view of the system tree in DEFX_TEST_SYSTEMD_ROOT,
// for example a debootstrap of Debian with systemd and dbus.
type machine struct {
	t    *testing.T
	root string
}

var boots atomic.Int64 // makes the names of machines unique

func newMachine(t *testing.T) *machine {
	t.Helper()
	base := os.Getenv("DEFX_TEST_SYSTEMD_ROOT")
	if base == "" {
		t.Skip("DEFX_TEST_SYSTEMD_ROOT is not set")
	}
	if os.Getuid() != 0 {
		t.Fatal("booting a tree needs root")
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := &machine{t: t, root: filepath.Join(dir, "root")}
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.host("mount", "-t", "overlay", "overlay", "-o",
		"lowerdir="+base+",upperdir="+dir+"/upper,workdir="+dir+"/work", m.root)
	t.Cleanup(func() { m.host("umount", m.root) })
	return m
}

func (m *machine) host(name string, args ...string) {
	m.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (m *machine) write(path, content string, mode os.FileMode) {
	m.t.Helper()
	p := filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		m.t.Fatal(err)
	}
}

// read returns the content of a file of the machine, or "" if there is none.
func (m *machine) read(path string) string {
	b, _ := os.ReadFile(filepath.Join(m.root, path))
	return string(b)
}

// install writes a layout below prefix, as an agent would ("" is the root).
func (m *machine) install(prefix string, l backends.Layout) {
	m.t.Helper()
	for _, o := range l.Objects {
		m.write(backends.StorePath+"/"+o.Name, string(o.Content), o.Mode)
	}
	for _, f := range l.Files {
		p := filepath.Join(m.root, prefix, f.Path)
		os.Remove(p)
		if f.Link == "" {
			m.write(prefix+f.Path, string(f.Content), f.Mode)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.Symlink(f.Link, p); err != nil {
			m.t.Fatal(err)
		}
	}
}

// dataPath returns the directory below root that a service of these tests has: it is named like the service.
func dataPath(root, service string) string {
	return root + "/defx/dev/zalora/hydra-" + service + ".0/" + service
}

// deploy renders and realizes a service under its real version and installs it.
func (m *machine) deploy(prefix string, in backends.Input) backends.Layout {
	m.t.Helper()
	p := render(m.t, in)
	l, err := New().Realize(p, versionOf(m.t, p), valueOf)
	if err != nil {
		m.t.Fatal(err)
	}
	m.install(prefix, l)
	return l
}

// probe builds the probe program and puts it into the store as the artifact "probe.bin".
func (m *machine) probe() {
	m.t.Helper()
	bin := filepath.Join(m.t.TempDir(), "probe.bin")
	cmd := exec.Command("go", "build", "-o", bin, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(probePath(), string(b), 0o555)
}

func probePath() string {
	return backends.StorePath + "/" + digest.Bytes([]byte("probe.bin")).Hex() + "/probe.bin"
}

// boot starts the machine, runs the script in it, waits for it to power off, and returns the
// script's output.
func (m *machine) boot(script string) string {
	m.t.Helper()
	m.write("/script", script, 0o755)
	m.write(unitDir+"/script.service", `[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'bash /script > /script.out 2>&1'
ExecStopPost=/bin/bash -c 'journalctl -b --no-pager -u "defx*" > /journal.out; systemctl poweroff -ff'
TimeoutStartSec=60
`, 0o644)
	m.write(unitDir+"/multi-user.target.wants/script.service", "", 0o644)
	link := filepath.Join(m.root, unitDir, "multi-user.target.wants/script.service")
	os.Remove(link)
	if err := os.Symlink("../script.service", link); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "--register=no", "--keep-unit", "--private-network", "--quiet",
		fmt.Sprintf("--machine=defx-test-%d-%d", os.Getpid(), boots.Add(1)), "-D", m.root, "-b")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		m.t.Logf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(m.root, "script.out")); err != nil {
		m.t.Fatalf("the machine did not come up\n%s", out.String())
	}
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("journal:\n%s", m.read("/journal.out"))
		}
	})
	return m.read("/script.out")
}
