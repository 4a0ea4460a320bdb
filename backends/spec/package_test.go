package spec_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

func words(list ...string) []token.Text {
	var out []token.Text
	for _, s := range list {
		out = append(out, token.Lit(s))
	}
	return out
}

func artifactText(name string) token.Text {
	return token.Text{{Token: &token.Token{Kind: token.Artifact, Name: name}}}
}

// artifacts are the packages of the tests by name.
var artifacts = map[string]plan.Artifact{
	"dist": {Kind: "tree", Content: &plan.Content{
		Files:   map[string]bool{"bin/app": true, "bin/plain": false, "server.py": false, "package.json": false, "conf/app.toml": false, "pkg/main.py": false},
		Folders: map[string]bool{"bin": true, "conf": true, "pkg": true},
		Links:   map[string]string{"run": "bin/app", "python": "/usr/bin/python3", "up": "../x", "bin/loop": "loop", "current": "bin", "broken": "nothing"}}},
	"server.py": {Kind: "file", Content: &plan.Content{Files: map[string]bool{"server.py": false}}},
	"server":    {Kind: "file", Content: &plan.Content{Files: map[string]bool{"server": true}}},
	"app.zip":   {Kind: "file", Content: &plan.Content{Files: map[string]bool{"app.zip": false}, Format: "a zip archive"}},
	"app.jar":   {Kind: "file", Content: &plan.Content{Files: map[string]bool{"app.jar": false}, Format: "a zip archive"}},
	"nothing":   {Kind: "file", Content: &plan.Content{Files: map[string]bool{"nothing": true}, Format: "empty"}},
	"locked":    {Kind: "tree"}, // only its digest is known
}

func render(b backends.Backend, spec graph.Spec, options string) error {
	in := backends.Input{Deployment: "test", Environment: "dev",
		Service: &graph.Service{Address: graph.Address{Lib: "app", Name: "web"}, Spec: spec, Backend: b.Name(), SpecPath: []string{"service"}, Options: json.RawMessage(options)},
		Artifact: func(t token.Token) (plan.Artifact, bool) {
			a, ok := artifacts[t.Name]
			a.Path, a.Digest = t.Name, digest.Bytes([]byte(t.Name))
			return a, ok
		}}
	_, _, errs := b.Render(in)
	return errs.Err()
}

