package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/client"
)

// Zones is where a machine keeps its time zones.
const Zones = "/usr/share/zoneinfo"

// startJob makes a job whose time systemd keeps ready to be run.
func (e *Engine) startJob(ctx context.Context, api *client.Client, unit string) error {
	cron, _, err := timesOf(unit)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(Zones, cron.Timezone)); err != nil && cron.Timezone != "UTC" { // its timer would never come due
		return fmt.Errorf("the time zone %q is not on this machine, where systemd looks for it: its package tzdata, or tzdata-legacy, has it", cron.Timezone)
	}
	if err := e.alone("runner", installRunner); err != nil {
		return fmt.Errorf("%s: %w", docker.Runner, err)
	}
	if err := os.MkdirAll(RunsDir, 0o755); err != nil {
		return err
	}
	if err := e.makeJob(ctx, api, cron.Unit); err != nil {
		return err
	}
	e.sweepJob(ctx, api, cron)
	return nil
}

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

// Job runs a job now, to its end: its time has come, or its timer has just been
// started and asks whether a run was missed.
func Job(file string, said io.Writer) error {
	c, times, err := timesOf(filepath.Base(file))
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
	r := Run{Due: due, Begun: time.Now().UTC(), Unit: c.Unit}
	for {
		err := e.lasting(ctx, func(api *client.Client) error {
			if err := e.makeJob(ctx, api, c.Unit); err != nil {
				return err
			}
			r = e.runJob(ctx, api, c, due)
			return nil
		})
		if ctx.Err() != nil {
			return nil // whoever comes next sees how it ended
		}
		if err != nil {
			_, absent := errors.AsType[*ErrEngineUnavailable](err)
			r.Ended, r.Error, r.EngineUnavailable, r.Interrupted = time.Now().UTC(), err.Error(), absent || gone(err), true // it never began
		}
		if !r.EngineUnavailable || !c.CatchUp {
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
