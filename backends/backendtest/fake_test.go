package backendtest_test

import (
	"errors"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/backendtest"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

func sample() backends.Input {
	ref := func(field string) token.Text {
		return token.Text{{Lit: field + "="}, {Token: &token.Token{Kind: token.Ref, Of: "set", Name: "hydra/db", Field: field}}}
	}
	return backends.Input{Deployment: "zalora", Environment: "dev", Service: &graph.Service{
		Address: graph.Address{Lib: "hydra", Name: "web", Replica: "0"}, Path: []string{"libs", "hydra", "web"},
		SpecPath: []string{"libs", "hydra", "web", "service"},
		Spec: graph.Spec{
			Command: []token.Text{token.Lit("/bin/web"), ref("host")}, Env: map[string]token.Text{"A": ref("name"), "B": token.Lit("b")},
			Secrets: map[string]token.Text{"P": {{Token: &token.Token{Kind: token.Secret, Name: "p", Version: "1"}}}},
			Files:   map[string]graph.File{"/etc/a": {Text: ref("host")}}, Reload: &graph.Reload{Signal: "HUP"},
		},
	}}
}

func TestFake_Contract(t *testing.T) { backendtest.Run(t, &backendtest.Fake{}, sample) }

func TestFake_HooksInjectErrors(t *testing.T) {
	broken := errors.New("injected")
	f := &backendtest.Fake{OnRealize: func(address string) error {
		if address == "hydra/web#0" {
			return broken
		}
		return nil
	}}
	p, _, errs := f.Render(sample())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if _, err := f.Realize(p, "0123456789ab", backendtest.Value); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if f.Renders.Load() != 1 || f.Realizes.Load() != 1 {
		t.Error("the calls were not counted")
	}
}
