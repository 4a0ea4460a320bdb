package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// fakeSupervisor runs nothing and records its calls.
type fakeSupervisor struct {
	root string

	mu     sync.Mutex
	active map[string]bool
	calls  []string
	fails  func(unit string) error
	forget func()
	stops  func(unit string)

	listeners func(protocol string, port int, units []string) (bool, []agent.Listener, error)
	state     func(unit string, st *agent.SupervisorState)
	failsTo   func(what, unit string) error
	stopping  func(ctx context.Context, unit string) error
}

func (s *fakeSupervisor) did(what, unit string, f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if what != "start" || !s.active[unit] {
		s.calls = append(s.calls, what+" "+unit)
	}
	if s.failsTo != nil {
		if err := s.failsTo(what, unit); err != nil {
			return err
		}
	}
	if s.fails != nil && what != "stop" {
		if err := s.fails(unit); err != nil {
			return err
		}
	}
	f()
	return nil
}

func (s *fakeSupervisor) Check(context.Context, ...string) error          { return nil }
func (s *fakeSupervisor) Prepare(context.Context, string, []string) error { return nil }
func (s *fakeSupervisor) Hosts(context.Context, string) ([]string, error) {
	return []string{"127.0.0.1"}, nil
}
func (s *fakeSupervisor) Listeners(_ context.Context, protocol string, port int, units []string) (bool, []agent.Listener, error) {
	if s.listeners == nil {
		return false, nil, nil
	}
	return s.listeners(protocol, port, units)
}
func (s *fakeSupervisor) Logs(context.Context, *agent.Entry, int, bool, func([]agent.Line) error) error {
	return nil
}
func (s *fakeSupervisor) Reload(context.Context) error { return nil }
func (s *fakeSupervisor) Start(ctx context.Context, u string) error {
	return s.did("start", u, func() { s.active[u] = true })
}
func (s *fakeSupervisor) Stop(ctx context.Context, u string) error {
	if s.stops != nil {
		s.stops(u)
	}
	s.mu.Lock()
	runs := s.active[u]
	s.mu.Unlock()
	if !runs {
		return nil
	}
	if s.stopping != nil {
		if err := s.stopping(ctx, u); err != nil {
			return err
		}
	}
	return s.did("stop", u, func() { delete(s.active, u) })
}
func (s *fakeSupervisor) Restart(_ context.Context, u string) error {
	return s.did("restart", u, func() { s.active[u] = true })
}
func (s *fakeSupervisor) ReloadUnit(_ context.Context, u string) error {
	return s.did("reload", u, func() {})
}
func (s *fakeSupervisor) ActivateTarget(context.Context, string) error { return nil }
func (s *fakeSupervisor) Forget(context.Context, string) error {
	if s.forget != nil {
		s.forget()
	}
	return nil
}
func (s *fakeSupervisor) State(_ context.Context, u string) (agent.SupervisorState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := agent.SupervisorState{Load: "loaded", Active: "inactive", Path: "/etc/systemd/system/" + u}
	if s.active[u] {
		st.Active = "active"
	}
	if s.state != nil {
		s.state(u, &st)
	}
	return st, nil
}
func (s *fakeSupervisor) Runs(context.Context, string, string) (*agent.Runs, error) { return nil, nil }
func (s *fakeSupervisor) Journal(context.Context, []string, time.Time, int) []string {
	return []string{"its last log line"}
}
func (s *fakeSupervisor) Versions(context.Context) map[string]string { return nil }
func (s *fakeSupervisor) Close()                                     {}

// takeCalls returns the calls since the last one, and clears them.
func (s *fakeSupervisor) takeCalls() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.calls, ", ")
	s.calls = nil
	return out
}

// service renders a service for systemd. It returns the unit and its name in systemd.
func service(t *testing.T, spec graph.Spec) (json.RawMessage, string) {
	t.Helper()
	return named(t, "b", spec)
}

