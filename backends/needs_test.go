package backends_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/token"
)

// TestNeeds_OfScaledServices checks that what a launch template boots is checked and shown as what an
// agent starts: it has no unit of its own.
func TestNeeds_OfScaledServices(t *testing.T) {
	render := func(allow map[string][]string) (*backends.Rendered, []backends.Failure) {
		g := &graph.Graph{Name: "shop", Environment: "dev", Allow: allow, EC2: graph.Instances{Region: "eu-central-1", Subnet: token.Lit("subnet-12345678")},
			Services: []*graph.Service{{Address: graph.Address{Lib: "app", Name: "web", Replica: "0"}, Sole: true, Backend: ec2.Name,
				EC2:  json.RawMessage(`{"class":"autoscale","instanceType":"t3.small","image":"ami-12345678","min":1,"max":2}`),
				Spec: graph.Spec{Command: []token.Text{token.Lit("/bin/x")}, User: "root", HostFiles: map[string]graph.File{"/etc/sudoers.d/x": {Text: token.Lit("x")}}},
				Path: []string{"libs", "app", "web"}, SpecPath: []string{"libs", "app", "web", "service"}}}}
		if _, errs := ec2.Pack(g, nil, ec2.ModuleState{Output: func(string) string { return "" }, Deployed: func(string) bool { return false }}); len(errs) > 0 {
			t.Fatal(errs)
		}
		return backends.NewSet(systemd.New(), ec2.New()).Render(g, func(string) (plan.Placed, bool) { return plan.Placed{}, false }, func(token.Token) (plan.Artifact, bool) { return plan.Artifact{}, false }, backends.RenderCache{})
	}
	if _, failures := render(nil); len(failures) != 1 || failures[0].Functionality != "app/web" || !strings.Contains(failures[0].Errors.Error(), "needs files that give root /etc/sudoers.d/x") {
		t.Errorf("%v", failures)
	}
	r, failures := render(map[string][]string{"app/*": {"root-files"}})
	if len(failures) > 0 {
		t.Fatal(failures)
	}
	var got []string
	for _, u := range r.Plan.Units {
		for _, n := range u.Needs {
			got = append(got, n.String())
		}
	}
	if s := strings.Join(got, ", "); s != "files that give root /etc/sudoers.d/x, root" {
		t.Errorf("needs: %s", s)
	}
}
