package systemd

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/token"
)

// renderer turns a service into a payload: it resolves artifacts, the package
// and names of ports, and refuses what this backend cannot run.
type renderer struct {
	in      backends.Input
	subject string
	errs    diag.List
	pkg     place
}

// place is where an artifact lies on the machine.
type place struct {
	path   string // of the file, or of the folder
	folder bool
}

func (r *renderer) fail(at []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(r.subject, format, args...).At(at...)
	r.errs = append(r.errs, e)
	return e
}

func (r *renderer) payload() payload {
	s := r.in.Service.Spec
	p := payload{
		Run: runPart{
			Deployment: r.in.Deployment, Environment: r.in.Environment, Address: r.in.Service.Address,
			Dirs: s.Dirs, User: s.User, Restart: s.Restart, Limits: s.Limits,
			Initializer: len(s.Initializer) > 0, Scheduled: s.Schedule != nil,
			Notify: s.Ready != nil && s.Ready.Notify,
		},
		Meta: metaPart{Ports: s.Ports, Schedule: s.Schedule},
	}
	if h := r.in.Service.Host; h != nil && s.User != "" {
		_, p.Run.Declared = h.Users[s.User]
	}
	r.options(&p.Run.Options)
	if s.Image != "" {
		r.fail(at("image"), "systemd runs no images").WithHint("use package and command, or backend: 'docker'")
		return p
	}
	if len(s.Command) == 0 {
		r.fail(at(), "has no command").WithHint("command: ['bin/server', '--flag']")
		return p
	}
	r.packageOf(s, &p.Run)
	p.Run.Command = slices.Concat(r.command(at("command"), s.Command), r.texts(at("args"), s.Args))
	p.Run.Env = r.env(s.Env)
	p.Run.Secrets = r.secrets(s)
	p.Run.Migrate = r.command(at("migrate"), s.Migrate)
	p.Meta.Initializer = r.command(at("initializer"), s.Initializer)
	p.Run.Sockets = r.sockets(s)
	p.Run.LowPort = s.User != "root" && lowPort(s)
	if s.Stop != nil {
		stop := *s.Stop
		stop.Command = r.command(at("stop", "command"), stop.Command)
		p.Run.Stop = &stop
	}
	if s.Ready != nil {
		ready := *s.Ready
		ready.Exec = r.command(at("ready", "exec"), ready.Exec)
		p.Meta.Ready = &ready
	}
	if s.Update != nil {
		update := *s.Update
		update.AtOnce, update.Healthy = 0, r.command(at("update", "healthy"), update.Healthy) // how many is not the machine's matter
		if update.Style == "graceful" {
			p.Meta.Graceful = r.graceful(s)
		}
		update.Style, update.ReusePort = "", false
		if update.Soak != "" || len(update.Healthy) > 0 {
			p.Meta.Update = &update
		}
	}
	p.Meta.Retire = r.command(at("retire"), s.Retire)
	files, hostFiles := r.files("files", s.Files), r.files("hostFiles", s.HostFiles)
	if s.Reload == nil {
		p.Run.Files = files
		if len(hostFiles) > 0 {
			p.Run.HostFiles = hostFiles
		}
	} else {
		reload := *s.Reload
		reload.Command = r.command(at("reload", "command"), reload.Command)
		p.Meta.Reload = &reload
		p.Run.Bound, p.Reload = bound(files, hostFiles), &reloadPart{Files: files, HostFiles: hostFiles}
	}
	r.local(&p.Meta)
	return p
}

// graceful tells how two versions of a service can live at once.
func (r *renderer) graceful(s graph.Spec) string {
	const hint = "sockets: { http: { port: 'http' } } lets the machine hold the port; update: { reuseport: true } says that the program opens it with SO_REUSEPORT"
	where := at("update", "style")
	held := map[string]bool{}
	for _, sock := range s.Sockets {
		held[sock.Port] = true
	}
	switch {
	case s.Schedule != nil:
		r.fail(where, "a service that runs on time has no two versions at once").WithHint("leave style out")
	case s.Update.ReusePort && len(s.Sockets) > 0:
		return "sockets reuseport"
	case s.Update.ReusePort:
		return "reuseport"
	case len(s.Sockets) == 0:
		r.fail(where, "a graceful update needs a way for two versions to live at once").WithHint(hint)
	}
	for _, name := range sortedKeys(s.Ports) {
		if !held[name] && len(s.Sockets) > 0 {
			r.fail(where, "two versions cannot both listen on port %q, which no socket holds", name).WithHint(hint)
		}
	}
	return "sockets"
}

// bound lists what of reloadable files needs a new process: mounts, and owners, which are given at start.
func bound(files, hostFiles map[string]file) []string {
	out := sortedKeys(files)
	for _, m := range []map[string]file{files, hostFiles} {
		for _, p := range sortedKeys(m) {
			if m[p].Owner != "" {
				out = append(out, p+" of "+m[p].Owner)
			}
		}
	}
	return out
}

