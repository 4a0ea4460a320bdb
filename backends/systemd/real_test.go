package systemd

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// alphabet has the characters that encoders get wrong, next to ordinary letters.
var alphabet = []rune("aZ09 %$\\\"';:=,#@!+-|&~*?[]{}()<>`^/.\n\t\r\v\f\a\b\x01\x1b\x7fé日€\u00a0\u2028\ufeff\U0001F600\ufffd\ufdd0\uffff\u0085")

var words = []string{"%n", "%%", "$HOME", "${HOME}", "$$", `\n`, `\x41`, `\\`, `\`, "a;b", ";", "-", "+", "@", "%d", `"`, `'`, "\n", " ", "\\\n", "x\n[Service]\nExecStart=/bin/false"}

func randomString(r *rand.Rand, drop func(rune) bool) string {
	var b strings.Builder
	for range r.IntN(24) {
		if r.IntN(4) == 0 {
			for _, c := range words[r.IntN(len(words))] {
				if !drop(c) {
					b.WriteRune(c)
				}
			}
		} else if c := alphabet[r.IntN(len(alphabet))]; !drop(c) {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// TestMachine_BytesArriveUnchanged passes thousands of strings as arguments, variables, paths and file
// contents to a real process and compares every byte.
func TestMachine_BytesArriveUnchanged(t *testing.T) {
	m := newMachine(t)
	m.probe()
	r := rand.New(rand.NewPCG(1, 2))
	type want struct {
		dir string
		all []string
	}
	var wants []want
	for i := range 8 {
		dir := fmt.Sprintf("bytes%d", i)
		w := want{dir: dir}
		spec := graph.Spec{Package: artifactTok("probe.bin"), Dirs: graph.Dirs{State: graph.Dir{Name: dir}}, Restart: "no",
			Env: map[string]token.Text{}, Files: map[string]graph.File{}}
		n := 400
		args := make([]string, n)
		for j := range args {
			args[j] = randomString(r, func(rune) bool { return false })
			w.all = append(w.all, "A"+args[j])
		}
		for j := range 200 {
			name, value := fmt.Sprintf("V%d", j), randomString(r, func(c rune) bool {
				_, err := assignment("X", string(c))
				return err != nil
			})
			spec.Env[name] = token.Lit(value)
			w.all = append(w.all, "E"+name+"="+value)
		}
		spec.Command = append(lit("probe.bin", "dump", fmt.Sprint(n)), lit(args...)...)
		for j := range 40 {
			p := fmt.Sprintf("/srv/probe/%d-", j) + randomString(r, func(c rune) bool { _, err := bindPath("/" + string(c)); return err != nil || c == '/' })
			content := randomString(r, func(rune) bool { return false })
			if _, err := bindPath(p); err != nil {
				t.Fatal(err)
			}
			spec.Files[p] = graph.File{Text: token.Lit(content)}
			spec.Args = append(spec.Args, token.Lit(p))
			w.all = append(w.all, "F"+p+"="+content)
		}
		wants = append(wants, w)
		m.deploy("", input(dir, spec))
	}
	// One more service, with a difficult path of its program.
	hard := "/srv/a b%n/$HOME/é;x/" + path.Base(probePath())
	m.write(hard, m.read(probePath()), 0o555)
	m.deploy("", input("path", graph.Spec{Command: lit(hard, "note", "ran"), Dirs: graph.Dirs{State: graph.Dir{Name: "path"}}, Restart: "no"}))

	out := m.boot("for i in $(seq 100); do systemctl list-jobs | grep -q defx || break; sleep 0.1; done; sleep 1; systemctl list-units --failed --no-legend 'defx-*'\n")
	if strings.Contains(out, "defx-") {
		t.Errorf("failed units: %s", out)
	}
	for _, w := range wants {
		got := strings.Split(m.read(dataPath("/var/lib/private", w.dir)+"/dump"), "\x00")
		slices.Sort(got)
		for _, s := range w.all {
			if _, found := slices.BinarySearch(got, s); !found {
				t.Errorf("%s: %q did not arrive", w.dir, s)
			}
		}
	}
	if got := m.read(dataPath("/var/lib/private", "path") + "/ran"); got != "uid=true\n" {
		t.Errorf("program with a difficult path: %q", got)
	}
}

// TestMachine_BootsWithoutAgent boots a machine with a service of each kind, as from a prebuilt image.
func TestMachine_BootsWithoutAgent(t *testing.T) {
	m := newMachine(t)
	m.probe()
	m.write(backends.SecretPath("dev", "zalora", "hydra/password"), "s3cret", 0o400)
	m.host("chmod", "700", m.root+backends.SecretsPath)

	watch := []string{"env:STATE_DIRECTORY", "env:LOG", "read:$PASSWORD_FILE", "read:/etc/hydra/a.conf", "write:/etc/x", "list:" + backends.SecretsPath, "cwd", "listen:127.0.0.1:81"}
	web := graph.Spec{
		Package: artifactTok("probe.bin"), Command: append(lit("probe.bin", "serve"), lit(watch...)...),
		Env: map[string]token.Text{"LOG": token.Lit("50%")}, Secrets: map[string]token.Text{"PASSWORD": secretTok("hydra/password", "1")},
		Files: map[string]graph.File{"/etc/hydra/a.conf": {Text: token.Lit("one")}}, Dirs: graph.Dirs{State: graph.Dir{Name: "web"}, Runtime: graph.Dir{Name: "web"}},
		Initializer: append(lit("probe.bin", "note", "init"), lit(watch...)...), Migrate: lit("probe.bin", "note", "migrate", "cwd"),
		Ports: map[string]graph.Port{"http": {Port: 81}}, Reload: &graph.Reload{Signal: "HUP"},
		Limits: &graph.Limits{CPU: "0.5", Memory: "512Mi", Tasks: 50, OpenFiles: 1000}, Stop: &graph.Stop{Signal: "SIGINT", Timeout: "5s"},
	}
	webIn := input("web", web)
	webIn.Service.Requires = []graph.Edge{{To: []graph.Address{{Lib: "hydra", Name: "sock", Replica: "0"}}}}
	webIn.Local = []graph.Address{{Lib: "hydra", Name: "broken", Replica: "0"}, {Lib: "hydra", Name: "git", Replica: "0"}}
	webL := m.deploy("", webIn)
	web.Env = map[string]token.Text{"LOG": token.Lit("two")}
	webIn.Service.Spec = web
	webL2 := m.deploy("/next", webIn)

	m.deploy("", input("git", graph.Spec{Package: artifactTok("probe.bin"), Command: lit("probe.bin", "serve"), User: "git",
		Dirs: graph.Dirs{State: graph.Dir{Name: "git"}}, Ready: &graph.Ready{Notify: true, Timeout: "10s"}}))
	m.deploy("", input("root", graph.Spec{Package: artifactTok("probe.bin"), Command: lit("probe.bin", "serve"), User: "root", Dirs: graph.Dirs{State: graph.Dir{Name: "root"}}}))
	broken := m.deploy("", input("broken", graph.Spec{Package: artifactTok("probe.bin"), Command: lit("probe.bin", "serve"),
		Initializer: lit("probe.bin", "fail"), Dirs: graph.Dirs{State: graph.Dir{Name: "broken"}}}))
	m.deploy("", input("tick", graph.Spec{Package: artifactTok("probe.bin"), Command: lit("probe.bin", "note", "tick"),
		Dirs: graph.Dirs{State: graph.Dir{Name: "tick"}}, Schedule: &graph.Schedule{Every: "1s"}}))
	m.deploy("", input("never", graph.Spec{Package: artifactTok("probe.bin"), Command: lit("probe.bin", "note", "tick"),
		Dirs: graph.Dirs{State: graph.Dir{Name: "never"}}, Schedule: &graph.Schedule{Cron: "0 0 1 1 *"}}))
	sock := graph.Spec{Package: artifactTok("probe.bin"), Command: lit("probe.bin", "serve"), Env: map[string]token.Text{"WHO": token.Lit("one")},
		Dirs: graph.Dirs{State: graph.Dir{Name: "sock"}}, Sockets: map[string]graph.Socket{"talk": {Path: "/run/x/talk-5:a@b,c=d+E_f.sock", Mode: "0666"}}}
	sockL := m.deploy("", input("sock", sock))
	sock.Env = map[string]token.Text{"WHO": token.Lit("two")}
	sockL2 := m.deploy("/next", input("sock", sock))
	tcp := m.deploy("", input("tcp", graph.Spec{Package: artifactTok("probe.bin"), Command: lit("probe.bin", "serve"),
		Dirs: graph.Dirs{State: graph.Dir{Name: "tcp"}}, Ports: map[string]graph.Port{"p": {Port: 82}}, Sockets: map[string]graph.Socket{"p": {Port: "p"}}}))

	out := m.boot(strings.NewReplacer("PROBE", probePath(), "WEB1", webL.Unit, "WEB2", webL2.Unit, "WEB", webL.Name,
		"SOCK1", sockL.Unit, "SOCK2", sockL2.Unit, "BROKEN", broken.Name, "TCP", tcp.Unit,
		"COPY", unitsDir+"/"+strings.TrimSuffix(webL.Name, ".service")+"/files/etc/hydra/a.conf").Replace(`
show() { echo "$1: $(systemctl show -P "${3:-ActiveState}" "$2")"; }
for i in $(seq 50); do [ "$(systemctl is-active WEB)" = active ] && break; sleep 0.1; done
show web-alias WEB
show web-id WEB Id
systemctl status --no-pager WEB | head -1 | cut -c 3-
show after WEB After | tr ' ' '\n' | grep hydra-git
show broken BROKEN
show broken-result BROKEN Result
show cpu WEB CPUQuotaPerSecUSec
show memory WEB MemoryMax
printf two > COPY
systemctl reload WEB && sleep 0.3 && echo reloaded
PROBE dial unix '/run/x/talk-5:a@b,c=d+E_f.sock'
PROBE dial tcp 127.0.0.1:82
show tcp TCP
cp -a /next/etc /next/var / && systemctl daemon-reload
show old-after-switch WEB1
show alias-after-switch WEB Id
show new-before-start WEB2
show old-sock SOCK1
PROBE dial unix '/run/x/talk-5:a@b,c=d+E_f.sock'
systemctl start SOCK2 && systemctl stop SOCK1 && PROBE dial unix '/run/x/talk-5:a@b,c=d+E_f.sock'
systemctl stop WEB1 && systemctl start WEB2 && sleep 0.3
show old-after-start WEB1
show new-after-start WEB2
show alias WEB
systemctl start WEB && show same-main WEB NRestarts
sleep 2
systemctl stop defx-dev-zalora.target; sleep 0.5
show stopped WEB
systemctl start defx-dev-zalora.target; sleep 1
show restarted WEB
`))
	t.Logf("%s", out)
	for _, want := range []string{
		"web-alias: active\n", "web-id: " + webL.Unit, "defx-dev-zalora-hydra-git.0.", "broken: inactive", "cpu: 500ms", "memory: 536870912", "reloaded\n", "hello from one talk\n",
		"hello from  p\n", "tcp: active", "old-after-switch: active", "new-before-start: inactive", "old-sock: active", "hello from two talk\n",
		"old-after-start: inactive", "new-after-start: active", "\nalias: active", "stopped: inactive", "restarted: active",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	lines := func(p string) []string { return strings.Split(strings.TrimSuffix(m.read(p), "\n"), "\n") }
	if l := lines(dataPath("/var/lib/private", "tick") + "/tick"); len(l) < 3 {
		t.Errorf("the timer ran %d times", len(l))
	}
	if m.read(dataPath("/var/lib/private", "never")+"/tick") != "" {
		t.Error("a timer ran before its time")
	}
	saw := "uid=true STATE_DIRECTORY=" + dataPath("/var/lib", "web") + " LOG=50% $PASSWORD_FILE=s3cret <nil> /etc/hydra/a.conf=one <nil> write /etc/x=false list " + backends.SecretsPath + "=false cwd=" + path.Dir(probePath()) + " listen=true"
	if l := lines(dataPath("/var/lib/private", "web") + "/init"); len(l) != 1 || l[0] != saw {
		t.Errorf("init: %q, want %q", l, saw)
	}
	if l := lines(dataPath("/var/lib/private", "web") + "/migrate"); len(l) != 2 {
		t.Errorf("migrations of two versions: %q", l)
	}
	if l := lines(dataPath("/var/lib/private", "web") + "/serve"); len(l) != 3 || l[0] != saw || !strings.Contains(l[1], "LOG=two") {
		t.Errorf("serve: %q", l)
	}
	if l := lines(dataPath("/var/lib/private", "web") + "/reload"); len(l) != 1 || !strings.Contains(l[0], "a.conf=two") {
		t.Errorf("reload: %q", l)
	}
	if m.read(dataPath("/var/lib", "git")+"/serve") == "" || m.read(dataPath("/var/lib", "root")+"/serve") != "uid=false\nuid=false\n" || m.read(dataPath("/var/lib/private", "broken")+"/serve") != "" {
		t.Errorf("git %q, root %q, broken %q", m.read(dataPath("/var/lib", "git")+"/serve"), m.read(dataPath("/var/lib", "root")+"/serve"), m.read(dataPath("/var/lib/private", "broken")+"/serve"))
	}
}
