package engine

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/client"
)

// daemon answers like an engine, and remembers containers. What they run ends at once.
type daemon struct {
	mu      sync.Mutex
	boxes   map[string]*box
	starts  []string // names
	code    int      // that containers end with
	seen    func(name string, b *box)
	listed  func()
	archive func(io.Writer) error // of any image
	missing bool                  // images are
}

type box struct {
	labels         map[string]string
	running        bool
	code           int
	started, ended time.Time
	exit           chan struct{} // closed at its next exit
}

func (b *box) start() {
	b.running, b.started = true, time.Now()
}

func (b *box) end(code int) {
	b.running, b.code, b.ended = false, code, time.Now()
	close(b.exit)
	b.exit = make(chan struct{})
}

func (b *box) state() string {
	switch {
	case b.running:
		return "running"
	case b.started.IsZero():
		return "created"
	}
	return "exited"
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.45")
	w.Header().Set("Content-Type", "application/json")
	_, p, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	part := strings.Split(p, "/")
	d.mu.Lock()
	defer d.mu.Unlock()
	fails := func(code int) { w.WriteHeader(code); io.WriteString(w, `{"message":"no"}`) }
	switch {
	case p == "images/get":
		d.archive(w)
	case part[0] == "images" && d.missing:
		fails(404)
	case part[0] == "images":
		io.WriteString(w, `{"Id":"sha256:x"}`)
	case p == "containers/create":
		name := r.URL.Query().Get("name")
		if d.boxes[name] != nil {
			fails(409)
			return
		}
		var body struct{ Labels map[string]string }
		json.NewDecoder(r.Body).Decode(&body)
		d.boxes[name] = &box{labels: body.Labels, exit: make(chan struct{})}
		w.WriteHeader(201)
		json.NewEncoder(w).Encode(map[string]string{"Id": name})
	case p == "containers/json":
		list := []map[string]any{}
		for name, b := range d.boxes {
			list = append(list, map[string]any{"Id": name, "Labels": b.labels, "State": b.state()})
		}
		json.NewEncoder(w).Encode(list)
		if d.listed != nil {
			d.listed()
		}
	case part[0] != "containers":
		io.WriteString(w, "{}")
	case d.boxes[part[1]] == nil:
		fails(404)
	case r.Method == http.MethodDelete:
		if d.boxes[part[1]].running && r.URL.Query().Get("force") != "1" {
			fails(409)
			return
		}
		delete(d.boxes, part[1])
		w.WriteHeader(204)
	case part[2] == "json":
		b := d.boxes[part[1]]
		stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
		json.NewEncoder(w).Encode(map[string]any{"Id": part[1], "Config": map[string]any{"Labels": b.labels}, "HostConfig": map[string]any{},
			"State": map[string]any{"Running": b.running, "Status": b.state(), "ExitCode": b.code, "StartedAt": stamp(b.started), "FinishedAt": stamp(b.ended)}})
		if d.seen != nil {
			d.seen(part[1], b)
		}
	case part[2] == "start":
		b := d.boxes[part[1]]
		if b.running {
			w.WriteHeader(304)
			return
		}
		d.starts = append(d.starts, part[1])
		b.start()
		w.WriteHeader(204)
		time.AfterFunc(time.Millisecond, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			b.end(d.code)
		})
	case part[2] == "wait":
		b := d.boxes[part[1]]
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		if exit := b.exit; b.running || r.URL.Query().Get("condition") == "next-exit" {
			d.mu.Unlock()
			select {
			case <-exit:
			case <-r.Context().Done():
			}
			d.mu.Lock()
		}
		json.NewEncoder(w).Encode(map[string]int{"StatusCode": b.code})
	}
}

func (d *daemon) ran(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(d.starts), func(s string) bool { return s != name }))
}

