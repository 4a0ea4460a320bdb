package systemd

import (
	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/internal/token"
)

func (n names) ready() string   { return n.base + ".ready.service" }
func (n names) healthy() string { return n.base + ".healthy.service" }
func (n names) retire() string  { return n.base + ".retire.service" }

// reloadCheck returns the unit that runs before a reload.
func (n names) reloadCheck() string { return n.base + ".check.service" }

// readiness returns the readiness check of the version. It depends only on the part of the payload
// that can change without a restart.
func (b *builder) readiness() *backends.Ready {
	r := b.Meta.Ready
	if r == nil || b.Run.Scheduled {
		return nil
	}
	out := b.Readiness(r)
	if r.Port != "" {
		out.Port = b.Meta.Ports[r.Port].Port
	}
	if len(r.Exec) > 0 {
		out.Exec = b.ready()
	}
	return out
}

// probeUnit returns the unit of a command that exits 0 on success. It runs in the environment of
// the service and can be started any number of times.
func (b *builder) probeUnit(name, title, field string, command []token.Text, mounts []string) []byte {
	timeout := "30s"
	if r := b.Meta.Ready; r != nil && r.Timeout != "" {
		timeout = r.Timeout
	}
	var u unitText
	b.writeUnitSection(&u, title)
	u.section("Service")
	u.set("Type", "oneshot")
	if field == "retire" {
		u.set("TimeoutStartSec", "infinity") // the deletion has its own timeout
	} else {
		u.set("TimeoutStartSec", b.duration(spec.At("ready", "timeout"), timeout))
	}
	u.set("ExecStart", b.exec(field, command))
	b.writeServiceSection(&u, name, mounts)
	b.writeDirectives(&u, b.Run.Options.Service)
	b.writeAddressSection(&u)
	return u.bytes()
}

// leftovers returns patterns of the files that record which scripts succeeded, of this version and
// of all others.
func (b *builder) leftovers() []string {
	return []string{b.initDone(), doneDir + "/" + b.base + ".migrate-????????????"}
}
