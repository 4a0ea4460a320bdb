package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/api/types/container"
)

// testFolder creates files, with different times and modes for different values of mode.
func testFolder(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"bin/server": "#!/bin/true\n", "share/a.txt": "a", "share/b/c.txt": "c"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), mode|0o100); err != nil {
			t.Fatal(err)
		}
		m := mode &^ 0o111
		if strings.HasPrefix(name, "bin/") {
			m = mode | 0o100
		}
		if err := os.WriteFile(p, []byte(text), m); err != nil {
			t.Fatal(err)
		}
		past := time.Unix(int64(mode)*1000, 0)
		if err := os.Chtimes(p, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.txt", filepath.Join(dir, "share/link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImage_Reproducible(t *testing.T) {
	digest := func(dir, at, label string) string {
		t.Helper()
		img, err := Image(empty.Image, dir, at, map[string]string{"of": label})
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	one := digest(testFolder(t, 0o644), "/app", "x")
	if two := digest(testFolder(t, 0o600), "/app", "x"); two != one {
		t.Errorf("%s, then %s", one, two)
	}
	// A change here rebuilds all images everywhere: then imageVersion must be increased too.
	if runtime.GOARCH == "amd64" && one != "sha256:"+golden {
		t.Errorf("the bytes of images have changed: %s", one)
	}
	other := testFolder(t, 0o644)
	if err := os.WriteFile(filepath.Join(other, "share/a.txt"), []byte("b"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{digest(other, "/app", "x"), digest(testFolder(t, 0o644), "/srv", "x"), digest(testFolder(t, 0o644), "/app", "y")} {
		if d == one {
			t.Error("a different package has the same image")
		}
	}
	if _, err := Image(empty.Image, filepath.Join(other, "none"), "/app", nil); err == nil {
		t.Error("the folder does not exist, but there is no error")
	}
}

func TestWriteArchive_OmitsPresentLayers(t *testing.T) {
	img, err := Image(empty.Image, testFolder(t, 0o644), "/app", nil)
	if err != nil {
		t.Fatal(err)
	}
	above, err := Image(img, testFolder(t, 0o644), "/more", nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeArchive(f, above, nil, "defx.local/package:x"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	back, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := above.ConfigName()
	b, err := back.ConfigName()
	if err != nil || a != b {
		t.Errorf("%v %v %v", a, b, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	there := map[v1.Hash]bool{config.RootFS.DiffIDs[0]: true}
	names := func(there map[v1.Hash]bool) int {
		t.Helper()
		var b bytes.Buffer
		if err := writeArchive(&b, above, there, "defx.local/package:x"); err != nil {
			t.Fatal(err)
		}
		n := 0
		for r := tar.NewReader(&b); ; n++ {
			if _, err := r.Next(); err != nil {
				return n
			}
		}
	}
	if all, some := names(nil), names(there); all != 4 || some != 3 {
		t.Errorf("%d files with all layers, %d without the one that is present", all, some)
	}
}

func TestEngine_Socket(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("DOCKER_CONTEXT", "")
	expect := func(e *Engine, want string) {
		t.Helper()
		if got, err := e.socket(); got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	expect(&Engine{}, "/var/run/docker.sock")
	sum := sha256.Sum256([]byte("mine"))
	dir := filepath.Join(home, ".docker/contexts/meta", hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(home, ".docker/config.json"), []byte(`{"currentContext":"mine"}`), 0o644)
	os.WriteFile(filepath.Join(dir, "meta.json"), []byte(`{"Endpoints":{"docker":{"Host":"unix:///run/mine.sock"}}}`), 0o644)
	expect(&Engine{}, "/run/mine.sock")
	t.Setenv("DOCKER_HOST", "unix:///run/env.sock")
	expect(&Engine{}, "/run/env.sock")
	expect(&Engine{Socket: "unix:///run/explicit.sock"}, "/run/explicit.sock")
	for _, far := range []string{"tcp://10.0.0.1:2375", "ssh://root@web1", "unix://relative"} {
		if _, err := (&Engine{Socket: far}).socket(); err == nil || !strings.Contains(err.Error(), "not on this machine") {
			t.Errorf("%s: %v", far, err)
		}
	}
}

func TestErrEngineUnavailable_Messages(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.sock")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := (&Engine{Socket: "unix://" + none}).Check(ctx)
	if a, is := errors.AsType[*ErrEngineUnavailable](err); !is || !strings.Contains(a.Error(), "there is no docker engine on this machine: socket "+none+" does not exist") {
		t.Errorf("%v", err)
	}
	for want, cause := range map[string]error{"no permission to use": fs.ErrPermission, "does not answer: odd": errors.New("odd")} {
		if got := (&ErrEngineUnavailable{"/x", cause}).Error(); !strings.Contains(got, want) {
			t.Errorf("%q", got)
		}
	}
}

// A rootless engine is refused before anything is tried on it. The response is that of
// Debian's docker 26.1.
func TestCheck_RootlessEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	options := `"name=seccomp,profile=builtin"`
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		if strings.HasSuffix(r.URL.Path, "/info") {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"SecurityOptions":[%s]}`, options)
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	e := &Engine{Socket: "unix://" + socket}
	if err := e.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	options += `,"name=rootless"`
	e.resetCache()
	if err := e.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "is rootless") || !strings.Contains(err.Error(), socket) {
		t.Errorf("%v", err)
	}
}

func TestTimetable_Next(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		cron       docker.Cron
		from, want string
	}{
		{docker.Cron{Every: "15m", Timezone: "UTC"}, "2027-01-01T00:07:00Z", "2027-01-01T00:15:00Z"},
		{docker.Cron{Cron: "30 4 * * 1-5", Timezone: "UTC"}, "2027-01-01T05:00:00Z", "2027-01-04T04:30:00Z"},
		{docker.Cron{Cron: "0 0 29 2 *", Timezone: "UTC"}, "2027-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{docker.Cron{Cron: "0 0 13 * 5", Timezone: "UTC"}, "2027-01-02T00:00:00Z", "2027-01-08T00:00:00Z"}, // a Friday, or the 13th
		{docker.Cron{Cron: "0 4 * * *", Timezone: "Europe/Berlin"}, "2027-07-01T00:00:00Z", "2027-07-01T02:00:00Z"},
		{docker.Cron{Cron: "30 2 28 3 *", Timezone: "Europe/Berlin"}, "2027-01-01T00:00:00Z", "2028-03-28T00:30:00Z"}, // 02:30 does not exist on that day of 2027
	} {
		tt, err := NewTimetable(c.cron)
		if err != nil {
			t.Fatal(err)
		}
		if got := tt.Next(at(c.from)); !got.Equal(at(c.want)) {
			t.Errorf("%+v after %s: %s, want %s", c.cron, c.from, got.UTC(), c.want)
		}
	}
	if _, err := NewTimetable(docker.Cron{Every: "1h", Timezone: "Nowhere/Here"}); err == nil {
		t.Error("an unknown zone is accepted")
	}
}

func TestRecordRun_Bounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "job.jsonl")
	if !lastRun(file).Due.IsZero() {
		t.Error("there is a last run before the first")
	}
	for i := range maxRuns + 20 {
		recordRun(t.Context(), file, Run{Due: time.Unix(int64(i), 0).UTC(), Code: i})
	}
	if got := lastRun(file).Due; !got.Equal(time.Unix(maxRuns+19, 0)) {
		t.Errorf("%s", got)
	}
	raw, err := os.ReadFile(file)
	if err != nil || strings.Count(string(raw), "\n") > maxRuns+1 {
		t.Errorf("%d lines, %v", strings.Count(string(raw), "\n"), err)
	}
}

// A runner has to find the time for which its timer started it.
func TestTimetable_Last(t *testing.T) {
	at := time.Date(2027, 10, 31, 1, 30, 30, 0, time.UTC)
	for _, c := range []docker.Cron{
		{Every: "1s"}, {Every: "5m"}, {Every: "7h"}, {Every: "168h"}, {Cron: "* * * * *"}, {Cron: "30 2 * * *"}, {Cron: "0 0 1 1 *"}, {Cron: "0 0 29 2 *"}, {Cron: "0 0 13 * 5"},
	} {
		for _, c.Timezone = range []string{"UTC", "Europe/Berlin", "America/New_York"} {
			times, err := NewTimetable(c)
			if err != nil {
				t.Fatal(err)
			}
			last := times.Last(at)
			if last.IsZero() || last.After(at) || !times.Next(last).After(at) || !times.Next(last.Add(-time.Second)).Equal(last) {
				t.Errorf("%+v: last before %s is %s, then %s", c, at, last.UTC(), times.Next(last).UTC())
			}
			if due := times.Next(at); !times.Last(due).Equal(due) {
				t.Errorf("%+v: at %s the last is %s", c, due.UTC(), times.Last(due).UTC())
			}
		}
	}
}

// An open run stays one line of the record. If no process saw its end, it is due again
// unless it succeeded.
func TestRecordRun_WithoutEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "job.jsonl")
	due := time.Date(2027, 1, 1, 4, 30, 0, 0, time.UTC)
	r := Run{Due: due, Started: due.Add(time.Second), Unit: "job.1.container"}
	recordRun(t.Context(), file, r)
	if got := lastRun(file); !got.open() || !doneUntil(got, file).Equal(due) {
		t.Errorf("%+v", got)
	}
	state := func(started, ended time.Duration, code int) *container.InspectResponse {
		return &container.InspectResponse{State: &container.State{StartedAt: due.Add(started).Format(time.RFC3339Nano), FinishedAt: due.Add(ended).Format(time.RFC3339Nano), ExitCode: code}}
	}
	for _, c := range []struct {
		what     string
		have     *container.InspectResponse
		dueAgain bool
		code     int
	}{
		{"succeeded", state(2*time.Second, time.Minute, 0), false, 0}, {"interrupted", state(2*time.Second, time.Minute, 137), true, 137},
		{"never started", state(-time.Hour, -time.Minute, 0), true, 0}, {"container deleted", nil, true, 0},
	} {
		r := r
		r.inferOutcome(c.have)
		if dueAgain := doneUntil(r, file).Before(due); dueAgain != c.dueAgain || r.Code != c.code || r.open() {
			t.Errorf("%s: %+v, due again: %v", c.what, r, dueAgain)
		}
	}
	r.inferOutcome(state(2*time.Second, time.Minute, 0))
	recordRun(t.Context(), file, r)
	recordRun(t.Context(), file, Run{Due: due.Add(time.Hour), Started: due.Add(time.Hour)})
	if got := readRuns(file); len(got) != 2 || !got[0].Ended.Equal(due.Add(time.Minute)) {
		t.Errorf("%+v", got)
	}
	before := time.Now()
	if got := doneUntil(Run{}, file); got.Before(before.Add(-time.Minute)) || got.After(time.Now().Add(time.Minute)) {
		t.Errorf("a job that never ran is due since %s", got)
	}
}

// Engines list images pulled by digest in two ways.
func TestInUse_UnusedNames(t *testing.T) {
	const d = "sha256:257373ed136355b5ba032240c161fcf9f14c9ec2e25bd0e0419054ee8790f3f8"
	marker, pulledName := pulledImages+d[len("sha256:"):], "shop.example/multi-tool@"+d
	for _, c := range []struct {
		what          string
		needed        bool
		tags, digests []string
		want          []string
	}{
		{"overlay2", false, []string{marker}, []string{pulledName}, []string{marker, pulledName}},
		{"containerd", false, []string{pulledName, marker}, []string{"defx.local/pulled@" + d}, []string{marker, "defx.local/pulled@" + d, pulledName}},
		{"needed", true, []string{pulledName, marker}, nil, nil},
		{"also tagged by the user", false, []string{"mine:1", marker}, []string{pulledName}, []string{marker}},
		{"pulled by the user", false, []string{pulledName}, []string{pulledName}, nil},
		{"a package, as listed by old engines", false, []string{packageImages + "abc"}, []string{"<none>@<none>"}, []string{packageImages + "abc"}},
	} {
		is := func(string) bool { return c.needed }
		if got, _ := (InUse{Artifact: is, Image: is}).unusedNames(c.tags, c.digests, ""); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

const golden = "e4416e0af096d5ac6dcf82bf36b3d0cd00c11fa3c053703ae1e8a7c3c99efd6f"