// aMachine has an engine that is none, and no units.
func aMachine(t *testing.T) *daemon {
	t.Helper()
	dir := t.TempDir()
	units, runs, secrets := unitsDir, runsDir, secretsDir
	t.Cleanup(func() { unitsDir, runsDir, secretsDir = units, runs, secrets })
	unitsDir, runsDir, secretsDir = filepath.Join(dir, "units"), filepath.Join(dir, "runs"), filepath.Join(dir, "secrets/.containers")
	for _, d := range []string{unitsDir, runsDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := &daemon{boxes: map[string]*box{}}
	socket := filepath.Join(dir, "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: d}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	return d
}

func unit(t *testing.T, name string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join(unitsDir, name), raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// aJob writes a version of a job, with a migration before it.
func aJob(t *testing.T, version string) docker.Cron {
	t.Helper()
	id := docker.ID{Scope: "default/shop", Address: "a/b", Base: "job"}
	of, before := "job."+version+".container", "job."+version+"-migrate.once"
	unit(t, of, docker.Container{ID: id, Image: "toy@sha256:" + strings.Repeat("a", 64), Network: "host", Restart: "no", Job: true, Before: []string{before}})
	unit(t, before, docker.Command{ID: id, Unit: of, Command: []string{"migrate"}, Done: filepath.Join(unitsDir, before+".done")})
	c := docker.Cron{ID: id, Unit: of, Every: "1h", Timezone: "UTC", CatchUp: true}
	unit(t, "job.job", c)
	past := time.Now().Add(-3 * time.Hour)
	if err := os.Chtimes(filepath.Join(unitsDir, "job.job"), past, past); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAMigrationRunsOnceForTwoProcesses: the agent and a runner come to it at the same time.
func TestAMigrationRunsOnceForTwoProcesses(t *testing.T) {
	d := aMachine(t)
	aJob(t, "one")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // to wait for an end that has been is to wait for ever
	defer cancel()
	for range 10 {
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				if err := (&Engine{}).Start(ctx, "job.one-migrate.once"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := os.Remove(filepath.Join(unitsDir, "job.one-migrate.once.done")); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.ran("job.one-migrate"); n != 10 {
		t.Errorf("it ran %d times instead of 10", n)
	}
}

// TestAMigrationThatGoesOnIsNotStartedAgain: whoever started it was killed, and it
// ends just when it has been seen.
func TestAMigrationThatGoesOnIsNotStartedAgain(t *testing.T) {
	for code, want := range map[int]string{0: "", 4: "exit code 4"} {
		d := aMachine(t)
		aJob(t, "one")
		b := &box{labels: map[string]string{docker.LabelUnit: "job.one-migrate.once"}, exit: make(chan struct{})}
		b.start()
		d.boxes["job.one-migrate"] = b
		d.seen = func(string, *box) {
			if b.running {
				b.end(code)
			}
		}
		err := (&Engine{}).Start(t.Context(), "job.one-migrate.once")
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if n := d.ran("job.one-migrate"); n != 0 {
			t.Errorf("it was started again, %d times", n)
		}
	}
}

// TestNoLineOfARecordIsLost: the agent and runners write it at once.
func TestNoLineOfARecordIsLost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "job.jsonl")
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 10 {
				write(file, Run{Due: time.Unix(int64(100*w+i), 0).UTC()})
			}
		})
	}
	all.Wait()
	if n := len(records(file)); n != 40 {
		t.Errorf("%d lines of 40", n)
	}
}

// TestARunThatCouldNotBeginIsOwed: that of a version whose migration fails, say,
// and that goes again. The version before makes up for it.
func TestARunThatCouldNotBeginIsOwed(t *testing.T) {
	d := aMachine(t)
	c := aJob(t, "one")
	file := filepath.Join(unitsDir, "job.job")
	d.code = 4
	if err := Job(file, io.Discard); err == nil {
		t.Error("its migration failed, and nobody is told")
	}
	if last := newest(recordOf(c.Base)); last.open() || !strings.Contains(last.Error, "exit code 4") || !done(last, file).Before(last.Due) {
		t.Errorf("%+v", last)
	}
	d.code = 0
	for range 2 {
		if err := Job(file, io.Discard); err != nil {
			t.Error(err)
		}
		if last := newest(recordOf(c.Base)); d.ran("job.one") != 1 || last.Error != "" {
			t.Errorf("%d runs, %+v", d.ran("job.one"), last)
		}
	}
	d.code = 5 // a run that fails by itself was one
	unit(t, "job.job", c)
	if err := os.WriteFile(recordOf(c.Base), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-3 * time.Hour)
	if err := os.Chtimes(file, past, past); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		Job(file, io.Discard)
	}
	if n := d.ran("job.one"); n != 2 {
		t.Errorf("%d runs of a job that fails", n-1)
	}
}

