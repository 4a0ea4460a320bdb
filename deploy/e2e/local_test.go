package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLocal_RootAndSudo deploys to the machine that defx runs on, as root and then as a user
// who can become root.
func TestLocal_RootAndSudo(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	home := filepath.Join(m.Root, "home/deploy/site")
	write := func(word string) {
		t.Helper()
		s.file("libs/apart.libsonnet", strings.NewReplacer("WORD", word, "'m2'", "'m1'").Replace(apart), 0o644)
		s.file("defx.jsonnet", "{ name: 'here', libs: { apart: import 'libs/apart.libsonnet' }, machines: { m1: { connect: 'local' } } }\n", 0o644)
		for _, name := range []string{"defx.jsonnet", "libs/apart.libsonnet", "build/server"} {
			raw, err := os.ReadFile(filepath.Join(s.dir, name))
			to := filepath.Join(home, name)
			if err = errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755), os.RemoveAll(to), os.WriteFile(to, raw, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		m.Exec("chown -R deploy: /home/deploy/site")
	}
	raw, err := os.ReadFile(s.bin)
	if err = errors.Join(err, os.WriteFile(filepath.Join(m.Root, "usr/local/bin/defx"), raw, 0o755)); err != nil {
		t.Fatal(err)
	}
	wants := func(who, args string, texts ...string) {
		t.Helper()
		out, err := m.Try("cd /home/deploy/site && runuser -u " + who + " -- defx " + args + " 2>&1")
		t.Logf("%s: defx %s: %v\n%s", who, args, err, out)
		for _, text := range texts {
			if err != nil || !strings.Contains(out, text) {
				t.Errorf("%s: defx %s: %v, want %q", who, args, err, text)
			}
		}
	}
	write("one")
	wants("root", "apply --yes", "3 created")
	m.Exec("chown -R deploy: /home/deploy/site") // the state files belong to root
	wants("deploy", "apply --yes", "No changes")
	write("two")
	wants("deploy", "apply --yes", "3 updated")
	if got := m.Exec("tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID defx-default-here-apart-left.0.service)/environ"); !strings.Contains(got, "GREETING=two") {
		t.Errorf("%s", got)
	}
	wants("deploy", "status --refresh", "active for")
	wants("deploy", "logs apart/left", "serving on 0.0.0.0:7001")
	wants("deploy", "restart apart/left", "restarted on m1")
	wants("deploy", "shell apart/left -- /bin/sh -c 'echo $GREETING'", "two")
	wants("root", "destroy --confirm default", "3 deleted")
	out, err := m.Try("cd /home/deploy/site && chown -R plain: . && runuser -u plain -- defx apply --yes 2>&1")
	if err == nil || !strings.Contains(out, "connect 'local' needs root, and sudo failed:") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUpload_ResumesLargeArtifact kills defx while it sends an artifact.
func TestUpload_ResumesLargeArtifact(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	content := make([]byte, 160<<20)
	rand.NewChaCha8([32]byte{2}).Read(content)
	s.file("build/large", string(content), 0o644)
	s.file("libs/large.libsonnet", `local defx = import 'defx/v1.libsonnet';
{ a: { service: { command: ['/bin/sleep', '1000'], files: { '/etc/large': { from: defx.artifact('../build/large') } } } } }
`, 0o644)
	s.file("defx.jsonnet", fmt.Sprintf("{ name: 'large', libs: { large: import 'libs/large.libsonnet' }, machines: { m1: { connect: 'ssh://root@%s' } } }\n", m.Address), 0o644)
	part := func() (string, int64) {
		names, _ := filepath.Glob(filepath.Join(m.Root, "var/lib/defx/store/*.defx-part"))
		if len(names) == 0 {
			return "", 0
		}
		info, err := os.Stat(names[0])
		if err != nil {
			return "", 0
		}
		return names[0], info.Size()
	}
	cmd := s.start("apply", "--yes")
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if _, size := part(); size > 10<<20 {
			break
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	name, size := part()
	t.Logf("%d of %d bytes were there", size, len(content))
	if name == "" || size < 10<<20 || size >= int64(len(content)) {
		t.Fatalf("it was not killed in the middle: %q, %d bytes", name, size)
	}
	s.wants(0, "1 created")
	if name, _ := part(); name != "" {
		t.Errorf("%s is left", name)
	}
	want := fmt.Sprintf("%x", sha256.Sum256(content))
	if got := m.Exec("nsenter -t $(systemctl show -P MainPID defx-default-large-large-a.0.service) -m sha256sum /etc/large"); !strings.HasPrefix(got, want) {
		t.Errorf("%s is not %s", got, want)
	}
}
