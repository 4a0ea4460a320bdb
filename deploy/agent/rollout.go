package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/poll"
)

// unitDir is where systemd unit files are. What defx writes elsewhere is not read by
// systemd.
const unitDir = "/etc/systemd/system"

// unitNames returns the units among files: those that can be stopped.
func unitNames(files []string) []string {
	out := systemdUnits(files)
	for _, f := range files {
		if path.Dir(f) == docker.Dir && docker.Kind(f) != "" {
			out = append(out, path.Base(f))
		}
	}
	return out
}

// systemdUnits returns the units among files that systemd runs.
func systemdUnits(files []string) []string {
	var out []string
	for _, f := range files {
		if path.Dir(f) == unitDir && path.Ext(f) != "" {
			out = append(out, path.Base(f))
		}
	}
	return out
}

// isContainer reports whether a unit is run by a docker engine and not by systemd.
func isContainer(unit string) bool { return docker.Kind(unit) != "" }

// sortForStop sorts units in the order in which to stop them: those that could start others
// first, groups last.
func sortForStop(units []string) {
	order := slices.Concat([]string{".timer", ".socket", ".service"}, docker.Kinds, []string{".target"})
	rank := func(u string) int { return slices.Index(order, path.Ext(u)) }
	slices.SortStableFunc(units, func(a, b string) int { return rank(a) - rank(b) })
}

// rollout starts the new version of one unit, in place of the previous one or in parallel
// with it.
type rollout struct {
	h              *Host
	scope, address string
	next           *Entry
	previous       *Entry // the version it replaces; nil: none
	layout         backends.Layout
	obsolete       []string // units of other versions, and units no longer needed
	changed        []string // paths that were written
	undo           *undo    // their previous contents
	startedAt      time.Time
	moves          []move          // directories that move while nothing of the unit runs
	renamed        bool            // it has another address than the previous version
	stopped        bool            // some unit was stopped for it
	began          bool            // its process was started or reloaded
	notReloaded    bool            // it refused to reload, and runs as before
	first          SupervisorState // after the start
}

// start starts the new version and waits until it is ready.
func (r *rollout) start(ctx context.Context) error {
	sys, l := r.h.supervisor, r.layout
	if r.needsReload() {
		if err := sys.Reload(ctx); err != nil {
			return err
		}
	} else if isContainer(l.Unit) { // systemd has nothing to reload
	} else if st, err := sys.State(ctx, l.Unit); err != nil {
		return err
	} else if st.Load != "loaded" || st.Path != unitDir+"/"+l.Unit { // it read the file while it was being written, or knows the name as an alias of an older unit
		if err := sys.Reload(ctx); err != nil {
			return err
		}
	}
	if err := r.checkHealthBefore(ctx); err != nil {
		return err
	}
	if err := r.checkPorts(ctx); err != nil {
		return err
	}
	for _, u := range l.Start {
		describe := func(context.Context) (string, time.Duration) { return "preparing " + u, 0 } // it may pull an image
		if err := whileWaiting(ctx, describe, func(ctx context.Context) error { return sys.Prepare(ctx, u, r.obsolete) }); err != nil {
			return err
		}
	}
	was, err := sys.State(ctx, l.Unit)
	if err != nil {
		return err
	}
	reload := was.Active == "active" && r.reloadableChanged()
	if reload && l.ReloadCheck != "" {
		if err := r.startUnit(ctx, l.ReloadCheck); err != nil {
			return r.reloadFailed(ctx, l.ReloadCheck, err)
		}
	}
	graceful := r.graceful()
	r.stopped = true
	if err := r.stopAll(ctx, r.stopFirst()); err != nil {
		return err
	}
	if !graceful {
		if err := r.stopAll(ctx, r.obsolete); err != nil {
			return err
		}
	}
	if err := r.h.moveAll(r.moves); err != nil {
		return err
	}
	if l.Group != "" {
		if err := sys.ActivateTarget(ctx, l.Group); err != nil {
			return fmt.Errorf("%s: %w", l.Group, err)
		}
	}
	for _, u := range l.Start {
		switch {
		case strings.HasSuffix(u, ".timer") && r.rewrote(u):
			err = sys.Restart(ctx, u)
		case strings.HasSuffix(u, ".socket") && r.listenersChanged(u):
			// A socket cannot be restarted while its service uses it.
			if err = r.stopAll(ctx, []string{l.Unit}); err == nil {
				err = sys.Restart(ctx, u)
			}
			was.Active, reload = "inactive", false
		case u == l.Unit && !strings.Contains(u, r.next.Instance) && was.Active == "active" && len(r.changed) > 0:
			// Its name does not contain the version.
			err = r.whileStarting(ctx, u, func(ctx context.Context) error { return sys.Restart(ctx, u) })
			r.began, reload = true, false
		default:
			r.began = r.began || u == l.Unit && was.Active != "active"
			err = r.startUnit(ctx, u)
		}
		if err != nil {
			return r.withLogs(ctx, u, err)
		}
	}
	if reload {
		r.began = true
		if err := sys.ReloadUnit(ctx, l.Unit); err != nil {
			return r.reloadFailed(ctx, l.Unit, err)
		}
	}
	if !slices.Contains(l.Start, l.Unit) {
		return nil // it runs on schedule or on demand
	}
	if r.first, err = sys.State(ctx, l.Unit); err != nil {
		return err
	}
	if err := r.waitReady(ctx); err != nil {
		return err
	}
	if graceful {
		if err := r.waitOverlap(ctx); err != nil {
			return err
		}
		if err := r.stopAll(ctx, r.obsolete); err != nil {
			return err
		}
		// On a shared listener the old version may have answered the first check.
		if err := r.waitReady(ctx); err != nil {
			return err
		}
	}
	return r.waitHealthy(ctx)
}

