package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// Supervisor runs units on a machine. Names are those of a Layout.
type Supervisor interface {
	// Check tells whether what runs units is there at all: what runs these, or, for none, anything.
	Check(ctx context.Context, units ...string) error
	// Prepare makes what a unit needs and is not a file, without starting anything, and tells what is
	// in its way. replaced are the units that will be stopped before it starts.
	Prepare(ctx context.Context, unit string, replaced []string) error
	// Reload makes it read the files of units again. Calls that come together share one reading.
	Reload(ctx context.Context) error
	// Start, Stop, Restart and ReloadUnit return when it is done. Start of what runs changes nothing.
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	ReloadUnit(ctx context.Context, unit string) error
	// ActivateTarget makes a group count as started, without starting what belongs to it.
	ActivateTarget(ctx context.Context, group string) error
	// Forget drops what is left of a unit that was stopped for good, be it the memory of a failure.
	Forget(ctx context.Context, unit string) error
	// State tells how a unit is.
	State(ctx context.Context, unit string) (SupervisorState, error)
	// Runs tells of a timer's service how it went, and when it is due.
	Runs(ctx context.Context, timer, service string) (*Runs, error)
	// Hosts lists the addresses on which a unit may listen, the likeliest first.
	Hosts(ctx context.Context, unit string) ([]string, error)
	// Logs gives the last n lines of all that an entry stands for, and with follow those to come.
	Logs(ctx context.Context, e *Entry, n int, follow bool, each func([]Line) error) error
	// Journal gives the last n lines of units since a time.
	Journal(units []string, since time.Time, n int) []string
	// Versions are those of what runs units here, by name.
	Versions(ctx context.Context) map[string]string
	Close()
}

// SupervisorState is how a unit is, in systemd's words, whatever runs it.
type SupervisorState struct {
	Load       string    `json:"load"`   // loaded, not-found, masked
	Active     string    `json:"active"` // active, activating, inactive, failed, …
	Sub        string    `json:"sub"`
	Result     string    `json:"result,omitempty"` // of a service: success, exit-code, signal, …
	Code       int       `json:"code,omitempty"`   // that its process ended with
	PID        int       `json:"pid,omitempty"`
	Restarts   int       `json:"restarts,omitempty"`
	Since      time.Time `json:"since,omitzero"` // it is as it is
	LastOutput string    `json:"said,omitempty"` // by what looks after it and found it unhealthy
	Path       string    `json:"path,omitempty"` // of its file
	DropIns    []string  `json:"dropIns,omitempty"`
	Drift      []string  `json:"drift,omitempty"` // what is not as it was made, one sentence each
}

// systemd is the system of a real machine, asked over its own socket: no
// message bus is needed for that.
type systemd struct {
	mu   sync.Mutex
	conn *dbus.Conn
	next *reading // that has not begun yet

	reading sync.Mutex // one at a time
}

type reading struct {
	done chan struct{}
	err  error
}

func (s *systemd) connect(ctx context.Context) (*dbus.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.Connected() {
		return s.conn, nil
	}
	c, err := dbus.NewSystemdConnectionContext(context.WithoutCancel(ctx)) // the context is the connection's whole life
	if err != nil {
		return nil, fmt.Errorf("no systemd runs here: %w", err)
	}
	s.conn = c
	return c, nil
}

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

// Versions has systemd's own.
func (s *systemd) Versions(ctx context.Context) map[string]string {
	c, err := s.connect(ctx)
	if err != nil {
		return nil
	}
	v, _ := c.GetManagerProperty("Version")
	return map[string]string{"systemd": strings.Trim(v, `"`)}
}

// Prepare has nothing to do: files are all that systemd needs.
func (s *systemd) Prepare(context.Context, string, []string) error { return nil }

// Hosts are those of the machine.
func (s *systemd) Hosts(context.Context, string) ([]string, error) { return hereabouts(), nil }

func (s *systemd) Reload(ctx context.Context) error {
	s.mu.Lock()
	r := s.next
	if r == nil {
		r = &reading{done: make(chan struct{})}
		s.next = r
		go s.read(context.WithoutCancel(ctx), r)
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return r.err
	}
}

// read waits for the reading under way, during which others join this one.
func (s *systemd) read(ctx context.Context, r *reading) {
	s.reading.Lock()
	defer s.reading.Unlock()
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
		r.err = fmt.Errorf("systemd does not read its units again: %w", err)
	}
}

// job is a request to systemd that is over when it says so.
type job func(c *dbus.Conn, ctx context.Context, unit, mode string, done chan<- string) (int, error)

