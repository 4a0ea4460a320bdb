package backends

import (
	"slices"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// TestFailures_FactBelongsToWhatRequiresIt checks that the error of a host setting is that of each
// functionality that requires it: alone it would hold nothing, and nobody would see it.
func TestFailures_FactBelongsToWhatRequiresIt(t *testing.T) {
	failures := map[string]diag.List{}
	fact := &graph.Service{Address: graph.Address{Lib: graph.HostLib, Name: "packages", Member: "nginx", Machine: "m"},
		Fact: &graph.Fact{AskedBy: map[string][]string{"app/web": {"libs", "app", "web", "host"}, "app/api": {"libs", "app", "api", "host"}}}}
	addFailure(failures, fact, diag.List{diag.Errorf("host/packages/nginx", "refused")})
	for _, f := range []string{"app/web", "app/api"} {
		if l := failures[f]; len(l) != 1 || l[0].Subject != f || !slices.Contains(l[0].Path, f[4:]) {
			t.Errorf("%s: %v", f, l)
		}
	}
	if len(failures) != 2 {
		t.Errorf("%v", failures)
	}
}
