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
)

// order remembers in which order it was asked for what.
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
func (o *order) Journal([]string, time.Time, int) []string { return nil }

// TestAJobDoesNotComeDueWhileItsNewVersionIsMade: its timer, which leads to the
// new version as soon as its file is written, rests until that is there, and what
// it has started since goes; if the version fails it leads back to the old one.
func TestAJobDoesNotComeDueWhileItsNewVersionIsMade(t *testing.T) {
	const base = "defx-default-shop-a-b"
	layout := func(version string) backends.Layout {
		l := backends.Layout{Unit: base + "." + version + ".container", Start: []string{base + ".job", base + ".timer"}}
		for _, u := range []string{base + ".timer", base + ":run-" + version + ".service"} {
			l.Files = append(l.Files, backends.File{Path: unitDir + "/" + u, Content: []byte(version), Mode: 0o644})
		}
		return l
	}
	for _, c := range []struct {
		what, old, fails, want string
	}{
		{"another version", "one", "",
			"prepare JOB, prepare TIMER, stop TIMER, stop BASE:run-two.service, stop BASE:run-one.service, start JOB, restart TIMER"},
		{"one that fails", "one", "start " + base + ".job",
			"prepare JOB, prepare TIMER, stop TIMER, stop BASE:run-two.service, stop BASE:run-one.service, start JOB; start JOB, restart TIMER"},
		{"the first", "", "", "prepare JOB, prepare TIMER, start JOB, start TIMER"},
		{"the same again", "two", "", "prepare JOB, prepare TIMER, start JOB, start TIMER"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			sys := &order{fails: c.fails}
			h := &Host{root: root, system: sys}
			r := &running{h: h, next: &Entry{Instance: "two"}, layout: layout("two"), before: &undo{h: h}}
			if err := os.MkdirAll(filepath.Join(dir, unitDir), 0o755); err != nil {
				t.Fatal(err)
			}
			if c.old != "" {
				r.standing = &Entry{Instance: c.old, Unit: base + "." + c.old + ".container", Start: r.layout.Start}
				for _, f := range layout(c.old).Files {
					if err := os.WriteFile(filepath.Join(dir, f.Path), f.Content, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if c.old != "two" {
					r.stop = []string{base + ":run-" + c.old + ".service"}
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
				if err := r.before.remember(rel(f.Path), info, false); err != nil {
					t.Fatal(err)
				}
			}
			r.changed = r.before.changed()
			if err := r.start(t.Context()); (err != nil) != (c.fails != "") {
				t.Fatal(err)
			}
			got := strings.Join(sys.calls, ", ")
			if c.fails != "" {
				sys.calls, sys.fails = nil, ""
				if err := r.resume(t.Context(), r.standing); err != nil {
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
