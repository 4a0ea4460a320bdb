package apply_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/backendtest"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/token"
)

// site is a state and machines that are directories.
type site struct {
	t     *testing.T
	dir   string
	fake  *backendtest.Fake
	count int // ready.count of every service

	mu     sync.Mutex
	events []string // "OUTCOME ADDRESS", without started ones
}

func newSite(t *testing.T) *site { return &site{t: t, dir: t.TempDir(), fake: &backendtest.Fake{}} }

// request returns a request for services, each given as "name command requires…",
// all on machine m.
func (s *site) request(services ...string) *apply.Request {
	s.t.Helper()
	g := &graph.Graph{Name: "test", Environment: "dev", Machines: []*graph.Machine{{Name: "m", Connect: "dir:m"}}}
	for _, text := range services {
		parts := strings.Fields(text)
		name, replica, _ := strings.Cut(parts[0], "#")
		svc := &graph.Service{Address: graph.Address{Lib: "l", Name: name, Replica: replica}, Backend: "test", Machine: "m", Spec: graph.Spec{Command: []token.Text{token.Lit(parts[1])}}}
		if s.count > 0 {
			svc.Spec.Ready = &graph.Ready{Count: s.count}
		}
		for _, n := range parts[2:] {
			e := graph.Edge{Alias: n, Set: "l/" + n}
			for _, other := range services {
				if of, replica, _ := strings.Cut(strings.Fields(other)[0], "#"); of == n {
					e.To = append(e.To, graph.Address{Lib: "l", Name: n, Replica: replica})
				}
			}
			svc.Requires = append(svc.Requires, e)
		}
		g.Services = append(g.Services, svc)
	}
	g.Sort()
	set := backends.NewSet(s.fake)
	r, errs := set.Render(g, func(string) (plan.Placed, bool) { return plan.Placed{}, false }, nil, backends.RenderCache{})
	if errs != nil {
		s.t.Fatal(errs)
	}
	store := state.OpenDir(filepath.Join(s.dir, "state"))
	env := apply.Environment{Store: store, Dir: store.Path(), Dial: func(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			agent.Serve(context.Background(), server, agent.OpenHost(filepath.Join(s.dir, m.Name), set))
		}()
		return agent.NewClient(ctx, client)
	}}
	req := env.Request("apply", r.Plan, g.Machines)
	req.Objects = r.Objects
	req.OnEvent = func(e apply.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.Outcome != apply.Started {
			s.events = append(s.events, string(e.Outcome)+" "+e.Action.Address)
		}
	}
	return req
}

