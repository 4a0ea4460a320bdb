package systemd

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
)

// fact renders a host setting.
func fact(t *testing.T, kind, key string, value any) (backends.Layout, error) {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	in := input("x", graph.Spec{})
	in.Service.Address = graph.Address{Lib: graph.HostLib, Name: kind, Member: key, Machine: "m1"}
	in.Service.Fact = &graph.Fact{Kind: kind, Key: key, Value: raw}
	p, _, errs := New().Render(in)
	if len(errs) > 0 {
		return backends.Layout{}, errs
	}
	return New().Realize(p, version, valueOf)
}

// TestFact_RefusesWhatIsNoName checks values that were commands, lines or orders for the program that
// reads them.
func TestFact_RefusesWhatIsNoName(t *testing.T) {
	for _, c := range []struct {
		kind, key string
		value     any
	}{
		{"packages", "nginx", "1`id>/tmp/p`"}, {"packages", "nginx", "1;id"}, {"packages", "openssh-server-", ""}, {"packages", "nginx+", ""}, {"packages", "a*", ""},
		{"packages", "nginx", "1 -o DPkg::Pre-Invoke::=id"},
		{"users", "x", graph.User{Groups: []string{"adm\nu toor 0:0 - /root /bin/sh"}}}, {"users", "x", graph.User{Home: "/x\nu toor 0"}}, {"users", "x", graph.User{Shell: "/bin/sh x"}},
		{"users", "root", graph.User{}}, {"users", "daemon", graph.User{}}, {"users", "x", graph.User{Groups: []string{"%u"}}},
		{"sysctl", "vm.x", "1\nkernel.core_pattern = |/tmp/x"}, {"sysctl", "vm.*", "1"}, {"sysctl", "vm", "1"},
		{"modules", "x.ko", true}, {"modules", "a/b", true},
	} {
		if l, err := fact(t, c.kind, c.key, c.value); err == nil {
			t.Errorf("%s %s = %v is accepted: %s", c.kind, c.key, c.value, l.Files[0].Content)
		}
	}
}

// TestUser_OfSystemIsRefused checks that no service runs as a user of the operating system.
func TestUser_OfSystemIsRefused(t *testing.T) {
	for user, want := range map[string]bool{"shop": true, "www-data": true, "root": true, "daemon": false, "systemd-network": false, "_apt": false, "messagebus": false} {
		_, _, errs := New().Render(input("x", graph.Spec{Command: lit("/bin/x"), User: user}))
		if (len(errs) == 0) != want {
			t.Errorf("%s: %v", user, errs)
		}
	}
}

// theDirective returns the only value of a directive of the unit of a layout.
func theDirective(t *testing.T, l backends.Layout, name string) string {
	t.Helper()
	var out []string
	for _, d := range directives(t, l, l.Unit) {
		if d.name == name {
			out = append(out, d.value)
		}
	}
	if len(out) != 1 {
		t.Fatalf("%s: %q", name, out)
	}
	return out[0]
}

