package project_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
)

// damages are what can happen to a file.
var damages = []struct {
	name string
	do   func(path string, raw []byte) error
}{
	{"emptied", func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) }},
	{"cut", func(path string, raw []byte) error { return os.WriteFile(path, raw[:len(raw)/2], 0o600) }},
	{"garbage", func(path string, _ []byte) error { return os.WriteFile(path, []byte("{]"), 0o600) }},
	{"null", func(path string, _ []byte) error { return os.WriteFile(path, []byte("null\n"), 0o600) }},
	{"flipped", func(path string, raw []byte) error {
		raw[len(raw)*2/3] ^= 0x11
		return os.WriteFile(path, raw, 0o600)
	}},
	{"removed", func(path string, _ []byte) error { return os.Remove(path) }},
}

// newHistory returns a host whose state has pruned generations.
func newHistory(t *testing.T) *host {
	a, _ := newHosts(t)
	for _, v := range []string{"V1", "V2", "V3", "V4"} {
		a.version(v).mustApply()
	}
	store := a.project().Store("tiny", "default")
	if _, err := state.Prune(t.Context(), store, 2, false); err != nil {
		t.Fatal(err)
	}
	a.version("V5").mustApply()
	if _, err := state.Prune(t.Context(), store, 0, false); err != nil { // so that every pack is needed
		t.Fatal(err)
	}
	return a
}