func named(t *testing.T, name string, spec graph.Spec) (json.RawMessage, string) {
	t.Helper()
	b := systemd.New()
	p, _, errs := b.Render(backends.Input{Deployment: "test", Environment: "dev", Service: &graph.Service{Address: graph.Address{Lib: "a", Name: name}, Spec: spec}})
	if errs != nil {
		t.Fatal(errs)
	}
	u := &plan.Unit{Address: "a/" + name, Backend: b.Name(), Encoding: b.Encoding(), Payload: p, Spec: json.RawMessage("{}")}
	raw, err := digest.Canonical(u)
	if err != nil {
		t.Fatal(err)
	}
	instance, err := u.Instance(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw, "defx-dev-test-a-" + name + "." + instance + ".service"
}

func command(args string) graph.Spec {
	return graph.Spec{Command: []token.Text{token.Lit("/bin/" + args)}, Ready: &graph.Ready{Notify: true}}
}

func machine(t *testing.T) (*agent.Host, *fakeSupervisor, func() *agent.Host) {
	s := &fakeSupervisor{root: t.TempDir(), active: map[string]bool{}}
	open := func() *agent.Host {
		h := agent.OpenHost(s.root, backends.NewSet(systemd.New())).WithSupervisor(s)
		t.Cleanup(func() { h.Close() })
		if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
			t.Fatal(err)
		}
		return h
	}
	return open(), s, open
}

func applyUnit(h *agent.Host, raw json.RawMessage) (*agent.Entry, error) {
	return h.ApplyUnit(context.Background(), scope, "a/b", caller(1), raw, nil, 0)
}

func TestApplyUnit_StopsOldVersionFirst(t *testing.T) {
	h, s, _ := machine(t)
	one, unitOne := service(t, command("one"))
	two, unitTwo := service(t, command("two"))
	for i, step := range []struct {
		raw  json.RawMessage
		want string
	}{{one, "start " + unitOne}, {one, ""}, {two, "stop " + unitOne + ", start " + unitTwo}, {nil, "stop " + unitTwo}} {
		if _, err := applyUnit(h, step.raw); err != nil {
			t.Fatal(err)
		}
		if got := s.takeCalls(); got != step.want {
			t.Errorf("%d: %q, want %q", i, got, step.want)
		}
	}
}

// A new version does not stop a run of the previous one that is in progress; deletion does.
func TestApplyUnit_RunningJobFinishes(t *testing.T) {
	h, s, _ := machine(t)
	job := func(args string) graph.Spec {
		c := command(args)
		c.Ready, c.Schedule = nil, &graph.Schedule{Every: "1h"}
		return c
	}
	one, unitOne := service(t, job("one"))
	two, _ := service(t, job("two"))
	if _, err := applyUnit(h, one); err != nil {
		t.Fatal(err)
	}
	s.active[unitOne] = true // its scheduled run starts
	s.takeCalls()
	if _, err := applyUnit(h, two); err != nil {
		t.Fatal(err)
	}
	if got := s.takeCalls(); !s.active[unitOne] || got != "restart defx-dev-test-a-b.timer" {
		t.Errorf("%q", got)
	}
	s.active[unitOne] = false
	if _, err := applyUnit(h, one); err != nil {
		t.Fatal(err)
	}
	s.active[unitOne] = true
	if _, err := applyUnit(h, nil); err != nil {
		t.Fatal(err)
	}
	if s.active[unitOne] {
		t.Error("a deleted unit still runs")
	}
}

