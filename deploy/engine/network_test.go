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

// daemon is a fake engine that remembers containers. The processes of its containers end
// immediately.
type daemon struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer
	starts     []string // names, in order
	code       int      // exit code of containers
	onInspect  func(name string, b *fakeContainer)
	onList     func()
	archive    func(io.Writer) error // writes the content of every image
	missing    bool                  // images do not exist
}

type fakeContainer struct {
	labels         map[string]string
	running        bool
	code           int
	started, ended time.Time
	exit           chan struct{} // closed when it exits
}

func (b *fakeContainer) start() {
	b.running, b.started = true, time.Now()
}

func (b *fakeContainer) end(code int) {
	b.running, b.code, b.ended = false, code, time.Now()
	close(b.exit)
	b.exit = make(chan struct{})
}

func (b *fakeContainer) state() string {
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
		if d.containers[name] != nil {
			fails(409)
			return
		}
		var body struct{ Labels map[string]string }
		json.NewDecoder(r.Body).Decode(&body)
		d.containers[name] = &fakeContainer{labels: body.Labels, exit: make(chan struct{})}
		w.WriteHeader(201)
		json.NewEncoder(w).Encode(map[string]string{"Id": name})
	case p == "containers/json":
		list := []map[string]any{}
		for name, b := range d.containers {
			list = append(list, map[string]any{"Id": name, "Labels": b.labels, "State": b.state()})
		}
		json.NewEncoder(w).Encode(list)
		if d.onList != nil {
			d.onList()
		}
	case part[0] != "containers":
		io.WriteString(w, "{}")
	case d.containers[part[1]] == nil:
		fails(404)
	case r.Method == http.MethodDelete:
		if d.containers[part[1]].running && r.URL.Query().Get("force") != "1" {
			fails(409)
			return
		}
		delete(d.containers, part[1])
		w.WriteHeader(204)
	case part[2] == "json":
		b := d.containers[part[1]]
		stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
		json.NewEncoder(w).Encode(map[string]any{"Id": part[1], "Config": map[string]any{"Labels": b.labels}, "HostConfig": map[string]any{},
			"State": map[string]any{"Running": b.running, "Status": b.state(), "ExitCode": b.code, "StartedAt": stamp(b.started), "FinishedAt": stamp(b.ended)}})
		if d.onInspect != nil {
			d.onInspect(part[1], b)
		}
	case part[2] == "start":
		b := d.containers[part[1]]
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
		b := d.containers[part[1]]
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

// newFakeEngine starts a fake engine, and sets the folders of units, runs and secrets to
// empty ones.
func newFakeEngine(t *testing.T) *daemon {
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
	d := &daemon{containers: map[string]*fakeContainer{}}
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

// writeJob writes a version of a job that has a migration.
func writeJob(t *testing.T, version string) docker.Cron {
	t.Helper()
	id := docker.ID{Scope: "default/shop", Address: "a/b", Base: "job"}
	container, before := "job."+version+".container", "job."+version+"-migrate.once"
	unit(t, container, docker.Container{ID: id, Image: "multi-tool@sha256:" + strings.Repeat("a", 64), Network: "host", Restart: "no", Job: true, Before: []string{before}})
	unit(t, before, docker.Command{ID: id, Unit: container, Command: []string{"migrate"}, Done: filepath.Join(unitsDir, before+".done")})
	c := docker.Cron{ID: id, Unit: container, Every: "1h", Timezone: "UTC", CatchUp: true}
	unit(t, "job.job", c)
	past := time.Now().Add(-3 * time.Hour)
	if err := os.Chtimes(filepath.Join(unitsDir, "job.job"), past, past); err != nil {
		t.Fatal(err)
	}
	return c
}

// The agent and a runner start the same migration at the same time.
func TestRunOnce_Concurrent(t *testing.T) {
	d := newFakeEngine(t)
	writeJob(t, "one")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // waiting for an exit that has already happened would never end
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
		t.Errorf("the migration ran %d times, want 10", n)
	}
}

// The process that started the migration was killed, and the migration ends just after it
// was seen running.
func TestRunOnce_AlreadyRunning(t *testing.T) {
	for code, want := range map[int]string{0: "", 4: "exit code 4"} {
		d := newFakeEngine(t)
		writeJob(t, "one")
		b := &fakeContainer{labels: map[string]string{docker.LabelUnit: "job.one-migrate.once"}, exit: make(chan struct{})}
		b.start()
		d.containers["job.one-migrate"] = b
		d.onInspect = func(string, *fakeContainer) {
			if b.running {
				b.end(code)
			}
		}
		err := (&Engine{}).Start(t.Context(), "job.one-migrate.once")
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if n := d.ran("job.one-migrate"); n != 0 {
			t.Errorf("the migration was started again, %d times", n)
		}
	}
}

// The agent and runners write a record at the same time.
func TestRecordRun_Concurrent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "job.jsonl")
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 10 {
				recordRun(t.Context(), file, Run{Due: time.Unix(int64(100*w+i), 0).UTC()})
			}
		})
	}
	all.Wait()
	if n := len(readRuns(file)); n != 40 {
		t.Errorf("%d lines, want 40", n)
	}
}

