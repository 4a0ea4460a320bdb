package plan_test

import (
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// TestDiff_KeptUnitsKeepTheirModules checks that a destroy that keeps a database also keeps its
// instance and the network of the instance.
func TestDiff_KeptUnitsKeepTheirModules(t *testing.T) {
	records := []plan.Record{
		{Address: "app/db", Machine: "ec2-0", Backend: "systemd", Digest: "sha256:1", Traits: plan.Traits{Stateful: true, Requires: []string{"module/pool"}}},
		{Address: "app/web", Machine: "ec2-1", Backend: "systemd", Digest: "sha256:2", Traits: plan.Traits{Requires: []string{"app/db", "module/other"}}},
		{Address: "module/network", Backend: "ec2", Digest: "sha256:3"},
		{Address: "module/other", Backend: "ec2", Digest: "sha256:4", Traits: plan.Traits{Requires: []string{"module/network"}}},
		{Address: "module/pool", Backend: "ec2", Digest: "sha256:5", Traits: plan.Traits{Requires: []string{"module/network"}}},
	}
	diff := func(allow map[string]bool) (deleted, kept string) {
		cs, err := plan.Diff(plan.DiffInput{Plan: &plan.Plan{}, Records: records, AllowDelete: allow,
			Unit: func(digest.Digest) (*plan.Unit, error) { return &plan.Unit{}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range cs.Actions {
			deleted += a.Address + " "
		}
		for _, p := range cs.Protected {
			kept += p.Address + " "
		}
		return deleted, kept
	}
	if deleted, kept := diff(nil); deleted != "app/web module/other " || kept != "app/db module/network module/pool " {
		t.Errorf("deleted %q, kept %q", deleted, kept)
	}
	if deleted, kept := diff(map[string]bool{"app/db": true}); kept != "" {
		t.Errorf("deleted %q, kept %q", deleted, kept)
	}
}
