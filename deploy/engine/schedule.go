package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/internal/poll"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// If systemd runs on the machine, its timer starts this program, which runs the job to its
// end (Job). Otherwise this program schedules the job itself, in a container (Cron): so jobs
// run wherever an engine does, and start again with it after a boot. Both keep the same
// record, so that one can take over from the other.

// startCron creates the container of a job, and the container that schedules it.
func (e *Engine) startCron(ctx context.Context, api *client.Client, unit string) error {
	var cron docker.Cron
	d, err := readUnit(unit, &cron)
	if err != nil {
		return err
	}
	// Stop the previous scheduler first: it deletes what it considers old versions of the
	// job.
	have, err := inspect(ctx, api, unit)
	if err != nil {
		return err
	}
	runs := have != nil && have.State.Running && have.Config.Labels[docker.LabelDigest] == string(d)
	if have != nil && !runs {
		if err := e.stopScheduler(ctx, api, have); err != nil {
			return err
		}
	}
	if err := e.createJob(ctx, api, cron.Unit); err != nil || runs {
		return err
	}
	image, err := e.self(ctx, api)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(RunsDir, 0o700); err != nil {
		return err
	}
	config := &container.Config{Image: image, Entrypoint: []string{program}, Cmd: []string{"agent", "--cron", filepath.Join(docker.Dir, unit)}, Labels: e.labels(cron.ID, unit, d)}
	host := &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}, ReadonlyRootfs: true, NetworkMode: "none",
		CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m", "max-file": "2"}},
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: filepath.Join(docker.Dir, unit), Target: filepath.Join(docker.Dir, unit), ReadOnly: true},
			{Type: mount.TypeBind, Source: e.path, Target: "/var/run/docker.sock"},
			{Type: mount.TypeBind, Source: RunsDir, Target: RunsDir},
		}}
	if _, err := os.Stat(Zones); err == nil {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: Zones, Target: Zones, ReadOnly: true})
	}
	if err := e.createNamed(ctx, api, unit, config, host, nil); err != nil {
		return err
	}
	return startContainer(ctx, api, docker.Name(unit), unit)
}

// stopScheduler removes the container that schedules a job. It first records the run that
// the scheduler started, so that its successor neither repeats nor misses a run.
func (e *Engine) stopScheduler(ctx context.Context, api *client.Client, scheduler *container.InspectResponse) error {
	if _, err := api.ContainerStop(ctx, scheduler.ID, client.ContainerStopOptions{}); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsNotModified(err) {
		return err
	}
	base := scheduler.Config.Labels[docker.LabelBase]
	list, err := labelled(ctx, api, docker.LabelBase, base)
	if err != nil {
		return err
	}
	for _, x := range list {
		unit := x.Labels[docker.LabelUnit]
		if docker.Kind(unit) != ".container" {
			continue
		}
		have, err := inspect(ctx, api, unit)
		if err != nil || have == nil || have.State == nil {
			continue
		}
		last := lastRun(recordPath(base))
		startedAt, err := time.Parse(time.RFC3339Nano, have.State.StartedAt)
		if err != nil || last.open() && last.Unit == unit || !startedAt.After(last.Started) || !startedAt.After(last.Ended) {
			continue
		}
		recordRun(ctx, recordPath(base), Run{Due: startedAt.UTC(), Started: startedAt.UTC(), Unit: unit})
	}
	return remove(ctx, api, scheduler.ID)
}

// Timetable computes when a job is due.
type Timetable struct {
	cron  *spec.Cron
	every time.Duration
	zone  *time.Location
}

// NewTimetable returns the timetable of a job.
func NewTimetable(c docker.Cron) (Timetable, error) {
	zone, err := time.LoadLocation(c.Timezone)
	if err != nil {
		return Timetable{}, fmt.Errorf("time zone %q: %w", c.Timezone, err)
	}
	t := Timetable{zone: zone}
	if c.Cron != "" {
		line, err := spec.ParseCron(c.Cron)
		t.cron = &line
		return t, err
	}
	t.every, err = time.ParseDuration(c.Every)
	return t, err
}

// readJob reads the file of a job.
func readJob(unit string) (c docker.Cron, t Timetable, err error) {
	if _, err = readUnit(unit, &c); err == nil {
		t, err = NewTimetable(c)
	}
	return c, t, err
}

// Next returns the first due time after at. An interval counts from the zero time, so that
// restarts do not shift it.
func (t Timetable) Next(at time.Time) time.Time {
	if t.cron != nil {
		return t.cron.Next(at.In(t.zone))
	}
	return at.UTC().Truncate(t.every).Add(t.every)
}

