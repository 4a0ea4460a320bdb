package modeltest

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/state"
)

// TestFound are situations in which random sequences have found faults.
func TestFound(t *testing.T) {
	database := service{version: 1, data: true, machine: "m1", replicas: 1, port: 5000}
	program := service{version: 1, machine: "m1", replicas: 1}
	rename := func(s *scope, old, now string) {
		s.want.services[now] = s.want.services[old]
		delete(s.want.services, old)
		s.want.moved[old] = now
	}
	wipe := func(w *world, name string) {
		w.disks.machines[name] = newMachine(name, w.newFolder())
		w.disturb(name)
	}
	for name, run := range map[string]func(t *testing.T, w *world, s *scope){
		"a renamed unit whose data is gone does not start empty": func(t *testing.T, w *world, s *scope) {
			s.want.services["a"] = database
			w.apply(s, options{})
			wipe(w, "m1")
			rename(s, "a", "b")
			if out := w.apply(s, options{repair: true}); !out.blocked["app/b#0"] {
				t.Error(out)
			}
			if out := w.apply(s, options{repair: true, allowEmpty: map[string]bool{"app/b#0": true}}); !out.clean() {
				t.Error(out)
			}
		},
		"a rename that died is finished": func(t *testing.T, w *world, s *scope) {
			s.want.services["a"] = database
			w.apply(s, options{})
			rename(s, "a", "b")
			died := 0
			for at := int64(1); at < 100; at += 7 {
				if w.apply(s, options{dieAt: at}).died {
					died++
				}
			}
			if out := w.apply(s, options{by: 1}); !out.clean() || died == 0 {
				t.Error(died, out)
			}
		},
		"a unit with data that an apply which died has made is not deleted": func(t *testing.T, w *world, s *scope) {
			s.want.services["b"] = database
			for at := int64(20); at < 140; at += 3 {
				clean := newWorld(filepath.Join(w.dir, strconv.FormatInt(at, 10)))
				now := clean.scopes[0]
				now.want.services["a"], now.want.services["b"] = program, database
				clean.apply(now, options{dieAt: at})
				delete(now.want.services, "b")
				clean.apply(now, options{by: 1})
				w.violations = append(w.violations, clean.violations...)
			}
		},
		"units of a reverted machine are deleted": func(t *testing.T, w *world, s *scope) {
			s.want.services["a"], s.want.services["b"], s.want.services["c"] = program, program, program
			w.apply(s, options{})
			old, err := w.disks.machines["m1"].clone(w.newFolder())
			must(err)
			delete(s.want.services, "a")
			moved := program
			moved.machine = "m2"
			s.want.services["b"] = moved
			w.apply(s, options{})
			w.disks.machines["m1"] = old
			w.disturb("m1")
			if out := w.apply(s, options{}); !out.clean() || len(out.changes.Actions) != 1 || len(out.changes.Removals) != 1 {
				t.Errorf("%s %+v", out, out.changes.Removals)
			}
			if out := w.apply(s, options{}); !out.nothing() {
				t.Error(out)
			}
		},
		"a unit with data does not get a name that is taken": func(t *testing.T, w *world, s *scope) {
			s.want.services["a"], s.want.services["b"] = database, program
			w.apply(s, options{})
			delete(s.want.services, "b")
			rename(s, "a", "b")
			if out := w.apply(s, options{}); !out.held["app/b"] || !strings.Contains(strings.Join(out.why, ""), "app/a, which keeps data, cannot become app/b, because another unit of that name is deployed") {
				t.Errorf("%s %v", out, out.why)
			}
			delete(s.want.services, "b")
			s.want.moved = map[string]string{}
			w.apply(s, options{})
			s.want.services["b"] = database
			s.want.moved["a"] = "b"
			if out := w.apply(s, options{}); !out.clean() {
				t.Errorf("%s %v", out, out.why)
			}
		},
		"a slow apply changes nothing after another one has finished it": func(t *testing.T, w *world, s *scope) {
			s.want.services["a"] = program
			w.apply(s, options{})
			slow := *s
			slow.want = s.want.clone()
			slow.want.services["b"] = service{version: 1, machine: "m2", replicas: 1}
			var first, second *outcome
			reached := paused(func(g *gate) { first = w.execute(&slow, options{gate: g}) }, func() {
				w.expireLeases(w.disks)
				second = w.execute(s, options{by: 1})
			})
			if list := w.disks.observe().on(s.name(), "m2"); !reached || len(list) > 0 || first.err == nil || !second.clean() {
				t.Errorf("%v %v: %s | %s", reached, list, first, second)
			}
		},
		"a copy with the lease of a dead process can be pulled": func(t *testing.T, w *world, s *scope) {
			s.want.services["a"] = program
			w.apply(s, options{})
			newest := state.OpenDir(w.stateDir(s))
			old := state.OpenDir(filepath.Join(t.TempDir(), "copy"))
			must(copyTree(newest.Path(), old.Path()))
			if _, err := old.Acquire(t.Context(), state.LeaseRequest{TTL: time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			s.want.services["a"] = service{version: 2, machine: "m1", replicas: 1}
			w.apply(s, options{})
			if _, err := old.Pull(context.Background(), newest, state.LeaseOptions{Verb: "state pull", Wait: time.Minute}, false); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(filepath.Join(temporary(t), "w"))
			defer os.RemoveAll(w.dir)
			run(t, w, w.scopes[0])
			for _, v := range w.violations {
				t.Error(v)
			}
		})
	}
}
