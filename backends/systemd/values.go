package systemd

import (
	"regexp"
	"strconv"
	"time"

	"github.com/defx-dev/defx/backends/spec"
)

// This file converts durations and resource limits to systemd's notation.

var dirRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`)

// timeSpan writes a duration in the largest unit that is exact.
func timeSpan(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return strconv.FormatInt(d.Microseconds(), 10) + "us"
}

// writeLimits writes the resource limits.
func (b *builder) writeLimits(u *unitText) {
	l := b.Run.Limits
	if l == nil {
		return
	}
	if l.CPU != "" {
		milli := b.MilliCores(spec.At("limits", "cpu"), l.CPU)
		percent := strconv.Itoa(milli / 10)
		if milli%10 != 0 {
			percent += "." + strconv.Itoa(milli%10)
		}
		u.set("CPUQuota", percent+"%")
	}
	if l.Memory != "" {
		u.set("MemoryMax", strconv.FormatUint(b.Bytes(spec.At("limits", "memory"), l.Memory), 10))
	}
	if l.Tasks < 0 || l.OpenFiles < 0 {
		b.Fail(spec.At("limits"), "tasks and openFiles must not be negative")
	}
	if l.Tasks > 0 {
		u.set("TasksMax", strconv.Itoa(l.Tasks))
	}
	if l.OpenFiles > 0 {
		u.set("LimitNOFILE", strconv.Itoa(l.OpenFiles))
	}
}
