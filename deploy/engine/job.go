package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/moby/moby/client"
)

// Zones is the folder of the machine's time zones.
const Zones = "/usr/share/zoneinfo"

// startJob prepares a job that a systemd timer starts.
func (e *Engine) startJob(ctx context.Context, api *client.Client, unit string) error {
	cron, _, err := readJob(unit)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(Zones, cron.Timezone)); err != nil && cron.Timezone != "UTC" { // its timer would never elapse
		return fmt.Errorf("systemd does not know the time zone %q: install the package tzdata or tzdata-legacy", cron.Timezone)
	}
	if err := e.withLock("runner", installRunner); err != nil {
		return fmt.Errorf("%s: %w", docker.Runner, err)
	}
	if err := os.MkdirAll(RunsDir, 0o700); err != nil {
		return err
	}
	if err := e.createJob(ctx, api, cron.Unit); err != nil {
		return err
	}
	e.removeOldVersions(ctx, api, cron)
	return nil
}

// createJob creates the container of a job, after running the scripts that come before it.
func (e *Engine) createJob(ctx context.Context, api *client.Client, unit string) error {
	var c docker.Container
	d, err := readUnit(unit, &c)
	if err != nil {
		return err
	}
	for _, script := range c.Before {
		if err := e.runOnce(ctx, script); err != nil {
			return err
		}
	}
	if c.Pod != "" {
		if _, err := e.pod(ctx, api, c.Pod, true); err != nil {
			return err
		}
	}
	_, err = e.create(ctx, api, unit, &c, d)
	return err
}

// installRunner installs this program where timers start it.
func installRunner() error {
	const exePath = "/proc/self/exe" // works even if the file was renamed or deleted
	exeInfo, err := os.Stat(exePath)
	if err != nil {
		return err
	}
	if have, err := os.Stat(docker.Runner); err == nil && (os.SameFile(exeInfo, have) || have.Size() == exeInfo.Size() && have.ModTime().Equal(exeInfo.ModTime())) {
		return nil
	}
	dir, tmp := filepath.Dir(docker.Runner), docker.Runner+".new"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A program in this folder is named by its digest, and never changes.
	if exe, err := os.Executable(); err == nil && filepath.Dir(exe) == dir && os.Link(exe, tmp) == nil {
		return os.Rename(tmp, docker.Runner)
	}
	from, err := os.Open(exePath)
	if err != nil {
		return err
	}
	defer from.Close()
	err = atomicfile.WriteFunc(docker.Runner, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, from)
		return err
	})
	if err != nil {
		return err
	}
	return os.Chtimes(docker.Runner, exeInfo.ModTime(), exeInfo.ModTime())
}

// Job runs a job now, to its end. A timer starts it when the job is due, and once when the
// timer itself starts, to make up for a missed run. What happened is written to out.
func Job(ctx context.Context, file string, out io.Writer) error {
	c, times, err := readJob(filepath.Base(file))
	if err != nil {
		return err
	}
	e := &Engine{} // uses DOCKER_HOST
	record, due := recordPath(c.Base), times.Last(time.Now()).UTC()
	for lastRun(record).open() { // the outcome of the last run decides whether another is due
		err := e.withRetry(ctx, func(api *client.Client) error { return e.closeRuns(ctx, api, c.Base) })
		if err == nil || !c.CatchUp {
			break
		}
		if !sleepWallClock(ctx, 3*time.Second) {
			return nil
		}
	}
	if c.CatchUp && !due.After(doneUntil(lastRun(record), file)) {
		return nil // no run was missed
	}
	r := Run{Due: due, Started: time.Now().UTC(), Unit: c.Unit}
	for {
		err := e.withRetry(ctx, func(api *client.Client) error {
			if err := e.createJob(ctx, api, c.Unit); err != nil {
				return err
			}
			r = e.runJob(ctx, api, c, due)
			return nil
		})
		if ctx.Err() != nil {
			return nil // the next process records how it ended
		}
		if err != nil {
			_, unavailable := errors.AsType[*ErrEngineUnavailable](err)
			r.Ended, r.Error, r.EngineUnavailable, r.Interrupted = time.Now().UTC(), err.Error(), unavailable || connectionLost(err), true // it never started
		}
		if !r.EngineUnavailable || !c.CatchUp {
			break
		}
		fmt.Fprintln(out, r) // the run remains due until an engine is available
		if !sleepWallClock(ctx, 3*time.Second) {
			return nil
		}
	}
	recordRun(ctx, record, r)
	fmt.Fprintln(out, r)
	if api, err := e.connect(); err == nil {
		e.removeOldVersions(ctx, api, c)
	}
	if r.Code != 0 || r.Error != "" {
		return fmt.Errorf("the run that was due %s failed", due.Format(time.RFC3339))
	}
	return nil
}
