package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// onPort is a service with a port.
func onPort(args string, port int, ready *graph.Ready) graph.Spec {
	c := command(args)
	c.Ports, c.Ready = map[string]graph.Port{"p": {Port: port}}, ready
	return c
}

// answering starts a server that answers with a status, and returns its port.
func answering(t *testing.T, status int) int {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A stranger on a port is named before anything stops. One that has only just ended is waited for.
func TestApplyUnit_PortInUse(t *testing.T) {
	defer agent.SetPortWaits(400*time.Millisecond, 300*time.Millisecond)()
	h, s, _ := machine(t)
	one, unitOne := service(t, onPort("one", 9201, &graph.Ready{Notify: true}))
	two, _ := service(t, onPort("two", 9202, &graph.Ready{Notify: true}))
	before, err := applyUnit(h, one)
	if err != nil {
		t.Fatal(err)
	}
	s.takeCalls()
	calls := 0
	stranger := agent.Listener{Address: netip.IPv4Unspecified(), PID: 4711, Command: "redis-server", Unit: "run-r12.service"}
	s.listeners = func(protocol string, port int, _ []string) (bool, []agent.Listener, error) {
		if calls++; protocol != "tcp" || port != 9202 {
			return false, nil, nil
		}
		return false, []agent.Listener{stranger}, nil
	}
	e, err := applyUnit(h, two)
	const want = "port 9202 is in use by redis-server (process 4711, run-r12.service), which is not managed by defx"
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "was left unchanged") || e == nil || e.Digest != before.Digest {
		t.Errorf("%+v, %v", e, err)
	}
	if got := s.takeCalls(); got != "" || !s.active[unitOne] {
		t.Errorf("something was stopped or started: %q", got)
	}

	// Another deployment's unit is named by its address.
	other, otherUnit := named(t, "other", command("other"))
	const otherScope = "dev/second"
	if err := h.Fence(t.Context(), otherScope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ApplyUnit(t.Context(), otherScope, "a/other", caller(1), other, nil, 0); err != nil {
		t.Fatal(err)
	}
	stranger.Unit = otherUnit
	if _, err := applyUnit(h, two); err == nil || !strings.Contains(err.Error(), "port 9202 is in use by a/other of dev/second: redis-server (process 4711") {
		t.Errorf("%v", err)
	}

	// An address that does not matter, and a process that ends meanwhile.
	stranger.Address = netip.MustParseAddr("127.0.0.53")
	if _, err := applyUnit(h, two); err != nil {
		t.Error(err)
	}
	calls = 0
	s.listeners = func(string, int, []string) (bool, []agent.Listener, error) {
		if calls++; calls < 2 {
			return false, []agent.Listener{{Address: netip.IPv6Unspecified(), PID: 1}}, nil
		}
		return false, nil, nil
	}
	if _, err := applyUnit(h, one); err != nil {
		t.Error(err)
	}
}

// The listener that answers a readiness check must be the version's own.
func TestApplyUnit_ReadinessIsTheUnitsOwn(t *testing.T) {
	port := answering(t, 200)
	for _, ready := range []*graph.Ready{{TCP: true, Port: "p", Interval: "10ms", Timeout: "1s"}, {HTTP: "/", Port: "p", Interval: "10ms", Timeout: "1s"}} {
		h, s, _ := machine(t)
		raw, unit := service(t, onPort("one", port, ready))
		own, others := false, []agent.Listener{{Address: netip.MustParseAddr("10.0.0.7"), PID: 4711, Command: "redis-server"}}
		s.listeners = func(_ string, _ int, units []string) (bool, []agent.Listener, error) {
			if len(units) == 0 || units[len(units)-1] != unit {
				return false, nil, nil
			}
			return own, others, nil
		}
		want := fmt.Sprintf("port %d is answered by redis-server (process 4711), not by this version", port)
		if _, err := applyUnit(h, raw); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "its last log line") {
			t.Errorf("%v", err)
		}
		own = true
		if _, err := applyUnit(h, raw); err != nil {
			t.Error(err)
		}
	}
}