func (s *site) run(req *apply.Request) *apply.Result {
	s.t.Helper()
	res, err := apply.Run(context.Background(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

func TestRun_FailureSkipsDependents(t *testing.T) {
	s := newSite(t)
	s.fake.OnRealize = func(a string) error {
		if a == "l/db" {
			return errors.New("disk full")
		}
		return nil
	}
	res := s.run(s.request("db x", "web x db", "proxy x web", "other x"))
	if !slices.Equal(res.Failed, []string{"l/db"}) || !slices.Equal(res.Skipped, []string{"l/proxy", "l/web"}) || res.Counts.Created != 1 {
		t.Fatalf("%+v", res)
	}
	s.fake.OnRealize = nil
	if res := s.run(s.request("db x", "web x db", "proxy x web", "other x")); res.Counts.Created != 3 || res.Counts.Unchanged != 1 || res.Generation != 2 {
		t.Errorf("%+v", res)
	}
}

func TestRun_CreatesRequirementsFirstDeletesThemLast(t *testing.T) {
	s := newSite(t)
	s.run(s.request("c x b", "b x a", "a x"))
	if want := []string{"done l/a", "done l/b", "done l/c"}; !slices.Equal(s.events, want) {
		t.Errorf("%v", s.events)
	}
	s.events = nil
	s.run(s.request())
	if want := []string{"done l/c", "done l/b", "done l/a"}; !slices.Equal(s.events, want) {
		t.Errorf("%v", s.events)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "m", "etc", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRun_FailedUpdateKeepsOldRecord(t *testing.T) {
	s := newSite(t)
	s.run(s.request("a one", "b one"))
	s.fake.OnRealize = func(a string) error {
		if a == "l/a" {
			return errors.New("broken")
		}
		return nil
	}
	res := s.run(s.request("a two", "b two"))
	if res.Counts.Updated != 1 || res.Counts.Failed != 1 {
		t.Fatalf("%+v", res)
	}
	raw, err := os.ReadFile(filepath.Join(s.dir, "m/etc/defx-test/l/a"))
	if err != nil || !strings.Contains(string(raw), "one") {
		t.Errorf("%s, %v", raw, err)
	}
	s.fake.OnRealize = nil
	if cs, err := apply.Diff(context.Background(), s.request("a two", "b two")); err != nil || len(cs.Actions) != 1 || cs.Actions[0].Address != "l/a" {
		t.Errorf("%+v, %v", cs, err)
	}
}

func TestRun_FailureStopsRollingUpdate(t *testing.T) {
	s := newSite(t)
	run := func(services ...string) (*apply.Result, int) {
		req := s.request(services...)
		now, most := 0, 0
		req.OnEvent = func(e apply.Event) {
			switch e.Outcome {
			case apply.Started:
				now++
				most = max(most, now)
			case apply.Done, apply.Failed:
				now--
			}
		}
		return s.run(req), most
	}
	if res, most := run("m#0 x", "m#1 x", "m#2 x", "m#3 x"); res.Counts.Created != 4 || most != 4 {
		t.Errorf("first creation: %+v, at most %d at once", res.Counts, most)
	}
	if res, most := run("m#0 y", "m#1 y", "m#2 y", "m#3 y"); res.Counts.Updated != 4 || most != 1 {
		t.Errorf("rolling update: %+v, at most %d at once", res.Counts, most)
	}
	if res, most := run("m#0 y", "m#1 y", "m#2 z", "n#0 x", "n#1 x"); res.Counts.Updated != 1 || res.Counts.Deleted != 1 || res.Counts.Created != 2 || most != 3 {
		t.Errorf("with other changes: %+v, at most %d at once", res.Counts, most)
	}
	s.fake.OnRealize = func(a string) error {
		if a == "l/m#1" {
			return errors.New("broken")
		}
		return nil
	}
	res, _ := run("m#0 req", "m#1 req", "m#2 req", "n#0 x", "n#1 x", "o x")
	if !slices.Equal(res.Failed, []string{"l/m#1"}) || !slices.Equal(res.Skipped, []string{"l/m#2"}) || res.Counts.Updated != 1 || res.Counts.Created != 1 {
		t.Errorf("%+v", res)
	}
}

// TestRun_ReadyCountReplicasSuffice lets replicas of a set fail: its dependents
// start as long as ready.count replicas succeed.
func TestRun_ReadyCountReplicasSuffice(t *testing.T) {
	for _, c := range []struct {
		count   int
		fail    string
		skipped bool
		before  string // done before the dependents of the set
	}{
		{0, "", false, "l/m#2"}, {0, "l/m#2", true, ""},
		{2, "", false, ""}, {2, "l/m#2", false, ""}, {2, "l/m#1 l/m#2", true, ""},
		{9, "l/m#2", true, ""}, // more than there are replicas: all of them
		{3, "", false, "l/m#2"}, {1, "l/m#0 l/m#2", false, ""},
	} {
		s := newSite(t)
		s.count = c.count
		s.fake.OnRealize = func(a string) error {
			if slices.Contains(strings.Fields(c.fail), a) {
				return errors.New("broken")
			}
			return nil
		}
		res := s.run(s.request("m#0 x", "m#1 x", "m#2 x", "user x m", "next x user"))
		if got := len(res.Skipped) == 2; got != c.skipped || len(res.Failed) != len(strings.Fields(c.fail)) {
			t.Errorf("count %d, %q fail: %+v", c.count, c.fail, res)
		}
		if c.before != "" && slices.Index(s.events, "done "+c.before) > slices.Index(s.events, "done l/user") {
			t.Errorf("count %d: %v", c.count, s.events)
		}
	}

	// A replica that does not change counts as ready, also for a dependent that changes.
	s := newSite(t)
	s.count = 2
	s.run(s.request("m#0 x", "m#1 x", "m#2 x", "user x m"))
	s.fake.OnRealize = func(a string) error {
		if a == "l/m#1" {
			return errors.New("broken")
		}
		return nil
	}
	if res := s.run(s.request("m#0 x", "m#1 y", "m#2 x", "user y m")); !slices.Equal(res.Failed, []string{"l/m#1"}) || res.Counts.Updated != 1 {
		t.Errorf("%+v", res)
	}
}

func TestRun_SecondRunChangesNothing(t *testing.T) {
	s := newSite(t)
	s.run(s.request("a x", "b x a"))
	n := s.fake.Realizes.Load()
	if res := s.run(s.request("a x", "b x a")); res.Wrote || s.fake.Realizes.Load() != n {
		t.Errorf("%+v after %d more realizations", res, s.fake.Realizes.Load()-n)
	}
}

func TestRun_RefusesUnapprovedChanges(t *testing.T) {
	s := newSite(t)
	req := s.request("a x")
	cs, err := apply.Diff(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	s.run(s.request("b x"))
	req.Approved = cs
	if _, err := apply.Run(context.Background(), req); !errors.Is(err, apply.ErrPlanChanged) {
		t.Errorf("%v", err)
	}
}

func TestRun_InterruptedCompletesRunningActions(t *testing.T) {
	s := newSite(t)
	req := s.request("a x", "b x a", "c x b")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s.fake.OnRealize = func(string) error { stop(); return nil }
	res, err := apply.Run(ctx, req)
	if err != nil || !res.Stopped || res.Counts.Created != 1 || res.Generation != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	s.fake.OnRealize = nil
	if res := s.run(s.request("a x", "b x a", "c x b")); res.Counts.Created != 2 || res.Counts.Unchanged != 1 {
		t.Errorf("%+v", res)
	}
}

func TestRun_UnreachableMachineFailsItsUnitsOnly(t *testing.T) {
	s := newSite(t)
	req := s.request("a x", "b x")
	req.Plan.Units[1].Machine = "gone"
	req.Machines = append(req.Machines, &graph.Machine{Name: "gone"})
	dial := req.Dial
	req.Dial = func(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
		if m.Name == "gone" {
			return nil, errors.New("no route")
		}
		return dial(ctx, m)
	}
	if res := s.run(req); !slices.Equal(res.Failed, []string{"l/b"}) || res.Counts.Created != 1 {
		t.Errorf("%+v", res)
	}
}

func TestRun_ConcurrentAppliesWaitForLease(t *testing.T) {
	s := newSite(t)
	var wg sync.WaitGroup
	for range 4 {
		req := s.request("a x", "b x", "c x")
		req.LeaseWait = 1 << 40
		wg.Go(func() {
			if res, err := apply.Run(context.Background(), req); err != nil || len(res.Failed) > 0 {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	wg.Wait()
	store := state.OpenDir(filepath.Join(s.dir, "state"))
	if g, _, err := state.Current(context.Background(), store); err != nil || g.Number != 1 || len(g.Records) != 3 {
		t.Errorf("%+v, %v", g, err)
	}
}