// TestState_DamageIsFoundAndRepaired damages each file of the state in each way.
// Every plan and apply finds it and names the file and the command that repairs
// it. After the repair the history is there, and an apply changes nothing.
func TestState_DamageIsFoundAndRepaired(t *testing.T) {
	base := newHistory(t)
	good := filepath.Join(t.TempDir(), "good")
	copyFolder(t, base.state, good)
	dir := filepath.Join(base.state, "tiny", "default")
	files := []string{"head.json", "leases.json", "oldest.json"}
	packs, _ := filepath.Glob(filepath.Join(dir, "objects", "*.pack"))
	for _, p := range packs {
		files = append(files, filepath.Join("objects", filepath.Base(p)))
	}
	want := base.trees()
	machines, deployed := filepath.Dir(base.machine("box")), filepath.Join(t.TempDir(), "deployed")
	copyFolder(t, machines, deployed)
	for _, file := range files {
		for _, d := range damages {
			t.Run(strings.ReplaceAll(file, "/", "_")+"_"+d.name, func(t *testing.T) {
				h := &host{&world{t, base.dir}, base.state}
				copyFolder(t, good, base.state)
				copyFolder(t, deployed, machines)
				path := filepath.Join(dir, file)
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.do(path, raw); err != nil {
					t.Fatal(err)
				}
				_, err = h.project().Evaluate(t.Context())
				if file == "oldest.json" && d.name == "removed" || d.name == "flipped" && err == nil && !strings.HasPrefix(file, "objects") {
					return // no history was removed, as far as anybody can tell; or the JSON has another valid value
				}
				var damage *state.Damaged
				if !errors.As(err, &damage) || !strings.Contains(err.Error(), "hint: defx state repair -e default") || !strings.Contains(err.Error(), filepath.Base(dir)) {
					t.Fatalf("not found: %v", err)
				}
				recovery := &session.Recovery{Project: h.project(), Deployment: "tiny", Environment: "default"}
				res, err := recovery.Repair(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if d.name != "removed" && len(res.Aside) == 0 {
					t.Error("the damaged file was not kept")
				}
				for _, f := range res.Aside {
					if _, err := os.Stat(f); err != nil {
						t.Error(err)
					}
				}
				list, err := state.History(t.Context(), h.project().Store("tiny", "default"), 0)
				if err != nil || len(list) == 0 {
					t.Fatalf("%d generations, %v", len(list), err)
				}
				if !strings.HasPrefix(file, "objects") && (list[0].Number != 5 || len(list) != 3) {
					t.Errorf("generation %d, %d in the history", list[0].Number, len(list))
				}
				r := h.request()
				if err := r.RefreshMachines(t.Context()); err != nil {
					t.Fatal(err)
				}
				applied, err := apply.Run(t.Context(), r)
				r.Refreshed.Close()
				if err != nil || len(applied.Failed) > 0 {
					t.Fatalf("the next apply: %+v, %v", applied, err)
				}
				if got := h.trees(); got != want {
					t.Errorf("the machines were changed: %s", firstDifference(got, want))
				}
				if again := h.mustApply(); again.Wrote {
					t.Errorf("a further apply found changes: %+v", again.Changes.Actions)
				}
				if res, err := recovery.Repair(t.Context()); err != nil || len(res.Aside) > 0 || res.Verify {
					t.Errorf("a second repair: %+v, %v", res, err)
				}
			})
		}
	}
}

// TestState_LostHeadKeepsInterruptedApply: the intent of an apply that was killed
// survives the loss of the head.
func TestState_LostHeadKeepsInterruptedApply(t *testing.T) {
	a, _ := newHosts(t)
	a.mustApply()
	store := a.project().Store("tiny", "default")
	h, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	apply := state.NewID()
	if _, err := state.Announce(t.Context(), store, h, state.IntentDetail{Intent: state.Intent{Apply: apply, Token: 7, Machines: []string{"box"}}, Units: map[string][]string{"app/web#0": {"box"}}}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(store.Path(), "head.json")); err != nil {
		t.Fatal(err)
	}
	recovery := &session.Recovery{Project: a.project(), Deployment: "tiny", Environment: "default"}
	if _, err := recovery.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, err := a.project().Store("tiny", "default").Head(t.Context())
	if err != nil || now.Intent(apply) == nil || now.Lineage != h.Lineage || now.Generation != 1 {
		t.Errorf("%+v, %v", now, err)
	}
	a.mustApply()
}

// TestMachine_DamageIsFoundAndRepaired damages each record of a machine in each
// way. Commands that ask it name the file and the command that repairs it; after
// the repair nothing was changed, and an apply changes nothing.
func TestMachine_DamageIsFoundAndRepaired(t *testing.T) {
	base, _ := newHosts(t)
	base.version("V1").mustApply()
	base.version("V2").mustApply()
	box, good := base.machine("box"), filepath.Join(t.TempDir(), "good")
	copyFolder(t, box, good)
	goodState := filepath.Join(t.TempDir(), "state")
	copyFolder(t, base.state, goodState)
	// The folders that defx has made are in the manifest alone: without it they stay when they are empty.
	files := func() string {
		return tree(t, box, "var/lib/defx/store", "var/lib/defx/fence.json", "var/lib/defx/journal", "var/lib/defx/manifest.json", "var/lib/defx/statcache.json")
	}
	want := files()
	for _, file := range []string{"manifest.json", "fence.json", "journal"} {
		for _, d := range damages {
			if file == "journal" && d.name != "garbage" && d.name != "removed" {
				continue // an empty journal is the usual one
			}
			t.Run(file+"_"+d.name, func(t *testing.T) {
				h := &host{&world{t, base.dir}, base.state}
				copyFolder(t, good, box)
				copyFolder(t, goodState, base.state)
				path := filepath.Join(box, "var/lib/defx", file)
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if file == "journal" && d.name == "garbage" {
					err = os.WriteFile(path, []byte("{]\n"), 0o600)
				} else {
					err = d.do(path, raw)
				}
				if err != nil {
					t.Fatal(err)
				}
				r := h.request()
				if err := r.RefreshMachines(t.Context()); err != nil {
					t.Fatal(err)
				}
				why := r.Refreshed.NotAsked["box"]
				r.Refreshed.Close()
				var damage *agent.Damaged
				if d.name == "flipped" && why == nil {
					return // the JSON has another valid value
				}
				if !errors.As(why, &damage) || !strings.Contains(why.Error(), "/var/lib/defx/"+file+" is damaged") || !strings.Contains(why.Error(), "hint: defx machine repair box") {
					t.Fatalf("not found: %v", why)
				}
				s, err := session.Open(t.Context(), h.project(), "", func(error) {})
				if err != nil {
					t.Fatal(err)
				}
				res, err := s.RepairMachine(t.Context(), "box", func(apply.Event) {})
				if err != nil {
					t.Fatal(err)
				}
				if d.name != "removed" && len(res.Aside) != 1 {
					t.Errorf("kept aside: %v", res.Aside)
				}
				if file == "manifest.json" && fmt.Sprint(res.Adopted, res.Uncertain) != "[app/web#0] []" {
					t.Errorf("%+v", res)
				}
				for _, f := range res.Aside {
					if err := os.Remove(filepath.Join(box, f)); err != nil {
						t.Error(err)
					}
				}
				applied := h.mustApply()
				if got := files(); got != want {
					t.Errorf("the machines were changed: %s", firstDifference(got, want))
				}
				if again := h.mustApply(); again.Wrote {
					t.Errorf("%+v, then %+v", applied.Changes.Actions, again.Changes.Actions)
				}
			})
		}
	}
}
