package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// Jobs are started on time by this very program, in a container of its own
// beside each: so they run wherever an engine does, come back with it after a
// boot, and need neither a timer of the machine nor defx on it.

// RunsDir keeps one file for each job, a line for each run.
const RunsDir = "/var/lib/defx/runs"

// Run is one line there.
type Run struct {
	Due   time.Time `json:"due"`
	Begun time.Time `json:"begun,omitzero"`
	Ended time.Time `json:"ended,omitzero"`
	Code  int       `json:"code"`
	Error string    `json:"error,omitempty"`
	Lost  bool      `json:"lost,omitempty"` // the engine did not answer
}

// startCron makes the container of a job, and the one that starts it on time.
func (e *Engine) startCron(ctx context.Context, api *client.Client, unit string) error {
	var cron docker.Cron
	d, err := read(unit, &cron)
	if err != nil {
		return err
	}
	var c docker.Container
	job, err := read(cron.Of, &c)
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
		if err := remove(ctx, api, have.ID); err != nil {
			return err
		}
	}
	for _, script := range c.Before {
		if err := e.once(ctx, script); err != nil {
			return err
		}
	}
	if c.Pod != "" {
		if _, err := e.pod(ctx, api, c.Pod, true); err != nil {
			return err
		}
	}
	if _, err := e.create(ctx, api, cron.Of, &c, job); err != nil || runs {
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
	for _, zones := range []string{"/usr/share/zoneinfo"} {
		if _, err := os.Stat(zones); err == nil {
			host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: zones, Target: zones, ReadOnly: true})
		}
	}
	if err := e.createNamed(ctx, api, unit, config, host, nil); err != nil {
		return err
	}
	return started(ctx, api, docker.Name(unit), unit)
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

// Next is the first time after at. What runs every so often does so at full
// multiples, so that it stays the same over restarts.
func (t Timetable) Next(at time.Time) time.Time {
	if t.cron != nil {
		return t.cron.Next(at.In(t.zone))
	}
	return at.UTC().Truncate(t.every).Add(t.every)
}

// Cron starts a job on time until it is told to stop. It runs inside the
// container beside the job.
func Cron(file string, said io.Writer) error {
	unit := filepath.Base(file)
	var c docker.Cron
	if _, err := read(unit, &c); err != nil {
		return err
	}
	times, err := NewTimetable(c)
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
	record := filepath.Join(RunsDir, c.Base+".jsonl")
	e.sweepJob(ctx, api, c)
	from := time.Now()
	if last := newest(record).Due; c.CatchUp && !last.IsZero() {
		from = last
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
		if r.Lost { // an engine that came back has another socket, which a new container sees
			return errors.New(r.Error)
		}
		fmt.Fprintf(said, "run of %s: exit code %d, %s %s\n", due.UTC().Format(time.RFC3339), r.Code, r.Ended.Sub(r.Begun).Round(time.Millisecond), r.Error)
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

func (e *Engine) runJob(ctx context.Context, api *client.Client, c docker.Cron, due time.Time) Run {
	r := Run{Due: due.UTC(), Begun: time.Now().UTC()}
	for try := 0; ; try++ {
		err := e.run(ctx, api, c.Of)
		r.Ended = time.Now().UTC()
		if f, is := err.(*Failed); is {
			if r.Code = f.Code; f.Code == 0 {
				r.Error = f.Text
			}
			return r
		}
		if err == nil {
			return r
		}
		r.Error, r.Lost = err.Error(), gone(err)
		if !r.Lost || try >= 10 || !sleep(ctx, 3*time.Second) {
			return r
		}
		r.Error, r.Lost = "", false
	}
}

// sweepJob removes earlier versions of a job that have come to their end.
func (e *Engine) sweepJob(ctx context.Context, api *client.Client, c docker.Cron) {
	list, err := ours(ctx, api, docker.LabelBase, c.Base)
	if err != nil {
		return
	}
	for _, x := range list {
		if u := x.Labels[docker.LabelUnit]; docker.Kind(u) == ".container" && u != c.Of && x.State != container.StateRunning {
			remove(ctx, api, x.ID)
		}
	}
}

// maxRuns bounds the lines that are kept of a job.
const maxRuns = 1000

func write(file string, r Run) {
	raw, err := json.Marshal(r)
	if err != nil {
		return
	}
	old, _ := os.ReadFile(file)
	if lines := bytes.SplitAfter(old, []byte("\n")); len(lines) > maxRuns {
		old = bytes.Join(lines[len(lines)-maxRuns:], nil)
	}
	tmp := file + ".new"
	if os.WriteFile(tmp, append(append(old, raw...), '\n'), 0o644) == nil {
		os.Rename(tmp, file)
	}
}

// newest is the last recorded run; zero if there is none.
func newest(file string) Run {
	var r Run
	raw, err := os.ReadFile(file)
	if err != nil {
		return r
	}
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	json.Unmarshal(lines[len(lines)-1], &r)
	return r
}

// Runs tells of a job how it went last, and when it is due, jitter apart.
func (e *Engine) Runs(unit string) (last Run, next time.Time, err error) {
	var c docker.Cron
	if _, err := read(unit, &c); err != nil {
		return last, next, err
	}
	times, err := NewTimetable(c)
	if err != nil {
		return last, next, err
	}
	return newest(filepath.Join(RunsDir, c.Base+".jsonl")), times.Next(time.Now()).UTC(), nil
}

// Pause holds the network of a group until it is told to stop. When an engine
// comes back, say after a boot, it may try the members before their network is
// there, and gives them up then: so whoever holds the network starts them.
func Pause() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		e := &Engine{Socket: Default}
		api, err := e.connect()
		if err != nil {
			return
		}
		for range 20 {
			startMembers(ctx, api)
			if !sleep(ctx, time.Second) {
				return
			}
		}
	}()
	<-ctx.Done()
}

// startMembers starts those that share our network and were given up.
func startMembers(ctx context.Context, api *client.Client) {
	host, err := os.Hostname() // the engine calls a container by its id
	if err != nil {
		return
	}
	me, err := api.ContainerInspect(ctx, host, client.ContainerInspectOptions{})
	if err != nil {
		return
	}
	list, err := ours(ctx, api, docker.LabelScope, me.Container.Config.Labels[docker.LabelScope])
	if err != nil {
		return
	}
	for _, c := range list {
		if c.State != container.StateExited || c.HostConfig.NetworkMode != "container:"+me.Container.ID || docker.Kind(c.Labels[docker.LabelUnit]) != ".container" {
			continue
		}
		m, err := api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if err == nil && m.Container.HostConfig.RestartPolicy.IsAlways() && givenUp(me.Container.State.StartedAt, m.Container.State.FinishedAt) {
			api.ContainerStart(ctx, c.ID, client.ContainerStartOptions{})
		}
	}
}

// givenUp tells whether a member ended before its network was there: what ends
// later ends because somebody wants it.
func givenUp(begun, ended string) bool {
	b, err := time.Parse(time.RFC3339Nano, begun)
	e, err2 := time.Parse(time.RFC3339Nano, ended)
	return err == nil && err2 == nil && e.Before(b.Add(time.Second))
}