// A version that keeps ending fails long before its timeout; one that ends once and then works
// does not.
func TestApplyUnit_KeepsEnding(t *testing.T) {
	h, s, _ := machine(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close() // nobody listens
	ready := &graph.Ready{TCP: true, Port: "p", Interval: "20ms", Timeout: "30s"}
	one, unitOne := service(t, command("one"))
	two, unitTwo := service(t, onPort("two", port, ready))
	if _, err := applyUnit(h, one); err != nil {
		t.Fatal(err)
	}
	var begin time.Time
	s.state = func(u string, st *agent.SupervisorState) {
		if u != unitTwo || st.Active != "active" {
			return
		}
		if begin.IsZero() {
			begin = time.Now()
		}
		// It lives for 100 ms, and is restarted after 1 s.
		since := time.Since(begin)
		st.Restarts = int(since / (1100 * time.Millisecond))
		if since%(1100*time.Millisecond) > 100*time.Millisecond {
			st.Active, st.Sub, st.Result, st.Code = "activating", "auto-restart", "exit-code", 3
		}
	}
	start := time.Now()
	_, err = applyUnit(h, two)
	if err == nil || !strings.Contains(err.Error(), "it keeps ending: it ended with exit code 3") || !strings.Contains(err.Error(), "the previous version runs again") {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if !s.active[unitOne] {
		t.Error("the previous version does not run")
	}

	listening := make(chan net.Listener, 1)
	begin = time.Time{}
	s.state = func(u string, st *agent.SupervisorState) {
		if u != unitTwo || st.Active != "active" {
			return
		}
		if begin.IsZero() {
			begin = time.Now()
		}
		switch since := time.Since(begin); {
		case since < 100*time.Millisecond:
		case since < 1100*time.Millisecond:
			st.Active, st.Sub = "activating", "auto-restart"
		default:
			st.Restarts = 1
			if len(listening) == 0 {
				l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err != nil {
					t.Error(err)
				}
				listening <- l
			}
		}
	}
	if _, err := applyUnit(h, two); err != nil {
		t.Error(err)
	}
	if len(listening) > 0 {
		(<-listening).Close()
	}
}

// What ends between the start and the end of the apply is found then, and only once.
func TestSettle_FindsWhatEnded(t *testing.T) {
	defer agent.SetSettleTime(50 * time.Millisecond)()
	h, s, _ := machine(t)
	plain := command("one")
	plain.Ready = nil
	raw, unit := service(t, plain)
	if _, err := applyUnit(h, raw); err != nil {
		t.Fatal(err)
	}
	settle := func() map[string]*agent.Error {
		t.Helper()
		out, err := h.Settle(t.Context(), scope, []string{"a/b", "a/unknown"})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := settle(); len(out) > 0 {
		t.Errorf("%v", out)
	}
	s.state = func(u string, st *agent.SupervisorState) {
		if u == unit {
			st.Restarts = 2
		}
	}
	if e := settle()["a/b"]; e == nil || !strings.Contains(e.Error(), "it ended and was restarted (2 times) soon after its start") {
		t.Errorf("%v", e)
	}
	if err := h.FlushManifest(t.Context(), scope, 1); err != nil {
		t.Fatal(err)
	}
	if out := settle(); len(out) > 0 {
		t.Errorf("it was checked after the end of the apply: %v", out)
	}
	s.state = nil
	plain.Env = map[string]token.Text{"A": token.Lit("b")}
	raw, unit = service(t, plain)
	if _, err := applyUnit(h, raw); err != nil {
		t.Fatal(err)
	}
	s.state = func(u string, st *agent.SupervisorState) {
		if u == unit {
			st.Active, st.Sub, st.Result, st.Code = "activating", "auto-restart", "exit-code", 1
		}
	}
	out := settle()
	if e := out["a/b"]; e == nil || !strings.Contains(e.Error(), "it ended with exit code 1 soon after its start") || !strings.Contains(e.Error(), "its last log line") {
		t.Errorf("%v", out)
	}
}

// A reload whose check or command fails changes nothing: the file is restored, and the process
// goes on.
func TestApplyUnit_ReloadFails(t *testing.T) {
	h, s, _ := machine(t)
	spec := func(content string) graph.Spec {
		c := command("one")
		c.Files = map[string]graph.File{"/etc/x.conf": {Text: token.Lit(content)}}
		c.Reload = &graph.Reload{Signal: "HUP", Check: []token.Text{token.Lit("/bin/check")}}
		return c
	}
	one, unit := service(t, spec("one"))
	two, _ := service(t, spec("two"))
	check := "defx-dev-test-a-b.check.service"
	before, err := applyUnit(h, one)
	if err != nil {
		t.Fatal(err)
	}
	s.takeCalls()
	file := func() string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(s.root, "var/lib/defx/units/defx-dev-test-a-b/files/etc/x.conf"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, c := range []struct{ what, fails, calls string }{{"start", check, "start " + check}, {"reload", unit, "start " + check + ", reload " + unit}} {
		seen := ""
		s.failsTo = func(what, u string) error {
			if what != c.what || u != c.fails {
				return nil
			}
			seen = file()
			return errors.New("no")
		}
		e, err := applyUnit(h, two)
		if err == nil || !strings.Contains(err.Error(), "was left unchanged") || e == nil || e.Digest != before.Digest {
			t.Errorf("%s: %+v, %v", c.fails, e, err)
		}
		if got := s.takeCalls(); got != c.calls {
			t.Errorf("%s: %q, want %q", c.fails, got, c.calls)
		}
		if seen != "two" || file() != "one" {
			t.Errorf("%s: it saw %q, and %q is there now", c.fails, seen, file())
		}
		delete(s.active, check) // it has ended
	}
	s.failsTo = nil
	if _, err := applyUnit(h, two); err != nil {
		t.Fatal(err)
	}
	if got, want := s.takeCalls(), "start "+check+", reload "+unit; got != want || file() != "two" {
		t.Errorf("%q, want %q", got, want)
	}
}

// Deadlines follow the settings of both versions.
func TestApplyUnit_DeadlineFollowsSettings(t *testing.T) {
	h, s, _ := machine(t)
	slow := func(args, stop string) graph.Spec {
		c := command(args)
		c.Stop = &graph.Stop{Timeout: stop}
		return c
	}
	one, unitOne := service(t, slow("one", "3s"))
	two, _ := service(t, slow("two", "100ms"))
	three, _ := service(t, slow("three", "100ms"))
	if _, err := applyUnit(h, one); err != nil {
		t.Fatal(err)
	}
	s.stopping = func(ctx context.Context, u string) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
			return nil
		}
	}
	const limit = 300 * time.Millisecond
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), two, nil, limit); err != nil {
		t.Errorf("%s: %v", unitOne, err)
	}
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), three, nil, limit); err == nil || !strings.Contains(err.Error(), "it took more than 400ms") {
		t.Errorf("%v", err)
	}
}

