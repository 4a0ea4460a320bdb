package docker

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/backendtest"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

var update = flag.Bool("update", false, "write the current output into the golden files")

const pinnedImage = "registry.example.com/shop/web@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

var (
	lit, secretTok      = backendtest.Literals, backendtest.Secret
	refTok, artifactTok = backendtest.Ref, backendtest.Artifact
	artifacts           = backendtest.Artifacts
)

func input(name string, spec graph.Spec, options string) backends.Input {
	path := []string{"libs", "hydra", name}
	in := backends.Input{
		Deployment: "zalora", Environment: "dev", Artifact: artifacts,
		Service: &graph.Service{Address: graph.Address{Lib: "hydra", Name: name, Replica: "0"}, Backend: "docker", Spec: spec,
			Path: path, SpecPath: append(slices.Clone(path), "service")},
	}
	if options != "" {
		in.Service.Options = json.RawMessage(options)
	}
	return in
}

// full is a service that uses every field that can be combined with the others.
func full() backends.Input {
	in := input("web", graph.Spec{
		Command:     lit("bin/server", "--port", "80"),
		Args:        []token.Text{append(token.Lit("--db="), refTok("hydra/db", "host", "")...)},
		Package:     artifactTok("dist/hydra"),
		Env:         map[string]token.Text{"LOG": token.Lit("info"), "DB": refTok("hydra/db", "port", "sql")},
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
	}, "")
	in.Service.Address.Replica = "0"
	return in
}

func image() backends.Input {
	in := full()
	s := &in.Service.Spec
	s.Image, s.Package, s.Command, s.Initializer, s.Migrate = pinnedImage, nil, nil, nil, nil
	in.Service.Options = json.RawMessage(`{"ports":{"http":8080},"publish":"127.0.0.1","aliases":["www"],"config":{"Hostname":"web"},"host":{"ShmSize":67108864},` +
		`"volumes":[{"name":"shared","target":"/data"},{"path":"/var/run/docker.sock","target":"/var/run/docker.sock"}]}`)
	return in
}

func group() backends.Input {
	one, two := full(), full()
	one.Service.Address.Member, two.Service.Address.Member = "one", "two"
	two.Service.Spec.Ports = map[string]graph.Port{"admin": {Port: 81, Protocol: "tcp"}}
	one.Group = []*graph.Service{one.Service, two.Service}
	return one
}

func with(in backends.Input, f func(*graph.Spec)) backends.Input { f(&in.Service.Spec); return in }

var samples = map[string]func() backends.Input{
	"full":  full,
	"image": image,
	"group": group,
	"reload": func() backends.Input {
		return with(full(), func(s *graph.Spec) { s.Reload = &graph.Reload{Signal: "HUP"} })
	},
	"schedule": func() backends.Input {
		return with(full(), func(s *graph.Spec) { s.Schedule = &graph.Schedule{Cron: "0 4 * * 1", Missed: "run"} })
	},
	"probe": func() backends.Input {
		return with(full(), func(s *graph.Spec) {
			s.Ready = &graph.Ready{Exec: lit("bin/ready")}
			s.Update = &graph.Update{Soak: "5s", Healthy: lit("bin/healthy")}
		})
	},
	"single-file": func() backends.Input {
		return with(full(), func(s *graph.Spec) {
			s.Package, s.Command, s.Initializer, s.Migrate, s.User = artifactTok("dist/server.bin"), lit("server.bin"), nil, nil, "git"
		})
	},
}

func TestBackend_Contract(t *testing.T) {
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) { backendtest.Run(t, New(), sample) })
	}
}

// TestRealize_Golden compares layouts with the golden files.
func TestRealize_Golden(t *testing.T) {
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) {
			p, _, errs := New().Render(sample())
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			l, err := New().Realize(p, "0123456789ab", backendtest.Value)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, l)
			if timed, ok := WithTimer(l, "/run/docker.sock"); ok {
				golden(t, name+"-timer", timed)
			}
		})
	}
}

func golden(t *testing.T, name string, l backends.Layout) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "start %s\n", strings.Join(l.Start, " "))
	for _, o := range l.Objects {
		fmt.Fprintf(&b, "\n%s\n%s", o.Name, o.Content)
	}
	for _, f := range l.Files {
		if f.Link != "" {
			fmt.Fprintf(&b, "\n%s -> %s shared=%v\n", f.Path, f.Link, f.Shared)
			continue
		}
		var pretty bytes.Buffer
		if json.Indent(&pretty, f.Content, "", "  ") != nil {
			pretty.Reset()
			pretty.Write(f.Content)
		}
		fmt.Fprintf(&b, "\n%s %04o shared=%v inPlace=%v\n%s", f.Path, f.Mode, f.Shared, f.InPlace, pretty.Bytes())
	}
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("(-want +got, -update to accept)\n%s", d)
	}
}

