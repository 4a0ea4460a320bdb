package inspect

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
)

func TestOldestKept_OnlyIfEarlierOnesWereDeleted(t *testing.T) {
	t.Parallel()
	first, second := &state.Generation{Number: 1}, &state.Generation{Number: 2, Parent: "sha256:1"}
	for _, c := range []struct {
		history []*state.Generation
		want    *state.Generation
	}{
		{nil, nil},
		{[]*state.Generation{second, first}, nil},
		{[]*state.Generation{second}, second},
	} {
		if got := OldestKept(c.history); got != c.want {
			t.Errorf("%v: %v, want %v", c.history, got, c.want)
		}
	}
}

func TestUnitCompare_ReportsDrift(t *testing.T) {
	t.Parallel()
	entry := func() *agent.Refreshed {
		return &agent.Refreshed{Known: true, Units: map[string]*agent.UnitRefresh{"a/b": {Entry: &agent.Entry{Digest: "sha256:aaaaaaaaaaaaaaaa"}}}}
	}
	for _, c := range []struct {
		unit Unit
		now  *agent.Refreshed
		want int
	}{
		{Unit{Digest: "sha256:aaaaaaaaaaaaaaaa"}, &agent.Refreshed{}, 1},
		{Unit{}, &agent.Refreshed{}, 0},
		{Unit{Digest: "sha256:aaaaaaaaaaaaaaaa"}, entry(), 0},
		{Unit{Digest: "sha256:bbbbbbbbbbbbbbbb"}, entry(), 1},
	} {
		c.unit.Address = "a/b"
		if c.unit.compare(c.now); len(c.unit.Drift) != c.want || len(c.unit.Differences) != c.want {
			t.Errorf("%s: drift %q, want %d", c.unit.Digest, c.unit.Drift, c.want)
		}
	}
}

func TestRecordsOn_FiltersByMachine(t *testing.T) {
	t.Parallel()
	got := recordsOn("m1", []plan.Record{{Address: "a/x", Machine: "m1"}, {Address: "a/y", Machine: "m2"}})
	if len(got) != 1 || got["a/x"].Machine != "m1" {
		t.Errorf("%v", got)
	}
}

func TestInlineReplicas_KeepsOnlyThoseThatDiffer(t *testing.T) {
	t.Parallel()
	decode := func(text string) (v any) {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for in, want := range map[string]string{
		`{"service": {}}`: `{"service": {}}`,
		`{"$value": {"x": 1, "place": {"replicas": {"a": {}, "b": {}}}},
		  "$replicas": {"a": {"x": 1, "place": {"replicas": {}}}, "b": {"x": 2, "place": {"replicas": {}}}}}`: `{"x": 1, "place": {"replicas": {"a": {}, "b": {"x": 2, "place": {}}}}}`,
	} {
		if got := inlineReplicas(decode(in)); !reflect.DeepEqual(got, decode(want)) {
			t.Errorf("%s becomes %v, want %s", in, got, want)
		}
	}
}