// stopFirst returns what could start the new version of a job too early: its timer, which
// both versions share, and a run that this timer may have started since the file refers to
// the new version. A missed run is made up for, or not, when the timer starts again.
func (r *rollout) stopFirst() []string {
	if !isContainer(r.layout.Unit) || !slices.ContainsFunc(r.layout.Start, func(u string) bool { return path.Ext(u) == ".timer" && r.rewrote(u) }) {
		return nil
	}
	var out []string
	for _, f := range r.changed {
		if ext := path.Ext(f); path.Dir(f) == unitDir && (ext == ".timer" || ext == ".service" && r.undo.absent(rel(f))) {
			out = append(out, path.Base(f))
		}
	}
	return out
}

// overlap is the minimum time both versions run in parallel: an external probe may have been
// answered by the old one.
const overlap = time.Second

// waitOverlap waits until the new version has run for overlap, unless it reports readiness
// itself.
func (r *rollout) waitOverlap(ctx context.Context) error {
	if d := r.layout.Ready; d != nil && d.HTTP == "" && !d.TCP && d.Exec == "" {
		return nil
	}
	return poll.Until(ctx, 100*time.Millisecond, func(ctx context.Context) (bool, error) {
		st, err := r.h.supervisor.State(ctx, r.layout.Unit)
		if err == nil && (st.Active != "active" && st.Active != "reloading" || st.Restarts > 0) {
			err = r.withLogs(ctx, r.layout.Unit, errors.New(exitReason(st, errors.New("it does not stay up"))))
		}
		return err == nil && time.Since(st.Since) >= overlap, err
	})
}

// graceful reports whether the new version can start in parallel with the previous one: both
// support it in the same way, and their listeners are equal.
func (r *rollout) graceful() bool {
	return r.layout.Graceful != "" && !r.renamed && r.previous != nil && r.previous.Graceful == r.layout.Graceful && r.previous.Unit != r.next.Unit &&
		!slices.ContainsFunc(r.layout.Start, func(u string) bool { return strings.HasSuffix(u, ".socket") && r.listenersChanged(u) })
}

// checkHealthBefore fails if this replica must not change now: its set is unhealthy, and it
// is ready itself.
func (r *rollout) checkHealthBefore(ctx context.Context) error {
	if r.previous == nil || r.layout.Healthy == "" || r.previous.Unit == r.next.Unit {
		return nil
	}
	err := r.runHealthCheck(ctx, 10*time.Second)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	st, serr := r.h.supervisor.State(ctx, r.previous.Unit)
	if serr != nil || st.Active != "active" {
		return nil
	}
	if d := r.layout.Ready; d != nil && (d.TCP || d.HTTP != "" || d.Exec != "") && r.probeReady(ctx, d, r.previous.Unit, r.previous.Start) != nil {
		return nil
	}
	return &Unhealthy{r.withLogs(ctx, r.layout.Healthy, fmt.Errorf("not changed, because its replica set is not healthy: %w", err))}
}

