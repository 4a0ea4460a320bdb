package docker

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

const (
	unitsDir = "/var/lib/defx/units" // copies of reloadable files, one directory per unit
	doneDir  = "/var/lib/defx/done"  // one empty file per script that has succeeded
)

// builder writes the files of a payload and collects the errors.
type builder struct {
	payload
	spec.Binder
	prefix, base, version string
	layout                backends.Layout
}

func (b *builder) unit() string    { return b.base + "." + b.version + ".container" }
func (b *builder) cron() string    { return b.base + ".cron" }
func (b *builder) init() string    { return b.base + ".init.once" }
func (b *builder) migrate() string { return b.base + "." + b.version + ".migrate.once" }
func (b *builder) ready() string   { return b.base + ".ready.probe" }
func (b *builder) healthy() string { return b.base + ".healthy.probe" }
func (b *builder) check() string   { return b.base + ".check.probe" }
func (b *builder) id() ID {
	return ID{Scope: b.Run.Environment + "/" + b.Run.Deployment, Address: b.Run.Address.String(), Base: b.base}
}

// build returns the layout of a payload. Files are in the order in which they are written: copies
// of content first, then what is shared, then what runs, and last what starts it.
func build(p payload, version string, value func(token.Token) (string, bool)) (backends.Layout, diag.List) {
	b := &builder{payload: p, Binder: spec.Binder{Subject: p.Run.Address.String(), Value: value}, version: version,
		prefix: spec.NamePrefix(p.Run.Environment, p.Run.Deployment)}
	b.base = spec.BaseName(b.prefix, p.Run.Address)
	b.CheckNames(p.Run.Environment, p.Run.Deployment, p.Run.Address)
	b.layout = backends.Layout{Name: b.base, Unit: b.unit(), Start: []string{b.unit()}, Ready: b.readiness(),
		Leftovers: []string{b.initDone(), "/var/lib/defx/runs/" + b.base + ".jsonl*", doneDir + "/" + b.base + ".container-migrate-????????????"}}
	b.claim(plan.ClaimContainer, b.base, false)
	b.layout.StopTimeout = b.StopTimeout(p.Run.Stop)
	c := b.container()
	b.hostFiles()
	b.claimPorts()
	b.needs(c)
	id := b.id()
	addCommand := func(name, field string, list []token.Text, done string) {
		b.write(name, Command{ID: id, Unit: b.unit(), Command: b.bindArgs(spec.At(field), list), Done: done}, false)
	}
	if p.Run.Initializer {
		addCommand(b.init(), "initializer", p.Meta.Initializer, b.initDone())
		c.Before = append(c.Before, b.init())
	}
	if len(p.Run.Migrate) > 0 {
		addCommand(b.migrate(), "migrate", p.Run.Migrate, doneDir+"/"+b.base+".container-migrate-"+version)
		c.Before = append(c.Before, b.migrate())
	}
	b.layout.Scripts = c.Before
	slices.Sort(b.layout.Data)
	if b.layout.Ready != nil && b.layout.Ready.Exec != "" {
		addCommand(b.ready(), "ready", p.Meta.Ready.Exec, "")
	}
	if up := p.Meta.Update; up != nil {
		b.layout.Soak = b.Duration(spec.At("update", "soak"), up.Soak, 0)
		if len(up.Healthy) > 0 {
			b.layout.Healthy = b.healthy()
			addCommand(b.healthy(), "update", up.Healthy, "")
		}
	}
	if rl := p.Meta.Reload; rl != nil {
		cmd := Command{ID: id, Unit: b.unit(), Command: b.bindArgs(spec.At("reload", "command"), rl.Command)}
		switch {
		case len(rl.Command) > 0 && rl.Signal != "":
			b.Fail(spec.At("reload"), "reload has both signal and command").WithHint("remove one of them")
		case rl.Signal != "":
			cmd.Signal = b.Signal(spec.At("reload", "signal"), rl.Signal)
		case len(rl.Command) == 0:
			b.Fail(spec.At("reload"), "reload must have signal or command").WithHint("reload: { signal: 'HUP' }")
		}
		b.write(b.base+".reload", cmd, false)
		if len(rl.Check) > 0 {
			b.layout.ReloadCheck = b.check()
			b.write(b.check(), Command{ID: id, Unit: b.unit(), Command: b.bindArgs(spec.At("reload", "check"), rl.Check)}, false)
		}
	}
	if b.Run.Options.Network != "host" {
		b.claim(plan.ClaimNetwork, b.prefix, true)
		b.write(b.prefix+".network", Network{ID: ID{Scope: id.Scope, Base: b.prefix}, Name: b.prefix}, true)
	}
	if len(p.Run.Group) > 0 {
		c.Pod = b.pod()
		c.Network, c.Aliases = "", nil
	}
	b.write(b.unit(), c, false)
	if p.Run.Scheduled {
		b.schedule()
		b.layout.Start = []string{b.cron()}
	}
	return b.layout, b.Errs
}

