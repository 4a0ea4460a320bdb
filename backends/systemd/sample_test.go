package systemd

import (
	"slices"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/backendtest"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/token"
)

const version = "0123456789ab"

var (
	lit, secretTok      = backendtest.Literals, backendtest.Secret
	refTok, artifactTok = backendtest.Ref, backendtest.Artifact
	artifacts           = backendtest.Artifacts
)

func input(name string, spec graph.Spec) backends.Input {
	path := []string{"libs", "hydra", name}
	return backends.Input{
		Deployment: "zalora", Environment: "dev", Artifact: artifacts,
		Service: &graph.Service{Address: graph.Address{Lib: "hydra", Name: name, Replica: "0"}, Backend: "systemd", Spec: spec,
			Path: path, SpecPath: append(slices.Clone(path), "service")},
	}
}

// full is a service that uses every field that can be combined with the others.
func full() backends.Input {
	db := graph.Address{Lib: "hydra", Name: "hydra-db", Replica: "0"}
	in := input("hydra-web", graph.Spec{
		Command:     lit("bin/server", "--port", "80"),
		Args:        []token.Text{append(token.Lit("--db="), refTok("hydra/hydra-db", "host", "")...)},
		Package:     artifactTok("dist/hydra.tar"),
		Env:         map[string]token.Text{"LOG": token.Lit("info"), "DB": refTok("hydra/hydra-db", "port", "sql")},
		Secrets:     map[string]token.Text{"PASSWORD": secretTok("hydra/db-password", "v1")},
		Files:       map[string]graph.File{"/etc/hydra/hydra.conf": {Text: token.Lit("a=b\n"), Mode: "0444"}},
		HostFiles:   map[string]graph.File{"/etc/hydra.host": {Text: token.Lit("a=b\n"), Mode: "0444"}},
		Dirs:        graph.Dirs{State: graph.Dir{Name: "hydra"}, Cache: graph.Dir{Name: "hydra"}, Logs: graph.Dir{Name: "hydra/web"}, Runtime: graph.Dir{Name: "hydra"}},
		Ports:       map[string]graph.Port{"http": {Port: 80, Protocol: "tcp"}},
		Ready:       &graph.Ready{HTTP: "/health", Port: "http", Interval: "1s", Timeout: "30s"},
		Initializer: lit("bin/init"),
		Migrate:     lit("bin/migrate", "--all"),
		Limits:      &graph.Limits{CPU: "0.5", Memory: "512Mi", Tasks: 100, OpenFiles: 4096},
		Restart:     "on-failure",
		Stop:        &graph.Stop{Signal: "SIGINT", Timeout: "10s"},
		Labels:      map[string]string{"team": "web"},
	})
	in.Service.Requires = []graph.Edge{{Alias: "db", Set: "hydra/hydra-db", To: []graph.Address{db}}}
	in.Local = []graph.Address{db}
	return in
}

func valueOf(t token.Token) (string, bool) {
	switch t.Field {
	case "host":
		return "db1.internal", true
	case "port":
		return "5432", true
	}
	return "", false
}

func render(t *testing.T, in backends.Input) plan.Payload {
	t.Helper()
	p, _, errs := New().Render(in)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return p
}

func realize(t *testing.T, in backends.Input) backends.Layout {
	t.Helper()
	l, err := New().Realize(render(t, in), version, valueOf)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// versionOf returns the version that a plan would give the payload.
func versionOf(t *testing.T, p plan.Payload) string {
	t.Helper()
	u := plan.Unit{Backend: "systemd", Encoding: New().Encoding(), Payload: p}
	v, err := u.Instance(nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
