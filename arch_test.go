package defx_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
)

const module = "github.com/defx-dev/defx/"

// layers are ordered from left to right: a package imports its own layer or one to its left.
// All layers may import the packages below internal, which may only import each other.
var layers = []string{"internal", "lib", "lang", "compile", "backends", "deploy", "cmd"}

// owners lists the packages that may import each third-party module. Other modules may not be imported.
var owners = map[string][]string{
	"github.com/google/go-jsonnet":           {"lang", "lang/eval", "lang/lint", "lang/native"},
	"gonum.org/v1/gonum":                     {"compile/graph"},
	"github.com/hashicorp/terraform-exec":    {"deploy/terraform"},
	"github.com/hashicorp/terraform-json":    {"deploy/terraform"},
	"github.com/hashicorp/go-version":        {"deploy/terraform"},
	"github.com/aws/aws-sdk-go-v2":           {"deploy/cloud"},
	"github.com/aws/aws-sdk-go-v2/config":    {"deploy/cloud"},
	"github.com/spf13/pflag":                 {"cmd/defx"},
	"github.com/spf13/cobra":                 {"cmd/defx"},
	"github.com/gowebpki/jcs":                {"internal/digest"},
	"github.com/gofrs/flock":                 {"deploy/agent", "deploy/engine", "deploy/state", "deploy/terraform"},
	"github.com/google/go-containerregistry": {"deploy/lock", "deploy/engine"},
	"github.com/moby/moby/api":               {"backends/docker", "deploy/engine"},
	"github.com/moby/moby/client":            {"deploy/engine"},
	"github.com/containerd/errdefs":          {"deploy/engine"},
	"github.com/klauspost/compress":          {"deploy/artifact"},
	"github.com/ulikunitz/xz":                {"deploy/artifact"},
	"github.com/compose-spec/compose-go/v2":  {"deploy/compose"},
	"github.com/google/renameio/v2":          {"internal/atomicfile"},
	"github.com/rogpeppe/go-internal":        {"cmd/defx"},
	"golang.org/x/sync":                      {"lang", "deploy/project", "deploy/state"},
	"golang.org/x/sys":                       {"lang", "deploy/agent", "deploy/transport", "deploy/machinetest", "internal/nofollow"},
	"golang.org/x/term":                      {"cmd/defx"},
	"github.com/BurntSushi/toml":             {"backends/document"},
	"go.yaml.in/yaml/v3":                     {"backends/document"},
	"github.com/coreos/go-systemd/v22":       {"backends/systemd", "deploy/agent"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Module     struct{ Path string }
	DepOnly    bool
	Standard   bool
}

func TestImports_FollowLayersAndOwners(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Module,DepOnly,Standard", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	moduleOf := map[string]string{}
	var own []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		moduleOf[p.ImportPath] = p.Module.Path
		if strings.HasPrefix(p.ImportPath, module) {
			own = append(own, p)
		}
	}
	for _, p := range own {
		name := strings.TrimPrefix(p.ImportPath, module)
		layer, _, _ := strings.Cut(name, "/")
		at := slices.Index(layers, layer)
		if at < 0 {
			if layer != "examples" && layer != "tools" {
				t.Errorf("%s is in no layer", name)
			}
			continue
		}
		for _, i := range p.Imports {
			if other, ok := strings.CutPrefix(i, module); ok {
				otherLayer, _, _ := strings.Cut(other, "/")
				if slices.Index(layers, otherLayer) > at {
					t.Errorf("%s imports %s, which is to its right", name, other)
				}
				if backend(name) != "" && backend(other) != "" && backend(name) != backend(other) {
					t.Errorf("%s imports another backend, %s", name, other)
				}
				continue
			}
			if m := moduleOf[i]; m != "" && !slices.Contains(owners[m], name) {
				t.Errorf("%s imports %s: module %s belongs to %v", name, i, m, owners[m])
			}
		}
	}
}

func backend(name string) string {
	b, ok := strings.CutPrefix(name, "backends/")
	if !ok {
		return ""
	}
	b, _, _ = strings.Cut(b, "/")
	if b == "backendtest" || b == "document" || b == "spec" {
		return ""
	}
	return b
}

// TestTraits_AreCopiedAsAWhole forbids to copy the fields of plan.Traits one by one, because a copy
// that is written before a field is added forgets it.
func TestTraits_AreCopiedAsAWhole(t *testing.T) {
	traits := map[string]bool{}
	typ := reflect.TypeFor[plan.Traits]()
	for i := range typ.NumField() {
		traits[typ.Field(i).Name] = true
	}
	out, err := exec.Command("git", "ls-files", "*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	field := func(e ast.Expr) string {
		if s, ok := e.(*ast.SelectorExpr); ok && traits[s.Sel.Name] {
			return s.Sel.Name
		}
		return ""
	}
	for _, name := range strings.Fields(string(out)) {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			a, ok := n.(*ast.AssignStmt)
			if !ok || len(a.Lhs) != len(a.Rhs) {
				return true
			}
			copied := 0
			for i := range a.Lhs {
				if f := field(a.Lhs[i]); f != "" && f == field(a.Rhs[i]) {
					copied++
				}
			}
			if copied > 1 {
				t.Errorf("%s copies %d fields of plan.Traits: copy Traits", fset.Position(a.Pos()), copied)
			}
			return true
		})
	}
}
