package project_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
)

// format1 returns a deployment of which the version before has deployed generation
// 2, with its state and its machine.
func format1(t *testing.T) *host {
	t.Helper()
	w := newWorld(t, "")
	if out, err := exec.Command("tar", "-xzf", "testdata/format1.tar.gz", "-C", w.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return &host{w, filepath.Join(w.dir, ".defx")}
}

func (h *host) recovery() *session.Recovery {
	return &session.Recovery{Project: h.project(), Deployment: "tiny", Environment: "default"}
}

func TestFormat1_StateIsRefusedUntilUpgraded(t *testing.T) {
	h := format1(t)
	before := tree(t, h.dir)
	_, err := h.project().Evaluate(t.Context())
	var format *state.OtherFormat
	if !errors.As(err, &format) || format.Format != 1 || !strings.Contains(err.Error(), "was written by an older version of defx") || !strings.Contains(err.Error(), "defx state upgrade -e default") {
		t.Fatalf("%v", err)
	}
	if after := tree(t, h.dir); after != before {
		t.Errorf("something was changed: %s", firstDifference(after, before))
	}
	box := tree(t, filepath.Join(h.dir, "box"))
	head, err := h.recovery().Upgrade(t.Context())
	if err != nil || head.Generation != 3 || head.Lineage == "" {
		t.Fatalf("%+v, %v", head, err)
	}
	if tree(t, filepath.Join(h.dir, "box")) != box {
		t.Error("the upgrade of the state changed the machine")
	}
	if _, err := h.recovery().Upgrade(t.Context()); !errors.Is(err, state.ErrCurrentFormat) {
		t.Errorf("a second upgrade: %v", err)
	}
	info, err := os.Stat(filepath.Join(h.state, "tiny/default"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others can read the state: %v, %v", info.Mode(), err)
	}
	res := h.mustApply()
	if res.Counts.Updated != 4 || res.Counts.Created+res.Counts.Deleted != 0 || res.Generation != 4 {
		t.Errorf("%+v", res.Counts)
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "box/etc/systemd/system/*:*")); len(left) > 0 {
		t.Errorf("units of the version before are left: %v", left)
	}
	if again := h.mustApply(); again.Wrote {
		t.Errorf("%+v", again.Changes.Actions)
	}
	history, err := state.History(t.Context(), h.project().Store("tiny", "default"), 0)
	if err != nil || len(history) != 4 || state.AddressAt(history, 2)("app/web#0") != "app/web" {
		t.Errorf("%d generations, %v", len(history), err)
	}
}

// TestFormat1_MachineOfOtherStateIsRefused: the machine has another version than
// the upgraded state records.
func TestFormat1_MachineOfOtherStateIsRefused(t *testing.T) {
	h := format1(t)
	if _, err := h.recovery().Upgrade(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := format1(t)
	if err := os.RemoveAll(other.state); err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]*host{"a new state": other, "an old copy": h} {
		if name == "an old copy" { // of the generation before
			manifest := filepath.Join(h.dir, "box/var/lib/defx/manifest.json")
			raw, err := os.ReadFile(manifest)
			if err != nil {
				t.Fatal(err)
			}
			h.write("box/var/lib/defx/manifest.json", regexp.MustCompile(`"digest":"sha256:....`).ReplaceAllString(string(raw), `"digest":"sha256:0000`))
		}
		before := tree(t, filepath.Join(h.dir, "box"))
		for _, refresh := range []bool{true, false} {
			r := h.request()
			if refresh {
				if err := r.RefreshMachines(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, err := apply.Run(t.Context(), r)
			r.Refreshed.Close()
			if err == nil || !strings.Contains(err.Error(), "it was last changed by an older version of defx, and it has another version of app/") {
				t.Errorf("%s, refresh %v: %v", name, refresh, err)
			}
		}
		if after := tree(t, filepath.Join(h.dir, "box"), "var/lib/defx/statcache.json"); after != before {
			t.Errorf("%s: the machine was changed: %s", name, firstDifference(after, before))
		}
	}
}

// TestFormat1_InterruptedApplyIsFinished: only the journal of the version before
// knows that its apply was killed.
func TestFormat1_InterruptedApplyIsFinished(t *testing.T) {
	h := format1(t)
	h.write(".defx/tiny/default/journal.jsonl", `{"start":{"token":3,"base":2,"machines":[{"name":"box","connect":"dir:./box"}]}}
{"begin":{"op":"update","address":"app/web","machine":"box"}}
{"begin":{"op":"upd`)
	head, err := h.recovery().Upgrade(t.Context())
	if err != nil || len(head.Intents) != 1 {
		t.Fatalf("%+v, %v", head, err)
	}
	u, err := apply.ReadUnfinished(t.Context(), h.project().Store("tiny", "default"))
	if err != nil || !u.Units["app/web#0"]["box"] || len(u.Units) != 1 || len(u.Machines) != 1 {
		t.Fatalf("%+v, %v", u, err)
	}
	h.mustApply()
	if u, err := apply.ReadUnfinished(t.Context(), h.project().Store("tiny", "default")); err != nil || u != nil {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestState_NewerFormatIsNamed(t *testing.T) {
	for _, file := range []string{"head.json", "leases.json", "oldest.json"} {
		h := newHistory(t)
		path := ".defx/tiny/default/" + file
		h.edit(path, `"format":2`, `"format":3`)
		_, err := h.project().Evaluate(t.Context())
		var format *state.OtherFormat
		if !errors.As(err, &format) || !strings.Contains(err.Error(), file+" was written by a newer version of defx (format 3") || !strings.Contains(err.Error(), "hint: update defx") {
			t.Errorf("%s: %v", file, err)
		}
		if _, err := h.recovery().Repair(t.Context()); !errors.As(err, &format) {
			t.Errorf("%s was repaired: %v", file, err)
		}
	}
}

func TestMachine_NewerFormatIsNamed(t *testing.T) {
	for _, file := range []string{"manifest.json", "fence.json"} {
		h, _ := newHosts(t)
		h.mustApply()
		path := filepath.Join(h.machine("box"), "var/lib/defx", file)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(raw), `"format":2`, `"format":3`, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		r := h.request()
		if err := r.RefreshMachines(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Refreshed.NotAsked["box"]; err == nil || !strings.Contains(err.Error(), "/var/lib/defx/"+file+" was written by a newer version of defx") || !strings.Contains(err.Error(), "update defx") {
			t.Errorf("%v", err)
		}
		r.Refreshed.Close()
	}
}
