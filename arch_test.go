package defx_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/defx-dev/defx/"

// rooms stand in a row, from left to right: a package imports its own room or
// one to its left.
var rooms = []string{"lib", "lang", "compile", "backends", "deploy", "cmd"}

// owners of third-party modules: who may import each. A module that is not here may be imported by nobody.
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
	"github.com/gowebpki/jcs":                {"lang/digest"},
	"github.com/gofrs/flock":                 {"deploy/agent", "deploy/engine", "deploy/state", "deploy/terraform"},
	"github.com/google/go-containerregistry": {"deploy/lock", "deploy/engine"},
	"github.com/moby/moby/api":               {"backends/docker", "deploy/engine"},
	"github.com/moby/moby/client":            {"deploy/engine"},
	"github.com/containerd/errdefs":          {"deploy/engine"},
	"github.com/compose-spec/compose-go/v2":  {"deploy/compose"},
	"github.com/google/renameio/v2":          {"deploy/lock", "deploy/state", "cmd/defx"},
	"github.com/rogpeppe/go-internal":        {"cmd/defx"},
	"golang.org/x/sync":                      {"lang", "deploy/project", "deploy/state"},
	"golang.org/x/sys":                       {"lang", "deploy/agent", "deploy/transport", "deploy/machinetest"},
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

func TestDataWalksOneWayThroughTheHouse(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Module,DepOnly,Standard", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	moduleOf := map[string]string{}
	var ours []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		moduleOf[p.ImportPath] = p.Module.Path
		if strings.HasPrefix(p.ImportPath, module) {
			ours = append(ours, p)
		}
	}
	for _, p := range ours {
		name := strings.TrimPrefix(p.ImportPath, module)
		room, _, _ := strings.Cut(name, "/")
		at := slices.Index(rooms, room)
		if at < 0 {
			if room != "examples" && room != "tools" {
				t.Errorf("%s is in no room", name)
			}
			continue
		}
		for _, i := range p.Imports {
			if other, ok := strings.CutPrefix(i, module); ok {
				otherRoom, _, _ := strings.Cut(other, "/")
				if slices.Index(rooms, otherRoom) > at {
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
