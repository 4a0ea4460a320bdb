package systemd

import (
	"cmp"
	"io/fs"
	"path"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/token"
)

// build makes the layout of a payload. The order of files is the order of
// writing: copies and units first, then what names the version (timer, socket,
// alias), last the link by which a boot finds it.
func build(p payload, version string, value func(token.Token) (string, bool)) (backends.Layout, diag.List) {
	b := &builder{payload: p, value: value, subject: p.Run.Address.String(),
		names: namesOf(p.Run.Environment, p.Run.Deployment, p.Run.Address, version)}
	l := backends.Layout{Name: b.alias(), Unit: b.unit(), Start: []string{b.unit()}}
	unit := func(name string, content []byte, shared bool) {
		l.Files = append(l.Files, backends.File{Path: unitDir + "/" + name, Content: content, Mode: 0o644, Shared: shared})
	}
	link := func(name, target string, shared bool) {
		l.Files = append(l.Files, backends.File{Path: unitDir + "/" + name, Link: target, Shared: shared})
	}

	for _, name := range []string{p.Run.Environment, p.Run.Deployment, p.Run.Address.Name, cmp.Or(p.Run.Address.Lib, "x"),
		cmp.Or(p.Run.Address.Member, "x"), cmp.Or(p.Run.Address.Replica, "x")} {
		if !graph.ValidName(name) {
			b.fail(at(), "%q is not a name", name)
		}
	}
	mounts := b.files(&l)
	if u := p.Run.User; u != "" && u != "root" {
		if userRE.MatchString(u) {
			l.Files = append(l.Files, sysusers(u))
			unit(userUnit(u), userService(u), true)
		} else {
			b.fail(at("user"), "%q is not the name of a user", u).WithHint("a-z, 0-9, _ and -, at most 31, no digit first")
		}
	}
	if p.Run.Initializer {
		unit(b.init(), b.once(onceInit, mounts), false)
		l.Scripts = append(l.Scripts, b.init())
	}
	if len(p.Run.Migrate) > 0 {
		unit(b.migrate(), b.once(onceMigrate, mounts), false)
		l.Scripts = append(l.Scripts, b.migrate())
	}
	l.Group, l.Ready, l.Leaves = b.target, b.readiness(), b.leaves()
	if l.Ready != nil && l.Ready.Exec != "" {
		unit(l.Ready.Exec, b.readyUnit(mounts), false)
	}
	unit(b.unit(), b.service(mounts), false)
	unit(b.target, b.targetUnit(), true)
	pulled := b.alias()
	switch {
	case p.Run.Scheduled:
		pulled = b.timer()
		unit(pulled, b.timerUnit(), false)
		l.Start = []string{pulled}
	case len(p.Run.Sockets) > 0:
		pulled = b.socket()
		unit(pulled, b.socketUnit(), false)
		l.Start = []string{pulled, b.unit()}
	}
	link(b.alias(), b.unit(), false)
	link("multi-user.target.wants/"+b.target, "../"+b.target, true)
	link(b.target+".wants/"+pulled, "../"+pulled, false)
	return l, b.errs
}

// targetUnit starts and stops a deployment as a whole. Every unit of the
// deployment writes the same bytes.
func (b *builder) targetUnit() []byte {
	var u unitText
	u.section("Unit")
	u.set("Description", "defx "+b.Run.Environment+"/"+b.Run.Deployment)
	return u.bytes()
}

// files places the content of files and gives the mounts that show it to the
// service. A mount of a store object is named by its content, so other content
// is another unit text; a copy keeps its path, so other content is the same.
func (b *builder) files(l *backends.Layout) []string {
	content, copies := b.Run.Files, false
	if b.Reload != nil {
		content, copies = b.Reload.Files, true
	}
	var mounts []string
	seen := map[string]bool{}
	for _, p := range sortedKeys(content) {
		f, where := content[p], at("files", p)
		target := b.take(where)(bindPath(p))
		for _, above := range parents(p) {
			if seen[above] {
				b.fail(where, "%s lies below %q, which is a file itself", field(where), above)
			}
		}
		seen[p] = true
		for _, no := range []string{"/proc", "/sys", "/run/credentials", path.Dir(backends.StorePath)} {
			if p == no || strings.HasPrefix(p, no+"/") {
				b.fail(where, "%s lies below %s, where no file can be shown", field(where), no)
			}
		}
		mode := b.mode(where, f.Mode)
		data := []byte(b.bind(where, f.Text))
		if err := text(string(data)); err != nil {
			b.fail(where, "%s %v", field(where), err)
		}
		var source string
		if copies {
			source = unitsDir + "/" + b.base + "/files" + p
			l.Files = append(l.Files, backends.File{Path: source, Content: data, Mode: mode, InPlace: true})
			source = b.take(where)(bindPath(source))
		} else {
			o := backends.NewObject(data, mode)
			l.Objects = appendObject(l.Objects, o)
			source = backends.StorePath + "/" + o.Name
		}
		mounts = append(mounts, source+":"+target)
	}
	return mounts
}

func appendObject(list []backends.Object, o backends.Object) []backends.Object {
	for _, have := range list {
		if have.Name == o.Name {
			return list
		}
	}
	return append(list, o)
}

func parents(p string) []string {
	var out []string
	for d := path.Dir(p); len(d) > 1; d = path.Dir(d) {
		out = append(out, d)
	}
	return out
}

// mode reads the permissions of a file. All that run as somebody must be able
// to read it: the file belongs to root, in the store and in the service's eyes.
func (b *builder) mode(where []string, s string) fs.FileMode {
	m, ok := octal(s)
	switch {
	case !ok || m > 0o777:
		b.fail(where, "mode %q is not three or four octal digits", s)
	case m&0o222 != 0:
		b.fail(where, "mode %q would let the service write a file that it sees read-only", s).WithHint("mode: '0444' or '0555'")
	case m&0o004 == 0 && b.Run.User != "root":
		b.fail(where, "mode %q keeps the file, which belongs to root, from the service", s).
			WithHint("mode: '0444'; what nobody else may read belongs into secrets")
	}
	return m
}
