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

// A plan contains the schedule of a job, not what starts it: that depends on the machine. With systemd
// it is a timer, in the layout that WithTimer returns; elsewhere it is a container, in the layout that
// Realize returns.

// Runner is the program that timers start on a machine. Its path does not depend on the version of
// defx, so a new version changes no unit.
const Runner = "/var/lib/defx/bin/job"

const unitDir = "/etc/systemd/system"

// TimerJob returns the file of the job that a timer starts.
func TimerJob(timer string) string { return strings.TrimSuffix(timer, ".timer") + ".job" }

var socketRE = regexp.MustCompile(`^/[A-Za-z0-9/._-]+$`)

// WithTimer returns the layout of a job that a systemd timer starts: the file of a starting
// container is replaced by one that the runner reads, a timer, and a service. socket is the
// engine's. It returns false if the layout is not a job, or if its schedule is not a calendar
// expression.
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
	// The name contains the version, so that a run of the old version does not delay the new one.
	run := c.Base + ".run-" + strings.TrimPrefix(Name(c.Unit), c.Base+".") + ".service"
	head := func(what string) string {
		return "[Unit]\nDescription=defx " + what + " of " + c.Scope + " " + c.Address + "\nPartOf=" + target + "\n"
	}
	foot := "\n[X-Defx]\nAddress=" + c.Address + "\n"

	service := head("run") + "After=docker.service docker.socket\nStartLimitIntervalSec=0\n" +
		"\n[Service]\nType=oneshot\nSyslogIdentifier=" + c.Base + "\nEnvironment=DOCKER_HOST=unix://" + socket + "\n" +
		"ExecStart=" + Runner + " agent --job " + Dir + "/" + job + "\n" + foot
	timerText := head("schedule") + "\n[Timer]\nUnit=" + run + "\n"
	for _, t := range calendar {
		timerText += "OnCalendar=" + t + "\n"
	}
	timerText += "AccuracySec=1s\n"
	if c.Jitter != "" {
		if d, err := time.ParseDuration(c.Jitter); err == nil {
			timerText += fmt.Sprintf("RandomizedDelaySec=%dus\n", d.Microseconds())
		}
	}
	if c.CatchUp {
		// The runner finds missed runs in its own record, which also has the runs that a container
		// started. A stamp file of systemd does not.
		timerText += "OnActiveSec=0\n"
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
	unit(timer, timerText+foot, false)
	link("multi-user.target.wants/"+target, target, true)
	link(target+".wants/"+timer, timer, false)
	return out, true
}

// calendar returns the schedule as systemd calendar expressions. It returns false if there are
// none.
func (c Cron) calendar() ([]string, bool) {
	if c.Cron != "" {
		exprs, err := spec.CronCalendar(c.Cron)
		for i := range exprs {
			exprs[i] += " " + c.Timezone
		}
		return exprs, err == nil
	}
	every, err := time.ParseDuration(c.Every)
	if err != nil {
		return nil, false
	}
	expr, ok := spec.EveryCalendar(every)
	return []string{expr + " UTC"}, ok
}