// Unhealthy is the error of a replica that was not changed, because it is ready itself and
// its set is not healthy.
type Unhealthy struct{ err error }

func (u *Unhealthy) Error() string { return u.err.Error() }

// waitHealthy waits for the soak time of a changed replica, and then until its set is
// healthy.
func (r *rollout) waitHealthy(ctx context.Context) error {
	if r.previous == nil || r.previous.Unit == r.next.Unit {
		return nil
	}
	begin := time.Now()
	for until := begin.Add(r.layout.Soak); time.Now().Before(until); {
		report(ctx, begin, r.layout.Soak, "watching whether it runs well")
		if err := poll.Sleep(ctx, min(time.Second, time.Until(until))); err != nil {
			return err
		}
		if err := r.checkAlive(ctx); err != nil {
			return err
		}
	}
	if r.layout.Healthy == "" {
		return nil
	}
	limit := 30 * time.Second
	if r.layout.Ready != nil {
		limit = r.layout.Ready.Timeout
	}
	if err := r.runHealthCheck(ctx, limit); err != nil {
		return r.withLogs(ctx, r.layout.Healthy, fmt.Errorf("its replica set is not healthy with the new version: %w", err))
	}
	return nil
}

// runHealthCheck repeats the health check until it succeeds or limit is over.
func (r *rollout) runHealthCheck(ctx context.Context, limit time.Duration) error {
	begin := time.Now()
	until := begin.Add(limit)
	return poll.Until(ctx, time.Second, func(ctx context.Context) (bool, error) {
		report(ctx, begin, limit, "waiting for its replica set to be healthy")
		err := r.h.supervisor.Start(ctx, r.layout.Healthy)
		if _, failed := errors.AsType[*jobError](err); !failed {
			return err == nil, err
		}
		if time.Now().Before(until) {
			return false, nil
		}
		st, _ := r.h.supervisor.State(ctx, r.layout.Healthy)
		return false, errors.New(exitReason(st, err))
	})
}

// needsReload reports whether systemd must reload before the start. It finds new unit files
// by itself, and other changes are read when the manifest is flushed. But if a name led to
// another file before, systemd would still follow it to the old one.
func (r *rollout) needsReload() bool {
	return slices.ContainsFunc(r.changed, func(p string) bool { return strings.HasPrefix(p, unitDir+"/") && !r.undo.absent(rel(p)) })
}

// rewrote reports whether a unit's file existed and was changed.
func (r *rollout) rewrote(unit string) bool {
	_, had := r.undo.content(rel(unitDir + "/" + unit))
	return had
}

// listenersChanged reports whether an existing socket has other listeners now. The service
// version that it activates does not count.
func (r *rollout) listenersChanged(unit string) bool {
	old, had := r.undo.content(rel(unitDir + "/" + unit))
	if !had {
		return false
	}
	i := slices.IndexFunc(r.layout.Files, func(f backends.File) bool { return f.Path == unitDir+"/"+unit })
	return i >= 0 && !bytes.Equal(withoutService(old), withoutService(r.layout.Files[i].Content))
}

func withoutService(raw []byte) []byte {
	var out []byte
	for line := range bytes.Lines(raw) {
		if !bytes.HasPrefix(line, []byte("Service=")) {
			out = append(out, line...)
		}
	}
	return out
}

// reloadableChanged reports whether files changed that a running process reads on reload.
func (r *rollout) reloadableChanged() bool {
	return slices.ContainsFunc(r.layout.Files, func(f backends.File) bool { return f.InPlace && slices.Contains(r.changed, f.Path) })
}

func (r *rollout) stopAll(ctx context.Context, units []string) error {
	return stopAll(ctx, r.h.supervisor, units)
}