func TestPackage_ProgramsAndUses(t *testing.T) {
	base := `{"base":"debian@sha256:` + strings.Repeat("0", 64) + `"}`
	const unused, missing = "nothing uses the package", "is not in the package"
	for _, c := range []struct {
		name             string
		pkg              string
		command          []string
		edit             func(*graph.Spec)
		systemd, scratch string // error, or "" for none
		based            string
	}{
		{"a program", "dist", []string{"bin/app"}, nil, "", "", ""},
		{"a program with a dot", "dist", []string{"./bin/app"}, nil, "", "", ""},
		{"a link to a program", "dist", []string{"run"}, nil, "", "", ""},
		{"through a link to a folder", "dist", []string{"current/app"}, nil, "", "", ""},
		{"a link out of the package", "dist", []string{"python", "server.py"}, nil, "", "", ""},
		{"a link above the package", "dist", []string{"up"}, nil, "", "", ""},
		{"a loop of links", "dist", []string{"bin/loop"}, nil, missing, missing, missing},
		{"a link to nothing", "dist", []string{"broken"}, nil, missing, missing, unused},
		{"no such program", "dist", []string{"bin/ap"}, nil, missing, missing, missing},
		{"a folder", "dist", []string{"./bin"}, nil, "is a folder", "is a folder", "is a folder"},
		{"not executable", "dist", []string{"bin/plain"}, nil, "not executable", "not executable", "not executable"},
		{"an absolute program alone", "dist", []string{"/bin/sleep", "9"}, nil, unused, "not in the image", unused},
		{"an argument in it", "dist", []string{"/usr/bin/python3", "server.py"}, nil, "", "not in the image", ""},
		{"an argument with a value", "dist", []string{"/usr/bin/x", "--config=conf/app.toml"}, nil, "", "not in the image", ""},
		{"a module", "dist", []string{"/usr/bin/python3", "-m", "pkg.main"}, nil, "", "not in the image", ""},
		{"an application", "dist", []string{"/usr/bin/gunicorn", "server:app"}, nil, "", "not in the image", ""},
		{"the working directory", "dist", []string{"/usr/bin/x", "."}, nil, "", "not in the image", ""},
		{"a shell", "dist", []string{"/bin/sh", "-c", "exec ./bin/app"}, nil, "", "not in the image", ""},
		{"a tool with its file", "dist", []string{"/usr/bin/env", "npm", "start"}, nil, "", "not in the image", ""},
		{"a tool without its file", "dist", []string{"/usr/bin/make"}, nil, unused, "not in the image", unused},
		{"a server of its folder", "dist", []string{"/usr/bin/python3", "-m", "http.server"}, nil, "", "not in the image", ""},
		{"its path in the image", "dist", []string{"/app/bin/app"}, nil, unused, "", ""},
		{"a variable", "dist", []string{"/usr/bin/x"}, func(s *graph.Spec) { s.Env = map[string]token.Text{"DIR": artifactText("dist")} }, "", "not in the image", ""},
		{"a variable with a name", "dist", []string{"/usr/bin/x"}, func(s *graph.Spec) { s.Env = map[string]token.Text{"PYTHONPATH": token.Lit("pkg:lib")} }, "", "not in the image", ""},
		{"a file's text", "dist", []string{"/usr/bin/x"}, func(s *graph.Spec) {
			s.Files = map[string]graph.File{"/etc/x": {Text: token.Lit("include conf/*.toml")}}
		}, "", "not in the image", ""},
		{"another command", "dist", []string{"/usr/bin/x"}, func(s *graph.Spec) { s.Migrate = words("bin/app", "migrate") }, "", "not in the image", ""},
		{"another command without a program", "dist", []string{"bin/app"}, func(s *graph.Spec) { s.Migrate = words("bin/migrate") }, missing, missing, missing},
		{"readiness", "dist", []string{"bin/app"}, func(s *graph.Spec) { s.Ready = &graph.Ready{Exec: words("bin/plain")} }, "not executable", "not executable", "not executable"},
		{"an interpreter", "server.py", []string{"/usr/bin/python3", "server.py"}, nil, "", "not in the image", ""},
		{"an interpreter of something else", "server.py", []string{"/usr/bin/python3", "other.py"}, nil, unused, "not in the image", unused},
		{"a file", "server", []string{"server"}, nil, "", "", ""},
		{"another file", "server", []string{"serve"}, nil, missing, missing, unused},
		{"a file that is not executable", "server.py", []string{"server.py"}, nil, "not executable", "not executable", "not executable"},
		{"a mounted program", "server", []string{"/run.sh"}, func(s *graph.Spec) {
			s.Files = map[string]graph.File{"/run.sh": {Text: token.Lit("exec ./server"), Mode: "0555"}}
		}, "", "", ""},
		{"a zip", "app.zip", []string{"bin/app"}, nil, "a zip archive", "a zip archive", "a zip archive"},
		{"a zip as a program", "app.zip", []string{"app.zip"}, nil, "a zip archive", "a zip archive", "a zip archive"},
		{"a zip without a use", "app.zip", []string{"/bin/sleep", "9"}, nil, "a zip archive", "not in the image", "a zip archive"},
		{"a jar", "app.jar", []string{"/usr/bin/java", "-jar", "app.jar"}, nil, "", "not in the image", ""},
		{"0 bytes", "nothing", []string{"nothing"}, nil, "0 bytes", "0 bytes", "0 bytes"},
		{"unknown content", "locked", []string{"bin/x"}, nil, "", "", ""},
		{"unknown content and an argument", "locked", []string{"/usr/bin/x", "y"}, nil, "", "not in the image", ""},
		{"unknown content without any use", "locked", []string{"/usr/bin/x", "-v"}, nil, unused, "not in the image", unused},
	} {
		for _, run := range []struct {
			backend       backends.Backend
			options, want string
		}{{systemd.New(), "", c.systemd}, {docker.New(), "", c.scratch}, {docker.New(), base, c.based}} {
			spec := graph.Spec{Package: artifactText(c.pkg), Command: words(c.command...)}
			if c.edit != nil {
				c.edit(&spec)
			}
			err := render(run.backend, spec, run.options)
			if run.want == "" && err != nil || run.want != "" && (err == nil || !strings.Contains(err.Error(), run.want)) {
				t.Errorf("%s, %s %s: %v, want %q", c.name, run.backend.Name(), run.options, err, run.want)
			}
		}
	}
	// A package that is put where its base looks for it is used.
	nginx := graph.Spec{Package: artifactText("dist"), Command: words("nginx", "-g", "daemon off")}
	if err := render(docker.New(), nginx, strings.Replace(base, "}", `,"at":"/usr/share/nginx/html"}`, 1)); err != nil {
		t.Errorf("content of a base image's folder: %v", err)
	}
}

func TestPackage_SingleFileRestartsItsService(t *testing.T) {
	for _, b := range []backends.Backend{systemd.New(), docker.New()} {
		options := ""
		if b.Name() == "docker" {
			options = `{"base":"python@sha256:` + strings.Repeat("0", 64) + `"}`
		}
		var runs []string
		for _, content := range []string{"1", "2"} {
			in := backends.Input{Deployment: "test", Environment: "dev",
				Service: &graph.Service{Address: graph.Address{Lib: "app", Name: "web"}, SpecPath: []string{"service"}, Options: json.RawMessage(options),
					Spec: graph.Spec{Package: artifactText("server.py"), Command: words("/usr/bin/python3", "server.py")}},
				Artifact: func(t token.Token) (plan.Artifact, bool) {
					a := artifacts[t.Name]
					a.Path, a.Digest = t.Name, digest.Bytes([]byte(content))
					return a, true
				}}
			p, _, errs := b.Render(in)
			if errs != nil {
				t.Fatal(errs)
			}
			runs = append(runs, string(p.Run))
		}
		if runs[0] == runs[1] {
			t.Errorf("%s: another content of the file changes nothing: %s", b.Name(), runs[0])
		}
	}
}