// write adds a file to the directory that the agent reads.
func (b *builder) write(name string, v any, shared bool) {
	raw, err := digest.Canonical(v)
	if err != nil {
		b.Fail(spec.At(), "%v", err)
	}
	b.layout.Files = append(b.layout.Files, backends.File{Path: Dir + "/" + name, Content: append(raw, '\n'), Mode: 0o600, Shared: shared})
}

func (b *builder) initDone() string { return doneDir + "/" + b.base + ".container-init" }

// bindArg returns a text with its refs replaced by their values, for use as an argument or
// variable.
func (b *builder) bindArg(at []string, t token.Text) string {
	s := b.Bind(at, t)
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		b.Fail(at, "%s contains bytes that cannot be passed to a process", spec.Field(at))
	}
	return s
}

// bindArgs applies bindArg to a list.
func (b *builder) bindArgs(at []string, list []token.Text) []string {
	var out []string
	for _, t := range list {
		out = append(out, b.bindArg(at, t))
	}
	return out
}

// userID returns the number of a user, derived from its name so that it is the same on every
// machine. Images without a base have no user names.
func userID(name string) int {
	sum := sha256.Sum256([]byte(name))
	return 200_000 + int(binary.BigEndian.Uint32(sum[:])%1_000_000)
}

// user returns the user of the container as the engine reads it, and its number, which is −1 if
// only the image knows it.
func (b *builder) user() (string, int) {
	u := b.Run.User
	first, _, _ := strings.Cut(u, ":")
	n, err := strconv.Atoi(first)
	switch {
	case u != "" && !imageUserRE.MatchString(u):
		b.Fail(spec.At("user"), "%q is not a valid user", u).WithHint("a name, a number, or user and group: 1000:1000")
	case err == nil:
		return u, n
	case u == "root":
		return "0:0", 0
	case !b.fromScratch():
		return u, -1
	case u == "":
		n = userID(cmp.Or(b.Run.Identity, b.base))
	default:
		n = userID("user " + u)
	}
	return fmt.Sprintf("%d:%d", n, n), n
}

// fromScratch reports whether the image consists of the package only.
func (b *builder) fromScratch() bool {
	return b.Run.Build != nil && b.Run.Build.Base == "" && b.Run.Build.At != "/"
}