// stopAll stops units, and reports what that waits for.
func stopAll(ctx context.Context, sys Supervisor, units []string) error {
	units = slices.Clone(units)
	sortForStop(units)
	for _, u := range units {
		describe := func(ctx context.Context) (string, time.Duration) { return describeStop(ctx, sys, u) }
		if err := whileWaiting(ctx, describe, func(ctx context.Context) error { return sys.Stop(ctx, u) }); err != nil {
			return fmt.Errorf("%s cannot be stopped: %w", u, err)
		}
	}
	return nil
}

// describeStop returns how far the stop of a unit is, and how long it may last.
func describeStop(ctx context.Context, sys Supervisor, unit string) (string, time.Duration) {
	st, err := sys.State(ctx, unit)
	if err != nil {
		return "", 0
	}
	how := ""
	switch {
	case strings.Contains(st.Sub, "sigkill"):
		how = " (SIGKILL sent)"
	case st.Sub == "stop":
		how = " (its stop command runs)"
	case st.StopSignal != "":
		how = " (" + st.StopSignal + " sent)"
	}
	return "waiting for it to stop" + how, st.StopTimeout
}

// startUnit starts a unit and reports what that waits for.
func (r *rollout) startUnit(ctx context.Context, unit string) error {
	return r.whileStarting(ctx, unit, func(ctx context.Context) error { return r.h.supervisor.Start(ctx, unit) })
}

func (r *rollout) whileStarting(ctx context.Context, unit string, f func(context.Context) error) error {
	return whileWaiting(ctx, func(ctx context.Context) (string, time.Duration) {
		if unit != r.layout.Unit {
			return "waiting for " + unit, 0
		}
		for _, s := range r.layout.Scripts {
			if st, err := r.h.supervisor.State(ctx, s); err == nil && (st.Active == "activating" || isContainer(s) && st.Active == "active") {
				return "waiting for " + s + ", which runs before it", 0
			}
		}
		if d := r.layout.Ready; d != nil && !d.TCP && d.HTTP == "" && d.Exec == "" {
			return "waiting for it to report that it is ready", d.Timeout
		}
		return "waiting for it to start", 0
	}, f)
}

// reloadFailed returns the error of a version that was not reloaded, because its check or its
// reload command failed.
func (r *rollout) reloadFailed(ctx context.Context, unit string, err error) error {
	r.notReloaded = true
	if job, is := errors.AsType[*jobError](err); is {
		what := "its reload command failed"
		if unit == r.layout.ReloadCheck {
			what = "not reloaded, because its check failed"
			st, _ := r.h.supervisor.State(ctx, unit)
			if job.text == "" && st.Result != "" && st.Result != "success" {
				what += ": " + exitReason(st, err)
			}
		}
		if err = errors.New(what); job.text != "" {
			err = fmt.Errorf("%s: %s", what, job.text)
		}
	}
	return r.withLines(ctx, []string{unit}, err)
}

// withLogs adds to an error which unit failed, why, and its last log lines.
func (r *rollout) withLogs(ctx context.Context, unit string, err error) error {
	l := r.layout
	units := append([]string{l.Unit, unit}, l.Scripts...)
	if unit == l.Healthy && unit != "" {
		units = []string{unit}
	}
	if l.Ready != nil && l.Ready.Exec != "" {
		units = append(units, l.Ready.Exec)
	}
	if _, is := errors.AsType[*jobError](err); is {
		st, _ := r.h.supervisor.State(ctx, unit)
		err = fmt.Errorf("it does not start: %s", exitReason(st, err))
		for _, s := range l.Scripts {
			if st, serr := r.h.supervisor.State(ctx, s); serr == nil && st.Active == "failed" {
				err = fmt.Errorf("%s, which runs before it, failed: %s", s, exitReason(st, err))
				units = []string{s}
			}
		}
	}
	return r.withLines(ctx, units, err)
}

// withLines adds the last log lines of units to an error.
func (r *rollout) withLines(ctx context.Context, units []string, err error) error {
	slices.Sort(units)
	lines := r.h.supervisor.Journal(ctx, slices.Compact(units), r.startedAt, 20)
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w\n%s", err, strings.Join(lines, "\n"))
}

// exitReason describes how a service ended.
func exitReason(st SupervisorState, err error) string {
	switch st.Result {
	case "exit-code":
		return "it ended with exit code " + strconv.Itoa(st.Code)
	case "signal", "core-dump":
		return "it was killed by signal " + strconv.Itoa(st.Code)
	case "oom-kill":
		return "it was killed because it exceeded its memory limit"
	case "timeout":
		return "it was not ready in time"
	case "", "success":
		if f, is := errors.AsType[*jobError](err); is && f.result == "dependency" {
			return "a unit that it requires does not start"
		}
		return err.Error()
	}
	return st.Result
}

