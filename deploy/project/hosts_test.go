package project_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/lang"
)

// host is a checkout with a state. Several of them deploy to the same machines.
type host struct {
	*world
	state string // folder of the state
}

// newHosts returns two hosts with one deployment in which every service has the
// version V, on machines below the first folder; states says which folder each
// host's state has, relative to its checkout.
func newHosts(t *testing.T) (a, b *host) {
	machines := t.TempDir()
	entry := fmt.Sprintf(`
local v = 'V1';
{
  name: 'tiny',
  libs: { app: {
    web: { service: { command: ['/bin/web'], env: { V: v } } },
    job: { place: { machine: 'two' }, service: { command: ['/bin/job'], env: { V: v } } },
  } },
  machines: { box: { connect: 'dir:%[1]s/box' }, two: { connect: 'dir:%[1]s/two' } },
}
`, machines)
	hosts := []*host{}
	for range 2 {
		w := newWorld(t, "")
		w.write("defx.jsonnet", entry)
		hosts = append(hosts, &host{w, filepath.Join(w.dir, ".defx")})
	}
	return hosts[0], hosts[1]
}

// version edits the entry file.
func (h *host) version(v string) *host {
	h.t.Helper()
	raw, err := os.ReadFile(filepath.Join(h.dir, "defx.jsonnet"))
	if err != nil {
		h.t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(raw), "local v = '")
	_, after, _ := strings.Cut(rest, "'")
	h.write("defx.jsonnet", before+"local v = '"+v+"'"+after)
	return h
}