// container returns the version itself.
func (b *builder) container() *Container {
	r := b.Run
	user, uid := b.user()
	c := &Container{ID: b.id(), Image: r.Image, Build: r.Build, User: user, Network: cmp.Or(r.Options.Network, b.prefix), Tmpfs: map[string]string{},
		Entrypoint: b.bindArgs(spec.At("command"), r.Command), Args: b.bindArgs(spec.At("args"), r.Args), Job: r.Scheduled,
		Config: r.Options.Config, Host: r.Options.Host, NoInit: r.Options.Init != nil && !*r.Options.Init}
	if len(c.Entrypoint) == 0 && r.Build != nil {
		b.Fail(spec.At("command"), "service has no command")
	}
	if c.Network != "host" {
		c.Aliases = sets.Union(aliases(r.Address), r.Options.Aliases)
		c.Ports = b.ports(r.Ports, r.Options.Ports, r.Options.Publish)
	}
	if r.Folder && r.Build != nil {
		c.WorkDir = r.Build.At
	}
	c.ReadOnly = r.Build != nil
	if r.Options.ReadOnly != nil {
		c.ReadOnly = *r.Options.ReadOnly
	}
	if c.ReadOnly {
		c.Tmpfs["/tmp"] = "mode=1777"
	}
	b.capabilities(c)
	env := map[string]string{}
	if b.fromScratch() {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for _, k := range sets.Keys(r.Secrets) {
		target := "/run/secrets/" + k
		c.Secrets = append(c.Secrets, Secret{Source: backends.SecretPath(r.Environment, r.Deployment, r.Secrets[k].Name), Target: target, Owner: uid})
		env[k+"_FILE"] = target
	}
	b.dirs(c, env, uid)
	b.files(c, uid)
	for _, v := range r.Options.Volumes {
		m := Mount{Path: v.Path, Target: v.Target, ReadOnly: v.ReadOnly, Owner: max(uid, 0)}
		if v.Name != "" {
			m.Volume = b.prefix + ".shared." + v.Name
			b.layout.Data = append(b.layout.Data, backends.VolumePrefix+m.Volume)
			b.claim(plan.ClaimVolume, m.Volume, true)
		} else {
			b.claim(plan.ClaimPath, m.Path, true) // what a container mounts of the machine may be anything's
		}
		c.Mounts = append(c.Mounts, m)
	}
	for _, hex := range r.Stored {
		c.Mounts = append(c.Mounts, Mount{Path: backends.StorePath + "/" + hex, Target: backends.StorePath + "/" + hex, ReadOnly: true})
	}
	slices.SortStableFunc(c.Mounts, func(x, y Mount) int { return strings.Compare(x.Target, y.Target) })
	for i := range c.Mounts {
		if i > 0 && c.Mounts[i].Target == c.Mounts[i-1].Target {
			b.Fail(spec.At(), "two mounts have the target %s", c.Mounts[i].Target)
		}
	}
	for k, t := range r.Env {
		env[k] = b.bindArg(spec.At("env", k), t)
	}
	for _, k := range sets.Keys(env) {
		c.Env = append(c.Env, k+"="+env[k])
	}
	if lim := r.Limits; lim != nil {
		if lim.CPU != "" {
			c.NanoCPUs = int64(b.MilliCores(spec.At("limits", "cpu"), lim.CPU)) * 1e6
		}
		if lim.Memory != "" {
			c.Memory = int64(b.Bytes(spec.At("limits", "memory"), lim.Memory))
		}
		c.Tasks, c.OpenFiles = int64(lim.Tasks), int64(lim.OpenFiles)
	}
	if len(c.Tmpfs) == 0 {
		c.Tmpfs = nil
	}
	b.restartAndStop(c)
	return c
}

// restartAndStop sets when the engine restarts the container, and how it stops it.
func (b *builder) restartAndStop(c *Container) {
	switch r := b.Run.Restart; {
	case b.Run.Scheduled && r == "always":
		b.Fail(spec.At("restart"), "a scheduled service cannot have restart: 'always'")
	case b.Run.Scheduled || r == "no":
		c.Restart = "no"
	case r == "" || r == "on-failure" || r == "always":
		// With on-failure the engine does not start the container after a boot, and with unless-stopped
		// not after the engine was killed.
		c.Restart = "always"
	default:
		b.Fail(spec.At("restart"), "unknown restart policy %q", r).WithHint("one of always, on-failure, no")
	}
	s := b.Run.Stop
	if s == nil {
		return
	}
	c.Stop = &Stop{Command: b.bindArgs(spec.At("stop", "command"), s.Command)}
	if s.Signal != "" {
		c.Stop.Signal = b.Signal(spec.At("stop", "signal"), s.Signal)
	}
	if s.Timeout != "" {
		d := b.Duration(spec.At("stop", "timeout"), s.Timeout, 0)
		c.Stop.Timeout = int((d + time.Second - 1) / time.Second) // the engine counts seconds
	}
}

// imageCapabilities are the capabilities that programs of images keep. Most start as root, change
// the owner of directories, and switch to another user.
var imageCapabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"}

// capabilities sets the capabilities that are added and dropped.
func (b *builder) capabilities(c *Container) {
	requested := b.Run.Options.Capabilities
	if slices.Contains(requested, "default") {
		for _, name := range requested {
			if less, is := strings.CutPrefix(name, "-"); is {
				c.CapDrop = append(c.CapDrop, less)
			} else if name != "default" {
				c.CapAdd = append(c.CapAdd, name)
			}
		}
		return
	}
	c.CapDrop, c.CapAdd = []string{"ALL"}, requested
	if requested == nil && !b.fromScratch() && (b.Run.User == "" || b.Run.User == "root") {
		c.CapAdd = imageCapabilities
	}
}

// ports returns the ports that the machine forwards to the container.
func (b *builder) ports(ports map[string]graph.Port, inner map[string]int, p *publish) []Port {
	var out []Port
	if p != nil && p.Off {
		return nil
	}
	for _, name := range sets.Keys(ports) {
		port := Port{Inner: inner[name], Outer: ports[name].Port, Protocol: cmp.Or(ports[name].Protocol, "tcp")}
		if port.Inner == 0 {
			port.Inner = port.Outer
		}
		if p != nil {
			port.Address = p.Address
		}
		out = append(out, port)
	}
	return out
}

// dirs adds the directories of the service, at the paths that they have on every backend. Those with
// names are volumes, which outlive containers, except that of the kind runtime.
func (b *builder) dirs(c *Container, env map[string]string, uid int) {
	for _, d := range b.Run.Dirs {
		if path.Clean(d.Path) != d.Path || !path.IsAbs(d.Path) || strings.ContainsAny(d.Path, ":\\\n\x00") {
			b.Fail(d.At(), "%q is not a valid directory", d.Path).WithHint("letters, digits, '.', '_' and '-', with '/' between parts")
		}
		env[d.Variable()] = d.Path
		switch {
		case d.Name == "":
			if uid < 0 {
				b.Fail(spec.At("user"), "the number of user %q is known only to the image, but a literal path must be given to it", b.Run.User).WithHint("write the number: user: '1000'")
			}
			c.Mounts = append(c.Mounts, Mount{Path: d.Path, Target: d.Path, Create: !d.Shared, Owner: max(uid, 0)})
			b.claim(plan.ClaimPath, d.Path, d.Shared, "dirs", d.Kind)
			if d.Kind == "state" && !d.Shared {
				b.layout.Data = append(b.layout.Data, d.Path)
			}
			continue
		case d.Kind == "runtime":
			if d.Shared {
				b.Fail(append(d.At(), "of"), "containers cannot share a directory in memory").WithHint("share another kind of directory, or a literal path")
			}
			c.Tmpfs[d.Path] = "mode=0755"
			if uid > 0 {
				c.Tmpfs[d.Path] = fmt.Sprintf("mode=0755,uid=%d,gid=%d", uid, uid)
			}
			continue
		}
		name := d.Name
		if !volumeRE.MatchString(name) {
			name = digest.Bytes([]byte(name)).Short()
		}
		m := Mount{Volume: d.Home + "." + d.Kind + "." + name, Target: d.Path, Owner: max(uid, 0)}
		if d.Kind == "state" && !d.Shared {
			b.layout.Data = append(b.layout.Data, backends.VolumePrefix+m.Volume)
		}
		b.claim(plan.ClaimVolume, m.Volume, d.Shared, "dirs", d.Kind)
		c.Mounts = append(c.Mounts, m)
	}
}

// claim adds a claim.
func (b *builder) claim(kind, key string, shared bool, field ...string) {
	b.layout.Claims = append(b.layout.Claims, plan.Claim{Kind: kind, Key: key, Shared: shared, Field: spec.At(field...)})
}

// claimPorts adds the claims of the ports that the service takes on the machine.
func (b *builder) claimPorts() {
	ports, inner, published := b.Run.Ports, b.Run.Options.Ports, b.Run.Options.Publish
	for _, m := range b.Run.Group {
		if m.Name == b.Run.Address.Member { // the pod has the ports of all members
			ports, inner, published = m.Ports, m.Inner, m.Publish
		}
	}
	list := b.ports(ports, inner, published)
	if b.Run.Options.Network == "host" { // the program itself opens them
		list = b.ports(ports, inner, nil)
	}
	for _, p := range list {
		field := spec.At("ports")
		for name, declared := range ports {
			if declared.Port == p.Outer && cmp.Or(declared.Protocol, "tcp") == p.Protocol {
				field = spec.At("ports", name)
			}
		}
		b.layout.Claims = append(b.layout.Claims, spec.PortClaim(p.Protocol, p.Address, p.Outer, field))
		b.need(graph.NeedPort, spec.PortText(p.Protocol, p.Address, p.Outer), field...)
	}
}

// files adds the content of files to the layout and mounts them into the container.
func (b *builder) files(c *Container, uid int) {
	content, inPlace := b.Run.Files, false
	if b.Reload != nil {
		content, inPlace = b.Reload.Files, true
	}
	user := b.Run.User
	if user == "" && uid == -1 {
		user = "root" // the default of images
	}
	for _, p := range sets.Keys(content) {
		f, where := content[p], spec.At("files", p)
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
			b.Fail(where, "%q must be an absolute path without . or ..", p)
		}
		for d := path.Dir(p); len(d) > 1; d = path.Dir(d) {
			if _, file := content[d]; file {
				b.Fail(where, "%s is below %q, which is a file", spec.Field(where), d)
			}
		}
		mode := b.Mode(where, f, user)
		data := b.Content(where, f)
		m := Mount{Target: p, ReadOnly: true}
		switch {
		case f.Store != "":
			m.Path = f.Store
		case inPlace || f.Owner != "":
			m.Path = unitsDir + "/" + b.base + "/files" + p
			b.layout.Files = append(b.layout.Files, backends.File{Path: m.Path, Content: data, Mode: mode, InPlace: inPlace})
			if f.Owner != "" {
				c.Own = append(c.Own, Owner{Path: m.Path, User: b.owner(where, f.Owner)})
			}
		default:
			o := backends.NewObject(data, mode)
			if !slices.ContainsFunc(b.layout.Objects, func(have backends.Object) bool { return have.Name == o.Name }) {
				b.layout.Objects = append(b.layout.Objects, o)
			}
			m.Path = backends.StorePath + "/" + o.Name
		}
		c.Mounts = append(c.Mounts, m)
	}
	b.passwd(c, content)
}