// local orders the service after those on its machine. It wants the ones that
// it requires, but never binds itself to them: a restarted database must not
// restart its users.
func (r *renderer) local(m *metaPart) {
	for _, a := range r.in.Local {
		if a == r.in.Service.Address {
			continue
		}
		a.Machine = "" // of a fact: it is this one
		m.After = append(m.After, a)
		if slices.ContainsFunc(r.in.Service.Requires, func(e graph.Edge) bool { return slices.Contains(e.To, a) }) {
			m.Wants = append(m.Wants, a)
		}
	}
	slices.SortFunc(m.After, graph.Address.Compare)
	slices.SortFunc(m.Wants, graph.Address.Compare)
}

// packageOf finds the package. A service whose package is a folder runs in it,
// as its files refer to each other from there.
func (r *renderer) packageOf(s graph.Spec, run *runPart) {
	if len(s.Package) == 0 {
		return
	}
	tokens := s.Package.Tokens()
	if len(s.Package) != 1 || len(tokens) != 1 || tokens[0].Kind != token.Artifact {
		r.fail(at("package"), "the package is not one artifact").WithHint("package: defx.artifact('./dist/app.tar.gz')")
		return
	}
	pl, ok := r.artifact(at("package"), tokens[0])
	if !ok {
		return
	}
	r.pkg = pl
	if pl.folder {
		run.Package = pl.path
	}
}

func (r *renderer) artifact(at []string, t token.Token) (place, bool) {
	a, ok := r.in.Artifact(t)
	if !ok || a.Digest.Hex() == "" {
		r.fail(at, "the content of %s is not known", t)
		return place{}, false
	}
	dir := backends.StorePath + "/" + a.Digest.Hex()
	if a.Kind == "file" {
		name := a.Path
		if name == "" {
			name = t.Name
		}
		return place{path: dir + "/" + path.Base(name)}, true
	}
	return place{path: dir, folder: true}, true
}

// text puts the paths of artifacts in place and refuses what cannot stand in
// text of this backend. Refs stay.
func (r *renderer) text(at []string, t token.Text) token.Text {
	out, _ := t.Map(func(tok token.Token) (token.Text, error) {
		switch tok.Kind {
		case token.Ref:
			return token.Text{{Token: &tok}}, nil
		case token.Artifact:
			pl, _ := r.artifact(at, tok)
			return token.Lit(pl.path), nil
		case token.Secret:
			if len(at) > 1 && (at[1] == "files" || at[1] == "hostFiles") {
				r.fail(at, "systemd does not support a secret inside a file").
					WithHint("secrets: { NAME: defx.secret('%s') } gives a file of its own whose path is in $NAME_FILE", tok.Name)
			} else {
				r.fail(at, "a secret cannot stand in text that others can read").
					WithHint("secrets: { NAME: defx.secret('%s') } gives a file whose path is in $NAME_FILE", tok.Name)
			}
		default:
			r.fail(at, "systemd does not support a %s", tok.Kind)
		}
		return token.Text{}, nil
	})
	return out
}

