package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/defx-dev/defx/internal/program"
	"golang.org/x/sys/unix"
)

// Supervisor runs units on a machine. Unit names are those of a backends.Layout.
type Supervisor interface {
	// Check reports whether what runs the given units is available; without units, whether
	// any supervisor is.
	Check(ctx context.Context, units ...string) error
	// Prepare creates what a unit needs apart from files, without starting anything, and
	// fails if something is in its way. replaced are the units that will be stopped before
	// it starts.
	Prepare(ctx context.Context, unit string, replaced []string) error
	// Reload makes the supervisor read its unit files again. Concurrent calls share one
	// reload.
	Reload(ctx context.Context) error
	// Start, Stop, Restart and ReloadUnit return when the operation is complete. Starting a
	// running unit changes nothing.
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	ReloadUnit(ctx context.Context, unit string) error
	// ActivateTarget marks a group as active without starting its members.
	ActivateTarget(ctx context.Context, group string) error
	// Forget removes what is left of a unit that was stopped for good, including its failed
	// state.
	Forget(ctx context.Context, unit string) error
	// State returns the state of a unit.
	State(ctx context.Context, unit string) (SupervisorState, error)
	// Runs returns the last run of a timer's service and the time of the next one.
	Runs(ctx context.Context, timer, service string) (*Runs, error)
	// Hosts returns the addresses on which a unit may listen, the likeliest first.
	Hosts(ctx context.Context, unit string) ([]string, error)
	// Listeners returns who listens on a port of this machine in addition to units; own reports
	// whether one of these does.
	Listeners(ctx context.Context, protocol string, port int, units []string) (own bool, others []Listener, err error)
	// Logs passes the last n lines of everything that belongs to an entry to each, and with
	// follow new ones.
	Logs(ctx context.Context, e *Entry, n int, follow bool, each func([]Line) error) error
	// Journal returns the last n log lines of units since a time.
	Journal(ctx context.Context, units []string, since time.Time, n int) []string
	// Versions returns the versions of what runs units here, by name.
	Versions(ctx context.Context) map[string]string
	Close()
}

// SupervisorState is the state of a unit in systemd's terms, whatever runs it.
type SupervisorState struct {
	Load       string    `json:"load"`   // loaded, not-found, masked
	Active     string    `json:"active"` // active, activating, inactive, failed, …
	Sub        string    `json:"sub"`
	Result     string    `json:"result,omitempty"` // of a service: success, exit-code, signal, …
	Code       int       `json:"code,omitempty"`   // exit code or signal of its process
	PID        int       `json:"pid,omitempty"`
	Restarts   int       `json:"restarts,omitempty"`
	Since      time.Time `json:"since,omitzero"` // start of the current state
	LastOutput string    `json:"said,omitempty"` // of the health check that found it unhealthy
	Path       string    `json:"path,omitempty"` // of its unit file
	DropIns    []string  `json:"dropIns,omitempty"`
	Drift      []string  `json:"drift,omitempty"` // differences from its unit file, one sentence each
	Stale      bool      `json:"stale,omitempty"` // its unit file or drop-ins have changed since systemd read them
	Frozen     bool      `json:"frozen,omitempty"`

	StopSignal  string        `json:"-"` // the first signal that stops it; empty: unknown
	StopTimeout time.Duration `json:"-"` // after which its stop becomes a kill; 0: never, or unknown
}

// systemd is systemd as a supervisor. It uses systemd's private socket, so no message bus is
// needed.
type systemd struct {
	mu   sync.Mutex
	conn *dbus.Conn
	next *reloadCall // requested, but not started yet

	reloading sync.Mutex // held during a reload
}

type reloadCall struct {
	done chan struct{}
	err  error
}

func (s *systemd) connect(ctx context.Context) (*dbus.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.Connected() {
		return s.conn, nil
	}
	c, err := dbus.NewSystemdConnectionContext(context.WithoutCancel(ctx)) // the context ends the whole connection
	if err != nil {
		return nil, &systemdUnavailableError{err}
	}
	s.conn = c
	return c, nil
}

// systemdUnavailableError is the error of a machine on which systemd does not run.
type systemdUnavailableError struct{ err error }

func (e *systemdUnavailableError) Error() string {
	return "systemd is not running here: " + e.err.Error()
}
func (e *systemdUnavailableError) Unwrap() error { return e.err }

func (s *systemd) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
}

func (s *systemd) Check(ctx context.Context, _ ...string) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := c.GetManagerProperty("Version"); err != nil {
		return fmt.Errorf("systemd does not answer: %w", err)
	}
	return nil
}

// Versions returns systemd's version.
func (s *systemd) Versions(ctx context.Context) map[string]string {
	c, err := s.connect(ctx)
	if err != nil {
		return nil
	}
	v, _ := c.GetManagerProperty("Version")
	return map[string]string{"systemd": strings.Trim(v, `"`)}
}