// owner returns the number of a file's owner.
func (b *builder) owner(where []string, name string) int {
	if n, err := strconv.Atoi(name); err == nil {
		return n
	}
	if !b.fromScratch() {
		b.Fail(append(slices.Clone(where), "owner"), "the number of user %q is known only to the image", name).WithHint("write the number: owner: '1000'")
	}
	return userID("user " + name)
}

// passwd adds /etc/passwd and /etc/group to an image without a base.
func (b *builder) passwd(c *Container, content map[string]spec.File) {
	if !b.fromScratch() {
		return
	}
	_, uid := b.user()
	name := b.Run.User
	if name == "" || strings.Trim(name, "0123456789:") == "" {
		name = "app"
	}
	users, groups := "root:x:0:0::/:/sbin/nologin\n", "root:x:0:\n"
	if uid > 0 {
		users += fmt.Sprintf("%s:x:%d:%d::/:/sbin/nologin\n", name, uid, uid)
		groups += fmt.Sprintf("%s:x:%d:\n", name, uid)
	}
	for p, text := range map[string]string{"/etc/passwd": users, "/etc/group": groups} {
		if _, exists := content[p]; exists {
			continue
		}
		o := backends.NewObject([]byte(text), 0o444)
		b.layout.Objects = append(b.layout.Objects, o)
		c.Mounts = append(c.Mounts, Mount{Path: backends.StorePath + "/" + o.Name, Target: p, ReadOnly: true})
	}
	slices.SortFunc(b.layout.Objects, func(x, y backends.Object) int { return strings.Compare(x.Name, y.Name) })
	b.layout.Objects = slices.CompactFunc(b.layout.Objects, func(x, y backends.Object) bool { return x.Name == y.Name })
}

