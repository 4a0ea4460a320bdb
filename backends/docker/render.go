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

// renderer turns a service into a payload and refuses what no engine can run.
type renderer struct{ spec.Reader }

// CheckMachine refuses folders, in which no engine runs.
func (backend) CheckMachine(m *graph.Machine) (problem, hint string) {
	if !strings.HasPrefix(m.Connect, "dir:") {
		return "", ""
	}
	return "it is a container, and nothing runs on machine " + m.Name + ", which is the folder " + strings.TrimPrefix(m.Connect, "dir:"),
		"place it on a machine with connect: 'local' or 'ssh://…', or set backend: 'systemd', whose files a folder can hold"
}

var imageUserRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)

func (r *renderer) payload() payload {
	s := r.In.Service.Spec
	p := payload{
		Run: runPart{
			Deployment: r.In.Deployment, Environment: r.In.Environment, Address: r.In.Service.Address,
			User: s.User, Restart: s.Restart, Limits: s.Limits, Image: s.Image,
			Initializer: len(s.Initializer) > 0, Scheduled: s.Schedule != nil, Ports: s.Ports,
		},
		Meta: metaPart{Schedule: s.Schedule},
	}
	p.Run.Dirs, p.Run.Identity = r.Dirs()
	p.Run.Options = r.options()
	if r.In.Service.Fact != nil {
		r.Fail(spec.At(), "backend docker cannot apply host settings")
		return p
	}
	switch {
	case s.Image != "" && len(s.Package) > 0:
		r.Fail(spec.At("package"), "a service cannot have both image and package").
			WithHint("docker: { base: 'NAME@sha256:…' } builds an image from the package on top of a base image")
	case s.Image != "" && !pinned(s.Image):
		r.Fail(spec.At("image"), "image %q has no digest, so its content could change", s.Image).
			WithHint("run defx lock --update, or write NAME@sha256:…")
	case s.Image == "" && len(s.Package) == 0 && p.Run.Options.Base == "":
		r.Fail(spec.At(), "service has neither image nor package, and a container has no access to the machine's programs").
			WithHint("package: defx.artifact('./program'), or image: 'NAME@sha256:…'")
	case s.Image != "" && p.Run.Options.Push != "":
		r.Fail([]string{"docker", "push"}, "push is only for images that are built from a package").WithHint("remove push, or replace image by package")
	case s.Image == "" && len(s.Command) == 0:
		r.Fail(spec.At(), "service has no command").WithHint("command: ['bin/server', '--flag']")
	}
	if len(s.Sockets) > 0 {
		r.Fail(spec.At("sockets"), "backend docker cannot pass sockets").WithHint("let the program open its port, or set backend: 'systemd'")
	}
	if up := s.Update; up != nil && (up.Style == "graceful" || up.ReusePort) {
		field := "style"
		if up.Style != "graceful" {
			field = "reuseport"
		}
		r.Fail(spec.At("update", field), "backend docker cannot run two versions of a service at once: both would publish the same ports").
			WithHint("remove %s, or run several replicas behind a load balancer: they change one after the other", field)
	}
	if len(s.Retire) > 0 {
		r.Fail(spec.At("retire"), "backend docker cannot run a command before a service is deleted").WithHint("remove retire, or set backend: 'systemd'")
	}
	if s.Ready != nil && s.Ready.Notify {
		r.Fail(spec.At("ready", "notify"), "backend docker cannot receive notifications").WithHint("use ready: { http: '/health' }, tcp or exec")
	}
	if len(r.Errs) > 0 {
		return p
	}
	if s.Image == "" {
		r.build(s, &p.Run)
	}
	command := func(at []string, list []token.Text) []token.Text { return r.imageCommand(at, list) } // the program may be in the image
	if s.Image == "" && p.Run.Options.Base == "" {
		command = func(at []string, list []token.Text) []token.Text { return r.scratchCommand(s, p.Run, at, list) }
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
		reload.Check = command(spec.At("reload", "check"), reload.Check)
		p.Meta.Reload = &reload
		p.Run.Bound, p.Reload = spec.RestartKeys(files, nil), &spec.ReloadPart{Files: files, HostFiles: hostFiles}
	}
	if p.Run.Build != nil && p.Run.Options.Base != "" && p.Run.Options.At == "" && len(r.Errs) == 0 { // otherwise it is put where something looks for it
		r.CheckPackageUse(s, p.Run.Build.At)
	}
	p.Run.Stored = r.extraArtifacts(s)
	if r.In.Service.Address.Member != "" && p.Run.Options.Network != "host" {
		p.Run.Ports = nil // the pod has them
		for _, m := range r.In.Group {
			o := readOptions(m, func([]string, string, ...any) *diag.Error { return &diag.Error{} }) // every member reports its own errors
			p.Run.Group = append(p.Run.Group, member{Name: m.Address.Member, Ports: m.Spec.Ports, Inner: o.Ports, Publish: o.Publish, Aliases: o.Aliases})
		}
	}
	return p
}

// build resolves the package to its path in the image, instead of its path on the machine.
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
	inStore := r.Package.Path[len(backends.StorePath)+1:]
	run.Build.Artifact, run.Folder = inStore[:64], true
	if at == "/" {
		at = ""
	}
	r.Package.Path = at + inStore[64:]
	if r.Package.IsFolder {
		r.Package.Path = cmp.Or(at, "/")
	}
}

// imageCommand resolves programs of the package and leaves others to the image's search path.
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
		r.UseProgram(at, prog)
		out[0] = token.Lit(r.Package.Path)
	case r.Package.IsFolder && strings.Contains(prog, "/"):
		if r.In.Service.Spec.Image == "" && r.Package.Path != "/" { // at the root, the base may have it
			r.UseProgram(at, path.Clean(prog))
		}
		out[0] = token.Lit(path.Join(r.Package.Path, prog))
	}
	return out
}

// scratchCommand resolves programs of an image that has nothing but the package and what is
// mounted.
func (r *renderer) scratchCommand(s graph.Spec, run runPart, at []string, list []token.Text) []token.Text {
	before := len(r.Errs)
	out := r.Command(at, list)
	if len(out) == 0 || len(r.Errs) > before {
		return out
	}
	prog, _ := out[0].Literal()
	written, _ := list[0].Literal()
	if !path.IsAbs(written) { // Command found it in the package
		return out
	}
	var mounted []string
	for p := range s.Files {
		mounted = append(mounted, p)
	}
	for _, v := range run.Options.Volumes {
		mounted = append(mounted, v.Target)
	}
	if slices.ContainsFunc(mounted, func(m string) bool { return prog == m || strings.HasPrefix(prog, m+"/") }) {
		return out
	}
	dir := r.Package.Path
	if !r.Package.IsFolder {
		dir = path.Dir(dir)
	}
	name, inside := strings.CutPrefix(prog, strings.TrimSuffix(dir, "/")+"/")
	if !inside {
		r.Fail(at, "the program %q is not in the image, which has nothing but the package at %s", prog, dir).
			WithHint("docker: { base: 'NAME@sha256:…' } builds on an image that has it; a relative program is one of the package")
		return out
	}
	r.UseProgram(at, name)
	return out
}

// extraArtifacts lists the artifacts that a service uses in addition to its package. They are
// mounted at their paths on the machine.
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