// failedJob is a job that did not come to its end.
type failedJob struct {
	result string // in systemd's words
	said   string // by an engine
}

func (f *failedJob) Error() string {
	if f.said != "" {
		return f.said
	}
	return "systemd says: " + f.result
}

func (s *systemd) job(ctx context.Context, f job, unit, mode string) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	done := make(chan string, 1)
	if _, err := f(c, ctx, unit, mode, done); err != nil {
		return fmt.Errorf("%s: %w", unit, err)
	}
	quiet := 0
	look := time.NewTicker(2 * time.Second) // if word of the end was lost, it shows in what is
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case result := <-done:
			if result != "done" && result != "skipped" {
				return &failedJob{result: result}
			}
			return nil
		case <-look.C:
			if !c.Connected() {
				return errors.New("the connection to systemd broke")
			}
			p, err := c.GetUnitPropertyContext(ctx, unit, "Job")
			if err != nil {
				return err
			}
			if id, ok := p.Value.Value().([]any); !ok || len(id) == 0 || id[0] != uint32(0) {
				quiet = 0
				continue
			}
			if quiet++; quiet > 1 {
				return nil // whoever asked looks at the state
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
		c.ResetFailedUnitContext(ctx, unit) // most have nothing to forget
	}
	return nil
}

func (s *systemd) State(ctx context.Context, unit string) (SupervisorState, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return SupervisorState{}, err
	}
	p, err := c.GetUnitPropertiesContext(ctx, unit)
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
		if p, err = c.GetUnitTypePropertiesContext(ctx, unit, "Service"); err != nil {
			return out, fmt.Errorf("%s: %w", unit, err)
		}
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
	}
	return out, nil
}

// micro reads a time as systemd tells it.
func micro(v any) time.Time {
	if us, ok := v.(uint64); ok && us > 0 && us < 1<<62 {
		return time.UnixMicro(int64(us)).UTC()
	}
	return time.Time{}
}

// due is when a timer starts what it does next.
func (s *systemd) due(ctx context.Context, timer string) (time.Time, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	p, err := c.GetUnitTypePropertiesContext(ctx, timer, "Timer")
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", timer, err)
	}
	out := micro(p["NextElapseUSecRealtime"])
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
	if out.Next, err = s.due(ctx, timer); err != nil {
		return nil, err
	}
	p, err := c.GetUnitTypePropertiesContext(ctx, service, "Service")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", service, err)
	}
	out.Last, out.Ended = micro(p["ExecMainStartTimestamp"]), micro(p["ExecMainExitTimestamp"])
	out.Running = !out.Last.IsZero() && out.Ended.IsZero()
	if out.Result, _ = p["Result"].(string); out.Last.IsZero() {
		out.Result = ""
	}
	if n, ok := p["ExecMainStatus"].(int32); ok {
		out.Code = int(n)
	}
	return out, nil
}

// Journal asks journalctl: the journal's files have no interface on a bus.
func (s *systemd) Journal(units []string, since time.Time, n int) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	exec.CommandContext(ctx, "journalctl", "--sync").Run()
	args := []string{"--no-pager", "--quiet", "--output=cat", "--reverse", fmt.Sprintf("--lines=%d", n)}
	if !since.IsZero() {
		args = append(args, fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000))
	}
	for _, u := range units {
		args = append(args, "--unit="+u)
	}
	out, err := exec.CommandContext(ctx, "journalctl", args...).Output()
	if err != nil {
		return nil
	}
	text := strings.TrimRight(strings.ToValidUTF8(string(out), "\uFFFD"), "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	slices.Reverse(lines) // with a beginning, only the reverse order counts from the end
	return lines
}

// Logs reads what its processes write, and what systemd writes of the version that stands.
func (s *systemd) Logs(ctx context.Context, e *Entry, n int, follow bool, each func([]Line) error) error {
	args := []string{"--output=json", "--no-pager", "--quiet", "--all", fmt.Sprintf("--lines=%d", n)}
	if follow {
		args = append(args, "--follow")
	}
	args = append(args, "SYSLOG_IDENTIFIER="+strings.TrimSuffix(e.Name, ".service"), "+", "UNIT="+e.Unit)
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the journal cannot be read: %w", err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
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

// parseLine reads an entry of the journal's own export.
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
	if json.Unmarshal(e.Message, &l.Text) != nil && json.Unmarshal(e.Message, &numbers) == nil { // not UTF-8: a list of bytes
		for _, n := range numbers {
			bytes = append(bytes, byte(n))
		}
		l.Text = strings.ToValidUTF8(string(bytes), "\uFFFD")
	}
	return l, true
}