// Prepare does nothing: systemd needs files only.
func (s *systemd) Prepare(context.Context, string, []string) error { return nil }

// Hosts returns the addresses of the machine.
func (s *systemd) Hosts(context.Context, string) ([]string, error) { return localAddrs(), nil }

func (s *systemd) Reload(ctx context.Context) error {
	s.mu.Lock()
	r := s.next
	if r == nil {
		r = &reloadCall{done: make(chan struct{})}
		s.next = r
		go s.runReload(context.WithoutCancel(ctx), r)
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return r.err
	}
}

// runReload waits for the reload in progress; until then, more callers can join r.
func (s *systemd) runReload(ctx context.Context, r *reloadCall) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	defer close(r.done)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := s.connect(ctx)
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	if err == nil {
		err = c.ReloadContext(ctx)
	}
	if err != nil {
		r.err = fmt.Errorf("systemd cannot reload its unit files: %w", err)
	}
}

// jobFunc starts a systemd job; done receives its result.
type jobFunc func(c *dbus.Conn, ctx context.Context, unit, mode string, done chan<- string) (int, error)

// jobError is the error of a job that failed.
type jobError struct {
	result string // in systemd's terms; empty if an engine ran it
	text   string // the engine's message
}

func (f *jobError) Error() string {
	if f.text != "" {
		return f.text
	}
	return "systemd reports: " + f.result
}

func (s *systemd) job(ctx context.Context, f jobFunc, unit, mode string) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	done := make(chan string, 1)
	if _, err := f(c, ctx, unit, mode, done); err != nil {
		return fmt.Errorf("%s: %w", unit, err)
	}
	idleChecks := 0
	check := time.NewTicker(2 * time.Second) // if the completion signal is lost, the unit's Job property shows the end
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case result := <-done:
			if result != "done" && result != "skipped" {
				return &jobError{result: result}
			}
			return nil
		case <-check.C:
			if !c.Connected() {
				return errors.New("the connection to systemd was lost")
			}
			p, err := c.GetUnitPropertyContext(ctx, unit, "Job")
			if err != nil {
				return err
			}
			if id, ok := p.Value.Value().([]any); !ok || len(id) == 0 || id[0] != uint32(0) {
				idleChecks = 0
				continue
			}
			if idleChecks++; idleChecks > 1 {
				return nil // the caller checks the state
			}
		}
	}
}

func (s *systemd) Start(ctx context.Context, unit string) error {
	return s.job(ctx, (*dbus.Conn).StartUnitContext, unit, "replace")
}

func (s *systemd) ActivateTarget(ctx context.Context, group string) error {
	return s.job(ctx, (*dbus.Conn).StartUnitContext, group, "ignore-dependencies")
}

func (s *systemd) Restart(ctx context.Context, unit string) error {
	return s.job(ctx, (*dbus.Conn).RestartUnitContext, unit, "replace")
}

func (s *systemd) ReloadUnit(ctx context.Context, unit string) error {
	return s.job(ctx, (*dbus.Conn).ReloadUnitContext, unit, "replace")
}

func (s *systemd) Stop(ctx context.Context, unit string) error {
	err := s.job(ctx, (*dbus.Conn).StopUnitContext, unit, "replace")
	if err != nil && strings.Contains(err.Error(), "not loaded") {
		return nil
	}
	return err
}

func (s *systemd) Forget(ctx context.Context, unit string) error {
	if c, err := s.connect(ctx); err == nil {
		c.ResetFailedUnitContext(ctx, unit) // most units have no failed state to reset
	}
	return nil
}

func (s *systemd) State(ctx context.Context, unit string) (SupervisorState, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return SupervisorState{}, err
	}
	p, err := c.GetAllPropertiesContext(ctx, unit) // all at one time: a restart between two calls would hide why it ended
	if err != nil {
		return SupervisorState{}, fmt.Errorf("%s: %w", unit, err)
	}
	var out SupervisorState
	out.Load, _ = p["LoadState"].(string)
	out.Active, _ = p["ActiveState"].(string)
	out.Sub, _ = p["SubState"].(string)
	out.Path, _ = p["FragmentPath"].(string)
	out.DropIns, _ = p["DropInPaths"].([]string)
	if at, ok := p["StateChangeTimestamp"].(uint64); ok && at > 0 {
		out.Since = time.UnixMicro(int64(at)).UTC()
	}
	if strings.HasSuffix(unit, ".service") && out.Load == "loaded" {
		out.Result, _ = p["Result"].(string)
		if n, ok := p["ExecMainStatus"].(int32); ok {
			out.Code = int(n)
		}
		if n, ok := p["MainPID"].(uint32); ok {
			out.PID = int(n)
		}
		if n, ok := p["NRestarts"].(uint32); ok {
			out.Restarts = int(n)
		}
		if us, ok := p["TimeoutStopUSec"].(uint64); ok && us < 1<<53 {
			out.StopTimeout = time.Duration(us) * time.Microsecond
		}
		if n, ok := p["KillSignal"].(int32); ok {
			out.StopSignal = unix.SignalName(unix.Signal(n))
		}
	}
	return out, nil
}

