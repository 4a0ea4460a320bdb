package systemd

import (
	"slices"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// renderer turns a service into a payload. It also resolves names of ports and refuses what systemd
// cannot run.
type renderer struct{ spec.Reader }

func (r *renderer) payload() payload {
	s := r.In.Service.Spec
	p := payload{
		Run: runPart{
			Deployment: r.In.Deployment, Environment: r.In.Environment, Address: r.In.Service.Address,
			User: s.User, Restart: s.Restart, Limits: s.Limits,
			Initializer: len(s.Initializer) > 0, Scheduled: s.Schedule != nil,
			Notify: s.Ready != nil && s.Ready.Notify,
		},
		Meta: metaPart{Ports: s.Ports, Schedule: s.Schedule},
	}
	if h := r.In.Service.Host; h != nil && s.User != "" {
		_, p.Run.Declared = h.Users[s.User]
	}
	p.Run.Dirs, p.Run.Identity = r.Dirs()
	r.readOptions(&p.Run.Options)
	if s.Image != "" {
		r.Fail(spec.At("image"), "backend systemd cannot run images").WithHint("use package and command, or set backend: 'docker'")
		return p
	}
	if len(s.Command) == 0 {
		r.Fail(spec.At(), "service has no command").WithHint("command: ['bin/server', '--flag']")
		return p
	}
	if r.PackageOf(s); r.Package.Path != "" { // the working directory: files of a package refer to each other relative to it
		p.Run.Package = r.Package.Dir()
	}
	p.Run.Command = slices.Concat(r.Command(spec.At("command"), s.Command), r.Texts(spec.At("args"), s.Args))
	p.Run.Env = r.Env(s.Env)
	p.Run.Secrets = r.Secrets(s)
	p.Run.Migrate = r.Command(spec.At("migrate"), s.Migrate)
	p.Meta.Initializer = r.Command(spec.At("initializer"), s.Initializer)
	p.Run.Sockets = r.sockets(s)
	p.Run.LowPort = s.User != "root" && lowPort(s)
	if s.Stop != nil {
		stop := *s.Stop
		stop.Command = r.Command(spec.At("stop", "command"), stop.Command)
		p.Run.Stop = &stop
	}
	if s.Ready != nil {
		ready := *s.Ready
		ready.Exec = r.Command(spec.At("ready", "exec"), ready.Exec)
		p.Meta.Ready = &ready
	}
	if s.Update != nil {
		update := *s.Update
		update.AtOnce, update.Healthy = 0, r.Command(spec.At("update", "healthy"), update.Healthy) // the number of replicas updated at once does not concern the machine
		if update.Style == "graceful" {
			p.Meta.Graceful = r.graceful(s)
		}
		update.Style, update.ReusePort = "", false
		if update.Soak != "" || len(update.Healthy) > 0 {
			p.Meta.Update = &update
		}
	}
	p.Meta.Retire = r.Command(spec.At("retire"), s.Retire)
	files, hostFiles := r.Files("files", s.Files), r.Files("hostFiles", s.HostFiles)
	if s.Reload == nil {
		p.Run.Files = files
		if len(hostFiles) > 0 {
			p.Run.HostFiles = hostFiles
		}
	} else {
		reload := *s.Reload
		reload.Command = r.Command(spec.At("reload", "command"), reload.Command)
		reload.Check = r.Command(spec.At("reload", "check"), reload.Check)
		p.Meta.Reload = &reload
		p.Run.Bound, p.Reload = spec.RestartKeys(files, hostFiles), &spec.ReloadPart{Files: files, HostFiles: hostFiles}
	}
	r.orderAfterLocal(&p.Meta)
	if len(r.Errs) == 0 {
		r.CheckPackageUse(s, "")
	}
	return p
}

// graceful returns the way in which two versions of a service can run at once.
func (r *renderer) graceful(s graph.Spec) string {
	const hint = "let systemd open the port with sockets: { http: { port: 'http' } }; or set update: { reuseport: true } if the program opens it with SO_REUSEPORT"
	where := spec.At("update", "style")
	bySocket := map[string]bool{}
	for _, sock := range s.Sockets {
		bySocket[sock.Port] = true
	}
	switch {
	case s.Schedule != nil:
		r.Fail(where, "a scheduled service cannot be updated gracefully").WithHint("remove style")
	case s.Update.ReusePort && len(s.Sockets) > 0:
		return "sockets reuseport"
	case s.Update.ReusePort:
		return "reuseport"
	case len(s.Sockets) == 0:
		r.Fail(where, "a graceful update needs a way for two versions to run at once").WithHint(hint)
	}
	for _, name := range sets.Keys(s.Ports) {
		if !bySocket[name] && len(s.Sockets) > 0 {
			r.Fail(where, "two versions cannot both listen on port %q, which has no socket", name).WithHint(hint)
		}
	}
	return "sockets"
}

// orderAfterLocal orders the service after those on its machine that it depends on. It wants
// (Wants=) those that it requires, but it is not bound to them (Requires=): restarting a database
// must not restart its users.
func (r *renderer) orderAfterLocal(m *metaPart) {
	for _, a := range r.In.Local {
		if a == r.In.Service.Address {
			continue
		}
		a.Machine = "" // a fact is always on the same machine
		m.After = append(m.After, a)
		if slices.ContainsFunc(r.In.Service.Requires, func(e graph.Edge) bool { return slices.Contains(e.To, a) }) {
			m.Wants = append(m.Wants, a)
		}
	}
	slices.SortFunc(m.After, graph.Address.Compare)
	slices.SortFunc(m.Wants, graph.Address.Compare)
}

// lowPort reports whether the process itself binds a privileged port, one without a socket.
func lowPort(s graph.Spec) bool {
	bySocket := map[string]bool{}
	for _, sock := range s.Sockets {
		bySocket[sock.Port] = true
	}
	for name, p := range s.Ports {
		if p.Port < 1024 && !bySocket[name] {
			return true
		}
	}
	return false
}

// sockets reads the sockets of a service.
func (r *renderer) sockets(s graph.Spec) []listener {
	var out []listener
	for _, name := range sets.Keys(s.Sockets) {
		sock := s.Sockets[name]
		port, known := s.Ports[sock.Port]
		switch {
		case !graph.ValidName(name):
			r.Fail(spec.At("sockets", name), "%q is not a valid name", name)
		case (sock.Port == "") == (sock.Path == ""):
			r.Fail(spec.At("sockets", name), "sockets.%s must have either port or path", name)
		case sock.Path != "":
			out = append(out, listener{Name: name, Path: sock.Path, Mode: sock.Mode})
		case sock.Mode != "":
			r.Fail(spec.At("sockets", name, "mode"), "sockets.%s has a port, so it cannot have a mode", name)
		case !known:
			r.Fail(spec.At("sockets", name, "port"), "port %q is not in ports", sock.Port).
				WithHint("%s", diag.Suggest(sock.Port, sets.Keys(s.Ports)))
		default:
			out = append(out, listener{Name: name, Port: port.Port, Protocol: port.Protocol})
		}
	}
	if s.Schedule != nil && len(out) > 0 {
		r.Fail(spec.At("sockets"), "a scheduled service cannot have sockets")
	}
	return out
}
