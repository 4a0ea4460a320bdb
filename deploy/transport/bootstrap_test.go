package transport

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// install runs the bootstrap script for a program on a machine whose folder of defx is dir. What it
// writes includes what the program writes, if it runs that.
func install(t *testing.T, dir, program string) string {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\nshift\nexec \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(program))
	text := hex.EncodeToString(sum[:])
	script := strings.NewReplacer("/var/lib/defx", dir, "u=0;", fmt.Sprintf("u=%d;", os.Getuid())).Replace(bootstrap)
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = []string{"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin = strings.NewReader(fmt.Sprintf("defx-%s %d %s\n%s", text[:digestLen], len(program), text, program))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Run()
	_, after, _ := strings.Cut(out.String(), "\n") // the architecture
	return after
}

func TestBootstrap_VerifiesTheProgram(t *testing.T) {
	const program, other = "#!/bin/sh\necho runs\n", "#!/bin/sh\necho evil\n"
	for name, c := range map[string]struct {
		prepare func(dir, file string)
		want    string
	}{
		"missing":          {func(_, file string) { os.Remove(file) }, "need\nhave\nruns\n"},
		"present":          {func(string, string) {}, "have\nruns\n"},
		"of the same size": {func(_, file string) { os.WriteFile(file, []byte(other), 0o755) }, "need\nhave\nruns\n"},
		"a link": {func(dir, file string) {
			os.Rename(file, dir+"/elsewhere")
			os.Symlink(dir+"/elsewhere", file)
		}, "need\nhave\nruns\n"},
		"writable by others": {func(_, file string) { os.Chmod(file, 0o777) }, "need\nhave\nruns\n"},
		"in a folder that others can write": {func(dir, _ string) { os.Chmod(dir+"/bin", 0o777) },
			"failed others than root can change DIR or DIR/bin\n"},
		"below a folder that a group can write": {func(dir, _ string) { os.Chmod(dir, 0o775) },
			"failed others than root can change DIR or DIR/bin\n"},
		"below a folder with the sticky bit": {func(dir, _ string) { os.Chmod(dir, 0o777|os.ModeSticky) }, "have\nruns\n"},
	} {
		dir := filepath.Join(t.TempDir(), "defx")
		if got := install(t, dir, program); got != "need\nhave\nruns\n" {
			t.Fatalf("first: %q", got)
		}
		os.Chmod(dir, 0o711)
		list, err := filepath.Glob(dir + "/bin/defx-*")
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		c.prepare(dir, list[0])
		if got := install(t, dir, program); got != strings.ReplaceAll(c.want, "DIR", dir) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestBootstrap_IsOneLineForEveryShell(t *testing.T) {
	if strings.ContainsAny(bootstrap, "\n!\\") || strings.Count(bootstrap, "'") != 2 {
		t.Error(bootstrap)
	}
}