// usecTime converts one of systemd's microsecond timestamps; zero means none.
func usecTime(v any) time.Time {
	if us, ok := v.(uint64); ok && us > 0 && us < 1<<62 {
		return time.UnixMicro(int64(us)).UTC()
	}
	return time.Time{}
}

// nextElapse returns when a timer elapses next.
func (s *systemd) nextElapse(ctx context.Context, timer string) (time.Time, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	p, err := c.GetUnitTypePropertiesContext(ctx, timer, "Timer")
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", timer, err)
	}
	out := usecTime(p["NextElapseUSecRealtime"])
	if us, ok := p["NextElapseUSecMonotonic"].(uint64); ok && out.IsZero() && us > 0 && us < 1<<62 {
		var now unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
			out = time.Now().Add(time.Duration(us)*time.Microsecond - time.Duration(now.Nano())).UTC().Truncate(time.Second)
		}
	}
	return out, nil
}

func (s *systemd) Runs(ctx context.Context, timer, service string) (*Runs, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	out := &Runs{}
	if out.Next, err = s.nextElapse(ctx, timer); err != nil {
		return nil, err
	}
	p, err := c.GetUnitTypePropertiesContext(ctx, service, "Service")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", service, err)
	}
	out.Last, out.Ended = usecTime(p["ExecMainStartTimestamp"]), usecTime(p["ExecMainExitTimestamp"])
	out.Running = !out.Last.IsZero() && out.Ended.IsZero()
	if out.Result, _ = p["Result"].(string); out.Last.IsZero() {
		out.Result = ""
	}
	if n, ok := p["ExecMainStatus"].(int32); ok {
		out.Code = int(n)
	}
	return out, nil
}

// Journal runs journalctl, because the journal has no D-Bus interface.
func (s *systemd) Journal(ctx context.Context, units []string, since time.Time, n int) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	program.Program{Name: "journalctl", Args: []string{"--sync"}}.Output(ctx)
	args := []string{"--no-pager", "--quiet", "--output=cat", "--reverse", fmt.Sprintf("--lines=%d", n)}
	if !since.IsZero() {
		args = append(args, fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000))
	}
	for _, u := range units {
		args = append(args, "--unit="+u)
	}
	out, err := program.Program{Name: "journalctl", Args: args}.Output(ctx)
	if err != nil {
		return nil
	}
	text := strings.TrimRight(strings.ToValidUTF8(string(out), "\uFFFD"), "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	slices.Reverse(lines) // with --since, only --reverse counts lines from the end
	return lines
}

// Logs returns what the unit's processes write, and what systemd writes about the deployed
// version.
func (s *systemd) Logs(ctx context.Context, e *Entry, n int, follow bool, each func([]Line) error) error {
	args := []string{"--output=json", "--no-pager", "--quiet", "--all", fmt.Sprintf("--lines=%d", n)}
	if follow {
		args = append(args, "--follow")
	}
	args = append(args, "SYSLOG_IDENTIFIER="+strings.TrimSuffix(e.Name, ".service"), "+", "UNIT="+e.Unit)
	err := program.Program{Name: "journalctl", Args: args}.Stream(ctx, func(out io.Reader) error { return sendLines(out, each) })
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("cannot read the journal: %w", err)
	}
	return err
}

// sendLines calls each with the lines of journalctl's JSON output, as they come.
func sendLines(out io.Reader, each func([]Line) error) error {
	lines := bufio.NewReaderSize(out, 64<<10)
	var batch []Line
	for {
		raw, err := lines.ReadBytes('\n')
		if len(raw) > 0 {
			if l, ok := parseLine(raw); ok {
				batch = append(batch, l)
			}
		}
		if len(batch) > 0 && (err != nil || lines.Buffered() == 0 || len(batch) >= 500) {
			if err := each(batch); err != nil {
				return err
			}
			batch = nil
		}
		if err != nil {
			return nil
		}
	}
}

// parseLine parses one line of journalctl's JSON output.
func parseLine(raw []byte) (Line, bool) {
	var e struct {
		Time    string          `json:"__REALTIME_TIMESTAMP"`
		PID     string          `json:"_PID"`
		Message json.RawMessage `json:"MESSAGE"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return Line{}, false
	}
	var l Line
	if us, err := strconv.ParseInt(e.Time, 10, 64); err == nil {
		l.Time = time.UnixMicro(us).UTC()
	}
	l.PID, _ = strconv.Atoi(e.PID)
	var bytes []byte
	var numbers []int
	if json.Unmarshal(e.Message, &l.Text) != nil && json.Unmarshal(e.Message, &numbers) == nil { // not UTF-8: an array of bytes
		for _, n := range numbers {
			bytes = append(bytes, byte(n))
		}
		l.Text = strings.ToValidUTF8(string(bytes), "\uFFFD")
	}
	return l, true
}