func (h *host) project() *project.Project {
	h.t.Helper()
	p, err := project.Open(h.dir, "defx.jsonnet", h.state, lang.Config{}, backends.NewSet(systemd.New()))
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// request returns a request for what the entry file asks for.
func (h *host) request() *apply.Request {
	h.t.Helper()
	p := h.project()
	d, err := p.Evaluate(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	r := p.ApplyRequest(d)
	r.LeaseTime, r.LeaseWait = killedLeaseTime, time.Minute
	return r
}

// try applies, as a person does: machines are asked first.
func (h *host) try() (*apply.Result, error) {
	r := h.request()
	if err := r.RefreshMachines(h.t.Context()); err != nil {
		return nil, err
	}
	defer r.Refreshed.Close()
	return apply.Run(h.t.Context(), r)
}

func (h *host) mustApply() *apply.Result {
	h.t.Helper()
	res, err := h.try()
	if err != nil || len(res.Failed) > 0 {
		h.t.Fatalf("%+v, %v", res, err)
	}
	return res
}

// machine returns the folder of a machine.
func (h *host) machine(name string) string {
	h.t.Helper()
	for _, m := range h.request().Machines {
		if m.Name == name {
			return strings.TrimPrefix(m.Connect, "dir:")
		}
	}
	h.t.Fatalf("no machine %s", name)
	return ""
}

// runs returns the version that the unit files of a machine have.
func (h *host) runs(name string) string {
	h.t.Helper()
	files, _ := filepath.Glob(filepath.Join(h.machine(name), "etc/systemd/system", "*.service"))
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if _, rest, found := strings.Cut(string(raw), `V=`); found {
			return strings.FieldsFunc(rest, func(r rune) bool { return r == '"' || r == '\n' })[0]
		}
	}
	return ""
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// refused checks that an apply is refused because the state fell behind, and that
// neither the machines nor the state are changed by it.
func refused(t *testing.T, h *host, wants ...string) {
	t.Helper()
	before := h.everything()
	for _, refresh := range []bool{true, false} {
		r := h.request()
		if refresh {
			if err := r.RefreshMachines(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else if cs, err := apply.Diff(t.Context(), r); err == nil && cs.Empty() {
			continue // without asking machines nothing differs
		}
		_, err := apply.Run(t.Context(), r)
		r.Refreshed.Close()
		if err == nil {
			t.Fatalf("with refresh %v: an old copy of the state was accepted", refresh)
		}
		for _, want := range append(wants, "defx state pull -e") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the refusal lacks %q: %v", want, err)
			}
		}
	}
	if after := h.everything(); after != before {
		t.Errorf("a refusal changed something: %s", firstDifference(after, before))
	}
}

// everything returns what is in the machines and in the state, except what the
// machines can rebuild.
func (h *host) everything() string {
	h.t.Helper()
	var out string
	for _, dir := range []string{h.machine("box"), h.machine("two"), h.state} {
		if _, err := os.Stat(dir); err == nil {
			out += tree(h.t, dir, "var/lib/defx/statcache.json")
		}
	}
	return out
}

func TestApply_RestoredStateIsRefused(t *testing.T) {
	a, _ := newHosts(t)
	a.mustApply()
	copyFolder(t, a.state, a.state+".copy")
	a.version("V2").mustApply()
	copyFolder(t, a.state+".copy", a.state)
	a.version("V1") // what the restored state records, and not what runs
	if _, err := os.Stat(a.state); err != nil {
		t.Fatal(err)
	}
	refused(t, a, "machine box", "it was last changed by apply", "state ", "at generation 1 does not know")
	if got := a.runs("box"); got != "V2" {
		t.Errorf("the machine runs %s", got)
	}
	a.version("V3")
	refused(t, a, "does not know")
}

// TestApply_CopyOfStateIsRefusedHoweverOften: the second copy fell behind. No
// number of attempts makes its tokens or generations pass.
func TestApply_CopyOfStateIsRefusedHoweverOften(t *testing.T) {
	a, b := newHosts(t)
	a.mustApply()
	copyFolder(t, a.state, b.state)
	for _, v := range []string{"V2", "V3", "V4", "V5"} {
		a.version(v).mustApply()
	}
	b.version("VB")
	for range 12 {
		if _, err := b.try(); err == nil {
			t.Fatal("the copy was accepted")
		}
	}
	refused(t, b, "does not know")
	if got := a.runs("box"); got != "V5" {
		t.Errorf("the machine runs %s", got)
	}

	// The way out: it takes over the state that went on.
	if _, err := b.project().Store("tiny", "default").Pull(t.Context(), state.OpenDir(filepath.Join(a.state, "tiny", "default")), state.LeaseOptions{Verb: "pull"}, false); err != nil {
		t.Fatal(err)
	}
	if res := b.mustApply(); res.Generation != 6 || b.runs("box") != "VB" || b.runs("two") != "VB" {
		t.Errorf("%+v, %s, %s", res, b.runs("box"), b.runs("two"))
	}
	refused(t, a.version("V6"), "does not know") // now this one is behind
}

func TestApply_ForkIsRefused(t *testing.T) {
	a, b := newHosts(t)
	a.mustApply()
	copyFolder(t, a.state, b.state)
	// Both go on: the first on both machines, the second on one that the first has not touched since.
	a.edit("defx.jsonnet", "job: { place", "other: { place: { machine: 'box' }, service: { command: ['/bin/o'] } }, job: { place")
	a.mustApply() // touches box only
	b.edit("defx.jsonnet", "['/bin/job'], env", "['/bin/job', 'b'], env")
	if res, err := apply.Run(t.Context(), b.request()); err != nil || res.Generation != 2 { // touches two only, and asks no other
		t.Fatalf("%+v, %v", res, err)
	}
	refused(t, a.version("V2"), "machine two", "does not know")
	refused(t, b.version("V2"), "machine box", "does not know")
	own, other := b.project().Store("tiny", "default"), a.project().Store("tiny", "default")
	if _, err := own.Pull(t.Context(), other, state.LeaseOptions{Verb: "pull"}, false); err == nil || !strings.Contains(err.Error(), "both have changed") {
		t.Errorf("a fork was given up without being asked for: %v", err)
	}
	res, err := own.Pull(t.Context(), other, state.LeaseOptions{Verb: "pull"}, true)
	if err != nil || len(res.Aside) == 0 {
		t.Fatalf("%+v, %v", res, err)
	}
}

// TestApply_OtherStateIsRefused: a state that never had anything to do with the
// machine, unless nothing is there any more.
func TestApply_OtherStateIsRefused(t *testing.T) {
	a, b := newHosts(t)
	a.mustApply()
	refused(t, b.version("V2"), "it has 1 unit of state", "this is state (new)")
	a.edit("defx.jsonnet", "libs: {", "libs: {} + if true then {} else {")
	a.mustApply()
	if res := b.mustApply(); res.Counts.Created != 2 || b.runs("box") != "V2" {
		t.Errorf("%+v", res)
	}
}

// slow makes a request stop at the first action until release is closed.
func slow(r *apply.Request) (begun, release chan struct{}) {
	begun, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.OnEvent = func(e apply.Event) {
		if e.Outcome == apply.Started {
			once.Do(func() {
				close(begun)
				<-release
			})
		}
	}
	return begun, release
}

// TestApply_LiveLeaseIsNeverTaken: however the other process looks, as long as
// the counter moves the lease is held; also while an interrupted apply ends.
func TestApply_LiveLeaseIsNeverTaken(t *testing.T) {
	a, b := newHosts(t)
	b.state = a.state
	a.mustApply()
	r := a.version("V2").request()
	r.LeaseTime = time.Second // so long that a busy machine renews in time
	begun, release := slow(r)
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := apply.Run(ctx, r)
		done <- err
	}()
	<-begun
	interrupt() // Ctrl-C: what runs is finished
	other := b.version("V3").request()
	other.LeaseWait = 5 * r.LeaseTime / 2
	var waited string
	other.OnEvent = func(e apply.Event) {
		if e.Outcome == apply.Waiting {
			waited = e.Err.Error()
		}
	}
	var busy *state.ErrLeaseHeld
	if _, err := apply.Run(t.Context(), other); !errors.As(err, &busy) {
		t.Errorf("a second apply began meanwhile: %v", err)
	}
	if !strings.Contains(waited, "is locked by") || !strings.Contains(waited, "if that lease does not move for "+r.LeaseTime.String()) {
		t.Errorf("%q", waited)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if res := b.mustApply(); res.Generation != 3 || b.runs("box") != "V3" || b.runs("two") != "V3" {
		t.Errorf("%+v, %s", res, b.runs("box"))
	}
}

// TestApply_LostLeaseIsNotCommitted: a process that was suspended for longer than
// its lease finds out when it records its result.
func TestApply_LostLeaseIsNotCommitted(t *testing.T) {
	a, b := newHosts(t)
	b.state = a.state
	a.mustApply()
	r := a.version("V2").request()
	r.LeaseTime = time.Hour // so that only the commit can notice
	begun, release := slow(r)
	done := make(chan error, 1)
	go func() {
		_, err := apply.Run(t.Context(), r)
		done <- err
	}()
	<-begun
	store := b.project().Store("tiny", "default")
	held, err := store.LeasesHeld(t.Context())
	if err != nil || len(held) != 1 {
		t.Fatalf("%+v, %v", held, err)
	}
	if err := store.Break(t.Context(), held[0]); err != nil { // as after an hour without a renewal
		t.Fatal(err)
	}
	b.version("V3").mustApply()
	close(release)
	if err := <-done; !errors.Is(err, state.ErrLeaseLost) && !errors.Is(err, state.ErrHeadMoved) {
		t.Errorf("the result was recorded: %v", err)
	}
	gen, _, err := state.Current(t.Context(), store)
	if err != nil || gen.Number != 2 {
		t.Fatalf("%+v, %v", gen, err)
	}
	if res := b.mustApply(); b.runs("box") != "V3" || b.runs("two") != "V3" {
		t.Errorf("%+v, %s, %s", res, b.runs("box"), b.runs("two"))
	}
}

// TestApply_KilledElsewhereIsFinished: an apply is killed half way on one host; the
// next one, on another host with the same state, wants what ran before, and leaves
// nothing of it. Nothing is needed but the state: not the journal either.
func TestApply_KilledElsewhereIsFinished(t *testing.T) {
	a, b := newHosts(t)
	b.state = a.state
	a.mustApply()
	want := a.trees()
	r := a.version("V2").request()
	r.Parallel = 1
	dial := r.Dial
	cut := make(chan *agent.Client, 10)
	r.Dial = func(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
		c, err := dial(ctx, m)
		if err == nil {
			cut <- c
		}
		return c, err
	}
	n := 0
	ctx, kill := context.WithCancelCause(t.Context())
	killed := errors.New("killed")
	r.OnEvent = func(e apply.Event) {
		if e.Outcome == apply.Done {
			n++
			kill(killed) // a cause that is no interruption: the apply ends without recording anything, as after kill -9
		}
	}
	if _, err := apply.Run(ctx, r); !errors.Is(err, killed) || n != 1 {
		t.Fatalf("%d actions done, %v", n, err)
	}
	if one, two := a.runs("box"), a.runs("two"); one == two {
		t.Fatalf("both machines run %s", one)
	}
	os.Remove(filepath.Join(a.state, "tiny", "default", state.JournalName))
	res := b.version("V1").mustApply()
	if got := b.trees(); got != want {
		t.Errorf("something of the killed apply is left: %s", firstDifference(got, want))
	}
	if !res.Wrote || res.Generation != 2 {
		t.Errorf("%+v", res)
	}
	if u, err := apply.ReadUnfinished(t.Context(), b.project().Store("tiny", "default")); err != nil || u != nil {
		t.Errorf("%+v, %v", u, err)
	}
	if res := b.mustApply(); res.Wrote {
		t.Errorf("a further apply found changes: %+v", res.Changes.Actions)
	}
	refusedNot(t, a.version("V1"))
}

// trees returns what both machines have.
func (h *host) trees() string {
	return machine(h.t, h.machine("box")) + machine(h.t, h.machine("two"))
}

// refusedNot checks that an apply is accepted.
func refusedNot(t *testing.T, h *host) {
	t.Helper()
	if _, err := h.try(); err != nil {
		t.Error(err)
	}
}

// TestApply_FailureIsInTheHistory: an apply that touched a machine writes a
// generation even if the records are the same afterwards.
func TestApply_FailureIsInTheHistory(t *testing.T) {
	a, _ := newHosts(t)
	a.mustApply()
	a.version("V2")
	foreign := filepath.Join(a.machine("box"), "etc/defx-foreign.conf")
	a.edit("defx.jsonnet", "web: { service: {", "web: { service: { hostFiles: { '/etc/defx-foreign.conf': { text: 'x' } },")
	if err := os.WriteFile(foreign, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	res, err := a.try()
	if err != nil || len(res.Failed) != 1 || !res.Wrote {
		t.Fatalf("%+v, %v", res, err)
	}
	gen, head, err := state.Current(t.Context(), a.project().Store("tiny", "default"))
	if err != nil || gen.Number != 2 || len(gen.Outcomes) != 1 || gen.Outcomes[0].Outcome != state.OutcomeFailed || gen.Apply == "" || gen.Lineage != head.Lineage || len(head.Intents) != 0 {
		t.Errorf("%+v, %+v, %v", gen, head, err)
	}
}
