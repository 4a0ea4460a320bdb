package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// RunsDir keeps one file for each job, a line for each run.
const RunsDir = "/var/lib/defx/runs"

// Run is one line there. It is written when the run begins, and again when it has ended.
type Run struct {
	Due               time.Time `json:"due"`
	Begun             time.Time `json:"begun,omitzero"`
	Ended             time.Time `json:"ended,omitzero"`
	Unit              string    `json:"of,omitempty"` // file of the container
	Code              int       `json:"code"`
	Error             string    `json:"error,omitempty"`
	EngineUnavailable bool      `json:"lost,omitempty"` // the engine did not answer
	Interrupted       bool      `json:"cut,omitempty"`  // it failed while nobody looked, say because the machine went down, or could not begin: as good as missed
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
	r.Interrupted = r.Code != 0 || r.Error != ""
}

// runsDir is RunsDir, but for tests.
var runsDir = RunsDir

// recordOf is the file of a job's runs.
func recordOf(base string) string { return filepath.Join(runsDir, base+".jsonl") }

// done is the time up to which a job owes no run. One that never ran owes none
// from before its file was written.
func done(last Run, file string) time.Time {
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

// String tells of a run that has ended.
func (r Run) String() string {
	return fmt.Sprintf("run of %s: exit code %d, %s %s", r.Due.UTC().Format(time.RFC3339), r.Code, r.Ended.Sub(r.Begun).Round(time.Millisecond), r.Error)
}

// settle writes down how runs ended that nobody waited for.
func (e *Engine) settle(ctx context.Context, api *client.Client, base string) error {
	return steadily(ctx, recordOf(base), func() error { return settled(ctx, api, base) })
}

func settled(ctx context.Context, api *client.Client, base string) error {
	list, changed := records(recordOf(base)), false
	for i := range list {
		r := &list[i]
		if !r.open() {
			continue
		}
		var have *container.InspectResponse
		if !slices.ContainsFunc(list[i+1:], func(later Run) bool { return later.Unit == r.Unit }) { // else its container has run again
			var err error
			if have, err = find(ctx, api, r.Unit); gone(err) {
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

// maxRuns bounds the lines that are kept of a job.
const maxRuns = 1000

// write adds a run, or what is now known of the newest one.
func write(file string, r Run) {
	steadily(context.Background(), file, func() error {
		list := records(file)
		if n := len(list); n > 0 && list[n-1].Due.Equal(r.Due) && (list[n-1].open() || list[n-1].Begun.Equal(r.Begun)) {
			list = list[:n-1]
		}
		writeAll(file, append(list, r))
		return nil
	})
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
	c, times, err := timesOf(unit)
	if err != nil {
		return last, next, err
	}
	if last = newest(recordOf(c.Base)); last.open() {
		err = e.lasting(ctx, func(api *client.Client) error {
			have, err := find(ctx, api, last.Unit)
			if !gone(err) && (have == nil || !have.State.Running) {
				last.unseen(have)
				err = nil
			}
			return err
		})
	}
	return last, times.Next(time.Now()).UTC(), err
}
