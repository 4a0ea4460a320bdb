package systemd

import (
	"time"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
)

// Next returns the first n times after a moment at which a schedule is due, without jitter. It
// returns nil for a period that has no fixed times: such a period begins when its timer starts.
func Next(s *graph.Schedule, after time.Time, n int) []time.Time {
	zone := time.UTC
	if s.Timezone != "" {
		var err error
		if zone, err = time.LoadLocation(s.Timezone); err != nil {
			return nil
		}
	}
	after = after.In(zone)
	var c spec.Cron
	if s.Cron != "" {
		var err error
		if c, err = spec.ParseCron(s.Cron); err != nil {
			return nil
		}
	} else {
		d, err := time.ParseDuration(s.Every)
		if err != nil {
			return nil
		}
		if _, fixed := spec.EveryCalendar(d); !fixed {
			return nil
		}
		if d < time.Minute {
			return everySeconds(after, d, n)
		}
		c = everyCron(d)
	}
	var out []time.Time
	for len(out) < n {
		if after = c.Next(after); after.IsZero() {
			break
		}
		out = append(out, after)
	}
	return out
}

// everySeconds returns the first n times after a moment, for a period that divides a minute.
func everySeconds(after time.Time, d time.Duration, n int) []time.Time {
	var out []time.Time
	for at := after.Truncate(time.Minute); len(out) < n; {
		if at = at.Add(d); at.After(after) {
			out = append(out, at)
		}
	}
	return out
}

// everyCron returns a period of at least a minute that divides an hour, a day or a week evenly as a
// cron line.
func everyCron(d time.Duration) spec.Cron {
	steps := func(first, last, step int) []int {
		var out []int
		for v := first; v <= last; v += step {
			out = append(out, v)
		}
		return out
	}
	c := spec.Cron{Minutes: steps(0, 59, int(min(d, time.Hour)/time.Minute)), Hours: steps(0, 23, 1), Days: steps(1, 31, 1),
		Months: steps(1, 12, 1), Weekdays: steps(0, 6, 1)}
	if d >= time.Hour {
		c.Hours = steps(0, 23, int(min(d, 24*time.Hour)/time.Hour))
	}
	if d == 7*24*time.Hour {
		c.Weekdays = []int{1}
	}
	return c
}
