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

// TestARestartIsStoppedByNoOthersDoubt: what nobody knows of others stays as it
// is, and what leads users to the unit is what it was, also after a restart that failed.
func TestARestartIsStoppedByNoOthersDoubt(t *testing.T) {
	w := newWorld(t, start)
	w.apply()
	ctx, p := t.Context(), w.open()
	store := p.Store("shop", "dev")
	front := plan.Unit{Address: "module/front", Backend: "ec2", Payload: plan.Payload{Run: json.RawMessage(`{"resource":{}}`)}, Traits: plan.Traits{Requires: []string{"web/web"}, Follows: []string{"web/web"}, Drain: 1}, Spec: json.RawMessage(`{}`)}
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
	// current gives the newest generation, changed in one way or another.
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
		if r.Address == "data/db" {
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
	meant, err := last.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if gen.PlanObject, err = state.PutPlan(ctx, store, last); err != nil {
		t.Fatal(err)
	}
	gen.Plan = meant
	gen.Number, gen.Parent = gen.Number+1, head.Object
	if err := state.Commit(ctx, store, head, gen); err != nil {
		t.Fatal(err)
	}
	work := func(gen *state.Generation) *apply.Request {
		t.Helper()
		work, err := p.DeployedUnits(ctx, "shop", "dev", gen, nil, "web/web")
		if err != nil {
			t.Fatal(err)
		}
		work.Verb, work.Restart = "restart", "web/web"
		cs, err := apply.Diff(ctx, work)
		if err != nil || ops(cs) != "update module/front, update web/web" && ops(cs) != "update web/web, update module/front" || cs.Actions[slices.IndexFunc(cs.Actions, func(a plan.Action) bool { return a.Address == "module/front" })].Digest != digest {
			t.Fatalf("%s, %v", ops(cs), err)
		}
		return work
	}
	gen, _ = current(func(*plan.Record) {})
	again := work(gen)
	again.Modules = nil // nobody can take it out
	res, err := apply.Run(ctx, again)
	if err != nil || !res.Wrote || !slices.Equal(res.Failed, []string{"web/web"}) {
		t.Fatalf("%+v, %v", res, err)
	}

	// It failed, and now nobody knows of what leads to it, either.
	gen, _ = current(func(*plan.Record) {})
	doubt := []string{}
	for _, r := range gen.Records {
		if r.Digest == "" {
			doubt = append(doubt, r.Address)
		}
	}
	if !slices.Equal(doubt, []string{"data/db", "module/front"}) {
		t.Errorf("in doubt: %v", doubt)
	}
	if last, err := state.LoadPlan(ctx, store, gen); err != nil || gen.Plan != meant || last.Find("data/db") == nil {
		t.Errorf("a restart forgets what is meant to be: %+v, %v", last, err)
	}
	work(gen)

	// What leads to another version of the unit than was planned is what it was; what was to go stays out.
	back := func(object bool) *state.Generation {
		gen, _ := current(func(r *plan.Record) {
			if r.Address == "web/web" {
				r.Digest = digest
			}
			if r.Address == "module/front" && !object {
				r.Object = ""
			}
		})
		return gen
	}
	if w, err := p.DeployedUnits(ctx, "shop", "dev", back(true), nil, "web/web"); err != nil || w.Plan.Find("module/front").Digest != digest {
		t.Error(err)
	}
	gone, _ := current(func(*plan.Record) {})
	gone.PlanObject = without
	if w, err := p.DeployedUnits(ctx, "shop", "dev", gone, nil, "web/web"); err != nil || !w.Held("module/front") || w.Held("web/web") {
		t.Error(err)
	}

	// Of its own doubt nobody makes certainty; and nothing in doubt is attached or detached.
	own, _ := current(func(r *plan.Record) {
		if r.Address == "web/web" {
			r.Digest = ""
		}
	})
	for _, g := range []*state.Generation{own, back(false)} {
		if _, err := p.DeployedUnits(ctx, "shop", "dev", g, nil, "web/web"); err == nil || !strings.Contains(err.Error(), "nobody knows what stands of it") {
			t.Error(err)
		}
	}
	if _, err := p.DeployedUnits(ctx, "shop", "dev", gen, nil, ""); err == nil || !strings.Contains(err.Error(), "data/db") {
		t.Error(err)
	}
}
