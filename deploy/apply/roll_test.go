package apply

import (
	"testing"

	"github.com/defx-dev/defx/compile/plan"
)

// TestATurnIsOverWhenTheReplicaIsBehindItsBalancerAgain: or all of them would be out at once.
func TestATurnIsOverWhenTheReplicaIsBehindItsBalancerAgain(t *testing.T) {
	p := &plan.Plan{}
	cs := &plan.ChangeSet{}
	for _, n := range []string{"0", "1"} {
		p.Units = append(p.Units, plan.Placed{Address: "module/front-" + n, Drain: 1, Follows: []string{"app/web#" + n}})
		cs.Actions = append(cs.Actions, plan.Action{Op: plan.Update, Address: "app/web#" + n, Machine: "m" + n}, plan.Action{Op: plan.Update, Verb: plan.Attach, Address: "module/front-" + n})
	}
	begin := func(r map[string]*roll, address string) bool { return r[address].begin(address) }
	r := rolls(cs, p, func(string) int { return 1 })
	if !begin(r, "app/web#0") || begin(r, "app/web#1") {
		t.Error("one at a time")
	}
	r["app/web#0"].over("app/web#0", nil)
	if begin(r, "app/web#1") || !begin(r, "module/front-0") {
		t.Error("the first one is not back yet")
	}
	r["module/front-0"].over("module/front-0", nil)
	if !begin(r, "app/web#1") {
		t.Error("the first one is back")
	}

	r = rolls(cs, p, func(string) int { return 1 })
	r["module/front-0"].lost("module/front-0") // nobody can put it back
	if begin(r, "app/web#0") || begin(r, "app/web#1") || r["app/web#1"].stopped("app/web#1") == nil {
		t.Error("what cannot be put back is not taken out")
	}
}
