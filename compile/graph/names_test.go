package graph_test

import (
	"slices"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
)

func TestNames_FindAll(t *testing.T) {
	n := graph.NamesOf("app/web#10", "app/web#2", "app/one#0", "app/pair/a#0", "app/pair/b#0", "app/job#0", "front/job#0", "front/nginx#0", "host/packages/nginx@box", "module/net")
	for typed, want := range map[string][]string{
		"app/web#2":   {"app/web#2"},
		"app/web":     {"app/web#2", "app/web#10"},
		"web":         {"app/web#2", "app/web#10"},
		"web#10":      {"app/web#10"},
		"app/one":     {"app/one#0"},
		"one":         {"app/one#0"},
		"app/pair":    {"app/pair/a#0", "app/pair/b#0"},
		"pair":        {"app/pair/a#0", "app/pair/b#0"},
		"pair/b":      {"app/pair/b#0"},
		"app/pair/b":  {"app/pair/b#0"},
		"nginx":       {"front/nginx#0"},
		"net":         {"module/net"},
		"packages":    nil,
		"app":         nil,
		"app/nothing": nil,
		"":            nil,
	} {
		got, candidates := n.FindAll(typed)
		if !slices.Equal(got, want) || len(candidates) > 0 {
			t.Errorf("%q: %v, %v; want %v", typed, got, candidates, want)
		}
	}
	if got, candidates := n.FindAll("job"); got != nil || !slices.Equal(candidates, []string{"app/job", "front/job"}) {
		t.Errorf("job: %v, %v", got, candidates)
	}
	if got, candidates := n.FindAll("job#0"); got != nil || !slices.Equal(candidates, []string{"app/job#0", "front/job#0"}) {
		t.Errorf("job#0: %v, %v", got, candidates)
	}
}
