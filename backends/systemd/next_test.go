package systemd

import (
	"slices"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
)

// TestNext_MatchesSystemd compares the times that a plan shows with those that
// systemd computes for the timer, also when clocks go forward and back.
func TestNext_MatchesSystemd(t *testing.T) {
	tool := analyze(t)
	check := func(s graph.Schedule, exprs []string, zone string, start time.Time) {
		t.Helper()
		s.Timezone = zone
		var want []string
		for _, e := range exprs {
			want = append(want, elapses(t, tool, e+" "+zone, start, 3)...)
		}
		slices.Sort(want)
		want = slices.Compact(want)
		want = want[:min(3, len(want))]
		var got []string
		for _, at := range Next(&s, start, 3) {
			got = append(got, at.UTC().Format("2006-01-02 15:04:05"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v in %s after %s: %v, systemd says %v", s, zone, start, got, want)
		}
	}
	for _, zone := range []string{"UTC", "Europe/Berlin", "Asia/Kolkata"} {
		for _, start := range []time.Time{time.Date(2027, 3, 27, 22, 30, 0, 0, time.UTC), time.Date(2027, 10, 30, 12, 0, 0, 0, time.UTC)} {
			for _, line := range append([]string{"30 2 * * *", "15 3 * * 0"}, crons...) {
				exprs, err := spec.CronCalendar(line)
				if err != nil {
					t.Fatal(err)
				}
				check(graph.Schedule{Cron: line}, exprs, zone, start)
			}
			for _, every := range []string{"10s", "1m", "15m", "1h", "6h", "24h", "168h"} {
				d, _ := time.ParseDuration(every)
				expr, _ := spec.EveryCalendar(d)
				check(graph.Schedule{Every: every}, []string{expr}, zone, start)
			}
		}
	}
	for _, s := range []graph.Schedule{{Every: "90s"}, {Every: "never"}, {Cron: "x"}, {Cron: "0 0 * * *", Timezone: "Nowhere"}} {
		if got := Next(&s, time.Now(), 3); got != nil {
			t.Errorf("%+v: %v", s, got)
		}
	}
}
