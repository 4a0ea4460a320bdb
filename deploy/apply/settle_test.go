package apply_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
)

// supervisor runs units. The processes that start while brief is set end a short time later.
type supervisor struct {
	agent.Supervisor
	mu     sync.Mutex
	brief  bool
	active map[string]time.Time // unit → end; zero: none
}

func (s *supervisor) Check(context.Context, ...string) error          { return nil }
func (s *supervisor) Prepare(context.Context, string, []string) error { return nil }
func (s *supervisor) Reload(context.Context) error                    { return nil }
func (s *supervisor) Forget(context.Context, string) error            { return nil }
func (s *supervisor) Close()                                          {}
func (s *supervisor) Journal(context.Context, []string, time.Time, int) []string {
	return []string{"its last line"}
}
func (s *supervisor) Stop(context.Context, string) error { return nil }
func (s *supervisor) Start(_ context.Context, unit string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, is := s.active[unit]; is {
		return nil
	}
	s.active[unit] = time.Time{}
	if s.brief {
		s.active[unit] = time.Now().Add(700 * time.Millisecond)
	}
	return nil
}
func (s *supervisor) State(_ context.Context, unit string) (agent.SupervisorState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, is := s.active[unit]
	switch {
	case !is:
		return agent.SupervisorState{Load: "loaded", Active: "inactive"}, nil
	case !end.IsZero() && time.Now().After(end):
		return agent.SupervisorState{Load: "loaded", Active: "failed", Result: "exit-code", Code: 7}, nil
	}
	return agent.SupervisorState{Load: "loaded", Active: "active", Since: time.Now().Add(-time.Second)}, nil
}

// What ends soon after its action has succeeded is a failure: a new unit is removed, a changed one
// gets its previous version again, and a rolling update stops.
func TestRun_EndsAfterStart(t *testing.T) {
	s := newSite(t)
	sup := &supervisor{active: map[string]time.Time{}}
	failures := map[string]string{}
	run := func(services ...string) *apply.Result {
		t.Helper()
		req := s.request(services...)
		req.Dial = func(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				agent.Serve(context.Background(), server, agent.OpenHost(filepath.Join(s.dir, m.Name), backends.NewSet(s.fake)).WithSupervisor(sup))
			}()
			return agent.NewClient(ctx, client)
		}
		clear(failures)
		told := req.OnEvent
		req.OnEvent = func(e apply.Event) {
			told(e)
			if e.Outcome == apply.Failed {
				failures[e.Action.Address] = e.Err.Error()
			}
		}
		s.events = nil
		return s.run(req)
	}
	if res := run("a one", "b one", "r#1 one", "r#2 one", "r#3 one"); res.Counts.Created != 5 || len(res.Failed) > 0 {
		t.Fatalf("%+v", res)
	}
	sup.brief = true
	res := run("a one", "b two", "c one", "r#1 two", "r#2 two", "r#3 two")
	if !slices.Equal(res.Failed, []string{"l/b", "l/c", "l/r#1"}) || !slices.Equal(res.Skipped, []string{"l/r#2", "l/r#3"}) || res.Counts.Updated != 0 || res.Counts.Created != 0 || res.Counts.Unchanged != 1 {
		t.Errorf("%+v", res)
	}
	for address, want := range map[string]string{"l/b": "the previous version runs again", "l/c": "it was removed again", "l/r#1": "the previous version runs again"} {
		if got := failures[address]; !strings.Contains(got, "it ended with exit code 7 soon after its start\nits last line\n") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", address, got)
		}
	}
	sup.brief = false
	clear(sup.active)
	if res := run("a one", "b one", "r#1 one", "r#2 one", "r#3 one"); res.Counts.Unchanged != 5 || len(s.events) > 0 {
		t.Errorf("%+v %q", res, s.events)
	}
}