// TestWithTimer_Schedules checks which schedules get a timer, and that the job itself does not depend
// on what starts it.
func TestWithTimer_Schedules(t *testing.T) {
	layout := func(s *graph.Schedule) backends.Layout {
		t.Helper()
		p, _, errs := New().Render(with(full(), func(spec *graph.Spec) { spec.Schedule = s }))
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		l, err := New().Realize(p, "0123456789ab", backendtest.Value)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	text := func(l backends.Layout, ends string) string {
		for _, f := range l.Files {
			if strings.HasSuffix(f.Path, ends) && f.Link == "" {
				return string(f.Content)
			}
		}
		t.Fatalf("no file %s", ends)
		return ""
	}
	for _, c := range []struct {
		s    graph.Schedule
		want []string
		no   string
	}{
		{graph.Schedule{Cron: "30 4 1 * 1", Timezone: "Europe/Berlin"}, []string{"OnCalendar=Mon *-*-* 04:30:00 Europe/Berlin\n", "OnCalendar=*-*-01 04:30:00 Europe/Berlin\n"}, "OnActiveSec"},
		{graph.Schedule{Every: "12h", Timezone: "Europe/Berlin", Jitter: "1m30s", Missed: "run"}, []string{"OnCalendar=*-*-* 00/12:00:00 UTC\n", "RandomizedDelaySec=90000000us\n", "OnActiveSec=0\n"}, "Persistent"},
	} {
		l := layout(&c.s)
		timed, ok := WithTimer(l, "/run/docker.sock")
		if !ok {
			t.Fatalf("%+v: no timer", c.s)
		}
		for _, want := range c.want {
			if got := text(timed, ".timer"); !strings.Contains(got, want) || strings.Contains(got, c.no) {
				t.Errorf("%+v:\n%s\nlacks %q, or has %s", c.s, got, want, c.no)
			}
		}
		if text(timed, ".job") != text(l, ".cron") || text(timed, ".container") != text(l, ".container") {
			t.Errorf("%+v: the timer changed the job", c.s)
		}
	}
	for _, every := range []string{"7h", "90s", "1500ms"} {
		if _, ok := WithTimer(layout(&graph.Schedule{Every: every}), "/run/docker.sock"); ok {
			t.Errorf("every %s has a timer", every)
		}
	}
	daily := layout(&graph.Schedule{Cron: "@daily"})
	for _, socket := range []string{"", "relative.sock", "/run/a b.sock", "/run/%h.sock", "/run/x\nExecStart=/bin/evil"} {
		if _, ok := WithTimer(daily, socket); ok {
			t.Errorf("a timer for the socket %q", socket)
		}
	}
	if _, ok := WithTimer(layout(nil), "/run/docker.sock"); ok {
		t.Error("a service has a timer")
	}
}

// TestPayload_FieldsChangeTheirParts checks which parts of the payload change with which field.
func TestPayload_FieldsChangeTheirParts(t *testing.T) {
	reloadable := func(s *graph.Spec) { s.Reload = &graph.Reload{Signal: "HUP"} }
	scheduled := func(s *graph.Spec) { s.Schedule = &graph.Schedule{Every: "1h"} }
	for _, c := range []struct {
		name        string
		base, apply func(*graph.Spec)
		parts       string
	}{
		{"command", nil, func(s *graph.Spec) { s.Command = lit("bin/other") }, "run"},
		{"env", nil, func(s *graph.Spec) { s.Env["LOG"] = token.Lit("debug") }, "run"},
		{"secret", nil, func(s *graph.Spec) { s.Secrets["PASSWORD"] = secretTok("hydra/db-password", "v2") }, "run"},
		{"port", nil, func(s *graph.Spec) { s.Ports["http"] = graph.Port{Port: 81} }, "run"},
		{"file", nil, func(s *graph.Spec) { s.Files["/etc/hydra/hydra.conf"] = graph.File{Text: token.Lit("x")} }, "run"},
		{"file, reloadable", reloadable, func(s *graph.Spec) { s.Files["/etc/hydra/hydra.conf"] = graph.File{Text: token.Lit("x")} }, "reload"},
		{"another file, reloadable", reloadable, func(s *graph.Spec) { s.Files["/etc/more"] = graph.File{Text: token.Lit("x")} }, "run reload"},
		{"reload", reloadable, func(s *graph.Spec) { s.Reload.Signal = "USR1" }, "meta"},
		{"reload check", reloadable, func(s *graph.Spec) { s.Reload.Check = []token.Text{token.Lit("bin/check")} }, "meta"},
		{"ready", nil, func(s *graph.Spec) { s.Ready.HTTP = "/" }, "meta"},
		{"initializer", nil, func(s *graph.Spec) { s.Initializer = lit("bin/other") }, "meta"},
		{"no initializer", nil, func(s *graph.Spec) { s.Initializer = nil }, "run meta"},
		{"migrate", nil, func(s *graph.Spec) { s.Migrate = lit("bin/other") }, "run"},
		{"schedule", scheduled, func(s *graph.Spec) { s.Schedule.Every = "2h" }, "meta"},
		{"limits", nil, func(s *graph.Spec) { s.Limits.Memory = "1Gi" }, "run"},
		{"stop", nil, func(s *graph.Spec) { s.Stop.Timeout = "1s" }, "run"},
		{"soak", nil, func(s *graph.Spec) { s.Update = &graph.Update{Soak: "10s"} }, "meta"},
		{"at once", nil, func(s *graph.Spec) { s.Update = &graph.Update{AtOnce: 2} }, ""},
		{"labels", nil, func(s *graph.Spec) { s.Labels = map[string]string{"a": "b"} }, ""},
		{"protect", nil, func(s *graph.Spec) { s.Protect = true }, ""},
	} {
		before, after := full(), full()
		if c.base != nil {
			c.base(&before.Service.Spec)
			c.base(&after.Service.Spec)
		}
		c.apply(&after.Service.Spec)
		var got []string
		a, _, errs := New().Render(before)
		b, _, more := New().Render(after)
		if len(errs)+len(more) > 0 {
			t.Fatal(errs, more)
		}
		for _, part := range []struct {
			name string
			a, b json.RawMessage
		}{{"run", a.Run, b.Run}, {"reload", a.Reload, b.Reload}, {"meta", a.Meta, b.Meta}} {
			if !bytes.Equal(part.a, part.b) {
				got = append(got, part.name)
			}
		}
		if s := strings.Join(got, " "); s != c.parts {
			t.Errorf("%s changes %q, want %q", c.name, s, c.parts)
		}
	}
}

func TestRender_RefusesAtField(t *testing.T) {
	bare := func(options string, f func(*graph.Spec)) backends.Input {
		in := input("web", graph.Spec{Command: lit("bin/server"), Package: artifactTok("dist/hydra"), Ports: map[string]graph.Port{"http": {Port: 80}}}, options)
		if f != nil {
			f(&in.Service.Spec)
		}
		return in
	}
	for _, c := range []struct {
		in         backends.Input
		path, says string
	}{
		{bare("", func(s *graph.Spec) { s.Package = nil }), "service", "neither image nor package"},
		{bare("", func(s *graph.Spec) { s.Image = "nginx:1" }), "service.package", "both image and package"},
		{bare("", func(s *graph.Spec) { s.Image, s.Package, s.Command = "nginx:1", nil, nil }), "service.image", "has no digest"},
		{bare("", func(s *graph.Spec) { s.Sockets = map[string]graph.Socket{"a": {Port: "http"}} }), "service.sockets", "cannot pass sockets"},
		{bare("", func(s *graph.Spec) { s.Ready = &graph.Ready{Notify: true} }), "service.ready.notify", "cannot receive notifications"},
		{bare("", func(s *graph.Spec) { s.Update = &graph.Update{Style: "graceful"} }), "service.update.style", "cannot run two versions of a service at once"},
		{bare("", func(s *graph.Spec) { s.Update = &graph.Update{ReusePort: true} }), "service.update.reuseport", "cannot run two versions of a service at once"},
		{bare("", func(s *graph.Spec) { s.Retire = []token.Text{token.Lit("/bin/leave")} }), "service.retire", "cannot run a command before a service is deleted"},
		{bare("", func(s *graph.Spec) { s.Env = map[string]token.Text{"A": token.Lit("\x00")} }), "service.env.A", "cannot be passed to a process"},
		{bare("", func(s *graph.Spec) { s.Env = map[string]token.Text{"A": secretTok("x", "")} }), "service.env.A", "a secret cannot be part of text"},
		{bare("", func(s *graph.Spec) { s.User = "no body" }), "service.user", "not a valid user"},
		{bare("", func(s *graph.Spec) { s.Dirs.State.Name = "../x" }), "service.dirs.state", "is not a valid directory"},
		{bare("", func(s *graph.Spec) { s.Schedule = &graph.Schedule{Cron: "x"} }), "service.schedule.cron", "fields"},
		{bare("", func(s *graph.Spec) {
			s.Schedule = &graph.Schedule{Cron: "@daily", Timezone: "UTC\n[Service]\nExecStart=/bin/evil"}
		}), "service.schedule.timezone", "is not a time zone name"},
		{bare("", func(s *graph.Spec) {
			s.Files = map[string]graph.File{"/etc/passwd/x": {Text: token.Lit("")}, "/etc/passwd": {Text: token.Lit("")}}
		}), "service.files./etc/passwd/x", "which is a file"},
		{bare(`{"bse":"x"}`, nil), "docker.bse", "unknown option"},
		{bare(`{"base":"nginx:1"}`, nil), "docker.base", "has no digest"},
		{bare(`{"at":"app"}`, nil), "docker.at", "absolute"},
		{bare(`{"push":"https://registry.example.com/shop"}`, nil), "docker.push", "not a repository"},
		{bare(`{"push":"registry.example.com/shop/web:1"}`, nil), "docker.push", "not a repository"},
		{bare(`{"push":"registry.example.com/shop"}`, func(s *graph.Spec) { s.Image, s.Package, s.Command = "nginx@sha256:"+strings.Repeat("a", 64), nil, nil }), "docker.push", "built from a package"},
		{bare(`{"network":"bridge"}`, nil), "docker.network", "unknown network"},
		{bare(`{"ports":{"htp":80}}`, nil), "docker.ports.htp", "no port"},
		{bare(`{"publish":"everywhere"}`, nil), "docker.publish", "not an IP address"},
		{bare(`{"host":{"Privilged":true}}`, nil), "docker.host", "unknown field"},
		{bare(`{"host":{"PortBindings":{}}}`, nil), "docker.host.PortBindings", "written by defx"},
		{bare(`{"config":{"Cmd":["x"]}}`, nil), "docker.config.Cmd", "written by defx"},
		{bare(`{"volumes":[{"target":"/x"}]}`, nil), "docker.volumes", "either a name or a path"},
		{bare(`{"capabilities":["net admin"]}`, nil), "docker.capabilities", "capability name"},
	} {
		_, _, errs := New().Render(c.in)
		found := false
		for _, e := range errs {
			path := strings.Join(e.Path[min(len(e.Path), 3):], ".")
			found = found || path == c.path && strings.Contains(e.Error(), c.says)
		}
		if !found {
			t.Errorf("%s: no %q in %v", c.path, c.says, errs)
		}
	}
}

// TestAddressFor_SameMachine checks the value of a ref to a service on the same machine.
func TestAddressFor_SameMachine(t *testing.T) {
	reader := full()
	address := func(target *graph.Service, field string, known bool) string {
		v, ok := backend{}.AddressFor(reader, target, field, "http", known)
		if !ok {
			return "default"
		}
		return v
	}
	other := input("db", graph.Spec{Ports: map[string]graph.Port{"http": {Port: 5000}}}, "").Service
	mapped := input("db", graph.Spec{Ports: map[string]graph.Port{"http": {Port: 5000}}}, `{"ports":{"http":80}}`).Service
	onHost := input("db", graph.Spec{}, `{"network":"host"}`).Service
	outside := input("db", graph.Spec{}, "").Service
	outside.Backend = "systemd"
	for _, c := range []struct{ got, want string }{
		{address(other, "host", false), "0.db.hydra"}, {address(other, "port", false), "default"}, {address(other, "address", true), "default"}, {address(other, "address", false), "0.db.hydra"},
		{address(mapped, "port", true), "80"}, {address(mapped, "address", true), "0.db.hydra"},
		{address(onHost, "host", false), Gateway}, {address(outside, "host", true), Gateway}, {address(reader.Service, "host", false), "127.0.0.1"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	reader = group()
	if got := address(reader.Group[1], "host", false); got != "127.0.0.1" {
		t.Errorf("members of a group should share a network: %q", got)
	}
	reader = input("web", graph.Spec{}, `{"network":"host"}`)
	if got := address(other, "host", false); got != "default" {
		t.Errorf("%q", got)
	}
}

func TestOptionNames_Complete(t *testing.T) {
	var names []string
	for f := range reflect.TypeFor[options]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, optionNames) {
		t.Errorf("options are %v, but optionNames has %v", names, optionNames)
	}
}

// TestOptions_FieldsAreSpelledExactly checks that no other spelling of a field gets around what defx
// writes itself: the engine reads names regardless of case.
func TestOptions_FieldsAreSpelledExactly(t *testing.T) {
	for options, want := range map[string]string{
		`{"host":{"binds":["/:/host"]}}`: "Binds", `{"host":{"privileged":true}}`: "Privileged", `{"host":{"mounts":[]}}`: "Mounts", `{"config":{"user":"0"}}`: "User", `{"host":{"networkmode":"host"}}`: "NetworkMode",
		`{"config":{"Labels":{"dev.defx.scope":"prod/other"}}}`: "another name",
	} {
		_, _, errs := New().Render(input("web", graph.Spec{Image: pinnedImage}, options))
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%s: %v", options, errs)
		}
	}
	if _, _, errs := New().Render(input("web", graph.Spec{Image: pinnedImage}, `{"host":{"ShmSize":1,"CpuShares":2},"config":{"Hostname":"x","Labels":{"a":"b"}}}`)); len(errs) > 0 {
		t.Error(errs)
	}
}
