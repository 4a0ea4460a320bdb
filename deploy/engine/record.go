package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// RunsDir has one file for each job, with one line for each run.
const RunsDir = "/var/lib/defx/runs"

// Run is one run of a job. It is recorded when the run starts, and again when it has ended.
type Run struct {
	Due               time.Time `json:"due"`
	Started           time.Time `json:"begun,omitzero"`
	Ended             time.Time `json:"ended,omitzero"`
	Unit              string    `json:"of,omitempty"` // unit of the container
	Code              int       `json:"code"`
	Error             string    `json:"error,omitempty"`
	EngineUnavailable bool      `json:"lost,omitempty"` // the engine did not answer
	Interrupted       bool      `json:"cut,omitempty"`  // it could not start, or failed while no process was waiting for it, say in a shutdown; it counts as missed
}

// open reports whether the end of the run is not recorded yet.
func (r Run) open() bool { return !r.Started.IsZero() && r.Ended.IsZero() }

// inferOutcome sets the outcome of a run that no process waited for, from what is left of
// its container.
func (r *Run) inferOutcome(have *container.InspectResponse) {
	r.Ended, r.Error = r.Started, "its outcome is unknown"
	if have != nil && have.State != nil {
		startedAt, _ := time.Parse(time.RFC3339Nano, have.State.StartedAt)
		ended, _ := time.Parse(time.RFC3339Nano, have.State.FinishedAt)
		if !startedAt.Before(r.Started) && !ended.Before(startedAt) {
			r.Ended, r.Code, r.Error = ended.UTC(), have.State.ExitCode, ""
		}
	}
	r.Interrupted = r.Code != 0 || r.Error != ""
}

// runsDir is RunsDir, except in tests.
var runsDir = RunsDir

// recordPath returns the file of a job's runs.
func recordPath(base string) string { return filepath.Join(runsDir, base+".jsonl") }

// doneUntil returns the time up to which no run of a job is missing. For a job that never
// ran, that is when its file was written.
func doneUntil(last Run, file string) time.Time {
	switch {
	case last.Interrupted:
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

// String describes a run that has ended.
func (r Run) String() string {
	return fmt.Sprintf("run of %s: exit code %d, %s %s", r.Due.UTC().Format(time.RFC3339), r.Code, r.Ended.Sub(r.Started).Round(time.Millisecond), r.Error)
}

// closeRuns records the outcome of runs that no process waited for.
func (e *Engine) closeRuns(ctx context.Context, api *client.Client, base string) error {
	return withRecordLock(ctx, recordPath(base), func() error { return closeOpenRuns(ctx, api, base) })
}

func closeOpenRuns(ctx context.Context, api *client.Client, base string) error {
	list, changed := readRuns(recordPath(base)), false
	for i := range list {
		r := &list[i]
		if !r.open() {
			continue
		}
		var have *container.InspectResponse
		if !slices.ContainsFunc(list[i+1:], func(later Run) bool { return later.Unit == r.Unit }) { // otherwise the container has run again since
			var err error
			if have, err = inspect(ctx, api, r.Unit); connectionLost(err) {
				return err
			}
		}
		if have == nil || !have.State.Running {
			r.inferOutcome(have)
			changed = true
		}
	}
	if changed {
		writeRuns(recordPath(base), list)
	}
	return nil
}

// maxRuns is the number of runs that are kept of a job.
const maxRuns = 1000

// recordRun appends a run, or updates the newest one.
func recordRun(ctx context.Context, file string, r Run) {
	withRecordLock(context.WithoutCancel(ctx), file, func() error {
		list := readRuns(file)
		if n := len(list); n > 0 && list[n-1].Due.Equal(r.Due) && (list[n-1].open() || list[n-1].Started.Equal(r.Started)) {
			list = list[:n-1]
		}
		writeRuns(file, append(list, r))
		return nil
	})
}

func writeRuns(file string, list []Run) {
	var text bytes.Buffer
	for _, r := range list[max(0, len(list)-maxRuns):] {
		raw, err := json.Marshal(r)
		if err != nil {
			return
		}
		text.Write(append(raw, '\n'))
	}
	atomicfile.Write(file, text.Bytes(), 0o600)
}

// readRuns returns the recorded runs, the newest last.
func readRuns(file string) []Run {
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

// lastRun returns the newest recorded run; zero if there is none.
func lastRun(file string) Run {
	list := readRuns(file)
	if len(list) == 0 {
		return Run{}
	}
	return list[len(list)-1]
}

// Runs returns the last run of a job, which is still running if it has no end, and when the
// next one is due, without jitter.
func (e *Engine) Runs(ctx context.Context, unit string) (last Run, next time.Time, err error) {
	c, times, err := readJob(unit)
	if err != nil {
		return last, next, err
	}
	if last = lastRun(recordPath(c.Base)); last.open() {
		err = e.withRetry(ctx, func(api *client.Client) error {
			have, err := inspect(ctx, api, last.Unit)
			if !connectionLost(err) && (have == nil || !have.State.Running) {
				last.inferOutcome(have)
				err = nil
			}
			return err
		})
	}
	return last, times.Next(time.Now()).UTC(), err
}