// endPoll is how often to look whether a process has ended: its supervisor restarts it after a
// second.
const endPoll = 400 * time.Millisecond

// minUptime is how long a process must stay up to count as started when it has no readiness
// check. Settle checks it again later.
const minUptime = 300 * time.Millisecond

// waitReady waits until the new version is ready.
func (r *rollout) waitReady(ctx context.Context) error {
	d, begin := r.layout.Ready, time.Now()
	if d == nil || !d.TCP && d.HTTP == "" && d.Exec == "" {
		st, err := r.h.supervisor.State(ctx, r.layout.Unit)
		if err != nil {
			return err
		}
		for st.Active == "activating" && st.Sub == "health" { // its image's health check knows its own interval
			report(ctx, begin, 0, "waiting for the health check of its image")
			if err := poll.Sleep(ctx, 200*time.Millisecond); err != nil {
				return err
			}
			if st, err = r.h.supervisor.State(ctx, r.layout.Unit); err != nil {
				return err
			}
		}
		if d != nil || time.Since(st.Since) > minUptime { // it reported readiness, or has been up long enough
			return r.checkAlive(ctx)
		}
		rest := minUptime // the rest of it
		if since := time.Since(st.Since); since > 0 {
			rest -= since
		}
		if err := poll.Sleep(ctx, rest); err != nil {
			return err
		}
		return r.checkAlive(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	pause, checks := 5*time.Millisecond, 0
	if d.Exec != "" { // each check starts a process
		pause = 50 * time.Millisecond
	}
	if d.Retries > 0 {
		pause = d.Interval
	}
	var watch restarts
	var answer error
	for {
		err := r.probeReady(limited, d, r.layout.Unit, r.layout.Start)
		if err == nil {
			return r.checkAlive(ctx)
		}
		if end, _ := limited.Deadline(); !time.Now().Before(end) && answer != nil { // its last answer says more than that the time is over
			err = answer
		}
		answer = err
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if checks++; d.Retries > 0 && checks > d.Retries {
			return r.withLogs(ctx, r.layout.Unit, fmt.Errorf("it is not ready after %d checks: %w", checks, err))
		}
		for next := time.Now().Add(pause); ; {
			if err := watch.check(ctx, r, time.Since(begin)); err != nil {
				return err
			}
			report(ctx, begin, d.Timeout, describeReady(d, err))
			if poll.Sleep(limited, min(endPoll, time.Until(next))) != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return r.withLogs(ctx, r.layout.Unit, fmt.Errorf("it is not ready after %s: %w", d.Timeout, err))
			}
			if !time.Now().Before(next) {
				break
			}
		}
		pause = min(2*pause, d.Interval)
	}
}

// restarts watches whether a process that is not ready yet ends.
type restarts struct{ reason string } // of the last end

// check fails if the process has ended for good, or keeps ending.
func (w *restarts) check(ctx context.Context, r *rollout, since time.Duration) error {
	st, err := r.h.supervisor.State(ctx, r.layout.Unit)
	switch {
	case err != nil: // the next check may work
		return nil
	case st.Active == "failed" || st.Active == "inactive" && r.first.Active != "":
		return r.withLogs(ctx, r.layout.Unit, errors.New(exitReason(st, errors.New("it ended"))))
	case w.keepsEnding(st, r.first, since):
		return r.withLogs(ctx, r.layout.Unit, errors.New("it keeps ending: "+cmp.Or(w.reason, "it was restarted "+times(st.Restarts-r.first.Restarts))))
	}
	return nil
}

// keepsEnding reports whether the process has ended more than once since first. One end is
// allowed: the address of the previous version may not have been free yet. An engine restarts a
// process several times within the first second, so they all count as one.
func (w *restarts) keepsEnding(st, first SupervisorState, since time.Duration) bool {
	restarting := isRestarting(st)
	if restarting && (st.Result != "" || w.reason == "") {
		w.reason = exitReason(st, errors.New("it ended"))
	}
	ends := st.Restarts - first.Restarts
	if restarting && st.Sub != "restarted" { // the end that the next restart follows
		ends++
	}
	if restarting && first.Active == st.Active && first.Sub == st.Sub && st.Restarts == first.Restarts {
		ends = 1 // it had ended before first was read
	}
	return ends > 1 && since >= 900*time.Millisecond
}

// describeReady says what a readiness check asks, and what the last answer was.
func describeReady(d *backends.Ready, err error) string {
	if answered, is := errors.AsType[*httpStatusError](err); is {
		return "GET " + d.HTTP + ": " + answered.status
	}
	text := err.Error()
	if _, is := errors.AsType[*foreignListener](err); is {
		return text
	}
	if op, is := errors.AsType[*net.OpError](err); is {
		text = op.Err.Error()
		if call, is := errors.AsType[*os.SyscallError](op.Err); is {
			text = call.Err.Error()
		}
	}
	switch {
	case d.Exec != "":
		return strings.TrimPrefix(text, "its ")
	case d.HTTP != "":
		return "GET " + d.HTTP + ": " + text
	}
	return fmt.Sprintf("port %d: %s", d.Port, text)
}

// checkAlive fails if the new version is not running, or was restarted.
func (r *rollout) checkAlive(ctx context.Context) error {
	st, err := r.h.supervisor.State(ctx, r.layout.Unit)
	if err != nil {
		return err
	}
	switch {
	case st.Sub == "unhealthy":
		return r.withLogs(ctx, r.layout.Unit, errors.New(strings.TrimSuffix("its image's health check fails: "+st.LastOutput, ": ")))
	case r.layout.Ready == nil && r.first.Active != "" && st.Restarts > r.first.Restarts:
		return r.withLogs(ctx, r.layout.Unit, errors.New("it ended and was restarted"))
	case st.Active == "active" || st.Active == "reloading":
		r.first = st
		return nil
	case st.Sub == "restarted":
		return r.withLogs(ctx, r.layout.Unit, errors.New("it ended and was restarted"))
	case st.Active == "inactive" && st.Result == "success":
		return r.withLogs(ctx, r.layout.Unit, errors.New("it ended immediately"))
	}
	return r.withLogs(ctx, r.layout.Unit, errors.New(exitReason(st, fmt.Errorf("it is %s", st.Active))))
}

// probeReady checks once whether a version of the service is ready; start is what starts it.
func (r *rollout) probeReady(ctx context.Context, d *backends.Ready, unit string, start []string) error {
	one, cancel := context.WithTimeout(ctx, max(d.Interval, 5*time.Second))
	defer cancel()
	if d.Exec != "" {
		err := r.h.supervisor.Start(one, d.Exec)
		if _, is := errors.AsType[*jobError](err); is {
			st, _ := r.h.supervisor.State(ctx, d.Exec)
			return fmt.Errorf("its readiness command: %s", exitReason(st, err))
		}
		return err
	}
	hosts, first := r.h.supervisor.Hosts(one, unit)
	for _, host := range hosts {
		err := probeAddress(one, d, net.JoinHostPort(host, strconv.Itoa(d.Port)))
		if _, answered := errors.AsType[*httpStatusError](err); err == nil || answered {
			if lerr := r.checkListener(one, d.Port, unit, start); lerr != nil {
				return lerr
			}
		}
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
		if answered, is := errors.AsType[*httpStatusError](err); is {
			return answered
		}
	}
	return first
}

// httpStatusError is the error of a probe that got an HTTP status other than success.
type httpStatusError struct{ status string }

func (a *httpStatusError) Error() string { return "it answers " + a.status }

func probeAddress(ctx context.Context, d *backends.Ready, address string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if d.TCP {
		return c.Close()
	}
	defer c.Close()
	if until, ok := ctx.Deadline(); ok {
		c.SetDeadline(until)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return err
	}
	req.URL.Path, req.URL.RawQuery, _ = strings.Cut(d.HTTP, "?")
	req.Header.Set("User-Agent", "defx")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return &httpStatusError{res.Status}
	}
	return nil
}

// localAddrs returns the addresses on which a service of this machine may listen, loopback
// first.
func localAddrs() []string {
	out := []string{"127.0.0.1", "::1"}
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}