// The old version stops last as soon as both versions support running in parallel. If the
// new one fails, the old one is left alone.
func TestApplyUnit_GracefulStopsOldVersionLast(t *testing.T) {
	h, s, _ := machine(t)
	graceful := func(args string) graph.Spec {
		c := command(args)
		c.Update = &graph.Update{Style: "graceful", ReusePort: true}
		return c
	}
	one, unitOne := service(t, command("one"))
	two, unitTwo := service(t, graceful("two"))
	three, unitThree := service(t, graceful("three"))
	four, unitFour := service(t, graceful("four"))
	s.fails = func(u string) error {
		if u == unitFour {
			return errors.New("no")
		}
		return nil
	}
	for i, step := range []struct {
		raw   json.RawMessage
		fails bool
		want  string
	}{
		{one, false, "start " + unitOne}, {two, false, "stop " + unitOne + ", start " + unitTwo}, // the old version does not share its port
		{three, false, "start " + unitThree + ", stop " + unitTwo}, {four, true, "start " + unitFour},
		{one, false, "stop " + unitThree + ", start " + unitOne},
	} {
		if _, err := applyUnit(h, step.raw); (err != nil) != step.fails {
			t.Fatal(i, err)
		}
		if got := s.takeCalls(); got != step.want {
			t.Errorf("%d: %q, want %q", i, got, step.want)
		}
	}
}