// A client hears what its request waits for.
func TestApplyUnit_ReportsWaits(t *testing.T) {
	defer agent.SetReportTimes(50*time.Millisecond, 20*time.Millisecond)()
	port := answering(t, 503)
	h, s, _ := machine(t)
	raw, _ := service(t, onPort("one", port, &graph.Ready{HTTP: "/health", Port: "p", Interval: "10ms", Timeout: "1s"}))
	here, there := net.Pipe()
	go agent.Serve(t.Context(), there, h)
	client, err := agent.NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var mu sync.Mutex
	var got []string
	ctx := agent.WithProgress(t.Context(), func(p agent.Progress) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, p.String())
	})
	if err := client.Fence(ctx, scope, caller(1), nil, 1); err != nil {
		t.Fatal(err)
	}
	apply := func(raw json.RawMessage) error {
		_, _, err := client.ApplyUnit(ctx, scope, "a/b", caller(1), raw, nil, 0)
		return err
	}
	if err := apply(raw); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v", err)
	}
	if len(got) == 0 || !strings.HasPrefix(got[0], "GET /health: 503 Service Unavailable, 0 s") {
		t.Errorf("%q", got)
	}
	one, _ := service(t, command("one"))
	if err := apply(one); err != nil {
		t.Fatal(err)
	}
	s.state = func(_ string, st *agent.SupervisorState) {
		st.Sub, st.StopSignal, st.StopTimeout = "stop-sigterm", "SIGTERM", 90*time.Second
	}
	s.stopping = func(context.Context, string) error { time.Sleep(300 * time.Millisecond); return nil }
	got = nil
	if err := apply(nil); err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || got[0] != "waiting for it to stop (SIGTERM sent), 0 s of 90 s" {
		t.Errorf("%q", got)
	}
}

// full is content whose receiver runs out of space.
type full struct{ sent bool }

func (f *full) Read(p []byte) (int, error) {
	if f.sent {
		return 0, &os.PathError{Op: "write", Path: "store", Err: syscall.ENOSPC}
	}
	f.sent = true
	return copy(p, "half of it"), nil
}

func TestPutArtifact_DiskFull(t *testing.T) {
	h, _ := host(t, nil)
	a := plan.Artifact{Digest: digest.Bytes([]byte("x")), Path: "large", Kind: "tree"}
	if err := h.PutArtifact(t.Context(), a, 0, &full{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if n := h.UploadOffset(a.Digest); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}
