package systemd

import (
	"cmp"
	"time"

	"github.com/defx-dev/defx/backends"
)

func (n names) ready() string { return n.base + ":ready.service" }

// readiness tells how to see that a version is ready. What it takes is in the
// part of the payload that no restart is needed for.
func (b *builder) readiness() *backends.Ready {
	r := b.Meta.Ready
	if r == nil || b.Run.Scheduled {
		return nil
	}
	out := &backends.Ready{HTTP: r.HTTP, TCP: r.TCP, Retries: r.Retries,
		Interval: b.length(at("ready", "interval"), r.Interval, time.Second),
		Timeout:  b.length(at("ready", "timeout"), r.Timeout, 30*time.Second)}
	if r.Port != "" {
		out.Port = b.Meta.Ports[r.Port].Port
	}
	if len(r.Exec) > 0 {
		out.Exec = b.ready()
	}
	return out
}

func (b *builder) length(where []string, s string, otherwise time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		b.fail(where, "%q is not a duration", s).WithHint("a number with a unit: 500ms, 30s, 5m, 2h")
	}
	return d
}

// readyUnit writes the unit of the command that exits 0 when the service is
// ready. It sees what the service sees, and is started as often as asked.
func (b *builder) readyUnit(mounts []string) []byte {
	var u unitText
	b.head(&u, "readiness of ")
	u.section("Service")
	u.set("Type", "oneshot")
	u.set("TimeoutStartSec", b.duration(at("ready", "timeout"), cmp.Or(b.Meta.Ready.Timeout, "30s")))
	u.set("ExecStart", b.exec("ready", b.Meta.Ready.Exec))
	b.body(&u, b.ready(), mounts)
	b.extras(&u, "service", b.Run.Options.Service)
	b.foot(&u)
	return u.bytes()
}

// leaves are the marks of scripts that succeeded, of this version and of all others.
func (b *builder) leaves() []string {
	return []string{b.initDone(), doneDir + "/" + b.base + ".migrate-????????????"}
}