// A unit that cannot be retired is not deleted.
func TestRetire_BeforeDelete(t *testing.T) {
	h, s, reopen := machine(t)
	c := command("one")
	c.Retire = []token.Text{token.Lit("/bin/leave")}
	one, unitOne := service(t, c)
	const leave = "defx-dev-test-a-b.retire.service"
	if _, err := applyUnit(h, one); err != nil {
		t.Fatal(err)
	}
	s.takeCalls()
	fails := true
	s.fails = func(u string) error {
		if fails && u == leave {
			return errors.New("the others do not answer")
		}
		return nil
	}
	retire := func(h *agent.Host, token int64) error {
		return h.Retire(t.Context(), scope, "a/b", caller(token), 0)
	}
	if err := retire(h, 1); err == nil || !strings.Contains(err.Error(), "the others do not answer") || !strings.Contains(err.Error(), "its last log line") {
		t.Errorf("%v", err)
	}
	var fenced *agent.ErrStaleToken
	if err := retire(h, 0); !errors.As(err, &fenced) {
		t.Errorf("a stale token can retire: %v", err)
	}
	fails = false
	h.Close() // the apply was killed; this is the next one
	h = reopen()
	s.takeCalls()
	if err := retire(h, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := applyUnit(h, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := s.takeCalls(), "start "+leave+", stop "; !strings.HasPrefix(got, want) || !strings.Contains(got, "stop "+unitOne) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := retire(h, 1); err != nil || s.takeCalls() != "" {
		t.Errorf("a deleted unit was retired: %v", err)
	}
}

func TestApplyUnit_StartFailureRollsBack(t *testing.T) {
	h, s, _ := machine(t)
	one, unitOne := service(t, command("one"))
	two, unitTwo := service(t, command("two"))
	before, err := applyUnit(h, one)
	if err != nil {
		t.Fatal(err)
	}
	s.takeCalls()
	s.fails = func(u string) error {
		if u == unitTwo {
			return errors.New("no")
		}
		return nil
	}
	e, err := applyUnit(h, two)
	if err == nil || !strings.Contains(err.Error(), "its last log line") || !strings.Contains(err.Error(), "the previous version runs again") || e == nil || e.Digest != before.Digest {
		t.Errorf("%+v, %v", e, err)
	}
	if got, want := s.takeCalls(), "stop "+unitOne+", start "+unitTwo+", start "+unitOne; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	names, _ := filepath.Glob(filepath.Join(s.root, "etc/systemd/system/defx-*.????????????.service"))
	if len(names) != 1 || filepath.Base(names[0]) != unitOne {
		t.Errorf("%v", names)
	}
	if _, err := applyUnit(h, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := applyUnit(h, two); err == nil { // there is no previous version
		t.Error("it started")
	}
	if names, _ := filepath.Glob(filepath.Join(s.root, "etc/systemd/system/*")); len(names) > 0 {
		t.Errorf("%v", names)
	}
}

// An update is interrupted while the new version starts. When the next one fails, the
// version before both is restored.
func TestApplyUnit_RollBackAfterInterruption(t *testing.T) {
	h, s, reopen := machine(t)
	one, unitOne := service(t, command("one"))
	two, unitTwo := service(t, command("two"))
	three, unitThree := service(t, command("three"))
	before, err := applyUnit(h, one)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.fails = func(u string) error {
		if u == unitTwo {
			cancel()
			return ctx.Err()
		}
		return nil
	}
	e, err := h.ApplyUnit(ctx, scope, "a/b", caller(1), two, nil, 0)
	if err == nil || e == nil || e.Digest != "" || e.Previous == nil || e.Previous.Digest != before.Digest {
		t.Fatalf("%+v, %v", e, err)
	}
	h.Close()
	s.takeCalls()
	s.fails = func(u string) error {
		if u == unitThree {
			return errors.New("no")
		}
		return nil
	}
	h = reopen()
	if e, err = applyUnit(h, three); err == nil || e == nil || e.Digest != before.Digest {
		t.Errorf("%+v, %v", e, err)
	}
	if !s.active[unitOne] || len(s.active) != 1 {
		t.Errorf("active: %v", s.active)
	}
	names, _ := filepath.Glob(filepath.Join(s.root, "etc/systemd/system/defx-*.????????????.service"))
	if len(names) != 1 || filepath.Base(names[0]) != unitOne {
		t.Errorf("%v", names)
	}
}

func TestApplyUnit_NoRestartAfterCrash(t *testing.T) {
	h, s, reopen := machine(t)
	one, _ := service(t, command("one"))
	two, unitTwo := service(t, command("two"))
	if _, err := applyUnit(h, one); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.fails = func(u string) error {
		if u == unitTwo {
			s.active[u] = true // it started, but the crash prevented the record
			cancel()
			return ctx.Err()
		}
		return nil
	}
	if _, err := h.ApplyUnit(ctx, scope, "a/b", caller(1), two, nil, 0); err == nil {
		t.Fatal("it was not interrupted")
	}
	h.Close()
	s.takeCalls()
	s.fails = nil
	h = reopen()
	if e, err := applyUnit(h, two); err != nil || e.Digest == "" {
		t.Fatalf("%+v, %v", e, err)
	}
	if got := s.takeCalls(); strings.Contains(got, unitTwo) {
		t.Errorf("%q", got)
	}
}

func TestApplyUnit_ReloadAndLeftovers(t *testing.T) {
	h, s, _ := machine(t)
	spec := func(content, init string) graph.Spec {
		c := command("one")
		c.Files = map[string]graph.File{"/etc/x.conf": {Text: token.Lit(content)}}
		c.Reload = &graph.Reload{Signal: "HUP"}
		c.Initializer = []token.Text{token.Lit("/bin/" + init)}
		return c
	}
	one, unit := service(t, spec("one", "init"))
	two, same := service(t, spec("two", "init"))
	if unit != same {
		t.Fatal("the content of a reloadable file changed the unit's name")
	}
	for _, raw := range []json.RawMessage{one, two, two} {
		if _, err := applyUnit(h, raw); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.takeCalls(), "start "+unit+", reload "+unit; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	done := filepath.Join(s.root, "var/lib/defx/done")
	if err := os.MkdirAll(done, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"defx-dev-test-a-b.init", "defx-dev-test-a-b.migrate-0123456789ab", "defx-dev-test-a-c.init"} {
		if err := os.WriteFile(filepath.Join(done, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := applyUnit(h, nil); err != nil {
		t.Fatal(err)
	}
	remaining, _ := filepath.Glob(done + "/*")
	if len(remaining) != 1 || filepath.Base(remaining[0]) != "defx-dev-test-a-c.init" {
		t.Errorf("%v", remaining)
	}
}

func TestApplyUnit_HealthGate(t *testing.T) {
	h, s, _ := machine(t)
	spec := func(args string) graph.Spec {
		c := command(args)
		c.Update = &graph.Update{Healthy: []token.Text{token.Lit("/bin/health")}}
		return c
	}
	one, unitOne := service(t, spec("one"))
	two, unitTwo := service(t, spec("two"))
	if _, err := applyUnit(h, one); err != nil { // the first version is not checked
		t.Fatal(err)
	}
	const health = "defx-dev-test-a-b.healthy.service"
	if got := s.takeCalls(); got != "start "+unitOne {
		t.Errorf("%q", got)
	}
	if _, err := applyUnit(h, two); err != nil {
		t.Fatal(err)
	}
	if got := s.takeCalls(); !slices.Contains(strings.Split(got, ", "), "start "+health) || !strings.Contains(got, "start "+unitTwo) {
		t.Errorf("%q", got)
	}
}

// What two units own together is deleted with the last one, even if both are deleted at the
// same time.
func TestDelete_ConcurrentSharedUnits(t *testing.T) {
	h, s, _ := machine(t)
	for _, name := range []string{"b", "c"} {
		raw, _ := named(t, name, command("one"))
		if _, err := h.ApplyUnit(context.Background(), scope, "a/"+name, caller(1), raw, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	var both sync.WaitGroup
	both.Add(2)
	var once [2]sync.Once
	n := 0
	var mu sync.Mutex
	s.forget = func() { // the first two calls wait for each other
		mu.Lock()
		i := min(n, 1)
		n++
		mu.Unlock()
		once[i].Do(both.Done)
		done := make(chan struct{})
		go func() { both.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(2 * time.Second): // the other one may be waiting for the machine's lock
		}
	}
	var all sync.WaitGroup
	for _, name := range []string{"b", "c"} {
		all.Go(func() {
			if _, err := h.ApplyUnit(context.Background(), scope, "a/"+name, caller(1), nil, nil, 0); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	remaining, err := os.ReadDir(filepath.Join(s.root, "etc/systemd/system"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(remaining) > 0 {
		t.Errorf("left behind: %v, %v", remaining, err)
	}
}

// sharer is a backend whose services share the supervisor units that their payloads name.
type sharer struct{}

func (sharer) Name() string  { return "sharer" }
func (sharer) Encoding() int { return 1 }
func (sharer) Render(backends.Input) (plan.Payload, backends.Effects, diag.List) {
	return plan.Payload{}, backends.Effects{}, nil
}
func (sharer) Realize(p plan.Payload, _ string, _ func(token.Token) (string, bool)) (backends.Layout, error) {
	var names []string
	err := json.Unmarshal(p.Run, &names)
	l := backends.Layout{Name: names[0], Unit: names[0]}
	for _, n := range names {
		l.Files = append(l.Files, backends.File{Path: "/etc/systemd/system/" + n, Content: []byte(n), Mode: 0o644, Shared: true})
	}
	return l, err
}

// A unit that is being deleted becomes the last owner of another shared unit while it waits
// for one to stop.
func TestDelete_SharedUnitStopsLast(t *testing.T) {
	s := &fakeSupervisor{root: t.TempDir(), active: map[string]bool{}}
	h := agent.OpenHost(s.root, backends.NewSet(sharer{})).WithSupervisor(s)
	t.Cleanup(func() { h.Close() })
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	for name, units := range map[string]string{"b": `["b.service","pair.target","all.target"]`, "c": `["c.service","all.target"]`, "d": `["d.service","pair.target"]`} {
		raw, err := digest.Canonical(&plan.Unit{Address: "a/" + name, Backend: "sharer", Encoding: 1, Payload: plan.Payload{Run: json.RawMessage(units)}, Spec: json.RawMessage("{}")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.ApplyUnit(context.Background(), scope, "a/"+name, caller(1), raw, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	// d is being deleted when b sees that both own the pair; c is deleted while b, by then
	// its last owner, waits.
	remove := func(name string) {
		if _, err := h.ApplyUnit(context.Background(), scope, "a/"+name, caller(1), nil, nil, 0); err != nil {
			t.Error(err)
		}
	}
	s.stops = func(unit string) {
		switch unit {
		case "b.service":
			remove("d")
		case "pair.target":
			remove("c")
		}
	}
	remove("b")
	remaining, err := os.ReadDir(filepath.Join(s.root, "etc/systemd/system"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(remaining) > 0 {
		t.Errorf("left behind: %v, %v", remaining, err)
	}
}
