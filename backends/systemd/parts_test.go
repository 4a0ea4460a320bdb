package systemd

import (
	"reflect"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/token"
)

// change is a change of one field, with the parts of the payload that change with it.
type change struct {
	base  func(*graph.Spec) // applied before both renderings
	apply func(*graph.Spec)
	parts string // of "run reload meta"
}

func reloadable(s *graph.Spec) { s.Reload = &graph.Reload{Signal: "HUP"} }
func scheduled(s *graph.Spec)  { s.Schedule = &graph.Schedule{Every: "1h"} }
func listening(s *graph.Spec) {
	s.Sockets = map[string]graph.Socket{"ctl": {Path: "/run/a.sock", Mode: "0600"}}
}

// changes has an entry for each field of graph.Spec and of the structs in it.
var changes = map[string][]change{
	"Command":           {{nil, func(s *graph.Spec) { s.Command = lit("bin/other") }, "run"}},
	"Args":              {{nil, func(s *graph.Spec) { s.Args = lit("x") }, "run"}},
	"Image":             nil,                                                                                    // refused
	"Package":           {{nil, func(s *graph.Spec) { s.Package = artifactTok("dist/other.tar") }, "run meta"}}, // the initializer is in it
	"Env":               {{nil, func(s *graph.Spec) { s.Env["LOG"] = token.Lit("debug") }, "run"}},
	"Secrets":           {{nil, func(s *graph.Spec) { s.Secrets["PASSWORD"] = secretTok("hydra/db-password", "v2") }, "run"}},
	"Dirs.State.Name":   {{nil, func(s *graph.Spec) { s.Dirs.State.Name = "other" }, "run"}},
	"Dirs.State.Path":   {{nil, func(s *graph.Spec) { s.Dirs.State = graph.Dir{Path: "/srv/other"} }, "run"}},
	"Dirs.State.Of":     nil, // needs the other service
	"Dirs.Cache.Name":   {{nil, func(s *graph.Spec) { s.Dirs.Cache.Name = "other" }, "run"}},
	"Dirs.Cache.Path":   {{nil, func(s *graph.Spec) { s.Dirs.Cache = graph.Dir{Path: "/srv/other"} }, "run"}},
	"Dirs.Cache.Of":     nil, // needs the other service
	"Dirs.Logs.Name":    {{nil, func(s *graph.Spec) { s.Dirs.Logs.Name = "other" }, "run"}},
	"Dirs.Logs.Path":    {{nil, func(s *graph.Spec) { s.Dirs.Logs = graph.Dir{Path: "/srv/other"} }, "run"}},
	"Dirs.Logs.Of":      nil, // needs the other service
	"Dirs.Runtime.Name": {{nil, func(s *graph.Spec) { s.Dirs.Runtime.Name = "other" }, "run"}},
	"Dirs.Runtime.Path": {{nil, func(s *graph.Spec) { s.Dirs.Runtime = graph.Dir{Path: "/srv/other"} }, "run"}},
	"Dirs.Runtime.Of":   nil, // needs the other service
	"User":              {{nil, func(s *graph.Spec) { s.User = "git" }, "run"}},
	"Ready.HTTP":        {{nil, func(s *graph.Spec) { s.Ready.HTTP = "/" }, "meta"}},
	"Ready.TCP":         {{nil, func(s *graph.Spec) { s.Ready.TCP = true }, "meta"}},
	"Ready.Exec":        {{nil, func(s *graph.Spec) { s.Ready.Exec = lit("bin/check") }, "meta"}},
	"Ready.Notify":      {{nil, func(s *graph.Spec) { s.Ready.Notify = true }, "run meta"}},
	"Ready.Port":        {{nil, func(s *graph.Spec) { s.Ready.Port = "" }, "meta"}},
	"Ready.Interval":    {{nil, func(s *graph.Spec) { s.Ready.Interval = "2s" }, "meta"}},
	"Ready.Timeout":     {{nil, func(s *graph.Spec) { s.Ready.Timeout = "2s" }, "meta"}},
	"Ready.Retries":     {{nil, func(s *graph.Spec) { s.Ready.Retries = 2 }, "meta"}},
	"Ready.Count":       {{nil, func(s *graph.Spec) { s.Ready.Count = 2 }, "meta"}},
	"Migrate":           {{nil, func(s *graph.Spec) { s.Migrate = lit("bin/migrate") }, "run"}},
	"Limits.CPU":        {{nil, func(s *graph.Spec) { s.Limits.CPU = "2" }, "run"}},
	"Limits.Memory":     {{nil, func(s *graph.Spec) { s.Limits.Memory = "1Gi" }, "run"}},
	"Limits.Tasks":      {{nil, func(s *graph.Spec) { s.Limits.Tasks = 2 }, "run"}},
	"Limits.OpenFiles":  {{nil, func(s *graph.Spec) { s.Limits.OpenFiles = 2 }, "run"}},
	"Restart":           {{nil, func(s *graph.Spec) { s.Restart = "always" }, "run"}},
	"Stop.Signal":       {{nil, func(s *graph.Spec) { s.Stop.Signal = "SIGQUIT" }, "run"}},
	"Stop.Command":      {{nil, func(s *graph.Spec) { s.Stop.Command = lit("bin/stop") }, "run"}},
	"Stop.Timeout":      {{nil, func(s *graph.Spec) { s.Stop.Timeout = "1s" }, "run"}},
	"Protect":           {{nil, func(s *graph.Spec) { s.Protect = true }, ""}},
	"Links":             {{nil, func(s *graph.Spec) { s.Links = []graph.Link{{Rel: "a", Href: "b"}} }, ""}},
	"Labels":            {{nil, func(s *graph.Spec) { s.Labels = map[string]string{"a": "b"} }, ""}},
	"Reload.Signal":     {{reloadable, func(s *graph.Spec) { s.Reload.Signal = "USR1" }, "meta"}},
	"Reload.Check":      {{reloadable, func(s *graph.Spec) { s.Reload.Check = lit("bin/check") }, "meta"}},
	"Reload.Command":    {{reloadable, func(s *graph.Spec) { s.Reload = &graph.Reload{Command: lit("bin/reload")} }, "meta"}},
	"Schedule.Cron":     {{scheduled, func(s *graph.Spec) { s.Schedule = &graph.Schedule{Cron: "@daily"} }, "meta"}},
	"Schedule.Every":    {{scheduled, func(s *graph.Spec) { s.Schedule.Every = "2h" }, "meta"}},
	"Schedule.Timezone": {{scheduled, func(s *graph.Spec) { s.Schedule.Timezone = "Europe/Berlin" }, "meta"}},
	"Schedule.Jitter":   {{scheduled, func(s *graph.Spec) { s.Schedule.Jitter = "1m" }, "meta"}},
	"Schedule.Missed":   {{scheduled, func(s *graph.Spec) { s.Schedule.Missed = "run" }, "meta"}},
	"Schedule":          {{nil, scheduled, "run meta"}}, // a scheduled service has another kind of unit
	"Initializer": {
		{nil, func(s *graph.Spec) { s.Initializer = lit("bin/other") }, "meta"},
		{nil, func(s *graph.Spec) { s.Initializer = nil }, "run meta"},
	},
	"Ports.Port": {
		{nil, func(s *graph.Spec) { s.Ports["http"] = graph.Port{Port: 81, Protocol: "tcp"} }, "meta"},
		{nil, func(s *graph.Spec) { s.Ports["http"] = graph.Port{Port: 8080, Protocol: "tcp"} }, "run meta"}, // the privilege to bind it is not needed any more
		{func(s *graph.Spec) { s.Sockets = map[string]graph.Socket{"http": {Port: "http"}} },
			func(s *graph.Spec) { s.Ports["http"] = graph.Port{Port: 81, Protocol: "tcp"} }, "run meta"},
	},
	"Ports.Protocol": {{nil, func(s *graph.Spec) { s.Ports["http"] = graph.Port{Port: 80, Protocol: "udp"} }, "meta"}},
	"Sockets.Port":   {{nil, func(s *graph.Spec) { s.Sockets = map[string]graph.Socket{"http": {Port: "http"}} }, "run"}},
	"Sockets.Path":   {{listening, func(s *graph.Spec) { s.Sockets["ctl"] = graph.Socket{Path: "/run/b.sock", Mode: "0600"} }, "run"}},
	"Sockets.Mode":   {{listening, func(s *graph.Spec) { s.Sockets["ctl"] = graph.Socket{Path: "/run/a.sock", Mode: "0660"} }, "run"}},
	"Files.Text": {
		{nil, func(s *graph.Spec) { s.Files["/etc/hydra/hydra.conf"] = graph.File{Text: token.Lit("x")} }, "run"},
		{reloadable, func(s *graph.Spec) { s.Files["/etc/hydra/hydra.conf"] = graph.File{Text: token.Lit("x")} }, "reload"},
		{reloadable, func(s *graph.Spec) { s.Files["/etc/hydra/more.conf"] = graph.File{Text: token.Lit("x")} }, "run reload"}, // a mount
	},
	"Files.Mode": {
		{nil, func(s *graph.Spec) {
			s.Files["/etc/hydra/hydra.conf"] = graph.File{Text: token.Lit("a=b\n"), Mode: "0555"}
		}, "run"},
		{reloadable, func(s *graph.Spec) {
			s.Files["/etc/hydra/hydra.conf"] = graph.File{Text: token.Lit("a=b\n"), Mode: "0555"}
		}, "reload"},
	},
	"Files.JSON.V": {
		{nil, func(s *graph.Spec) { setFiles(s, graph.File{JSON: &token.Doc{V: map[string]any{"a": token.Lit("b")}}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setFiles(s, graph.File{JSON: &token.Doc{V: map[string]any{"a": token.Lit("b")}}}) }, "reload"},
	},
	"Files.YAML.V": {
		{nil, func(s *graph.Spec) { setFiles(s, graph.File{YAML: &token.Doc{V: true}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setFiles(s, graph.File{YAML: &token.Doc{V: true}}) }, "reload"},
	},
	"Files.TOML.V": {
		{nil, func(s *graph.Spec) { setFiles(s, graph.File{TOML: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setFiles(s, graph.File{TOML: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "reload"},
	},
	"Files.INI.V": {
		{nil, func(s *graph.Spec) { setFiles(s, graph.File{INI: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setFiles(s, graph.File{INI: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "reload"},
	},
	"Files.Env": {
		{nil, func(s *graph.Spec) { setFiles(s, graph.File{Env: map[string]token.Text{"A": token.Lit("b")}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setFiles(s, graph.File{Env: map[string]token.Text{"A": token.Lit("b")}}) }, "reload"},
	},
	"Files.From": {
		{nil, func(s *graph.Spec) { setFiles(s, graph.File{From: artifactTok("dist/one.bin")}) }, "run"},
		{reloadable, func(s *graph.Spec) { setFiles(s, graph.File{From: artifactTok("dist/one.bin")}) }, "reload"},
	},
	"HostFiles.JSON.V": {
		{nil, func(s *graph.Spec) {
			setHostFiles(s, graph.File{JSON: &token.Doc{V: map[string]any{"a": token.Lit("b")}}})
		}, "run"},
		{reloadable, func(s *graph.Spec) {
			setHostFiles(s, graph.File{JSON: &token.Doc{V: map[string]any{"a": token.Lit("b")}}})
		}, "reload"},
	},
	"HostFiles.YAML.V": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{YAML: &token.Doc{V: true}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{YAML: &token.Doc{V: true}}) }, "reload"},
	},
	"HostFiles.TOML.V": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{TOML: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{TOML: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "reload"},
	},
	"HostFiles.INI.V": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{INI: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{INI: &token.Doc{V: map[string]any{"a": 1.5}}}) }, "reload"},
	},
	"HostFiles.Env": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{Env: map[string]token.Text{"A": token.Lit("b")}}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{Env: map[string]token.Text{"A": token.Lit("b")}}) }, "reload"},
	},
	"HostFiles.From": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{From: artifactTok("dist/one.bin")}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{From: artifactTok("dist/one.bin")}) }, "reload"},
	},
	"HostFiles.Text": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{Text: token.Lit("x")}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{Text: token.Lit("x")}) }, "reload"},
	},
	"HostFiles.Mode": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{Text: token.Lit("a=b\n"), Mode: "0600"}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{Text: token.Lit("a=b\n"), Mode: "0600"}) }, "reload"},
	},
	"Retire":           {{nil, func(s *graph.Spec) { s.Retire = lit("/bin/true") }, "meta"}},
	"Update.Style":     {{nil, func(s *graph.Spec) { s.Update = &graph.Update{Style: "graceful", ReusePort: true} }, "meta"}},
	"Update.ReusePort": {{nil, func(s *graph.Spec) { s.Update = &graph.Update{ReusePort: true} }, ""}},
	"Update.AtOnce":    {{nil, func(s *graph.Spec) { s.Update = &graph.Update{AtOnce: 2} }, ""}},
	"Update.Soak":      {{nil, func(s *graph.Spec) { s.Update = &graph.Update{Soak: "10s"} }, "meta"}},
	"Update.Healthy":   {{nil, func(s *graph.Spec) { s.Update = &graph.Update{Healthy: lit("/bin/true")} }, "meta"}},
	"Files.Owner": {
		{nil, func(s *graph.Spec) { setFiles(s, graph.File{Text: token.Lit("a=b\n"), Owner: "git"}) }, "run"},
		{reloadable, func(s *graph.Spec) { setFiles(s, graph.File{Text: token.Lit("a=b\n"), Owner: "git"}) }, "run reload"}, // given at start
	},
	"HostFiles.Owner": {
		{nil, func(s *graph.Spec) { setHostFiles(s, graph.File{Text: token.Lit("a=b\n"), Owner: "git"}) }, "run"},
		{reloadable, func(s *graph.Spec) { setHostFiles(s, graph.File{Text: token.Lit("a=b\n"), Owner: "git"}) }, "run reload"}, // given at start
	},
}

