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
	"slices"
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

// RunsDir keeps one file for each job, a line for each run.
const RunsDir = "/var/lib/defx/runs"

// Run is one line there. It is written when the run begins, and again when it has ended.
type Run struct {
	Due   time.Time `json:"due"`
	Begun time.Time `json:"begun,omitzero"`
	Ended time.Time `json:"ended,omitzero"`
	Of    string    `json:"of,omitempty"` // file of the container
	Code  int       `json:"code"`
	Error string    `json:"error,omitempty"`
	Lost  bool      `json:"lost,omitempty"` // the engine did not answer
	Cut   bool      `json:"cut,omitempty"`  // it failed while nobody looked, say because the machine went down: as good as missed
}

// open tells that nobody has written down yet how it ended.
func (r Run) open() bool { return !r.Begun.IsZero() && r.Ended.IsZero() }

// unseen fills in how a run ended that nobody waited for, from what is left of its container.
func (r *Run) unseen(have *container.InspectResponse) {
	r.Ended, r.Error = r.Begun, "nobody saw how it ended"
	if have != nil && have.State != nil {
		began, _ := time.Parse(time.RFC3339Nano, have.State.StartedAt)
		ended, _ := time.Parse(time.RFC3339Nano, have.State.FinishedAt)
		if !began.Before(r.Begun) && !ended.Before(began) {
			r.Ended, r.Code, r.Error = ended.UTC(), have.State.ExitCode, ""
		}
	}
	r.Cut = r.Code != 0 || r.Error != ""
}

// recordOf is the file of a job's runs.
func recordOf(base string) string { return filepath.Join(RunsDir, base+".jsonl") }