// hostFiles adds the files that are visible to the whole machine, at their own paths.
func (b *builder) hostFiles() {
	content, inPlace := b.Run.HostFiles, false
	if b.Reload != nil {
		content, inPlace = b.Reload.HostFiles, true
	}
	for _, p := range sets.Keys(content) {
		f, where := content[p], spec.At("hostFiles", p)
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			b.Fail(where, "%q must be an absolute path without . or ..", p)
		}
		b.claim(plan.ClaimPath, p, false, "hostFiles", p)
		b.CheckHostFile(where, p)
		if f.Owner != "" {
			b.Fail(append(where, "owner"), "backend docker cannot set the owner of hostFiles").WithHint("remove owner")
		}
		if f.Store != "" {
			b.layout.Files = append(b.layout.Files, backends.File{Path: p, Link: f.Store})
			continue
		}
		m, ok := spec.Octal(f.Mode)
		if !ok || m > 0o777 {
			b.Fail(where, "mode %q must be three or four octal digits", f.Mode)
		}
		b.layout.Files = append(b.layout.Files, backends.File{Path: p, Content: b.Content(where, f), Mode: m, InPlace: inPlace})
	}
}

// readiness returns the readiness check of the version.
func (b *builder) readiness() *backends.Ready {
	r := b.Meta.Ready
	if r == nil || b.Run.Scheduled {
		return nil
	}
	out := b.Readiness(r)
	if r.Port != "" {
		ports, inner := b.Run.Ports, b.Run.Options.Ports
		for _, m := range b.Run.Group {
			if m.Name == b.Run.Address.Member {
				ports, inner = m.Ports, m.Inner
			}
		}
		if out.Port = inner[r.Port]; out.Port == 0 {
			out.Port = ports[r.Port].Port
		}
	}
	if len(r.Exec) > 0 {
		out.Exec = b.ready()
	}
	return out
}

