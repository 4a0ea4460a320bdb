package systemd

import (
	"slices"
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
	sets, either, seconds := [5][]int{}, false, 0
	if s.Cron != "" {
		c, err := spec.ParseCron(s.Cron)
		if err != nil {
			return nil
		}
		sets, either = [5][]int{c.Minutes, c.Hours, c.Days, c.Months, c.Weekdays}, c.Either
	} else {
		d, err := time.ParseDuration(s.Every)
		if err != nil {
			return nil
		}
		if _, fixed := spec.EveryCalendar(d); !fixed {
			return nil
		}
		sets, seconds = everyFields(d)
	}
	var out []time.Time
	if seconds > 0 {
		at := after.Truncate(time.Minute)
		for len(out) < n {
			if at = at.Add(time.Duration(seconds) * time.Second); at.After(after) {
				out = append(out, at)
			}
		}
		return out
	}
	year, month, day := after.Date()
	for date := time.Date(year, month, day, 12, 0, 0, 0, zone); len(out) < n && date.Year() < year+30; date = date.AddDate(0, 0, 1) {
		inDay, inWeek := slices.Contains(sets[2], date.Day()), slices.Contains(sets[4], int(date.Weekday()))
		if !slices.Contains(sets[3], int(date.Month())) || either && !inDay && !inWeek || !either && !(inDay && inWeek) {
			continue
		}
		for _, h := range sets[1] {
			for _, m := range sets[0] {
				at := time.Date(date.Year(), date.Month(), date.Day(), h, m, 0, 0, zone)
				if first := at.Add(-time.Hour); first.Hour() == h && first.Minute() == m {
					at = first // clocks go back: the time occurs twice, the first counts
				}
				if at.After(after) && at.Hour() == h && at.Minute() == m { // times that clocks going forward skip do not occur
					out = append(out, at)
				}
			}
		}
	}
	return out[:min(n, len(out))]
}

// everyFields returns a period that divides a minute, an hour, a day or a week evenly as the fields
// of a cron line, or as seconds if it is shorter than a minute.
func everyFields(d time.Duration) (sets [5][]int, seconds int) {
	if d < time.Minute {
		return sets, int(d / time.Second)
	}
	bounds := [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}}
	steps := func(bound [2]int, step int) []int {
		var out []int
		for v := bound[0]; v <= bound[1]; v += step {
			out = append(out, v)
		}
		return out
	}
	for i, f := range bounds {
		sets[i] = steps(f, 1)
	}
	sets[0] = steps(bounds[0], max(1, int(min(d, time.Hour)/time.Minute)))
	if d >= time.Hour {
		sets[1] = steps(bounds[1], int(min(d, 24*time.Hour)/time.Hour))
	}
	if d == 7*24*time.Hour {
		sets[4] = []int{1}
	}
	return sets, 0
}
