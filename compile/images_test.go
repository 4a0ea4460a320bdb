package compile_test

import (
	"encoding/json"
	"testing"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/lang"
)

// TestCompile_TagGetsLockedDigest also checks that an image with a digest is left unchanged.
func TestCompile_TagGetsLockedDigest(t *testing.T) {
	d := digest.Bytes([]byte("x"))
	image := func(s string) json.RawMessage { return json.RawMessage(`{"service":{"image":"` + s + `"}}`) }
	res := &lang.Result{Environment: "dev", Deployment: json.RawMessage(`{"name":"n"}`), Libraries: []lang.Library{{Name: "l", Functionalities: []lang.Functionality{
		{Name: "digest", Value: image("web@" + string(d))}, {Name: "locked", Value: image("web:1")}, {Name: "other", Value: image("web:2")},
	}}}}
	out, err := compile.Compile(compile.Input{Result: res, Backends: []string{"systemd"}, Images: map[string]digest.Digest{"web:1": d}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"l/digest": "web@" + string(d), "l/locked": "web:1@" + string(d), "l/other": "web:2"}
	for _, s := range out.Graph.Services {
		if s.Spec.Image != want[s.String()] {
			t.Errorf("%s: %s", s.Address, s.Spec.Image)
		}
	}
	if len(out.Graph.Services) != len(want) {
		t.Error(out.Held)
	}

	// The base image of a package is pinned too.
	res.Libraries[0].Functionalities = []lang.Functionality{{Name: "above", Value: json.RawMessage(`{"backend":"docker","service":{"command":["/x"]},"docker":{"base":"web:1"}}`)}}
	out, err = compile.Compile(compile.Input{Result: res, Backends: []string{"docker", "systemd"}, Images: map[string]digest.Digest{"web:1": d}})
	if err != nil || len(out.Graph.Services) != 1 {
		t.Fatal(err, out)
	}
	if got, want := string(out.Graph.Services[0].Options), `{"base":"web:1@`+string(d)+`"}`; got != want {
		t.Errorf("%s", got)
	}
}