// made makes the containers of versions of a job.
func made(t *testing.T, versions ...docker.Cron) (*Engine, *client.Client) {
	t.Helper()
	e := &Engine{}
	api, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range versions {
		if err := e.makeJob(t.Context(), api, c.Unit); err != nil {
			t.Fatal(err)
		}
	}
	return e, api
}

// TestStepsOfAJobWaitForEachOther: while one process does one, another neither
// starts the job, nor sweeps, nor writes down how runs ended.
func TestStepsOfAJobWaitForEachOther(t *testing.T) {
	d := aMachine(t)
	old, c := aJob(t, "one"), aJob(t, "two")
	e, api := made(t, old, c)
	write(recordOf(c.Base), Run{Due: time.Now(), Begun: time.Now(), Unit: old.Unit})
	err := steadily(t.Context(), recordOf(c.Base), func() error {
		for what, step := range map[string]func(context.Context){
			"run": func(ctx context.Context) { e.run(ctx, api, c.Unit) }, "settle": func(ctx context.Context) { e.settle(ctx, api, c.Base) },
			"sweep": func(ctx context.Context) { e.sweepJob(ctx, api, c) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			step(ctx)
			cancel()
			if d.ran("job.two") != 0 || !newest(recordOf(c.Base)).open() || len(d.boxes) != 4 {
				t.Fatalf("%s did not wait: %d runs, %+v, %d containers", what, d.ran("job.two"), newest(recordOf(c.Base)), len(d.boxes))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.run(t.Context(), api, c.Unit); err != nil || d.ran("job.two") != 1 {
		t.Error(err)
	}
	e.sweepJob(t.Context(), api, c)
	if newest(recordOf(c.Base)).open() || d.boxes["job.one"] != nil || d.boxes["job.two"] == nil {
		t.Error("it was not swept afterwards")
	}
}

// TestASweepSparesWhatIsMadeOrRuns: a runner of the version before, which ends its
// run, does not take away the new one; nor does anybody what runs by now.
func TestASweepSparesWhatIsMadeOrRuns(t *testing.T) {
	d := aMachine(t)
	old := aJob(t, "one")
	c := aJob(t, "two")
	e, api := made(t, old, c)
	e.sweepJob(t.Context(), api, old)
	if d.boxes["job.two"] == nil {
		t.Error("the new version is gone")
	}
	d.listed = func() { d.boxes["job.one"].start() }
	e.sweepJob(t.Context(), api, c)
	if d.boxes["job.one"] == nil {
		t.Error("a run is gone")
	}
}

// TestACopyOfASecretIsMadeByOneAtATime: both make the container of a version.
func TestACopyOfASecretIsMadeByOneAtATime(t *testing.T) {
	aMachine(t)
	source := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(source, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				if _, err := secret(t.Context(), "job.one.container", docker.Secret{Source: source, Target: "/run/secrets/password", Owner: -1}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestABaseOfTheEngineWhereNoRegistryAnswers: it was loaded by hand, or the engine
// has a mirror.
func TestABaseOfTheEngineWhereNoRegistryAnswers(t *testing.T) {
	d := aMachine(t)
	have, err := Image(empty.Image, folder(t, 0o644), "/base", nil)
	if err != nil {
		t.Fatal(err)
	}
	d.archive = func(w io.Writer) error { return archive(w, have, nil, "toy:1") }
	e := &Engine{}
	api, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	b := &docker.Build{Base: "127.0.0.1:1/toy@sha256:" + strings.Repeat("a", 64), Push: "127.0.0.1:1/shop"}
	config := func(img v1.Image) v1.Hash {
		h, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	img, file, err := e.base(t.Context(), api, b)
	if err != nil {
		t.Fatal(err)
	}
	if config(img) != config(have) {
		t.Error("another image")
	}
	if err := os.Remove(file); err != nil {
		t.Error(err)
	}
	e.forget()
	d.missing = true
	if _, _, err := e.base(t.Context(), api, b); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody has it, and %v", err)
	}
}
