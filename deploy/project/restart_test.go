package project_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
)

// TestDeployedUnits_RestartWithUnknownUnits checks that other units of unknown
// version do not prevent a restart and stay as they are, and that units that
// forward traffic to the restarted one get their intended version, also after a
// failed restart.
func TestDeployedUnits_RestartWithUnknownUnits(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	ctx, p := t.Context(), w.open()
	store := p.Store("shop", "dev")
	front := plan.Unit{Address: "module/front", Backend: "ec2", Payload: plan.Payload{Run: json.RawMessage(`{"resource":{}}`)}, Traits: plan.Traits{Requires: []string{"web/web#0"}, Follows: []string{"web/web#0"}, Drain: 1}, Spec: json.RawMessage(`{}`)}
	raw, object, err := state.Object(front)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := front.Digest()
	if err == nil {
		err = store.Put(ctx, raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	// current returns the newest generation with edited records.
	current := func(edit func(*plan.Record)) (*state.Generation, state.Head) {
		t.Helper()
		gen, head, err := state.Current(ctx, store)
		if err != nil {
			t.Fatal(err)
		}
		gen.Records = slices.Clone(gen.Records)
		for i := range gen.Records {
			edit(&gen.Records[i])
		}
		return gen, head
	}
	gen, head := current(func(r *plan.Record) {
		if r.Address == "data/db#0" {
			r.Digest = ""
		}
	})
	gen.Records = append(gen.Records, plan.Record{Address: "module/front", Backend: "ec2", Digest: digest, Object: object, Traits: front.Traits})
	slices.SortFunc(gen.Records, func(a, b plan.Record) int { return strings.Compare(a.Address, b.Address) })
	without := gen.PlanObject
	last, err := state.LoadPlan(ctx, store, gen)
	if err != nil {
		t.Fatal(err)
	}
	last.Units = append(last.Units, plan.Placed{Address: "module/front", Backend: "ec2", Digest: digest, Object: object, Traits: front.Traits})
	slices.SortFunc(last.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	intended, err := last.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if gen.PlanObject, err = state.PutPlan(ctx, store, last); err != nil {
		t.Fatal(err)
	}
	gen.Plan = intended
	gen.Number, gen.Parent = gen.Number+1, head.Object
	if err := state.Commit(ctx, store, head, gen); err != nil {
		t.Fatal(err)
	}
	request := func(gen *state.Generation) *apply.Request {
		t.Helper()
		w, err := p.DeployedUnits(ctx, "shop", "dev", gen, nil, "web/web#0")
		if err != nil {
			t.Fatal(err)
		}
		w.Verb, w.Restart = "restart", "web/web#0"
		cs, err := apply.Diff(ctx, w)
		if err != nil || ops(cs) != "update module/front, update web/web" && ops(cs) != "update web/web, update module/front" || cs.Actions[slices.IndexFunc(cs.Actions, func(a plan.Action) bool { return a.Address == "module/front" })].Digest != digest {
			t.Fatalf("%s, %v", ops(cs), err)
		}
		return w
	}
	gen, _ = current(func(*plan.Record) {})
	again := request(gen)
	again.Modules = nil // so that it cannot be deregistered
	res, err := apply.Run(ctx, again)
	if err != nil || !res.Wrote || !slices.Equal(res.Failed, []string{"web/web#0"}) {
		t.Fatalf("%+v, %v", res, err)
	}

	// It failed, and now the version of the unit that forwards to it is unknown too.
	gen, _ = current(func(*plan.Record) {})
	unknown := []string{}
	for _, r := range gen.Records {
		if r.Digest == "" {
			unknown = append(unknown, r.Address)
		}
	}
	if !slices.Equal(unknown, []string{"module/front"}) { // the machine, which was asked, knows the version of data/db
		t.Errorf("of unknown version: %v", unknown)
	}
	if last, err := state.LoadPlan(ctx, store, gen); err != nil || gen.Plan != intended || last.Find("data/db#0") == nil {
		t.Errorf("a restart changed the plan: %+v, %v", last, err)
	}
	request(gen)

	// If the restarted unit is not the planned version, the unit that forwards to it
	// gets its previous version; if it is not in the plan, it stays unknown.
	unplanned := func(object bool) *state.Generation {
		gen, _ := current(func(r *plan.Record) {
			if r.Address == "web/web#0" {
				r.Digest = digest
			}
			if r.Address == "module/front" && !object {
				r.Object = ""
			}
		})
		return gen
	}
	if w, err := p.DeployedUnits(ctx, "shop", "dev", unplanned(true), nil, "web/web#0"); err != nil || w.Plan.Find("module/front").Digest != digest {
		t.Error(err)
	}
	gone, _ := current(func(*plan.Record) {})
	gone.PlanObject = without
	if w, err := p.DeployedUnits(ctx, "shop", "dev", gone, nil, "web/web#0"); err != nil || !w.Held("module/front") || w.Held("web/web#0") {
		t.Error(err)
	}

	// The restarted unit's own version must be known, and without a restart every version.
	own, _ := current(func(r *plan.Record) {
		if r.Address == "web/web#0" {
			r.Digest = ""
		}
	})
	for _, g := range []*state.Generation{own, unplanned(false)} {
		if _, err := p.DeployedUnits(ctx, "shop", "dev", g, nil, "web/web#0"); err == nil || !strings.Contains(err.Error(), "its deployed version is unknown") {
			t.Error(err)
		}
	}
	if _, err := p.DeployedUnits(ctx, "shop", "dev", gen, nil, ""); err == nil || !strings.Contains(err.Error(), "module/front") {
		t.Error(err)
	}
}
