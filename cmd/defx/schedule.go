package main

import (
	"strings"
	"time"

	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/deploy/project"
)

// upcomingRuns returns a remark with the next runs for each scheduled service
// that a change set touches, by address. It is no part of the change set, which
// does not depend on the time.
func upcomingRuns(d *project.Desired, cs *plan.ChangeSet) map[string]string {
	out := map[string]string{}
	for _, svc := range d.Graph.Services {
		if svc.Spec.Schedule != nil && svc.Backend == "systemd" {
			out[svc.Address.String()] = "next runs: " + nextRuns(svc.Spec.Schedule, systemd.Next(svc.Spec.Schedule, time.Now(), inspect.UpcomingRuns))
		}
	}
	for _, a := range cs.Actions {
		if a.Op == plan.Delete {
			delete(out, a.Address)
		}
	}
	return out
}

// nextRuns writes times in the time zone of the schedule.
func nextRuns(s *graph.Schedule, times []time.Time) string {
	if len(times) == 0 {
		return "every " + s.Every + " from when its timer starts"
	}
	format := "Mon 2006-01-02 15:04"
	if times[0].Second() > 0 || len(times) > 1 && times[1].Sub(times[0]) < time.Minute {
		format += ":05"
	}
	var out []string
	for _, t := range times {
		out = append(out, t.Format(format))
	}
	text := strings.Join(out, ", ") + " " + times[0].Location().String()
	if s.Jitter != "" {
		text += ", up to " + s.Jitter + " later"
	}
	return text
}