// schedule adds the file that starts a scheduled service.
func (b *builder) schedule() {
	s := b.Meta.Schedule
	if s == nil || (s.Cron == "") == (s.Every == "") {
		b.Fail(spec.At("schedule"), "schedule must have either cron or every")
		return
	}
	if s.Cron != "" {
		if _, err := spec.ParseCron(s.Cron); err != nil {
			b.Fail(spec.At("schedule", "cron"), "%q: %v", s.Cron, err).WithHint("five fields: minute hour day month weekday, for example '30 4 * * 1-5'")
		}
	} else if d, err := time.ParseDuration(s.Every); err != nil || d < time.Second {
		b.Fail(spec.At("schedule", "every"), "%q is not a duration of at least one second", s.Every).WithHint("30s, 5m, 2h")
	}
	b.Duration(spec.At("schedule", "jitter"), s.Jitter, 0)
	b.write(b.cron(), Cron{ID: b.id(), Unit: b.unit(), Cron: s.Cron, Every: s.Every, Timezone: b.Zone(spec.At("schedule", "timezone"), cmp.Or(s.Timezone, "UTC")),
		Jitter: s.Jitter, CatchUp: s.Missed == "run"}, false)
}

// pod adds the network namespace that the members of a group share, with the ports of all members,
// and returns its file.
func (b *builder) pod() string {
	group := b.Run.Address
	group.Member = ""
	p := Pod{ID: ID{Scope: b.id().Scope, Address: group.String(), Base: spec.BaseName(b.prefix, group)}, Network: b.prefix, Aliases: aliases(group)}
	for _, m := range b.Run.Group {
		a := group
		a.Member = m.Name
		p.Aliases = slices.Concat(p.Aliases, aliases(a), m.Aliases)
		p.Ports = append(p.Ports, b.ports(m.Ports, m.Inner, m.Publish)...)
	}
	p.Aliases = sets.Union(p.Aliases)
	raw, err := digest.Canonical(p)
	if err != nil {
		b.Fail(spec.At(), "%v", err)
	}
	name := p.Base + "." + digest.Bytes(raw).Short() + ".pod"
	b.write(name, p, true)
	return name
}

// alias returns the name of a service in the network of its deployment. Names contain no dots, so
// all aliases differ.
func alias(a graph.Address) string {
	parts := []string{a.Name, a.Lib}
	if a.Member != "" {
		parts = append([]string{a.Member}, parts...)
	}
	if a.Replica != "" {
		parts = append([]string{a.Replica}, parts...)
	}
	return strings.Trim(strings.Join(parts, "."), ".")
}

// aliases returns the names of a service in the network of its deployment: its own, and that of its
// set, which leads to all replicas.
func aliases(a graph.Address) []string {
	set := a
	set.Replica = ""
	return sets.Union([]string{alias(a), alias(set)})
}

// Gateway is the name of the machine inside containers.
const Gateway = "host.docker.internal"

// AddressFor returns the address of a service on the same machine as a container sees it: a name in
// their network, or the machine.
func (backend) AddressFor(in backends.Input, target *graph.Service, field, arg string, known bool) (string, bool) {
	discard := func([]string, string, ...any) *diag.Error { return &diag.Error{} }
	readerOptions := readOptions(in.Service, discard)
	if readerOptions.Network == "host" {
		return "", false
	}
	targetOptions := readOptions(target, discard)
	targetInNetwork := target.Backend == "docker" && targetOptions.Network != "host"
	groupOf := func(a graph.Address) string { a.Member = ""; return a.String() }
	sharesNetwork := target.Address == in.Service.Address || in.Service.Address.Member != "" && groupOf(target.Address) == groupOf(in.Service.Address)
	switch {
	case field == "port" && targetInNetwork && targetOptions.Ports[arg] != 0:
		return strconv.Itoa(targetOptions.Ports[arg]), true
	case field == "port":
		return "", false
	case field == "address" && known && (!targetInNetwork || len(targetOptions.Ports) == 0): // if ports differ inside the container, the address must be the one inside too
		return "", false
	case sharesNetwork && targetInNetwork:
		return "127.0.0.1", true
	case targetInNetwork:
		return alias(target.Address), true
	}
	return Gateway, true
}