// makeJob makes the container of a job, and all that comes before it.
func (e *Engine) makeJob(ctx context.Context, api *client.Client, of string) error {
	var c docker.Container
	d, err := read(of, &c)
	if err != nil {
		return err
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
	_, err = e.create(ctx, api, of, &c, d)
	return err
}

// startJob makes a job whose time systemd keeps ready to be run.
func (e *Engine) startJob(ctx context.Context, api *client.Client, unit string) error {
	var cron docker.Cron
	if _, err := read(unit, &cron); err != nil {
		return err
	}
	if err := e.alone("runner", installRunner); err != nil {
		return fmt.Errorf("%s: %w", docker.Runner, err)
	}
	if err := os.MkdirAll(RunsDir, 0o755); err != nil {
		return err
	}
	if err := e.makeJob(ctx, api, cron.Of); err != nil {
		return err
	}
	e.sweepJob(ctx, api, cron)
	return nil
}

// installRunner puts this program where timers find it.
func installRunner() error {
	const me = "/proc/self/exe" // it is there even if its name is gone
	mine, err := os.Stat(me)
	if err != nil {
		return err
	}
	if have, err := os.Stat(docker.Runner); err == nil && (os.SameFile(mine, have) || have.Size() == mine.Size() && have.ModTime().Equal(mine.ModTime())) {
		return nil
	}
	dir, tmp := filepath.Dir(docker.Runner), docker.Runner+".new"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// What lies beside it has its digest for a name, and never changes.
	if exe, err := os.Executable(); err == nil && filepath.Dir(exe) == dir && os.Link(exe, tmp) == nil {
		return os.Rename(tmp, docker.Runner)
	}
	from, err := os.Open(me)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Chmod(0o755), to.Sync(), to.Close(), os.Chtimes(tmp, mine.ModTime(), mine.ModTime())); err != nil {
		return err
	}
	return os.Rename(tmp, docker.Runner)
}

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
	if err := e.makeJob(ctx, api, cron.Of); err != nil || runs {
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
		if err != nil || last.open() && last.Of == unit || !began.After(last.Begun) || !began.After(last.Ended) {
			continue
		}
		write(recordOf(base), Run{Due: began.UTC(), Begun: began.UTC(), Of: unit})
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

// Job runs a job now, to its end: its time has come, or its timer has just been
// started and asks whether a run was missed.
func Job(file string, said io.Writer) error {
	unit := filepath.Base(file)
	var c docker.Cron
	if _, err := read(unit, &c); err != nil {
		return err
	}
	times, err := NewTimetable(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	e := &Engine{} // DOCKER_HOST says where it is
	record, due := recordOf(c.Base), times.Last(time.Now()).UTC()
	for newest(record).open() { // what became of it decides whether it is owed
		err := e.lasting(ctx, func(api *client.Client) error { return e.settle(ctx, api, c.Base) })
		if err == nil || !c.CatchUp {
			break
		}
		if !sleep(ctx, 3*time.Second) {
			return nil
		}
	}
	if c.CatchUp && !due.After(done(newest(record), file)) {
		return nil // it missed nothing
	}
	r := Run{Due: due, Begun: time.Now().UTC(), Of: c.Of}
	for {
		err := e.lasting(ctx, func(api *client.Client) error {
			if err := e.makeJob(ctx, api, c.Of); err != nil {
				return err
			}
			r = e.runJob(ctx, api, c, due)
			return nil
		})
		if ctx.Err() != nil {
			return nil // whoever comes next sees how it ended
		}
		if err != nil {
			_, absent := errors.AsType[*Absent](err)
			r.Ended, r.Error, r.Lost = time.Now().UTC(), err.Error(), absent || gone(err)
		}
		if !r.Lost || !c.CatchUp {
			break
		}
		fmt.Fprintln(said, r) // its run is owed until an engine is there
		if !sleep(ctx, 3*time.Second) {
			return nil
		}
	}
	write(record, r)
	fmt.Fprintln(said, r)
	if api, err := e.connect(); err == nil {
		e.sweepJob(ctx, api, c)
	}
	if r.Code != 0 || r.Error != "" {
		return fmt.Errorf("the run that was due %s failed", due.Format(time.RFC3339))
	}
	return nil
}

// done is the time up to which a job owes no run. One that never ran owes none
// from before its file was written.
func done(last Run, file string) time.Time {
	switch {
	case last.Cut:
		return last.Due.Add(-1)
	case !last.Due.IsZero():
		return last.Due
	}
	info, err := os.Stat(file)
	if err != nil {
		return time.Now()
	}
	return info.ModTime()
}

// String tells of a run that has ended.
func (r Run) String() string {
	return fmt.Sprintf("run of %s: exit code %d, %s %s", r.Due.UTC().Format(time.RFC3339), r.Code, r.Ended.Sub(r.Begun).Round(time.Millisecond), r.Error)
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
		if r.Lost { // an engine that came back has another socket, which a new container sees
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
	r := Run{Due: due.UTC(), Begun: time.Now().UTC(), Of: c.Of}
	write(recordOf(c.Base), r)
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
		// An engine that came back may have ended it: that was its run, unless runs are to be made up for.
		if have, err := find(ctx, api, c.Of); err == nil && have != nil && !have.State.Running {
			seen := r
			if seen.unseen(have); seen.Error == "" && !(seen.Cut && c.CatchUp) {
				seen.Lost, seen.Cut = false, false
				return seen
			}
		}
		r.Error, r.Lost = "", false
	}
}

// settle writes down how runs ended that nobody waited for.
func (e *Engine) settle(ctx context.Context, api *client.Client, base string) error {
	list, changed := records(recordOf(base)), false
	for i := range list {
		r := &list[i]
		if !r.open() {
			continue
		}
		var have *container.InspectResponse
		if !slices.ContainsFunc(list[i+1:], func(later Run) bool { return later.Of == r.Of }) { // else its container has run again
			var err error
			if have, err = find(ctx, api, r.Of); gone(err) {
				return err
			}
		}
		if have == nil || !have.State.Running {
			r.unseen(have)
			changed = true
		}
	}
	if changed {
		writeAll(recordOf(base), list)
	}
	return nil
}

// sweepJob removes earlier versions of a job that have come to their end.
func (e *Engine) sweepJob(ctx context.Context, api *client.Client, c docker.Cron) {
	if e.settle(ctx, api, c.Base) != nil {
		return
	}
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

// write adds a run, or what is now known of the newest one.
func write(file string, r Run) {
	list := records(file)
	if n := len(list); n > 0 && list[n-1].Due.Equal(r.Due) && (list[n-1].open() || list[n-1].Begun.Equal(r.Begun)) {
		list = list[:n-1]
	}
	writeAll(file, append(list, r))
}

func writeAll(file string, list []Run) {
	var text bytes.Buffer
	for _, r := range list[max(0, len(list)-maxRuns):] {
		raw, err := json.Marshal(r)
		if err != nil {
			return
		}
		text.Write(append(raw, '\n'))
	}
	tmp := file + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return
	}
	_, err = f.Write(text.Bytes())
	if errors.Join(err, f.Sync(), f.Close()) == nil {
		os.Rename(tmp, file)
	}
}

// records are the runs that are kept, the newest last.
func records(file string) []Run {
	raw, _ := os.ReadFile(file)
	var out []Run
	for line := range bytes.Lines(raw) {
		var r Run
		if json.Unmarshal(line, &r) == nil {
			out = append(out, r)
		}
	}
	return out
}

// newest is the last recorded run; zero if there is none.
func newest(file string) Run {
	list := records(file)
	if len(list) == 0 {
		return Run{}
	}
	return list[len(list)-1]
}

// Runs tells of a job how it went last, and when it is due, jitter apart. A run
// without an end goes on.
func (e *Engine) Runs(ctx context.Context, unit string) (last Run, next time.Time, err error) {
	var c docker.Cron
	if _, err := read(unit, &c); err != nil {
		return last, next, err
	}
	times, err := NewTimetable(c)
	if err != nil {
		return last, next, err
	}
	if last = newest(recordOf(c.Base)); last.open() {
		err = e.lasting(ctx, func(api *client.Client) error {
			have, err := find(ctx, api, last.Of)
			if !gone(err) && (have == nil || !have.State.Running) {
				last.unseen(have)
				err = nil
			}
			return err
		})
	}
	return last, times.Next(time.Now()).UTC(), err
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
