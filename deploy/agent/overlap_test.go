package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/internal/nofollow"
)

// order is a supervisor that records its calls in order.
type order struct {
	Supervisor
	calls []string
	fails string
}

func (o *order) did(what, unit string) error {
	o.calls = append(o.calls, what+" "+unit)
	if what+" "+unit == o.fails {
		return errors.New("its migration fails")
	}
	return nil
}

func (o *order) Reload(context.Context) error                          { return nil }
func (o *order) Prepare(_ context.Context, u string, _ []string) error { return o.did("prepare", u) }
func (o *order) Start(_ context.Context, u string) error               { return o.did("start", u) }
func (o *order) Stop(_ context.Context, u string) error                { return o.did("stop", u) }
func (o *order) Restart(_ context.Context, u string) error             { return o.did("restart", u) }
func (o *order) State(context.Context, string) (SupervisorState, error) {
	return SupervisorState{}, nil
}
func (o *order) Journal(context.Context, []string, time.Time, int) []string { return nil }

// The timer of a job points to the new version as soon as its file is written. So the timer
// is stopped until the new version exists, and a run that it started meanwhile is stopped;
// if the version fails, the timer points to the old one again.
func TestRollout_TimerStopsWhileJobChanges(t *testing.T) {
	const base = "defx-default-shop-a-b"
	layout := func(version string) backends.Layout {
		l := backends.Layout{Unit: base + "." + version + ".container", Start: []string{base + ".job", base + ".timer"}}
		for _, u := range []string{base + ".timer", base + ".run-" + version + ".service"} {
			l.Files = append(l.Files, backends.File{Path: unitDir + "/" + u, Content: []byte(version), Mode: 0o644})
		}
		return l
	}
	for _, c := range []struct {
		what, old, fails, want string
	}{
		{"changed", "one", "",
			"prepare JOB, prepare TIMER, stop TIMER, stop BASE.run-two.service, stop BASE.run-one.service, start JOB, restart TIMER"},
		{"failing", "one", "start " + base + ".job",
			"prepare JOB, prepare TIMER, stop TIMER, stop BASE.run-two.service, stop BASE.run-one.service, start JOB; start JOB, restart TIMER"},
		{"first", "", "", "prepare JOB, prepare TIMER, start JOB, start TIMER"},
		{"unchanged", "two", "", "prepare JOB, prepare TIMER, start JOB, start TIMER"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			root, err := nofollow.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			sys := &order{fails: c.fails}
			h := &Host{root: root, supervisor: sys}
			r := &rollout{h: h, next: &Entry{Instance: "two"}, layout: layout("two"), undo: &undo{h: h}}
			if err := os.MkdirAll(filepath.Join(dir, unitDir), 0o755); err != nil {
				t.Fatal(err)
			}
			if c.old != "" {
				r.previous = &Entry{Instance: c.old, Unit: base + "." + c.old + ".container", Start: r.layout.Start}
				for _, f := range layout(c.old).Files {
					if err := os.WriteFile(filepath.Join(dir, f.Path), f.Content, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if c.old != "two" {
					r.obsolete = []string{base + ".run-" + c.old + ".service"}
				}
			}
			for _, f := range r.layout.Files {
				info, err := root.Lstat(rel(f.Path))
				if err == nil {
					if raw, _ := root.ReadFile(rel(f.Path)); string(raw) == string(f.Content) {
						continue
					}
				}
				if err != nil {
					info = nil
				}
				if err := r.undo.save(rel(f.Path), info, false); err != nil {
					t.Fatal(err)
				}
			}
			r.changed = r.undo.changed()
			if err := r.start(t.Context()); (err != nil) != (c.fails != "") {
				t.Fatal(err)
			}
			got := strings.Join(sys.calls, ", ")
			if c.fails != "" {
				sys.calls, sys.fails = nil, ""
				if err := r.resume(t.Context(), r.previous); err != nil {
					t.Fatal(err)
				}
				got += "; " + strings.Join(sys.calls, ", ")
			}
			if want := strings.NewReplacer("JOB", base+".job", "TIMER", base+".timer", "BASE", base).Replace(c.want); got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}
