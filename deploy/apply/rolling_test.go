package apply

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/terraform"
)

// TestWhatMayBeBehindABalancerIsTakenOutBeforeARestart, though nobody knows for certain.
func TestWhatMayBeBehindABalancerIsTakenOutBeforeARestart(t *testing.T) {
	r := &run{w: &Request{Restart: "app/web#0", Modules: &terraform.Runner{Dir: t.TempDir()}}}
	r.note([]plan.Record{{Address: "module/front-0", Traits: plan.Traits{Follows: []string{"app/web#0"}, Drain: 1}}, {Address: "module/front-1", Digest: "sha256:1", Traits: plan.Traits{Follows: []string{"app/web#1"}, Drain: 1}}})
	if len(r.behind("app/web#0")) != 0 || len(r.behind("app/web#1")) != 1 {
		t.Error("what stands nowhere is out")
	}
	dir := filepath.Join(r.w.Modules.Dir, "front-0")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.tf.json": `{"provider":{"aws":{"region":"eu-central-1"}}}`,
		"terraform.tfstate": `{"resources":[{"type":"aws_lb_target_group_attachment","instances":[{"attributes":{"target_group_arn":"arn:x","target_id":"i-1","port":80}}]}]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.behind("app/web#0")) != 1 {
		t.Error("users are led there")
	}
	r.w.Restart = ""
	if len(r.behind("app/web#0")) != 0 {
		t.Error("an apply makes it certain first")
	}
}

// TestATurnIsOverWhenTheReplicaIsBehindItsBalancerAgain: or all of them would be out at once.
func TestATurnIsOverWhenTheReplicaIsBehindItsBalancerAgain(t *testing.T) {
	p := &plan.Plan{}
	cs := &plan.ChangeSet{}
	for _, n := range []string{"0", "1"} {
		p.Units = append(p.Units, plan.Placed{Address: "module/front-" + n, Traits: plan.Traits{Drain: 1, Follows: []string{"app/web#" + n}}})
		cs.Actions = append(cs.Actions, plan.Action{Op: plan.Update, Address: "app/web#" + n, Machine: "m" + n}, plan.Action{Op: plan.Update, Verb: plan.Attach, Address: "module/front-" + n})
	}
	begin := func(r map[string]*roll, address string) bool { return r[address].begin(address) }
	r := rolls(cs, p, func(string) plan.Unit { return plan.Unit{} })
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

	r = rolls(cs, p, func(string) plan.Unit { return plan.Unit{} })
	r["module/front-0"].lost("module/front-0") // nobody can put it back
	if begin(r, "app/web#0") || begin(r, "app/web#1") || r["app/web#1"].stopped("app/web#1") == nil {
		t.Error("what cannot be put back is not taken out")
	}
}

// TestReplicasThatMigrateAreMadeOneByOne: what they share is brought to its version
// by one, and found so by the others. Who migrates nothing waits for nobody.
func TestReplicasThatMigrateAreMadeOneByOne(t *testing.T) {
	cs := &plan.ChangeSet{}
	for _, address := range []string{"app/web#0", "app/web#1", "app/cluster#0", "app/cluster#1"} {
		cs.Actions = append(cs.Actions, plan.Action{Op: plan.Create, Address: address})
	}
	r := rolls(cs, &plan.Plan{}, func(address string) plan.Unit {
		if address[:7] == "app/web" {
			return plan.Unit{Spec: []byte(`{ "command": ["web"], "migrate": ["web", "migrate"] }`)}
		}
		return plan.Unit{Spec: []byte(`{ "command": ["cluster"] }`)}
	})
	if !r["app/web#0"].begin("app/web#0") || r["app/web#1"].begin("app/web#1") {
		t.Error("two migrate at once")
	}
	r["app/web#0"].over("app/web#0", nil)
	if !r["app/web#1"].begin("app/web#1") {
		t.Error("the first one is over")
	}
	if !r["app/cluster#0"].begin("app/cluster#0") || !r["app/cluster#1"].begin("app/cluster#1") {
		t.Error("a cluster was made one by one")
	}
}
