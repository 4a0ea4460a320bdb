package systemd

import (
	"cmp"
	"path"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// build returns the layout of a payload. Files are in the order in which they are written: copies
// and units first, then what names the version (timer, socket, alias), and last the link by which a
// boot finds it.
func build(p payload, version string, value func(token.Token) (string, bool)) (backends.Layout, diag.List) {
	if p.Fact != nil {
		return p.Fact.build()
	}
	b := &builder{payload: p, Binder: spec.Binder{Subject: p.Run.Address.String(), Value: value},
		names: namesOf(p.Run.Environment, p.Run.Deployment, p.Run.Address, version)}
	l := backends.Layout{Name: b.alias(), Unit: b.unit(), Start: []string{b.unit()}}
	unit := func(name string, content []byte, shared bool) {
		l.Files = append(l.Files, backends.File{Path: unitDir + "/" + name, Content: content, Mode: 0o644, Shared: shared})
	}
	symlink := func(name, target string, shared bool) {
		l.Files = append(l.Files, backends.File{Path: unitDir + "/" + name, Link: target, Shared: shared})
	}

	b.CheckNames(p.Run.Environment, p.Run.Deployment, p.Run.Address)
	mounts := b.files(&l)
	b.hostFiles(&l)
	if u := p.Run.User; u != "" && u != "root" && !p.Run.Declared {
		switch {
		case !graph.ValidUser(u):
			b.Fail(spec.At("user"), "%q is not a valid user name", u).WithHint("%s", graph.UserHint)
		case graph.SystemUser(u):
			b.Fail(spec.At("user"), "%q is a user of the operating system, with rights of its own", u).WithHint("choose another name, or remove user")
		default:
			l.Files = append(l.Files, sysusers(u))
			unit(userUnit(u), userService(u), true)
		}
	}
	if p.Run.Initializer {
		unit(b.init(), b.onceUnit(onceInit, mounts), false)
		l.Scripts = append(l.Scripts, b.init())
	}
	if len(p.Run.Migrate) > 0 {
		unit(b.migrate(), b.onceUnit(onceMigrate, mounts), false)
		l.Scripts = append(l.Scripts, b.migrate())
	}
	l.Group, l.Ready, l.Leftovers = b.target, b.readiness(), b.leftovers()
	l.Claims, l.Needs, l.Dirs = b.claims(), b.needs(), spec.Moves(b.Run.Dirs)
	if l.Ready != nil && l.Ready.Exec != "" {
		unit(l.Ready.Exec, b.probeUnit(l.Ready.Exec, "readiness of ", "ready", b.Meta.Ready.Exec, mounts), false)
	}
	l.Graceful = b.Meta.Graceful
	l.Data = spec.DataPaths(b.Run.Dirs)
	if rl := b.Meta.Reload; rl != nil && len(rl.Check) > 0 {
		l.ReloadCheck = b.reloadCheck()
		unit(l.ReloadCheck, b.probeUnit(l.ReloadCheck, "reload check of ", "check", rl.Check, mounts), false)
	}
	l.Ports, l.StopTimeout = b.ports(), b.StopTimeout(b.Run.Stop)
	if len(b.Meta.Retire) > 0 {
		l.Retire = b.retire()
		unit(l.Retire, b.probeUnit(l.Retire, "retirement of ", "retire", b.Meta.Retire, mounts), false)
	}
	if up := b.Meta.Update; up != nil {
		if up.Soak != "" {
			l.Soak = b.Duration(spec.At("update", "soak"), up.Soak, 0)
		}
		if len(up.Healthy) > 0 {
			l.Healthy = b.healthy()
			unit(l.Healthy, b.probeUnit(l.Healthy, "health of ", "update", up.Healthy, mounts), false)
		}
	}
	unit(b.unit(), b.serviceUnit(mounts), false)
	unit(b.target, []byte(spec.TargetUnit(p.Run.Environment, p.Run.Deployment)), true)
	wanted := b.alias()
	switch {
	case p.Run.Scheduled:
		wanted = b.timer()
		unit(wanted, b.timerUnit(), false)
		l.Start = []string{wanted}
	case len(p.Run.Sockets) > 0:
		wanted = b.socket()
		unit(wanted, b.socketUnit(), false)
		l.Start = []string{wanted, b.unit()}
	}
	symlink(b.alias(), b.unit(), false)
	symlink("multi-user.target.wants/"+b.target, "../"+b.target, true)
	symlink(b.target+".wants/"+wanted, "../"+wanted, false)
	return l, b.Errs
}

// files adds the content of files to the layout and returns the mounts that show it to the service.
// A mount of a store object is named by its content, so other content changes the unit text. A copy
// keeps its path, so other content does not.
func (b *builder) files(l *backends.Layout) []string {
	content, inPlace := b.Run.Files, false
	if b.Reload != nil {
		content, inPlace = b.Reload.Files, true
	}
	var mounts []string
	seen := map[string]bool{}
	for _, p := range sets.Keys(content) {
		f, where := content[p], spec.At("files", p)
		target := b.checked(where)(bindPath(p))
		for _, above := range parents(p) {
			if seen[above] {
				b.Fail(where, "%s is below %q, which is a file", spec.Field(where), above)
			}
		}
		seen[p] = true
		for _, dir := range []string{"/proc", "/sys", "/run/credentials", path.Dir(backends.StorePath)} {
			if p == dir || strings.HasPrefix(p, dir+"/") {
				b.Fail(where, "%s is below %s, where no file can be mounted", spec.Field(where), dir)
			}
		}
		mode := b.Mode(where, f, b.Run.User)
		data := b.Content(where, f)
		var source string
		switch {
		case f.Store != "":
			source = b.checked(where)(bindPath(f.Store))
		case inPlace || f.Owner != "":
			source = unitsDir + "/" + b.base + "/files" + p
			l.Files = append(l.Files, backends.File{Path: source, Content: data, Mode: mode, InPlace: inPlace})
			b.chown(source, f.Owner)
			source = b.checked(where)(bindPath(source))
		default:
			o := backends.NewObject(data, mode)
			l.Objects = appendObject(l.Objects, o)
			source = backends.StorePath + "/" + o.Name
		}
		mounts = append(mounts, source+":"+target)
		l.MountPoints = append(l.MountPoints, p)
	}
	return mounts
}

// ports returns the ports that the service listens on, sorted by name.
func (b *builder) ports() []backends.Port {
	if b.Run.Scheduled {
		return nil
	}
	var out []backends.Port
	for _, name := range sets.Keys(b.Meta.Ports) {
		p := b.Meta.Ports[name]
		out = append(out, backends.Port{Protocol: cmp.Or(p.Protocol, "tcp"), Port: p.Port})
	}
	return out
}

// appendObject appends an object unless the list has one with the same name.
func appendObject(list []backends.Object, o backends.Object) []backends.Object {
	for _, have := range list {
		if have.Name == o.Name {
			return list
		}
	}
	return append(list, o)
}

// parents returns the directories above a path, without the root.
func parents(p string) []string {
	var out []string
	for d := path.Dir(p); len(d) > 1; d = path.Dir(d) {
		out = append(out, d)
	}
	return out
}

// chown gives a file to a user before the service starts. It happens on the machine, because an
// image that was not built by root cannot carry owners.
func (b *builder) chown(file, owner string) {
	if owner != "" && !graph.ValidUser(owner) {
		b.Fail(spec.At("files"), "%q is not a valid user name", owner).WithHint("%s", graph.UserHint)
	} else if owner != "" {
		b.chowns = append(b.chowns, ownedFile{file, owner})
	}
}

// ownedFile is a file that is given to a user before the service starts.
type ownedFile struct{ path, owner string }

// hostFiles adds the files that are visible to the whole machine, at their own paths.
func (b *builder) hostFiles(l *backends.Layout) {
	content, inPlace := b.Run.HostFiles, false
	if b.Reload != nil {
		content, inPlace = b.Reload.HostFiles, true
	}
	for _, p := range sets.Keys(content) {
		f, where := content[p], spec.At("hostFiles", p)
		b.checked(where)(pathValue(p))
		b.CheckHostFile(where, p)
		if f.Store != "" {
			l.Files = append(l.Files, backends.File{Path: p, Link: f.Store})
			continue
		}
		m, ok := spec.Octal(f.Mode)
		if !ok || m > 0o777 {
			b.Fail(where, "mode %q must be three or four octal digits", f.Mode)
		}
		l.Files = append(l.Files, backends.File{Path: p, Content: b.Content(where, f), Mode: m, InPlace: inPlace})
		b.chown(p, f.Owner)
	}
}
