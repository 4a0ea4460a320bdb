package docker

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
)

// A plan says when a job is due, and not who keeps the time: that is the
// machine's matter. Where systemd runs it does, in the layout that ByTimer
// makes; elsewhere a container of ours does, in the one that Realize gives.

// Runner is the program that timers start, on a machine. Its path is the same
// whatever version of defx lies there, so that a new one changes no unit.
const Runner = "/var/lib/defx/bin/job"

const unitDir = "/etc/systemd/system"

// TimerJob is the file that tells of the job whose time a timer keeps.
func TimerJob(timer string) string { return strings.TrimSuffix(timer, ".timer") + ".job" }

var socketRE = regexp.MustCompile(`^/[A-Za-z0-9/._-]+$`)

// WithTimer gives the layout of a job whose time systemd keeps: instead of the
// file of a container that does, one that a runner reads, a timer and what it
// starts. socket is the engine's. Not ok: it is no job, or calendars have no
// words for its times.
func WithTimer(l backends.Layout, socket string) (out backends.Layout, ok bool) {
	i := slices.IndexFunc(l.Files, func(f backends.File) bool { return path.Dir(f.Path) == Dir && Kind(f.Path) == ".cron" })
	if i < 0 || !socketRE.MatchString(socket) {
		return l, false
	}
	var c Cron
	if err := json.Unmarshal(l.Files[i].Content, &c); err != nil {
		return l, false
	}
	calendar, ok := c.calendar()
	if !ok {
		return l, false
	}
	environment, deployment, _ := strings.Cut(c.Scope, "/")
	target := spec.NamePrefix(environment, deployment) + ".target"
	timer, job := c.Base+".timer", c.Base+".job"
	// Its name tells the version: what a run of the one before does is no hindrance to the next.
	run := c.Base + ":run-" + strings.TrimPrefix(Name(c.Unit), c.Base+".") + ".service"
	head := func(what string) string {
		return "[Unit]\nDescription=defx " + what + " of " + c.Scope + " " + c.Address + "\nPartOf=" + target + "\n"
	}
	foot := "\n[X-Defx]\nAddress=" + c.Address + "\n"

	service := head("run") + "After=docker.service docker.socket\nStartLimitIntervalSec=0\n" +
		"\n[Service]\nType=oneshot\nSyslogIdentifier=" + c.Base + "\nEnvironment=DOCKER_HOST=unix://" + socket + "\n" +
		"ExecStart=" + Runner + " agent --job " + Dir + "/" + job + "\n" + foot
	times := head("schedule") + "\n[Timer]\nUnit=" + run + "\n"
	for _, t := range calendar {
		times += "OnCalendar=" + t + "\n"
	}
	times += "AccuracySec=1s\n"
	if c.Jitter != "" {
		if d, err := time.ParseDuration(c.Jitter); err == nil {
			times += fmt.Sprintf("RandomizedDelaySec=%dus\n", d.Microseconds())
		}
	}
	if c.CatchUp {
		// The runner knows by its record what was missed: a stamp of systemd's does not know of the runs that a container of ours kept.
		times += "OnActiveSec=0\n"
	}

	out = l
	out.Group, out.Start = target, []string{job, timer}
	out.Files = slices.Delete(slices.Clone(l.Files), i, i+1)
	unit := func(name, content string, shared bool) {
		out.Files = append(out.Files, backends.File{Path: unitDir + "/" + name, Content: []byte(content), Mode: 0o644, Shared: shared})
	}
	link := func(name, to string, shared bool) {
		out.Files = append(out.Files, backends.File{Path: unitDir + "/" + name, Link: "../" + to, Shared: shared})
	}
	out.Files = append(out.Files, backends.File{Path: Dir + "/" + job, Content: l.Files[i].Content, Mode: l.Files[i].Mode})
	unit(run, service, false)
	unit(target, spec.TargetUnit(environment, deployment), true)
	unit(timer, times+foot, false)
	link("multi-user.target.wants/"+target, target, true)
	link(target+".wants/"+timer, timer, false)
	return out, true
}

// calendar is when a job is due, in the words of systemd.
func (c Cron) calendar() ([]string, bool) {
	if c.Cron != "" {
		list, err := spec.CronCalendar(c.Cron)
		for i := range list {
			list[i] += " " + c.Timezone
		}
		return list, err == nil
	}
	every, err := time.ParseDuration(c.Every)
	if err != nil {
		return nil, false
	}
	one, ok := spec.EveryCalendar(every)
	return []string{one + " UTC"}, ok
}
