package systemd

import (
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/internal/token"
)

func (n names) ready() string   { return n.base + ":ready.service" }
func (n names) healthy() string { return n.base + ":healthy.service" }
func (n names) retire() string  { return n.base + ":retire.service" }

// readiness tells how to see that a version is ready. What it takes is in the
// part of the payload that no restart is needed for.
func (b *builder) readiness() *backends.Ready {
	r := b.Meta.Ready
	if r == nil || b.Run.Scheduled {
		return nil
	}
	out := &backends.Ready{HTTP: r.HTTP, TCP: r.TCP, Retries: r.Retries,
		Interval: b.Duration(spec.At("ready", "interval"), r.Interval, time.Second),
		Timeout:  b.Duration(spec.At("ready", "timeout"), r.Timeout, 30*time.Second)}
	if r.Port != "" {
		out.Port = b.Meta.Ports[r.Port].Port
	}
	if len(r.Exec) > 0 {
		out.Exec = b.ready()
	}
	return out
}

// probeUnit writes the unit of a command that exits 0 when all is well, or done.
// It sees what the service sees, and is started as often as asked.
func (b *builder) probeUnit(name, what, field string, command []token.Text, mounts []string) []byte {
	timeout := "30s"
	if r := b.Meta.Ready; r != nil && r.Timeout != "" {
		timeout = r.Timeout
	}
	var u unitText
	b.writeUnitSection(&u, what)
	u.section("Service")
	u.set("Type", "oneshot")
	if field == "retire" {
		u.set("TimeoutStartSec", "infinity") // whoever deletes it has patience of his own
	} else {
		u.set("TimeoutStartSec", b.duration(spec.At("ready", "timeout"), timeout))
	}
	u.set("ExecStart", b.exec(field, command))
	b.writeServiceSection(&u, name, mounts)
	b.writeDirectives(&u, "service", b.Run.Options.Service)
	b.writeAddressSection(&u)
	return u.bytes()
}

// leftovers are the marks of scripts that succeeded, of this version and of all others.
func (b *builder) leftovers() []string {
	return []string{b.initDone(), doneDir + "/" + b.base + ".migrate-????????????"}
}
