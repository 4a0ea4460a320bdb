package ec2

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// TestModules_KeysAreNoTemplates checks that neither a key nor a value of any object is evaluated.
func TestModules_KeysAreNoTemplates(t *testing.T) {
	const hostile = `${file("/proc/self/environ")}`
	g := &graph.Graph{Name: "shop", Environment: "dev", EC2: graph.Instances{Region: "eu-central-1"}, Resources: []*graph.Resource{
		resource("store", "aws.s3", map[string]any{"tags": map[string]any{hostile: token.Lit(hostile), "%{if true}": token.Lit("x")}}),
		resource("any", "terraform.resource", map[string]any{"resource": token.Lit("acme_thing"), "config": map[string]any{"headers": map[string]any{hostile: token.Lit("x")}},
			"arguments": map[string]any{"deep": []any{map[string]any{"a": map[string]any{hostile: token.Lit("x")}}}}}),
	}}
	g.Sort()
	out, errs := New().Modules(g)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, m := range out.List {
		r, err := Realize(m.Payload, func(token.Token) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(r.JSON), `${file`) || strings.Contains(string(r.JSON), `"%{if`) || !strings.Contains(string(r.JSON), `file(\"/proc`) && m.Address.Name != "none" {
			t.Errorf("%s", r.JSON)
		}
	}
}

// TestModules_RefusesNamesThatAreExpressions checks names that would become part of an expression, or
// fields by which Terraform runs programs.
func TestModules_RefusesNamesThatAreExpressions(t *testing.T) {
	thing := func(edit map[string]any) *graph.Resource {
		f := map[string]any{"resource": token.Lit("acme_thing"), "arguments": map[string]any{}}
		for k, v := range edit {
			f[k] = v
		}
		return resource("any", "terraform.resource", f)
	}
	for name, r := range map[string]*graph.Resource{
		"type":        thing(map[string]any{"resource": token.Lit(`acme_x}${file("/etc/passwd")}`)}),
		"provider":    thing(map[string]any{"provider": token.Lit("../../tmp/x")}),
		"version":     thing(map[string]any{"version": token.Lit(`1"; x`)}),
		"provisioner": thing(map[string]any{"arguments": map[string]any{"provisioner": map[string]any{"local-exec": map[string]any{"command": token.Lit("id")}}}}),
		"for_each":    thing(map[string]any{"arguments": map[string]any{"for_each": map[string]any{}}}),
		"argument":    thing(map[string]any{"arguments": map[string]any{"a b": token.Lit("x")}}),
		"config":      thing(map[string]any{"config": map[string]any{"${x}": token.Lit("x")}}),
		"ignored":     thing(map[string]any{"ignoreChanges": []any{token.Lit("${x}")}}),
		"attribute":   thing(map[string]any{"arguments": map[string]any{"self": readOf("other", `id}${file("/etc/passwd")}`)}}),
	} {
		g := &graph.Graph{Name: "shop", Environment: "dev", EC2: graph.Instances{Region: "eu-central-1"}, Resources: []*graph.Resource{r,
			resource("other", "terraform.resource", map[string]any{"resource": token.Lit("acme_thing"), "arguments": map[string]any{}})}}
		g.Sort()
		if _, errs := New().Modules(g); len(errs) == 0 || len(errs[0].Path) < 2 {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

func TestModules_RefusesAccessThatIsNoKey(t *testing.T) {
	for name, e := range map[string]graph.Instances{
		"user": {User: "admin; id"}, "two lines": {AuthorizedKeys: []string{"ssh-ed25519 AAAA x\nEOF\nid"}}, "end": {AuthorizedKeys: []string{"EOF"}},
	} {
		e.Region = "eu-central-1"
		if _, errs := New().Modules(&graph.Graph{EC2: e}); len(errs) != 1 || errs[0].Path[0] != "defaults" {
			t.Errorf("%s: %v", name, errs)
		}
	}
	if _, errs := New().Modules(&graph.Graph{EC2: graph.Instances{User: "admin", AuthorizedKeys: []string{`from="10.0.0.0/8" ssh-ed25519 AAAA me@here`}}}); len(errs) > 0 {
		t.Error(errs)
	}
}

// TestEncoder_TerraformReadsTheSame gives random objects to Terraform and reads them back.
func TestEncoder_TerraformReadsTheSame(t *testing.T) {
	tool, err := exec.LookPath("terraform")
	if err != nil {
		t.Skip("terraform is not installed")
	}
	r := rand.New(rand.NewPCG(7, 8))
	parts := []string{"${", "%{", "}", "$", "%", "$$", "%%", `"`, `\`, "\n", "a", "é", " ", `file("/etc/passwd")`, "~", "if true", "\u2028", "\x01", "//", "{", "$${", "%%{"}
	text := func() string {
		var b strings.Builder
		for range 1 + r.IntN(6) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		return b.String()
	}
	want, outputs := map[string]any{}, map[string]any{}
	c := &checker{}
	for i := range 300 {
		in, plain := map[string]any{}, map[string]any{}
		for range 3 {
			k, v := text(), text()
			in[k], plain[k] = token.Lit(v), v
		}
		name := fmt.Sprintf("x%d", i)
		outputs[name], want[name] = map[string]any{"value": c.anyValue(nil, in, nil)}, plain
	}
	outputs["control"] = map[string]any{"value": map[string]any{"${upper(\"k\")}": "${upper(\"v\")}"}} // Terraform evaluates both
	raw, err := json.Marshal(token.Doc{V: map[string]any{"output": outputs}}.Map(nil, func(_ []string, t token.Text, _ bool) []any {
		s, _ := t.Literal()
		return []any{s}
	}))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.tf.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) []byte {
		cmd := exec.Command(tool, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE=/dev/null", "CHECKPOINT_DISABLE=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	run("apply", "-auto-approve", "-no-color")
	var got map[string]struct{ Value map[string]any }
	if err := json.Unmarshal(run("output", "-json"), &got); err != nil {
		t.Fatal(err)
	}
	if got["control"].Value["K"] != "V" {
		t.Fatalf("an expression was not evaluated: %v", got["control"])
	}
	for name, v := range want {
		if !reflect.DeepEqual(got[name].Value, v) {
			t.Errorf("%q arrives as %q", v, got[name].Value)
		}
	}
}
