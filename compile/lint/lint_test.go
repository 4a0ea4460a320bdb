package lint_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/lint"
	"github.com/defx-dev/defx/internal/token"
)

func TestGraph(t *testing.T) {
	lit := func(s string) map[string]token.Text { return map[string]token.Text{"X": token.Lit(s)} }
	secret := token.Text{{Lit: "postgres://u:"}, {Token: &token.Token{Kind: token.Secret, Name: "p"}}, {Lit: "@h"}}
	ready := &graph.Ready{TCP: true}
	port := map[string]graph.Port{"http": {Port: 80}}
	for name, c := range map[string]struct {
		spec  graph.Spec
		place graph.Place
		want  string // rules and the last two parts of their paths
	}{
		"nothing":             {graph.Spec{}, graph.Place{}, ""},
		"a password":          {graph.Spec{Env: map[string]token.Text{"DB_PASSWORD": token.Lit("hunter2")}}, graph.Place{}, "secret-in-clear env.DB_PASSWORD"},
		"an api key":          {graph.Spec{Env: map[string]token.Text{"STRIPE_API_KEY": token.Lit("k")}}, graph.Place{}, "secret-in-clear env.STRIPE_API_KEY"},
		"path of a password":  {graph.Spec{Env: map[string]token.Text{"DB_PASSWORD_FILE": token.Lit("x"), "TOKEN": token.Lit("/run/t"), "TOKEN_TTL": token.Lit("5m"), "SECRET": token.Lit(""), "USE_TOKEN": token.Lit("true"), "TOKENIZER": token.Lit("bpe")}}, graph.Place{}, ""},
		"a password in a url": {graph.Spec{Env: lit("postgres://u:p@h/db")}, graph.Place{}, "secret-in-clear env.X"},
		"a token in a url":    {graph.Spec{Env: map[string]token.Text{"X": secret}}, graph.Place{}, ""},
		"a user in a url":     {graph.Spec{Env: lit("ssh://git@h:22/x")}, graph.Place{}, ""},
		"a key in a file":     {graph.Spec{Files: map[string]graph.File{"/k": {Text: token.Lit("-----BEGIN RSA PRIVATE KEY-----\n")}}}, graph.Place{}, "secret-in-clear files./k"},
		"a key in json":       {graph.Spec{HostFiles: map[string]graph.File{"/k": {JSON: &token.Doc{V: map[string]any{"a": []any{token.Lit("AKIAIOSFODNN7EXAMPLE")}}}}}}, graph.Place{}, "secret-in-clear a.0"},
		"a password in env":   {graph.Spec{Files: map[string]graph.File{"/k": {Env: map[string]token.Text{"PGPASSWORD": token.Lit("x"), "PWD": token.Lit("/srv")}}}}, graph.Place{}, "secret-in-clear env.PGPASSWORD"},
		"a public key":        {graph.Spec{Env: lit("-----BEGIN PUBLIC KEY-----")}, graph.Place{}, ""},
		"aws":                 {graph.Spec{Args: []token.Text{token.Lit("--key=AKIAIOSFODNN7EXAMPLE")}}, graph.Place{}, "secret-in-clear args.0"},
		"a tag":               {graph.Spec{Image: "nginx:1"}, graph.Place{}, "image-by-tag service.image"},
		"a locked tag":        {graph.Spec{Image: "nginx:1@sha256:00"}, graph.Place{}, ""},
		"a digest":            {graph.Spec{Image: "nginx@sha256:00"}, graph.Place{}, ""},
		"a port":              {graph.Spec{Ports: port}, graph.Place{}, "no-readiness b.service"},
		"ready":               {graph.Spec{Ports: port, Ready: ready}, graph.Place{}, ""},
		"scheduled":           {graph.Spec{Ports: port, Schedule: &graph.Schedule{Every: "1h"}}, graph.Place{}, ""},
		"except":              {graph.Spec{}, graph.Place{Except: []string{"m1", "m9"}}, "unknown-machine except.1"},
		"default exception":   {graph.Spec{}, graph.Place{Except: []string{"gone"}}, "unknown-machine except.0"},
	} {
		t.Run(name, func(t *testing.T) {
			path := []string{"libs", "l", "b"}
			s := &graph.Service{Address: graph.Address{Lib: "l", Name: "b"}, Spec: c.spec, Place: c.place, Path: path, SpecPath: append(path, "service")}
			g := &graph.Graph{Services: []*graph.Service{s}, Machines: []*graph.Machine{{Name: "m1"}}}
			var got []string
			for _, f := range lint.Graph(lint.Input{Graph: g, Deployment: json.RawMessage(`{"defaults":{"place":{"except":["gone"]}}}`)}) {
				got = append(got, f.Code+" "+strings.Join(f.Path[len(f.Path)-2:], "."))
				if f.Hint == "" || f.Subject != "l/b" || strings.Contains(f.Error(), "hunter2") {
					t.Errorf("%+v", f)
				}
				if name == "default exception" && f.Path[0] != "defaults" {
					t.Error(f.Path)
				}
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("%q, want %q", s, c.want)
			}
		})
	}
}
