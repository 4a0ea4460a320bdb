package docker

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// renderer turns a service into a payload, and refuses what no engine runs.
type renderer struct{ spec.Reader }

var imageUserRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)

func (r *renderer) payload() payload {
	s := r.In.Service.Spec
	p := payload{
		Run: runPart{
			Deployment: r.In.Deployment, Environment: r.In.Environment, Address: r.In.Service.Address,
			Dirs: s.Dirs, User: s.User, Restart: s.Restart, Limits: s.Limits, Image: s.Image,
			Initializer: len(s.Initializer) > 0, Scheduled: s.Schedule != nil, Ports: s.Ports,
		},
		Meta: metaPart{Schedule: s.Schedule},
	}
	p.Run.Options = r.options()
	if r.In.Service.Fact != nil {
		r.Fail(spec.At(), "docker keeps no facts of machines")
		return p
	}
	switch {
	case s.Image != "" && len(s.Package) > 0:
		r.Fail(spec.At("package"), "an image is run as it is, and has no package besides").
			WithHint("docker: { base: 'NAME@sha256:…' } puts the package above an image")
	case s.Image != "" && !pinned(s.Image):
		r.Fail(spec.At("image"), "image %q has no digest, so it may be another one tomorrow", s.Image).
			WithHint("defx lock --update writes down what it is now; or NAME@sha256:…")
	case s.Image == "" && len(s.Package) == 0 && p.Run.Options.Base == "":
		r.Fail(spec.At(), "has neither image nor package: a container sees nothing of the machine").
			WithHint("package: defx.artifact('./program'), or image: 'NAME@sha256:…'")
	case s.Image != "" && p.Run.Options.Push != "":
		r.Fail([]string{"docker", "push"}, "an image that is fetched is not pushed")
	case s.Image == "" && len(s.Command) == 0:
		r.Fail(spec.At(), "has no command").WithHint("command: ['bin/server', '--flag']")
	}
	if len(s.Sockets) > 0 {
		r.Fail(spec.At("sockets"), "docker passes no sockets on").WithHint("let it listen on its port itself, or backend: 'systemd'")
	}
	if s.Ready != nil && s.Ready.Notify {
		r.Fail(spec.At("ready", "notify"), "docker passes no notification on").WithHint("ready: { http: '/health' }, tcp or exec")
	}
	if len(r.Errs) > 0 {
		return p
	}
	if s.Image == "" {
		r.build(s, &p.Run)
	}
	command := r.Command
	if s.Image != "" || p.Run.Options.Base != "" || p.Run.Options.At == "/" { // the program may be the image's own
		command = func(at []string, list []token.Text) []token.Text { return r.imageCommand(at, list) }
	}
	p.Run.Command, p.Run.Args = command(spec.At("command"), s.Command), r.Texts(spec.At("args"), s.Args)
	p.Run.Env = r.Env(s.Env)
	p.Run.Secrets = r.Secrets(s)
	p.Run.Migrate = command(spec.At("migrate"), s.Migrate)
	p.Meta.Initializer = command(spec.At("initializer"), s.Initializer)
	if s.Stop != nil {
		stop := *s.Stop
		stop.Command = command(spec.At("stop", "command"), stop.Command)
		p.Run.Stop = &stop
	}
	if s.Ready != nil {
		ready := *s.Ready
		ready.Exec = command(spec.At("ready", "exec"), ready.Exec)
		p.Meta.Ready = &ready
	}
	if s.Update != nil {
		update := *s.Update
		update.AtOnce, update.Healthy = 0, command(spec.At("update", "healthy"), update.Healthy)
		if update.Soak != "" || len(update.Healthy) > 0 {
			p.Meta.Update = &update
		}
	}
	files, hostFiles := r.Files("files", s.Files), r.Files("hostFiles", s.HostFiles)
	if s.Reload == nil {
		p.Run.Files = files
		if len(hostFiles) > 0 {
			p.Run.HostFiles = hostFiles
		}
	} else {
		reload := *s.Reload
		reload.Command = command(spec.At("reload", "command"), reload.Command)
		p.Meta.Reload = &reload
		p.Run.Bound, p.Reload = restartKeys(files), &reloadPart{Files: files, HostFiles: hostFiles}
	}
	p.Run.Stored = r.extraArtifacts(s)
	if r.In.Service.Address.Member != "" && p.Run.Options.Network != "host" {
		p.Run.Ports = nil // they are the pod's
		for _, m := range r.In.Group {
			o := readOptions(m, func([]string, string, ...any) *diag.Error { return &diag.Error{} }) // each tells its own mistakes
			p.Run.Group = append(p.Run.Group, member{Name: m.Address.Member, Ports: m.Spec.Ports, Inner: o.Ports, Publish: o.Publish, Aliases: o.Aliases})
		}
	}
	return p
}

// build resolves the package, which is not where the machine keeps it but where
// its image has it.
func (r *renderer) build(s graph.Spec, run *runPart) {
	at := cmp.Or(run.Options.At, "/app")
	run.Build = &Build{At: at, Base: run.Options.Base, Push: run.Options.Push}
	if len(s.Package) == 0 {
		return
	}
	r.PackageOf(s)
	if r.Package.Path == "" {
		return
	}
	rest := r.Package.Path[len(backends.StorePath)+1:]
	run.Build.Artifact, run.Folder = rest[:64], r.Package.IsFolder
	if at == "/" {
		at = ""
	}
	r.Package.Path = at + rest[64:]
	if r.Package.IsFolder {
		r.Package.Path = cmp.Or(at, "/")
	}
}

// imageCommand leaves the search for a program to the image, if it is not one of the package.
func (r *renderer) imageCommand(at []string, list []token.Text) []token.Text {
	before := len(r.Errs)
	out := r.Texts(at, list)
	if len(out) == 0 || len(r.Errs) > before {
		return out
	}
	prog, ok := out[0].Literal()
	switch {
	case ok && prog == "":
		r.Fail(at, "the program is empty")
	case !ok || r.Package.Path == "" || path.IsAbs(prog):
	case !r.Package.IsFolder && prog == path.Base(r.Package.Path):
		out[0] = token.Lit(r.Package.Path)
	case r.Package.IsFolder && strings.Contains(prog, "/"):
		out[0] = token.Lit(path.Join(r.Package.Path, prog))
	}
	return out
}

// extraArtifacts lists artifacts that are spoken of besides the package: a container
// sees them at the place where the machine has them.
func (r *renderer) extraArtifacts(s graph.Spec) []string {
	s.Package = nil
	var out []string
	s.Texts(func(t token.Text) {
		for _, tok := range t.Tokens() {
			if tok.Kind == token.Artifact {
				if a, ok := r.In.Artifact(tok); ok && !slices.Contains(out, a.Digest.Hex()) {
					out = append(out, a.Digest.Hex())
				}
			}
		}
	})
	slices.Sort(out)
	return out
}

// restartKeys lists what of reloadable files needs a new container: mounts, and owners, which are given before it starts.
func restartKeys(files map[string]spec.File) []string {
	out := spec.Keys(files)
	for _, p := range spec.Keys(files) {
		if files[p].Owner != "" {
			out = append(out, p+" of "+files[p].Owner)
		}
	}
	return out
}