// Last returns the newest due time that is not after at. It is zero if there is none within
// eight years.
func (t Timetable) Last(at time.Time) time.Time {
	var out time.Time
	for back := time.Minute; out.IsZero() && back < 9*366*24*time.Hour; back *= 8 {
		for next := t.Next(at.Add(-back)); !next.IsZero() && !next.After(at); next = t.Next(next) {
			out = next
		}
	}
	return out
}

// Cron starts a job whenever it is due, until ctx ends. It runs inside the scheduler's
// container. What happened is written to out.
func Cron(ctx context.Context, file string, out io.Writer) error {
	c, times, err := readJob(filepath.Base(file))
	if err != nil {
		return err
	}
	jitter, _ := time.ParseDuration(c.Jitter)
	e := &Engine{Socket: Default}
	api, err := e.connect()
	if err != nil {
		return err
	}
	record := recordPath(c.Base)
	e.removeOldVersions(ctx, api, c)
	from := time.Now()
	if last := lastRun(record); c.CatchUp && !last.Due.IsZero() {
		from = doneUntil(last, file)
	}
	for {
		due := times.Next(from)
		if due.IsZero() {
			<-ctx.Done()
			return nil
		}
		if now := time.Now(); c.CatchUp && due.Before(now) { // of several missed runs, one is made up for
			for next := times.Next(due); !next.IsZero() && !next.After(now); next = times.Next(due) {
				due = next
			}
		}
		wait := time.Until(due)
		if jitter > 0 {
			wait += rand.N(jitter)
		}
		if !sleepWallClock(ctx, wait) {
			return nil
		}
		r := e.runJob(ctx, api, c, due)
		if ctx.Err() != nil {
			return nil
		}
		recordRun(ctx, record, r)
		if r.EngineUnavailable { // a restarted engine has another socket, which only a new container sees
			return errors.New(r.Error)
		}
		fmt.Fprintln(out, r)
		e.removeOldVersions(ctx, api, c)
		if from = due; !c.CatchUp || time.Since(due) > 0 {
			from = time.Now()
		}
	}
}

// sleepWallClock waits for d of wall-clock time, and reports whether it was not interrupted.
func sleepWallClock(ctx context.Context, d time.Duration) bool {
	until := time.Now().Add(d).Round(0) // wall clock: the monotonic clock stops while a machine is suspended
	for {
		left := time.Until(until)
		if left <= 0 {
			return true
		}
		if poll.Sleep(ctx, min(left, time.Minute)) != nil {
			return false
		}
	}
}

// runJob runs a job to its end. If the engine restarts meanwhile, it waits for it.
func (e *Engine) runJob(ctx context.Context, api *client.Client, c docker.Cron, due time.Time) Run {
	r := Run{Due: due.UTC(), Started: time.Now().UTC(), Unit: c.Unit}
	recordRun(ctx, recordPath(c.Base), r)
	for try := 0; ; try++ {
		err := e.run(ctx, api, c.Unit)
		r.Ended = time.Now().UTC()
		if f, is := err.(*CommandError); is {
			if r.Code = f.Code; f.Code == 0 {
				r.Error = f.Text
			}
			return r
		}
		if err == nil {
			return r
		}
		r.Error, r.EngineUnavailable = err.Error(), connectionLost(err)
		if !r.EngineUnavailable || try >= 10 || !sleepWallClock(ctx, 3*time.Second) {
			return r
		}
		// The restart may have ended the run. That was the run, unless interrupted runs are
		// made up for.
		if have, err := inspect(ctx, api, c.Unit); err == nil && have != nil && !have.State.Running {
			inferred := r
			if inferred.inferOutcome(have); inferred.Error == "" && !(inferred.Interrupted && c.CatchUp) {
				inferred.EngineUnavailable, inferred.Interrupted = false, false
				return inferred
			}
		}
		r.Error, r.EngineUnavailable = "", false
	}
}

// removeOldVersions deletes containers of earlier versions of a job that have ended.
func (e *Engine) removeOldVersions(ctx context.Context, api *client.Client, c docker.Cron) {
	if e.closeRuns(ctx, api, c.Base) != nil {
		return
	}
	withRecordLock(ctx, recordPath(c.Base), func() error {
		var now docker.Cron
		if _, err := readUnit(c.Base+".job", &now); err == nil && now.Unit != c.Unit {
			return nil // a newer version is being created; its process cleans up
		}
		list, err := labelled(ctx, api, docker.LabelBase, c.Base)
		if err != nil {
			return err
		}
		for _, x := range list {
			if u := x.Labels[docker.LabelUnit]; docker.Kind(u) == ".container" && u != c.Unit && x.State != container.StateRunning {
				api.ContainerRemove(ctx, x.ID, client.ContainerRemoveOptions{RemoveVolumes: true}) // without Force the engine refuses to delete a running container
			}
		}
		return nil
	})
}