// runScript runs a command of a unit with programs that write their names and arguments to a file,
// and returns these.
func runScript(t *testing.T, command string, answer string) []string {
	t.Helper()
	words, err := readWords(strings.TrimLeft(command, "+:"), " \t\n\r", true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, name := range []string{"dpkg-query", "apt-get", "mkdir", "chown", "id", "cat"} {
		text := "#!/bin/sh\nprintf '%s\\0' " + name + " \"$@\" >>" + log + "\nprintf '\\n' >>" + log + "\n"
		if name == "dpkg-query" {
			text += "printf '%s' '" + answer + "'\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env, cmd.Dir = []string{"PATH=" + dir + ":/usr/bin:/bin"}, dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", words, err, out)
	}
	raw, _ := os.ReadFile(log)
	return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
}

func TestPackage_IsOneArgument(t *testing.T) {
	const ok = "Status: install ok installed\nVersion: 1.22.1-9\n"
	for _, c := range []struct{ version, answer, want string }{
		{"", "", "nginx"}, {"", ok, ""}, {"1.22.1-9", ok, ""}, {"1.22.1-8", ok, "nginx=1.22.1-8"}, {"1.22.1-9", "Version: 1.22.1-9\n", "nginx=1.22.1-9"},
	} {
		l, err := fact(t, "packages", "nginx", c.version)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, line := range runScript(t, theDirective(t, l, "ExecStart"), c.answer) {
			if words := strings.Split(line, "\x00"); words[0] == "apt-get" {
				if got = words[len(words)-2]; words[len(words)-3] != "--" {
					t.Errorf("%q", words)
				}
			}
		}
		if got != c.want {
			t.Errorf("%+v: apt-get installs %q", c, got)
		}
	}
}

// TestScripts_TakeAnyArgument runs the constant scripts with names that no grammar accepts: they stay
// arguments.
func TestScripts_TakeAnyArgument(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	hostile := []string{"$(id)", "`id`", "a;id", "a\nid", "'$(id)'", `"; id; "`, "a b", "-x", "*", "|id", "&id", ">id", "%n", "${HOME}", `\`, `a"b`}
	for i := range 40 {
		s := randomString(r, func(c rune) bool { return false })
		if i < len(hostile) {
			s = hostile[i]
		}
		command, err := shell("+:", makeDirScript, "/no/such/"+s, s)
		if err != nil {
			continue
		}
		got := runScript(t, command, "")
		want := []string{"mkdir\x00-p\x00--\x00/no/such/" + s + "\x00", "chown\x00--\x00" + s + ":\x00/no/such/" + s + "\x00"}
		if joined := strings.Join(got, "\n"); joined != strings.Join(want, "\n") {
			t.Errorf("%q: %q", s, got)
		}
	}
	// The test would see a program that is run.
	if got := runScript(t, `/bin/sh -c 'mkdir $(id)'`, ""); !slices.Contains(got, "id\x00") {
		t.Errorf("a command substitution was not seen: %q", got)
	}
}

// TestUsers_SysusersReadsTheSame gives users with random fields to systemd-sysusers: it makes exactly
// what was accepted.
func TestUsers_SysusersReadsTheSame(t *testing.T) {
	tool, err := exec.LookPath("systemd-sysusers")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs systemd-sysusers and root")
	}
	root := t.TempDir()
	for _, dir := range []string{"etc", "usr/lib/sysusers.d"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	text, want := "", map[string]string{}
	for i := range 300 {
		name := fmt.Sprintf("u%d", i)
		u := graph.User{UID: 20000 + i, Home: "/" + randomString(r, func(rune) bool { return false })}
		if i%2 == 0 {
			u.Home = "/srv/" + randomString(r, func(c rune) bool { return strings.ContainsRune("/.,=~", c) || !sysusersRE.MatchString(string(c)) }) + "x"
		}
		lines, err := declareUser(name, u)
		if err == nil {
			text += lines
			want[name] = fmt.Sprintf("%s:x:%d:%d:defx user:%s:", name, u.UID, u.UID, u.Home)
		} else if i%2 == 0 {
			t.Errorf("%q is refused: %v", u.Home, err)
		}
	}
	file := filepath.Join(root, "x.conf")
	if err := os.WriteFile(file, []byte(text+"u control 19999 \"two words\" /x /bin/sh\nm control u0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "--root="+root, file).CombinedOutput(); err != nil || strings.Contains(string(out), "Failed") {
		t.Fatalf("%v %s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if len(lines) != len(want)+1 || len(want) < 100 || !strings.Contains(string(raw), "control:x:19999:19999:two words:/x:/bin/sh\n") {
		t.Fatalf("%d users were accepted, %d made", len(want), len(lines)-1)
	}
	for _, l := range lines {
		name, _, _ := strings.Cut(l, ":")
		if name != "control" && !strings.HasPrefix(l, want[name]) {
			t.Errorf("%q, want %q", l, want[name])
		}
	}
}

// TestPackages_AptReadsTheSame asks apt what it would do with names that look like its orders and
// patterns.
func TestPackages_AptReadsTheSame(t *testing.T) {
	apt := func(args ...string) string {
		out, _ := exec.Command("apt-get", append([]string{"-s", "-q", "install", "--no-install-recommends"}, args...)...).CombinedOutput()
		return string(out)
	}
	if _, err := exec.LookPath("apt-get"); err != nil || !strings.Contains(apt("--", "dash-"), "Remv dash") {
		t.Skip("apt knows no package dash")
	}
	l, err := fact(t, "packages", "das.", "") // a valid name that no package has, and a pattern
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range runScript(t, theDirective(t, l, "ExecStart"), "") {
		if words := strings.Split(strings.TrimSuffix(line, "\x00"), "\x00"); words[0] == "apt-get" {
			if out := apt(slices.DeleteFunc(words[2:], func(s string) bool { return s == "-y" })...); strings.Contains(out, "Inst ") || strings.Contains(out, "Remv ") {
				t.Errorf("%q: %s", words, out)
			}
		}
	}
}
