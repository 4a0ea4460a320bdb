package apply

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/terraform"
)

// TestBalancersOf_UncertainMembershipBeforeRestart: a restart removes a service
// from a load balancer also if the record of the membership is uncertain.
func TestBalancersOf_UncertainMembershipBeforeRestart(t *testing.T) {
	r := &run{req: &Request{Restart: "app/web#0", Modules: &terraform.Runner{Dir: t.TempDir()}}}
	r.loadBalancers([]plan.Record{{Address: "module/front-0", Traits: plan.Traits{Follows: []string{"app/web#0"}, Drain: 1}}, {Address: "module/front-1", Digest: "sha256:1", Traits: plan.Traits{Follows: []string{"app/web#1"}, Drain: 1}}})
	if len(r.balancersOf("app/web#0")) != 0 || len(r.balancersOf("app/web#1")) != 1 {
		t.Error("a membership without targets was returned")
	}
	dir := filepath.Join(r.req.Modules.Dir, "front-0")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.tf.json": `{"provider":{"aws":{"region":"eu-central-1"}}}`,
		"terraform.tfstate": `{"resources":[{"type":"aws_lb_target_group_attachment","instances":[{"attributes":{"target_group_arn":"arn:x","target_id":"i-1","port":80}}]}]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.balancersOf("app/web#0")) != 1 {
		t.Error("a membership with targets was not returned")
	}
	r.req.Restart = ""
	if len(r.balancersOf("app/web#0")) != 0 {
		t.Error("an uncertain membership was returned although an apply settles it first")
	}
}

// TestRollingUpdate_WaitsForRegistration: the next replica starts only when the load
// balancer has the previous one again.
func TestRollingUpdate_WaitsForRegistration(t *testing.T) {
	p := &plan.Plan{}
	cs := &plan.ChangeSet{}
	for _, n := range []string{"0", "1"} {
		p.Units = append(p.Units, plan.Placed{Address: "module/front-" + n, Traits: plan.Traits{Drain: 1, Follows: []string{"app/web#" + n}}})
		cs.Actions = append(cs.Actions, plan.Action{Op: plan.Update, Address: "app/web#" + n, Machine: "m" + n}, plan.Action{Op: plan.Update, Verb: plan.Attach, Address: "module/front-" + n})
	}
	begin := func(r map[string]*rollingUpdate, address string) bool { return r[address].begin(address) }
	r := rollingUpdates(cs, p, func(string) plan.Unit { return plan.Unit{} })
	if !begin(r, "app/web#0") || begin(r, "app/web#1") {
		t.Error("two replicas in progress")
	}
	r["app/web#0"].finish("app/web#0", nil)
	if begin(r, "app/web#1") || !begin(r, "module/front-0") {
		t.Error("the second replica started before the first one was registered again")
	}
	r["module/front-0"].finish("module/front-0", nil)
	if !begin(r, "app/web#1") {
		t.Error("the second replica did not start")
	}

	r = rollingUpdates(cs, p, func(string) plan.Unit { return plan.Unit{} })
	r["module/front-0"].skip("module/front-0")
	if begin(r, "app/web#0") || begin(r, "app/web#1") || r["app/web#1"].haltReason("app/web#1") == nil {
		t.Error("an action started although a replica cannot be registered again")
	}
}

// TestRollingUpdate_CreatesMigratingReplicasOneByOne: replicas without migrations
// are created all at once.
func TestRollingUpdate_CreatesMigratingReplicasOneByOne(t *testing.T) {
	cs := &plan.ChangeSet{}
	for _, address := range []string{"app/web#0", "app/web#1", "app/cluster#0", "app/cluster#1"} {
		cs.Actions = append(cs.Actions, plan.Action{Op: plan.Create, Address: address})
	}
	r := rollingUpdates(cs, &plan.Plan{}, func(address string) plan.Unit {
		if address[:7] == "app/web" {
			return plan.Unit{Spec: []byte(`{ "command": ["web"], "migrate": ["web", "migrate"] }`)}
		}
		return plan.Unit{Spec: []byte(`{ "command": ["cluster"] }`)}
	})
	if !r["app/web#0"].begin("app/web#0") || r["app/web#1"].begin("app/web#1") {
		t.Error("two replicas migrate at the same time")
	}
	r["app/web#0"].finish("app/web#0", nil)
	if !r["app/web#1"].begin("app/web#1") {
		t.Error("the second replica did not start")
	}
	if !r["app/cluster#0"].begin("app/cluster#0") || !r["app/cluster#1"].begin("app/cluster#1") {
		t.Error("replicas without migrations were created one by one")
	}
}
