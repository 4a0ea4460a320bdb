package compose

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-jsonnet"
)

// canaryProject writes a project and files beside it, and returns the compose file. Every file outside
// holds the word canary.
func canaryProject(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"outside.env": "X=canary\n", "outside.txt": "canary", "outside.yaml": "services: { web: { image: canary, command: canary } }", "sub/.env": "S=canary\n",
		"p/inside.env": "X=inside\n", "p/inside.yaml": "services: { web: { image: inside } }", "p/.env": "DOT=canary\n", "p/compose.yaml": text, "p/nested.yaml": "include: [../outside.yaml]",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"p/link.env": "../outside.env", "p/link": ".."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "p/compose.yaml")
}

func service(fields string) string { return "services:\n  web:\n    image: x\n    " + fields + "\n" }

// TestRead_TakesNothingFromOutside checks that neither the user's environment nor files outside of the
// project reach a library.
func TestRead_TakesNothingFromOutside(t *testing.T) {
	t.Setenv("CANARY", "canary")
	t.Setenv("COMPOSE_ENV_FILES", "../outside.env")
	for _, text := range []string{
		service(`environment: { X: "${CANARY}" }`), service(`environment: { X: "a${CANARY:?no}b" }`), service(`environment: { X: "$DOT" }`), service(`environment: [CANARY]`), service(`command: ["${CANARY}"]`),
		service(`env_file: ../outside.env`), service(`env_file: [{ path: link.env }]`), service(`env_file: link/outside.env`), service(`env_file: "${PWD}/../outside.env"`), service(`env_file: ~/x.env`),
		service(`label_file: ../outside.env`), service(`extends: { file: ../outside.yaml, service: web }`), service("configs: [c]") + "configs: { c: { file: ../outside.txt } }",
		service("configs: [c]") + "configs: { c: { environment: CANARY } }", service("secrets: [c]") + "secrets: { c: { file: /etc/shadow } }",
		"include: [../outside.yaml]\n" + service(""), "include: [{ path: inside.yaml, env_file: ../outside.env }]", "include: [nested.yaml]", "include: [{ path: inside.yaml, project_directory: ../sub }]",
	} {
		in, err := Read(context.Background(), canaryProject(t, text), Options{Out: "."})
		switch {
		case err != nil && strings.Contains(err.Error(), "canary"):
			t.Errorf("%s: the error tells a value: %v", text, err)
		case err != nil && !strings.Contains(err.Error(), "hint: "):
			t.Errorf("%s: no hint: %v", text, err)
		case err == nil && strings.Contains(in.Library, "canary"):
			t.Errorf("%s: copied: %s", text, in.Library)
		}
	}
}

// TestRead_CopiesWhatIsAllowed is the control of the test above: with consent the same files and
// variables are read, and what was copied is listed.
func TestRead_CopiesWhatIsAllowed(t *testing.T) {
	t.Setenv("CANARY", "canary")
	for text, want := range map[string]string{
		service(`environment: { X: "${CANARY}" }`): "${CANARY}", service(`environment: { X: "$DOT" }`): "${DOT}", service(`environment: [CANARY]`): "${CANARY}",
		service("configs: [c]") + "configs: { c: { environment: CANARY } }": "${CANARY}",
	} {
		in, err := Read(context.Background(), canaryProject(t, text), Options{Out: ".", FromHere: true})
		if err != nil || !strings.Contains(in.Library, "canary") || len(in.Unsupported) != 1 || in.Unsupported[0].Field != want {
			t.Errorf("%s: %v %+v", text, err, in)
		}
	}
	in, err := Read(context.Background(), canaryProject(t, service("env_file: inside.env")), Options{Out: "."})
	if err != nil || !strings.Contains(in.Library, "X: 'inside'") {
		t.Errorf("%v %+v", err, in)
	}
	in, err = Read(context.Background(), canaryProject(t, service(`environment: { X: "${CANARY}", Y: "${NONE:-d}" }`)), Options{Out: ".", FromHere: true, Vars: []string{"CANARY=given"}})
	if err != nil || !strings.Contains(in.Library, "'given'") || len(in.Unsupported) != 0 {
		t.Errorf("%v %+v", err, in)
	}
}

// TestRead_ListsNeeds checks that dangerous options are listed.
func TestRead_ListsNeeds(t *testing.T) {
	in, err := Read(context.Background(), canaryProject(t, service("privileged: true\n    pid: host\n    network_mode: host\n    cap_add: [SYS_ADMIN]\n    volumes: ['/var/run/docker.sock:/s', '/:/host']\n    devices: [/dev/kvm]")), Options{Out: "."})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, n := range in.Needs {
		kinds = append(kinds, n.Kind)
	}
	if d := cmp.Diff("privileged host-pid host-network engine-socket engine-socket defx-files root-files capability device", strings.Join(kinds, " ")); d != "" {
		t.Error(d)
	}
}

// TestWrite_JsonnetReadsTheSame evaluates random values as Jsonnet, and the name of a file that ends a
// comment.
func TestWrite_JsonnetReadsTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	alphabet := []rune("aZ0_'\"\\\n\r\t${}()[]+:;,#/*|%@~!\u2028é\U0001F600\x01 ")
	text := func() string {
		var b strings.Builder
		for range r.IntN(10) {
			b.WriteRune(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	in, want := object{}, map[string]any{}
	for range 300 {
		k, v := text(), text()
		in[k], want[k] = list{v, object{v: v}}, []any{v, map[string]any{v: v}}
	}
	for _, k := range keywords {
		in[k], want[k] = k, k
	}
	out, err := jsonnet.MakeVM().EvaluateAnonymousSnippet("x.jsonnet", write(in, ""))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	evil := filepath.Join(t.TempDir(), "x\nlocal evil = 1;\n.yaml")
	if err := os.WriteFile(evil, []byte(service("")), 0o644); err != nil {
		t.Fatal(err)
	}
	if lib, err := Read(context.Background(), evil, Options{Out: "."}); err != nil || strings.Contains(lib.Library, "\nlocal evil") {
		t.Errorf("%v %+v", err, lib)
	}
}
