package systemd

import (
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// serviceUnit returns the unit of a version.
func (b *builder) serviceUnit(mounts []string) []byte {
	var u unitText
	b.writeUnitSection(&u, "")
	if b.Run.Initializer {
		u.set("Requires", b.init())
		u.set("After", b.init())
	}
	if len(b.Run.Migrate) > 0 {
		u.set("Requires", b.migrate())
		u.set("After", b.migrate())
	}
	b.writeDirectives(&u, b.Run.Options.Unit)

	u.section("Service")
	switch {
	case b.Run.Scheduled:
		u.set("Type", "oneshot")
	case b.Run.Notify:
		u.set("Type", "notify")
		if r := b.Meta.Ready; r != nil && r.Timeout != "" {
			u.set("TimeoutStartSec", b.duration(spec.At("ready", "timeout"), r.Timeout))
		}
	default:
		// exec rather than simple: the start succeeds only if the program could be executed.
		u.set("Type", "exec")
	}
	u.set("ExecStart", b.exec("command", b.Run.Command))
	b.writeReload(&u)
	b.writeStop(&u)
	b.writeRestart(&u)
	if len(b.Run.Sockets) > 0 {
		u.set("Sockets", b.socket())
	}
	b.writeServiceSection(&u, b.unit(), mounts)
	b.writeLimits(&u)
	b.writeDirectives(&u, b.Run.Options.Service)
	b.writeAddressSection(&u)
	return u.bytes()
}

// onceScript is a script that runs before the service until it has succeeded once.
type onceScript struct {
	field, title string
	command      func(*builder) []token.Text
	unit, done   func(names) string
}

var (
	onceInit = onceScript{"initializer", "initializer",
		func(b *builder) []token.Text { return b.Meta.Initializer }, names.init, names.initDone}
	onceMigrate = onceScript{"migrate", "migration",
		func(b *builder) []token.Text { return b.Run.Migrate }, names.migrate, names.migrateDone}
)

// onceUnit returns the unit of a script that runs until it has succeeded once. A file records the
// success, so it survives reboots and needs no agent. The unit does not stay active, so scripts of
// old versions leave nothing behind. The script runs in the environment of the service.
func (b *builder) onceUnit(script onceScript, mounts []string) []byte {
	var u unitText
	b.writeUnitSection(&u, script.title+" of ")
	if script.field == "migrate" && b.Run.Initializer {
		u.set("Requires", b.init())
		u.set("After", b.init())
	}
	u.set("ConditionPathExists", "!"+script.done(b.names))
	u.section("Service")
	u.set("Type", "oneshot")
	u.set("ExecStart", b.exec(script.field, script.command(b)))
	u.set("ExecStartPost", "+mkdir -p "+doneDir)
	u.set("ExecStartPost", "+touch "+script.done(b.names))
	b.writeServiceSection(&u, script.unit(b.names), mounts)
	b.writeDirectives(&u, b.Run.Options.Service)
	b.writeAddressSection(&u)
	return u.bytes()
}

// writeUnitSection writes the part of [Unit] that the service and its scripts share.
func (b *builder) writeUnitSection(u *unitText, prefix string) {
	u.section("Unit")
	u.set("Description", "defx "+prefix+b.Run.Environment+"/"+b.Run.Deployment+" "+b.Subject)
	u.set("PartOf", b.target)
	u.set("Wants", "network-online.target")
	u.set("After", "network-online.target")
	// A dependency may take longer than a few attempts to come back, and every attempt also starts
	// the scripts. A job may be due every second.
	u.set("StartLimitIntervalSec", "0")
	for _, d := range b.Run.Dirs {
		if d.Name == "" {
			u.set("RequiresMountsFor", d.Path)
		}
	}
	if user := b.Run.User; user != "" && user != "root" {
		unit := userUnit(user)
		if b.Run.Declared {
			unit = namesOf(b.Run.Environment, b.Run.Deployment, graph.Address{Lib: graph.HostLib, Name: "users", Member: user}, "").alias()
		}
		u.set("Requires", unit)
		u.set("After", unit)
	}
	alias := func(a graph.Address) string {
		return namesOf(b.Run.Environment, b.Run.Deployment, a, "").alias()
	}
	for _, a := range b.Meta.Wants {
		u.set("Wants", alias(a))
	}
	for _, a := range b.Meta.After {
		u.set("After", alias(a))
	}
}

// writeAddressSection writes the section by which defx finds the unit's address.
func (b *builder) writeAddressSection(u *unitText) {
	u.section("X-Defx")
	u.set("Address", b.Subject)
}

// writeServiceSection writes the part of [Service] that the service and its scripts share: their
// user, environment, mounts and restrictions. self is the unit's name.
func (b *builder) writeServiceSection(u *unitText, self string, mounts []string) {
	for _, f := range b.chowns {
		u.set("ExecStartPre", "+chown -- "+f.owner+": "+b.checked(spec.At("files"))(arg(f.path)))
	}
	u.set("SyslogIdentifier", b.base)
	u.set("Slice", b.slice)
	switch b.Run.User {
	case "":
		u.set("DynamicUser", "yes")
		u.set("User", b.user())
	case "root":
	default:
		u.set("User", b.Run.User)
	}
	if b.Run.Package != "" {
		u.set("WorkingDirectory", b.checked(spec.At("package"))(pathValue(b.Run.Package)))
	}
	for _, k := range sets.Keys(b.Run.Env) {
		where := spec.At("env", k)
		u.set("Environment", b.checked(where)(assignment(k, b.Bind(where, b.Run.Env[k]))))
	}
	for _, k := range sets.Keys(b.Run.Secrets) {
		file := backends.SecretPath(b.Run.Environment, b.Run.Deployment, b.Run.Secrets[k].Name)
		u.set("LoadCredential", k+":"+b.checked(spec.At("secrets", k))(pathValue(file)))
		// Not "%d": if systemd loads the unit by its alias, "%d" expands to the alias's directory,
		// which does not exist.
		u.set("Environment", b.checked(spec.At("secrets", k))(assignment(k+"_FILE", "/run/credentials/"+self+"/"+k)))
	}
	for _, m := range mounts {
		u.set("BindReadOnlyPaths", m)
	}
	b.writeDirs(u)
	if b.Run.LowPort {
		u.set("AmbientCapabilities", "CAP_NET_BIND_SERVICE")
	}
	b.writeHardening(u)
}

// dirDirectives are the directives of directories below the standard ones, by kind.
var dirDirectives = map[string]string{"state": "StateDirectory", "cache": "CacheDirectory", "logs": "LogsDirectory", "runtime": "RuntimeDirectory"}

// writeDirs writes the directories of the service.
func (b *builder) writeDirs(u *unitText) {
	for _, d := range b.Run.Dirs {
		if !dirRE.MatchString(strings.TrimPrefix(d.Path, "/")) {
			b.Fail(d.At(), "%q is not a valid directory", d.Path).WithHint("letters, digits, '.', '_' and '-', with '/' between parts")
			continue
		}
		if d.Name == "" { // a literal path
			if !d.Shared {
				u.set("ExecStartPre", b.checked(d.At())(shell("+:", makeDirScript, d.Path, b.Run.User)))
			}
			u.set("ReadWritePaths", d.Path)
			u.set("Environment", b.checked(d.At())(assignment(d.Variable(), d.Path)))
			continue
		}
		u.set(dirDirectives[d.Kind], strings.TrimPrefix(d.Path, graph.DirRoot(d.Kind)+"/"))
		if d.Kind == "runtime" {
			// Otherwise systemd would remove it when an old version or a script ends.
			u.set("RuntimeDirectoryPreserve", "yes")
		}
	}
}

// writeReload writes how the service reloads.
func (b *builder) writeReload(u *unitText) {
	r := b.Meta.Reload
	switch {
	case r == nil:
	case len(r.Command) > 0 && r.Signal != "":
		b.Fail(spec.At("reload"), "reload has both signal and command").WithHint("remove one of them")
	case len(r.Command) > 0:
		u.set("ExecReload", b.exec("reload", r.Command))
	case r.Signal != "":
		// The shell's builtin: /bin/kill is not on every machine.
		sig := b.Signal(spec.At("reload", "signal"), r.Signal)
		u.set("ExecReload", b.checked(spec.At("reload", "signal"))(shell(":", killScript, strings.TrimPrefix(sig, "SIG"))))
	default:
		b.Fail(spec.At("reload"), "reload must have signal or command").WithHint("reload: { signal: 'HUP' }")
	}
}

// writeStop writes how the service stops.
func (b *builder) writeStop(u *unitText) {
	s := b.Run.Stop
	if s == nil {
		return
	}
	if len(s.Command) > 0 {
		u.set("ExecStop", b.exec("stop", s.Command))
	}
	if s.Signal != "" {
		u.set("KillSignal", b.Signal(spec.At("stop", "signal"), s.Signal))
	}
	if s.Timeout != "" {
		u.set("TimeoutStopSec", b.duration(spec.At("stop", "timeout"), s.Timeout))
	}
}

// writeRestart writes the restart policy. A failed job waits for its next time.
func (b *builder) writeRestart(u *unitText) {
	switch r := b.Run.Restart; {
	case b.Run.Scheduled && r == "always":
		b.Fail(spec.At("restart"), "a scheduled service cannot have restart: 'always'")
	case b.Run.Scheduled || r == "no":
		u.set("Restart", "no")
	case r == "" || r == "on-failure" || r == "always":
		if r == "" {
			r = "on-failure"
		}
		u.set("Restart", r)
		u.set("RestartSec", "1s")
	default:
		b.Fail(spec.At("restart"), "unknown restart policy %q", r).WithHint("one of always, on-failure, no")
	}
}

// duration converts a Go duration to systemd's notation, exact to the microsecond.
func (b *builder) duration(where []string, s string) string {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Microsecond {
		b.Fail(where, "%q is not a positive duration", s).WithHint("a number with a unit: 500ms, 30s, 5m, 2h")
	}
	return timeSpan(d)
}