func setFiles(s *graph.Spec, f graph.File)     { s.Files["/etc/hydra/hydra.conf"] = f }
func setHostFiles(s *graph.Spec, f graph.File) { s.HostFiles["/etc/hydra.host"] = f }

// TestPayload_FieldsChangeTheirParts checks that every field changes the parts of the payload that
// graph.Spec promises, and no others.
func TestPayload_FieldsChangeTheirParts(t *testing.T) {
	for _, name := range fieldNames(reflect.TypeFor[graph.Spec](), "") {
		if _, known := changes[name]; !known {
			t.Errorf("no case changes %s", name)
		}
	}
	for name, list := range changes {
		for _, c := range list {
			before, after := full(), full()
			if c.base != nil {
				c.base(&before.Service.Spec)
				c.base(&after.Service.Spec)
			}
			c.apply(&after.Service.Spec)
			if got := changedParts(render(t, before), render(t, after)); got != c.parts {
				t.Errorf("%s changes %q, want %q", name, got, c.parts)
			}
		}
	}
}

// fieldNames returns the fields of a struct and of the structs in it.
func fieldNames(typ reflect.Type, prefix string) []string {
	var out []string
	for f := range fields(typ) {
		inner := f.Type
		if k := inner.Kind(); k == reflect.Pointer || k == reflect.Map {
			inner = inner.Elem()
		}

		if inner.Kind() == reflect.Struct {
			out = append(out, fieldNames(inner, prefix+f.Name+".")...)
		} else {
			out = append(out, prefix+f.Name)
		}
	}
	return out
}

