package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/deploy/engine"
	"golang.org/x/sys/unix"
)

// multiSupervisor is the supervisor of a real machine: systemd and a docker engine, or one
// of them. The suffix of a unit's name says which one runs it.
type multiSupervisor struct {
	systemd systemd
	engine  engine.Engine

	mu      sync.Mutex
	checked map[bool]bool // isContainer → it was available
}

func (b *multiSupervisor) Check(ctx context.Context, units ...string) error {
	if len(units) == 0 {
		err := b.check(ctx, false)
		if err == nil {
			return nil
		}
		engineErr := b.check(ctx, true)
		if engineErr == nil {
			return nil
		}
		return &noSupervisorError{systemd: err, engine: engineErr}
	}
	for _, u := range units {
		if err := b.check(ctx, isContainer(u)); err != nil {
			return err
		}
	}
	return nil
}

// noSupervisorError is the error of a machine on which nothing can run units.
type noSupervisorError struct{ systemd, engine error }

func (e *noSupervisorError) Error() string {
	return fmt.Sprintf("neither systemd nor a docker engine runs here: %v; %v", e.engine, e.systemd)
}

func (e *noSupervisorError) Unwrap() []error { return []error{e.engine, e.systemd} }

func (b *multiSupervisor) check(ctx context.Context, docker bool) error {
	b.mu.Lock()
	ok := b.checked[docker]
	b.mu.Unlock()
	if ok {
		return nil
	}
	err := error(nil)
	if docker {
		err = b.engine.Check(ctx)
	} else {
		err = b.systemd.Check(ctx)
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.checked == nil {
		b.checked = map[bool]bool{}
	}
	b.checked[docker] = true
	return nil
}

func (b *multiSupervisor) Reload(ctx context.Context) error { return b.systemd.Reload(ctx) }

// timerEngine returns the engine's socket if systemd can start its jobs: it runs here,
// accepts new unit files, and knows time zones. Otherwise it returns "".
func (b *multiSupervisor) timerEngine(ctx context.Context) string {
	if b.check(ctx, false) != nil || unix.Access(unitDir, unix.W_OK) != nil || unix.Access(engine.Zones, unix.R_OK) != nil {
		return ""
	}
	return b.engine.Path()
}

// translateError maps an engine error to the agent's error type.
func translateError(err error) error {
	if f, is := errors.AsType[*engine.CommandError](err); is {
		return &jobError{text: f.Text}
	}
	return err
}

func (b *multiSupervisor) Prepare(ctx context.Context, unit string, replaced []string) error {
	if !isContainer(unit) {
		return nil
	}
	return b.engine.Prepare(ctx, unit, replaced)
}

func (b *multiSupervisor) Start(ctx context.Context, unit string) error {
	if !isContainer(unit) {
		return b.systemd.Start(ctx, unit)
	}
	return translateError(b.engine.Start(ctx, unit))
}

func (b *multiSupervisor) Stop(ctx context.Context, unit string) error {
	if !isContainer(unit) {
		return b.systemd.Stop(ctx, unit)
	}
	return b.engine.Stop(ctx, unit)
}

func (b *multiSupervisor) Restart(ctx context.Context, unit string) error {
	if !isContainer(unit) {
		return b.systemd.Restart(ctx, unit)
	}
	return translateError(b.engine.Restart(ctx, unit))
}

func (b *multiSupervisor) ReloadUnit(ctx context.Context, unit string) error {
	if !isContainer(unit) {
		return b.systemd.ReloadUnit(ctx, unit)
	}
	return translateError(b.engine.Reload(ctx, unit))
}

func (b *multiSupervisor) ActivateTarget(ctx context.Context, group string) error {
	return b.systemd.ActivateTarget(ctx, group)
}

func (b *multiSupervisor) Forget(ctx context.Context, unit string) error {
	if !isContainer(unit) {
		return b.systemd.Forget(ctx, unit)
	}
	return b.engine.Remove(ctx, unit)
}

func (b *multiSupervisor) State(ctx context.Context, unit string) (SupervisorState, error) {
	if !isContainer(unit) {
		return b.systemd.State(ctx, unit)
	}
	st, err := b.engine.State(ctx, unit)
	out := SupervisorState{Load: "not-found", Active: st.Active, Sub: st.Sub, Result: st.Result, Code: st.Code, PID: st.PID, Restarts: st.Restarts, LastOutput: st.LastOutput, Since: st.Since, Drift: st.Drift,
		StopSignal: st.StopSignal, StopTimeout: st.StopTimeout}
	if st.Known {
		out.Load = "loaded"
	}
	return out, err
}

func (b *multiSupervisor) Runs(ctx context.Context, timer, service string) (*Runs, error) {
	if !isContainer(service) {
		return b.systemd.Runs(ctx, timer, service)
	}
	job := timer
	if !isContainer(timer) {
		job = docker.TimerJob(timer)
	}
	last, next, err := b.engine.Runs(ctx, job)
	if err == nil && job != timer { // systemd's time includes its jitter
		next, err = b.systemd.nextElapse(ctx, timer)
	}
	if err != nil {
		return nil, err
	}
	out := &Runs{Last: last.Started, Ended: last.Ended, Code: last.Code, Next: next, Running: !last.Started.IsZero() && last.Ended.IsZero()}
	switch {
	case last.Started.IsZero() || out.Running:
	case last.Code == 0 && last.Error == "":
		out.Result = "success"
	case last.Code == 0:
		out.Result = last.Error
	default:
		out.Result = "exit-code"
	}
	return out, nil
}

func (b *multiSupervisor) Hosts(ctx context.Context, unit string) ([]string, error) {
	if !isContainer(unit) {
		return b.systemd.Hosts(ctx, unit)
	}
	list, err := b.engine.Hosts(ctx, unit)
	if err == nil && len(list) == 0 {
		list = localAddrs()
	}
	return list, err
}

func (b *multiSupervisor) Logs(ctx context.Context, e *Entry, n int, follow bool, each func([]Line) error) error {
	fromEngine := func(n int, follow bool, each func([]Line) error) error {
		return b.engine.Logs(ctx, e.Name, n, follow, func(list []engine.Line) error {
			out := make([]Line, len(list))
			for i, l := range list {
				out[i] = Line{Time: l.Time, Text: l.Text}
			}
			return each(out)
		})
	}
	switch {
	case !isContainer(e.Unit):
		return b.systemd.Logs(ctx, e, n, follow, each)
	case e.Timer == "":
		return fromEngine(n, follow, each)
	}
	// For a job that systemd starts, the journal says how its runs ended.
	var all []Line
	collect := func(list []Line) error { all = append(all, list...); return nil }
	if err := errors.Join(fromEngine(n, false, collect), b.systemd.Logs(ctx, e, n, false, collect)); err != nil {
		return err
	}
	slices.SortStableFunc(all, func(x, y Line) int { return x.Time.Compare(y.Time) })
	if all = all[max(0, len(all)-n):]; len(all) > 0 {
		if err := each(all); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	var mu sync.Mutex
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	one := func(list []Line) error { mu.Lock(); defer mu.Unlock(); return each(list) }
	over := make(chan error, 2)
	go func() { over <- fromEngine(0, true, one) }()
	go func() { over <- b.systemd.Logs(ctx, e, 0, true, one) }()
	err := <-over
	stop()
	return errors.Join(err, <-over)
}

func (b *multiSupervisor) Journal(ctx context.Context, units []string, since time.Time, n int) []string {
	var ofEngine, ofSystemd []string
	for _, u := range units {
		if isContainer(u) {
			ofEngine = append(ofEngine, u)
		} else {
			ofSystemd = append(ofSystemd, u)
		}
	}
	if len(ofEngine) == 0 {
		return b.systemd.Journal(ctx, ofSystemd, since, n)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return b.engine.Tail(ctx, ofEngine, since, n)
}

func (b *multiSupervisor) Versions(ctx context.Context) map[string]string {
	out := map[string]string{"systemd": b.systemd.Versions(ctx)["systemd"]}
	if v := b.engine.Version(ctx); v != "" {
		out["docker"] = v
	}
	return out
}

func (b *multiSupervisor) Collect(ctx context.Context, keep engine.InUse, dry bool) (uint64, []string, error) {
	if b.check(ctx, true) != nil {
		return 0, nil, nil // nothing to collect
	}
	return b.engine.Collect(ctx, keep, dry)
}

func (b *multiSupervisor) Orphans(ctx context.Context, scope string, known func(string) bool) ([]string, error) {
	if b.check(ctx, true) != nil {
		return nil, nil
	}
	return b.engine.Orphans(ctx, scope, known)
}

func (b *multiSupervisor) Close() {
	b.systemd.Close()
	b.engine.Close()
}
