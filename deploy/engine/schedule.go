package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// Where systemd keeps the time, its timer starts this very program, which runs
// the job to its end (Job). Elsewhere the program keeps the time itself, in a
// container of its own beside each job (Cron): so jobs run wherever an engine
// does, and come back with it after a boot. Both keep the same record, so that
// one can take over from the other.

// startCron makes the container of a job, and the one that starts it on time.
func (e *Engine) startCron(ctx context.Context, api *client.Client, unit string) error {
	var cron docker.Cron
	d, err := read(unit, &cron)
	if err != nil {
		return err
	}
	// The one before goes first: it sweeps what it takes for earlier versions of the job.
	have, err := find(ctx, api, unit)
	if err != nil {
		return err
	}
	runs := have != nil && have.State.Running && have.Config.Labels[docker.LabelDigest] == string(d)
	if have != nil && !runs {
		if err := e.dismiss(ctx, api, have); err != nil {
			return err
		}
	}
	if err := e.makeJob(ctx, api, cron.Unit); err != nil || runs {
		return err
	}
	image, err := e.self(ctx, api)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(RunsDir, 0o755); err != nil {
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
	return started(ctx, api, docker.Name(unit), unit)
}

// dismiss takes away who kept the time of a job. What it began is written down,
// so that whoever comes after it neither repeats nor forgets a run.
func (e *Engine) dismiss(ctx context.Context, api *client.Client, keeper *container.InspectResponse) error {
	if _, err := api.ContainerStop(ctx, keeper.ID, client.ContainerStopOptions{}); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsNotModified(err) {
		return err
	}
	base := keeper.Config.Labels[docker.LabelBase]
	list, err := ours(ctx, api, docker.LabelBase, base)
	if err != nil {
		return err
	}
	for _, x := range list {
		unit := x.Labels[docker.LabelUnit]
		if docker.Kind(unit) != ".container" {
			continue
		}
		have, err := find(ctx, api, unit)
		if err != nil || have == nil || have.State == nil {
			continue
		}
		last := newest(recordOf(base))
		began, err := time.Parse(time.RFC3339Nano, have.State.StartedAt)
		if err != nil || last.open() && last.Unit == unit || !began.After(last.Begun) || !began.After(last.Ended) {
			continue
		}
		write(recordOf(base), Run{Due: began.UTC(), Begun: began.UTC(), Unit: unit})
	}
	return remove(ctx, api, keeper.ID)
}

// Timetable tells when a job is due.
type Timetable struct {
	cron  *spec.Cron
	every time.Duration
	zone  *time.Location
}

// NewTimetable reads the times of a job.
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

// timesOf reads the file of a job.
func timesOf(unit string) (c docker.Cron, t Timetable, err error) {
	if _, err = read(unit, &c); err == nil {
		t, err = NewTimetable(c)
	}
	return c, t, err
}

// Next is the first time after at. What runs every so often does so at full
// multiples, so that it stays the same over restarts.
func (t Timetable) Next(at time.Time) time.Time {
	if t.cron != nil {
		return t.cron.Next(at.In(t.zone))
	}
	return at.UTC().Truncate(t.every).Add(t.every)
}

// Last is the newest time that is not after at. Nothing is found that is more
// than eight years old: then it is the zero time.
func (t Timetable) Last(at time.Time) time.Time {
	var out time.Time
	for back := time.Minute; out.IsZero() && back < 9*366*24*time.Hour; back *= 8 {
		for next := t.Next(at.Add(-back)); !next.IsZero() && !next.After(at); next = t.Next(next) {
			out = next
		}
	}
	return out
}

// Cron starts a job on time until it is told to stop. It runs inside the
// container beside the job.
func Cron(file string, said io.Writer) error {
	c, times, err := timesOf(filepath.Base(file))
	if err != nil {
		return err
	}
	jitter, _ := time.ParseDuration(c.Jitter)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	e := &Engine{Socket: Default}
	api, err := e.connect()
	if err != nil {
		return err
	}
	record := recordOf(c.Base)
	e.sweepJob(ctx, api, c)
	from := time.Now()
	if last := newest(record); c.CatchUp && !last.Due.IsZero() {
		from = done(last, file)
	}
	for {
		due := times.Next(from)
		if due.IsZero() {
			<-ctx.Done()
			return nil
		}
		if late := time.Now(); c.CatchUp && due.Before(late) { // of many that were missed one is made up for
			for next := times.Next(due); !next.IsZero() && !next.After(late); next = times.Next(due) {
				due = next
			}
		}
		wait := time.Until(due)
		if jitter > 0 {
			wait += rand.N(jitter)
		}
		if !sleep(ctx, wait) {
			return nil
		}
		r := e.runJob(ctx, api, c, due)
		if ctx.Err() != nil {
			return nil
		}
		write(record, r)
		if r.EngineUnavailable { // an engine that came back has another socket, which a new container sees
			return errors.New(r.Error)
		}
		fmt.Fprintln(said, r)
		e.sweepJob(ctx, api, c)
		if from = due; !c.CatchUp || time.Since(due) > 0 {
			from = time.Now()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	until := time.Now().Add(d).Round(0) // without the monotonic clock, which stands still while a machine sleeps
	for {
		left := time.Until(until)
		if left <= 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(min(left, time.Minute)):
		}
	}
}

// runJob runs a job to its end, and waits for an engine that goes meanwhile.
func (e *Engine) runJob(ctx context.Context, api *client.Client, c docker.Cron, due time.Time) Run {
	r := Run{Due: due.UTC(), Begun: time.Now().UTC(), Unit: c.Unit}
	write(recordOf(c.Base), r)
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
		r.Error, r.EngineUnavailable = err.Error(), gone(err)
		if !r.EngineUnavailable || try >= 10 || !sleep(ctx, 3*time.Second) {
			return r
		}
		// An engine that came back may have ended it: that was its run, unless runs are to be made up for.
		if have, err := find(ctx, api, c.Unit); err == nil && have != nil && !have.State.Running {
			seen := r
			if seen.unseen(have); seen.Error == "" && !(seen.Interrupted && c.CatchUp) {
				seen.EngineUnavailable, seen.Interrupted = false, false
				return seen
			}
		}
		r.Error, r.EngineUnavailable = "", false
	}
}

// sweepJob removes earlier versions of a job that have come to their end.
func (e *Engine) sweepJob(ctx context.Context, api *client.Client, c docker.Cron) {
	if e.settle(ctx, api, c.Base) != nil {
		return
	}
	steadily(ctx, recordOf(c.Base), func() error {
		var now docker.Cron
		if _, err := read(c.Base+".job", &now); err == nil && now.Unit != c.Unit {
			return nil // another version is made meanwhile, and who makes it sweeps
		}
		list, err := ours(ctx, api, docker.LabelBase, c.Base)
		if err != nil {
			return err
		}
		for _, x := range list {
			if u := x.Labels[docker.LabelUnit]; docker.Kind(u) == ".container" && u != c.Unit && x.State != container.StateRunning {
				api.ContainerRemove(ctx, x.ID, client.ContainerRemoveOptions{RemoveVolumes: true}) // the engine refuses if it runs by now
			}
		}
		return nil
	})
}
