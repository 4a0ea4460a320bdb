package systemd

import (
	"cmp"
	"time"

	"github.com/defx-dev/defx/backends/spec"
)

// timerUnit returns the timer of a scheduled service. It uses OnCalendar= whenever that can express
// the schedule: calendar times are exact, do not shift when the timer restarts, and missed runs are
// remembered.
func (b *builder) timerUnit() []byte {
	var u unitText
	u.section("Unit")
	u.set("Description", "defx schedule of "+b.Run.Environment+"/"+b.Run.Deployment+" "+b.Subject)
	u.set("PartOf", b.target)
	u.section("Timer")
	u.set("Unit", b.unit())
	s := b.Meta.Schedule
	if s == nil || (s.Cron == "") == (s.Every == "") {
		b.Fail(spec.At("schedule"), "schedule must have either cron or every")
		return u.bytes()
	}
	zone := b.Zone(spec.At("schedule", "timezone"), cmp.Or(s.Timezone, "UTC"))
	calendar := true
	if s.Cron != "" {
		times, err := spec.CronCalendar(s.Cron)
		if err != nil {
			b.Fail(spec.At("schedule", "cron"), "%q: %v", s.Cron, err).WithHint("five fields: minute hour day month weekday, for example '30 4 * * 1-5'")
		}
		for _, t := range times {
			u.set("OnCalendar", t+" "+zone)
		}
	} else {
		every, err := time.ParseDuration(s.Every)
		if err != nil || every < time.Second {
			b.Fail(spec.At("schedule", "every"), "%q is not a duration of at least one second", s.Every).WithHint("30s, 5m, 2h")
			return u.bytes()
		}
		if t, ok := spec.EveryCalendar(every); ok {
			u.set("OnCalendar", t+" "+zone)
		} else {
			calendar = false
			u.set("OnActiveSec", timeSpan(every))
			u.set("OnUnitActiveSec", timeSpan(every))
		}
	}
	u.set("AccuracySec", "1s")
	if s.Jitter != "" {
		u.set("RandomizedDelaySec", b.duration(spec.At("schedule", "jitter"), s.Jitter))
	}
	switch {
	case s.Missed != "run":
	case calendar:
		u.set("Persistent", "true")
	default:
		b.Fail(spec.At("schedule", "missed"), "missed runs cannot be caught up for every: %s, which has no fixed times", s.Every).
			WithHint("use cron, or a duration that divides an hour or a day evenly")
	}
	b.writeAddressSection(&u)
	return u.bytes()
}