// A run that could not start, say because a migration failed, is due again, also for the
// previous version after a rollback.
func TestJob_FailedStartIsDueAgain(t *testing.T) {
	d := newFakeEngine(t)
	c := writeJob(t, "one")
	file := filepath.Join(unitsDir, "job.job")
	d.code = 4
	if err := Job(t.Context(), file, io.Discard); err == nil {
		t.Error("the migration failed, but there is no error")
	}
	if last := lastRun(recordPath(c.Base)); last.open() || !strings.Contains(last.Error, "exit code 4") || !doneUntil(last, file).Before(last.Due) {
		t.Errorf("%+v", last)
	}
	d.code = 0
	for range 2 {
		if err := Job(t.Context(), file, io.Discard); err != nil {
			t.Error(err)
		}
		if last := lastRun(recordPath(c.Base)); d.ran("job.one") != 1 || last.Error != "" {
			t.Errorf("%d runs, %+v", d.ran("job.one"), last)
		}
	}
	d.code = 5 // a run that itself fails is not repeated
	unit(t, "job.job", c)
	if err := os.WriteFile(recordPath(c.Base), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-3 * time.Hour)
	if err := os.Chtimes(file, past, past); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		Job(t.Context(), file, io.Discard)
	}
	if n := d.ran("job.one"); n != 2 {
		t.Errorf("%d runs of a job that fails", n-1)
	}
}

// createJobs creates the containers of versions of a job.
func createJobs(t *testing.T, versions ...docker.Cron) (*Engine, *client.Client) {
	t.Helper()
	e := &Engine{}
	api, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range versions {
		if err := e.createJob(t.Context(), api, c.Unit); err != nil {
			t.Fatal(err)
		}
	}
	return e, api
}

// While one process runs a step of a job, other processes do not start it, delete old
// versions, or close its runs.
func TestRecordLock_SerializesSteps(t *testing.T) {
	d := newFakeEngine(t)
	old, c := writeJob(t, "one"), writeJob(t, "two")
	e, api := createJobs(t, old, c)
	recordRun(t.Context(), recordPath(c.Base), Run{Due: time.Now(), Started: time.Now(), Unit: old.Unit})
	err := withRecordLock(t.Context(), recordPath(c.Base), func() error {
		for what, step := range map[string]func(context.Context){
			"run": func(ctx context.Context) { e.run(ctx, api, c.Unit) }, "close runs": func(ctx context.Context) { e.closeRuns(ctx, api, c.Base) },
			"remove old versions": func(ctx context.Context) { e.removeOldVersions(ctx, api, c) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			step(ctx)
			cancel()
			if d.ran("job.two") != 0 || !lastRun(recordPath(c.Base)).open() || len(d.containers) != 4 {
				t.Fatalf("%s did not wait: %d runs, %+v, %d containers", what, d.ran("job.two"), lastRun(recordPath(c.Base)), len(d.containers))
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
	e.removeOldVersions(t.Context(), api, c)
	if lastRun(recordPath(c.Base)).open() || d.containers["job.one"] != nil || d.containers["job.two"] == nil {
		t.Error("the old version was not removed afterwards")
	}
}

// The runner of the previous version, whose run ends, does not delete the new version; and a
// container that has started meanwhile is not deleted.
func TestRemoveOldVersions_KeepsNewAndRunning(t *testing.T) {
	d := newFakeEngine(t)
	old := writeJob(t, "one")
	c := writeJob(t, "two")
	e, api := createJobs(t, old, c)
	e.removeOldVersions(t.Context(), api, old)
	if d.containers["job.two"] == nil {
		t.Error("the new version was deleted")
	}
	d.onList = func() { d.containers["job.one"].start() }
	e.removeOldVersions(t.Context(), api, c)
	if d.containers["job.one"] == nil {
		t.Error("a running container was deleted")
	}
}

// Concurrent processes create the container of the same version.
func TestSecret_Concurrent(t *testing.T) {
	newFakeEngine(t)
	source := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(source, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				if err := secret(t.Context(), "job.one.container", docker.Secret{Source: source, Target: "/run/secrets/password", Owner: -1}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// The base was loaded by hand, or the engine has a mirror.
func TestBaseImage_OnlyInEngine(t *testing.T) {
	d := newFakeEngine(t)
	have, err := Image(empty.Image, testFolder(t, 0o644), "/base", nil)
	if err != nil {
		t.Fatal(err)
	}
	d.archive = func(w io.Writer) error { return writeArchive(w, have, nil, "multi-tool:1") }
	e := &Engine{}
	api, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	b := &docker.Build{Base: "127.0.0.1:1/multi-tool@sha256:" + strings.Repeat("a", 64), Push: "127.0.0.1:1/shop"}
	config := func(img v1.Image) v1.Hash {
		h, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	img, file, err := e.baseImage(t.Context(), api, b)
	if err != nil {
		t.Fatal(err)
	}
	if config(img) != config(have) {
		t.Error("a different image")
	}
	if err := os.Remove(file); err != nil {
		t.Error(err)
	}
	e.resetCache()
	d.missing = true
	if _, _, err := e.baseImage(t.Context(), api, b); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("the image exists nowhere, but the error is %v", err)
	}
}