func fields(typ reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range typ.NumField() {
			if !yield(typ.Field(i)) {
				return
			}
		}
	}
}

func changedParts(a, b plan.Payload) string {
	var parts []string
	for _, p := range []struct {
		name string
		a, b []byte
	}{{"run", a.Run, b.Run}, {"reload", a.Reload, b.Reload}, {"meta", a.Meta, b.Meta}} {
		if string(p.a) != string(p.b) {
			parts = append(parts, p.name)
		}
	}
	return strings.Join(parts, " ")
}

// TestPayload_InputChangesItsParts checks inputs outside of the spec.
func TestPayload_InputChangesItsParts(t *testing.T) {
	for name, c := range map[string]struct {
		apply func(*backends.Input)
		parts string
	}{
		"namespace":   {func(in *backends.Input) { in.Service.Options = []byte(`{"hardening":false}`) }, "run"},
		"neighbour":   {func(in *backends.Input) { in.Local = nil }, "meta"},
		"fqdn":        {func(in *backends.Input) { in.Service.FQDN = "a.example.com" }, ""},
		"machine":     {func(in *backends.Input) { in.Service.Machine = "m2" }, ""},
		"connects":    {func(in *backends.Input) { in.Service.Connects = []graph.Edge{{Alias: "x"}} }, ""},
		"place":       {func(in *backends.Input) { in.Service.Path = []string{"elsewhere"} }, ""},
		"environment": {func(in *backends.Input) { in.Environment = "prod" }, "run"},
	} {
		in := full()
		c.apply(&in)
		if got := changedParts(render(t, full()), render(t, in)); got != c.parts {
			t.Errorf("%s changes %q, want %q", name, got, c.parts)
		}
	}
}

// TestRealize_NewInitializerKeepsServiceUnit checks that another initializer changes its script but
// not the unit of the version.
func TestRealize_NewInitializerKeepsServiceUnit(t *testing.T) {
	in := full()
	in.Service.Spec.Initializer = lit("bin/other")
	a, b := realize(t, full()), realize(t, in)
	for i := range a.Files {
		same := string(a.Files[i].Content) == string(b.Files[i].Content)
		if strings.HasSuffix(a.Files[i].Path, ".init.service") == same {
			t.Errorf("%s: equal is %v", a.Files[i].Path, same)
		}
	}
}
