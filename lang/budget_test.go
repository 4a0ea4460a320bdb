package lang_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/lang"
)

// slow is an expression that takes far longer than any budget, and little memory.
const slow = "std.foldl(function(a, i) std.foldl(function(b, j) b + j, std.range(1, 10000), a), std.range(1, 100000), 0)"

// TestEvaluate_OneBudget: many parts that do not end have the time of one. What ends is kept, and
// the errors name what used the time.
func TestEvaluate_OneBudget(t *testing.T) {
	skipUnlessBounded(t)
	var text strings.Builder
	text.WriteString("-- defx.jsonnet --\n{ name: 'x', libs: { ")
	for _, lib := range []string{"a", "b", "c"} {
		fmt.Fprintf(&text, "%s: { bad1: %s, bad2: %s, fine: { service: { command: ['/bin/%s'] } } }, ", lib, slow, slow, lib)
	}
	text.WriteString("good1: { web: { service: { command: ['/bin/1'] } } }, good2: { web: { service: { command: ['/bin/2'] } } } } }\n")
	dir := writeTree(t, text.String())
	limit := 8 * time.Second
	begin := time.Now()
	res := evaluate(t, lang.Config{Root: dir, Limits: lang.Limits{Time: limit}})
	if took := time.Since(begin); took > limit+3*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, name := range []string{"good1", "good2"} {
		if f := find(t, res, name, "web"); f.Err != nil {
			t.Errorf("%s: %v", name, f.Err)
		}
	}
	said := 0
	for _, l := range res.Libraries {
		for _, f := range l.Functionalities {
			if !strings.HasPrefix(f.Name, "bad") {
				continue
			}
			if f.Err == nil || !f.Err.Pos.Known() || f.Err.Hint == "" {
				t.Errorf("%s/%s: %v", l.Name, f.Name, f.Err)
				continue
			}
			if strings.Contains(f.Err.Msg, "longer than 8s") && strings.Contains(f.Err.Hint, "of it") || strings.Contains(f.Err.Msg, "a/bad1") {
				said++
			}
		}
	}
	if said == 0 {
		t.Error("no error says what used the time")
	}
}

// TestWithBudget_IsShared: evaluations in one context have the time of one.
func TestWithBudget_IsShared(t *testing.T) {
	skipUnlessBounded(t)
	dir := writeTree(t, "-- defx.jsonnet --\n{ name: 'x', libs: {}, slow:: "+slow+", note: self.slow }\n")
	c := lang.Config{Root: dir, Entry: "defx.jsonnet", Limits: lang.Limits{Time: 2 * time.Second}}
	ctx := lang.WithBudget(context.Background(), c.Limits)
	begin := time.Now()
	for range 4 {
		if _, err := lang.Evaluate(ctx, c); err == nil || !strings.Contains(err.Error(), "2s") {
			t.Errorf("%v", err)
		}
		lang.Locate(ctx, c, [][]string{{"note"}})
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}