func (r *renderer) texts(at []string, list []token.Text) []token.Text {
	out := make([]token.Text, 0, len(list))
	for _, t := range list {
		out = append(out, r.text(at, t))
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// command resolves the program: absolute as it is, relative in the package.
func (r *renderer) command(at []string, list []token.Text) []token.Text {
	before := len(r.errs)
	out := r.texts(at, list)
	if len(out) == 0 || len(r.errs) > before {
		return out
	}
	prog, ok := out[0].Literal()
	switch name := strings.TrimPrefix(prog, "./"); {
	case !ok:
		r.fail(at, "the program %q depends on a value that is known only later", out[0].Shown()).
			WithHint("name the program; values belong into arguments")
	case strings.HasPrefix(prog, "/"):
	case prog == "":
		r.fail(at, "the program is empty")
	case r.pkg.path == "":
		if len(r.in.Service.Spec.Package) == 0 {
			r.fail(at, "the program %q is not an absolute path, and there is no package to look it up in", prog).
				WithHint("write /usr/bin/%s, or set package", path.Base(prog))
		}
	case !r.pkg.folder && name != path.Base(r.pkg.path):
		r.fail(at, "the program %q is not in the package, which holds %q alone", prog, path.Base(r.pkg.path)).
			WithHint("%s", diag.Suggest(name, []string{path.Base(r.pkg.path)}))
	case !r.pkg.folder:
		out[0] = token.Lit(r.pkg.path)
	case name == "" || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../"):
		r.fail(at, "the program %q is not a clean path below the package", prog)
	default:
		out[0] = token.Lit(r.pkg.path + "/" + name)
	}
	return out
}

func (r *renderer) env(env map[string]token.Text) map[string]token.Text {
	out := map[string]token.Text{}
	for _, k := range sortedKeys(env) {
		if !envRE.MatchString(k) {
			r.fail(at("env", k), "%q is not the name of a variable", k).WithHint("letters, digits and _, no digit first")
		}
		out[k] = r.text(at("env", k), env[k])
	}
	return out
}

func (r *renderer) secrets(s graph.Spec) map[string]secret {
	out := map[string]secret{}
	for _, k := range sortedKeys(s.Secrets) {
		tokens := s.Secrets[k].Tokens()
		switch _, taken := s.Env[k+"_FILE"]; {
		case !envRE.MatchString(k):
			r.fail(at("secrets", k), "%q is not the name of a variable", k).WithHint("letters, digits and _, no digit first")
		case len(s.Secrets[k]) != 1 || len(tokens) != 1 || tokens[0].Kind != token.Secret || tokens[0].Name == "":
			r.fail(at("secrets", k), "secrets.%s is not one secret", k).WithHint("%s: defx.secret('name')", k)
		case !utf8.ValidString(tokens[0].Name + tokens[0].Version):
			r.fail(at("secrets", k), "the name of secrets.%s is not valid UTF-8", k)
		case taken:
			r.fail(at("env", k+"_FILE"), "env sets %s_FILE, which the secret %s sets to the path of its file", k, k)
		default:
			out[k] = secret{Name: tokens[0].Name, Version: tokens[0].Version}
		}
	}
	return out
}

// lowPort tells whether the service itself binds a port that only root may: one
// that no socket holds for it.
func lowPort(s graph.Spec) bool {
	held := map[string]bool{}
	for _, sock := range s.Sockets {
		held[sock.Port] = true
	}
	for name, p := range s.Ports {
		if p.Port < 1024 && !held[name] {
			return true
		}
	}
	return false
}

func (r *renderer) sockets(s graph.Spec) []listener {
	var out []listener
	for _, name := range sortedKeys(s.Sockets) {
		sock := s.Sockets[name]
		port, known := s.Ports[sock.Port]
		switch {
		case !graph.ValidName(name):
			r.fail(at("sockets", name), "%q is not a name", name)
		case (sock.Port == "") == (sock.Path == ""):
			r.fail(at("sockets", name), "sockets.%s needs either port or path", name)
		case sock.Path != "":
			out = append(out, listener{Name: name, Path: sock.Path, Mode: sock.Mode})
		case sock.Mode != "":
			r.fail(at("sockets", name, "mode"), "sockets.%s is a port, which has no mode", name)
		case !known:
			r.fail(at("sockets", name, "port"), "%q is not in ports", sock.Port).
				WithHint("%s", diag.Suggest(sock.Port, sortedKeys(s.Ports)))
		default:
			out = append(out, listener{Name: name, Port: port.Port, Protocol: port.Protocol})
		}
	}
	if s.Schedule != nil && len(out) > 0 {
		r.fail(at("sockets"), "a service that runs on time has no sockets")
	}
	return out
}

func (r *renderer) files(field string, files map[string]graph.File) map[string]file {
	out := map[string]file{}
	for _, p := range sortedKeys(files) {
		f, where := files[p], at(field, p)
		mode := f.Mode
		if mode == "" {
			mode = "0444"
		}
		if len(mode) == 3 {
			mode = "0" + mode
		}
		to := file{Mode: mode, Kind: f.Kind()}
		if f.Owner != "root" {
			to.Owner = f.Owner
		}
		if to.Owner != "" && !userRE.MatchString(to.Owner) {
			r.fail(append(where, "owner"), "%q is not the name of a user", to.Owner).WithHint("a-z, 0-9, _ and -, at most 31, no digit first")
		}
		inside := func(path []string, t token.Text, _ bool) []any { return []any{r.text(path, t)} }
		switch to.Kind {
		case "text":
			to.Kind, to.Text = "", r.text(where, f.Text)
		case "env":
			v := map[string]any{}
			for k, t := range f.Env {
				v[k] = t
			}
			doc := token.Doc{V: v}.Map(append(where, "env"), inside)
			to.Doc = &doc
		case "from":
			to.Kind = ""
			if tokens := f.From.Tokens(); len(tokens) == 1 {
				pl, ok := r.artifact(append(where, "from"), tokens[0])
				if ok && pl.folder {
					r.fail(append(where, "from"), "%s is a folder, and a file is needed", tokens[0])
				}
				to.Store = pl.path
			}
			if f.Owner != "" || f.Mode != "" && f.Mode != "0444" && f.Mode != "0555" {
				r.fail(where, "a file from an artifact keeps the artifact's owner and permissions").WithHint("leave mode and owner out")
			}
			to.Mode = "0444"
		default:
			doc := f.Doc().Map(append(where, to.Kind), inside)
			to.Doc = &doc
		}
		out[p] = to
	}
	return out
}
