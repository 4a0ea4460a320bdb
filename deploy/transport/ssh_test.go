package transport

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/machinetest"
	"github.com/defx-dev/defx/internal/diag"
)

// program builds defx as it is released.
func program(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "defx")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "../../cmd/defx")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// try connects once and returns the error that a user sees.
func try(d Dialer, m *graph.Machine) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := d.Dial(ctx, m)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Units(ctx, "dev/none")
	return err
}

func TestDial_SSH(t *testing.T) {
	l := machinetest.Boot(t, 3)
	t.Setenv("PATH", l.Bin+":"+os.Getenv("PATH"))
	run, err := os.MkdirTemp("", "") // short, and not shared: other labs have machines with the same names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	t.Setenv("XDG_RUNTIME_DIR", run)
	m1, m2, m3 := l.Machines[0], l.Machines[1], l.Machines[2]
	d := Dialer{Backends: backends.NewSet(), Executable: program(t), Connecting: 4 * time.Second}
	at := func(connect string) *graph.Machine { return &graph.Machine{Name: "box", Connect: connect} }
	bins := func(m *machinetest.Machine) string {
		return m.Exec("ls -i /var/lib/defx/bin 2>/dev/null || true")
	}

	if err := try(d, at("ssh://deploy@m1")); err != nil { // a host of the user's ssh configuration
		t.Fatal(err)
	}
	first := bins(m1)
	if strings.Count(first, "defx-") != 1 {
		t.Errorf("%q", first)
	}
	if err := try(d, at("ssh://root@"+m1.Address+":22")); err != nil {
		t.Error(err)
	}
	if again := bins(m1); again != first {
		t.Errorf("the program was sent again: %q, then %q", first, again)
	}
	pinned := &graph.Machine{Name: "box", Connect: "ssh://root@" + m2.Address, HostKey: m2.HostKey, Via: "root@" + m1.Address}
	if err := try(d, pinned); err != nil {
		t.Error(err)
	}

	if err := os.WriteFile(m3.Root+"/usr/local/bin/uname", []byte("#!/bin/sh\n[ \"$1\" = -s ] && exec /usr/bin/uname -s\necho aarch64\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(l.Dir, "changed")
	if err := os.WriteFile(changed, []byte(m2.Address+" "+m1.HostKey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := func(k string) string { f := strings.Fields(k); return f[0] + " " + fingerprint(f[1]) }
	var all sync.WaitGroup
	expect := func(name string, d Dialer, m *graph.Machine, prepare func(), want ...string) {
		if prepare != nil {
			prepare()
		}
		all.Go(func() {
			err := try(d, m)
			var e *diag.Error
			if !errors.As(err, &e) {
				t.Errorf("%s: %v", name, err)
				return
			}
			t.Logf("%s: %v", name, err)
			for _, w := range want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: no %q in %v", name, w, err)
				}
			}
		})
	}
	expect("no sudo", d, at("ssh://plain@m1"), nil, "plain@m1 cannot become root", "NOPASSWD")
	expect("nobody", d, at("ssh://nobody@m1"), nil, "refuses the login of nobody", "without a prompt")
	expect("refused", d, at("ssh://root@m1:2222"), nil, "refuses the connection")
	expect("no such host", d, at("ssh://root@m1.invalid"), nil, "cannot resolve host m1.invalid")
	expect("not a key", d, &graph.Machine{Name: "box", Connect: "ssh://root@m1", HostKey: "ssh-ed25519 %%%"}, nil, "not a public key")
	expect("option as host", d, at("ssh://-oProxyCommand=touch%20x/"), nil, "is not a valid address")
	expect("option as user", d, at("ssh://-oProxyCommand=x@m1"), nil, "is not a valid address")
	expect("option as hop", d, &graph.Machine{Name: "box", Connect: "ssh://root@m1", Via: "-oProxyCommand=x"}, nil, "is not user@host:port")
	expect("another pin", d, &graph.Machine{Name: "box", Connect: "ssh://root@m2", HostKey: m1.HostKey}, nil, key(m1.HostKey), key(m2.HostKey), "hostKey pins")
	expect("another machine's program", d, at("ssh://root@m3"), nil, "linux/arm64", "--agent DIR")
	all.Wait()

	script, err := os.ReadFile(filepath.Join(l.Bin, "ssh"))
	if err != nil {
		t.Fatal(err)
	}
	knows := func(file string) {
		text := strings.Replace(string(script), "-o ControlPersist", "-o UserKnownHostsFile="+file+" -o ControlPersist", 1)
		if err := os.WriteFile(filepath.Join(l.Bin, "ssh"), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	knows("/dev/null")
	expect("unknown key", d, at("ssh://root@m2:22"), nil, "is not known", key(m2.HostKey), "defx machine scan box")
	all.Wait()
	knows(changed)
	expect("changed key", d, at("ssh://root@m2:22"), nil, key(m1.HostKey), key(m2.HostKey), changed+" line 1")
	all.Wait()
	knows(filepath.Join(l.Dir, "known_hosts"))

	m3.Exec("rm /usr/local/bin/uname; mkdir -p /var/lib/defx; mount -t tmpfs -o size=256k tmpfs /var/lib/defx")
	expect("full disk", d, at("ssh://root@m3"), nil, "its disk is full", "free some space")
	all.Wait()
	m3.Exec("mount -o remount,ro /var/lib/defx")
	expect("read-only", d, at("ssh://root@m3"), nil, "is not writable", "Read-only")
	all.Wait()
	m3.Exec("umount /var/lib/defx")

	m2.Cut()
	m3.Freeze()
	expect("black hole", d, at("ssh://root@m2"), nil, "does not answer")
	expect("frozen", d, at("ssh://root@m3"), nil, "does not answer")
	all.Wait()
	m2.Heal()
	m3.Thaw()
	if err := try(d, at("ssh://deploy@m3")); err != nil {
		t.Error(err)
	}
}
