package session

import (
	"errors"
	"testing"

	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
)

func generations(plans ...string) (history []*state.Generation) {
	for i, p := range plans { // newest first
		history = append(history, &state.Generation{Number: len(plans) - i, Plan: digest.Digest(p)})
	}
	return history
}

func TestRollbackTarget_DefaultsToNewestThatDiffers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		plans  []string // newest first
		number int
		want   int // 0 = an error
	}{
		{[]string{"b", "a"}, 0, 1},
		{[]string{"b", "b", "a", "c"}, 0, 2},
		{[]string{"a"}, 0, 0},
		{[]string{"a", "a"}, 0, 0},
		{[]string{"b", "a"}, 2, 2},
		{[]string{"c", "b", "a"}, 1, 1},
		{[]string{"b", "a"}, 3, 0},
	} {
		got, err := RollbackTarget(generations(c.plans...), c.number)
		if c.want == 0 && err == nil || c.want != 0 && (err != nil || got.Number != c.want) {
			t.Errorf("%v to %d: %v, %v, want %d", c.plans, c.number, got, err, c.want)
		}
	}
}

func TestForEach_ReturnsErrorsByName(t *testing.T) {
	t.Parallel()
	failure := errors.New("failure")
	errs := ForEach([]string{"a", "b", "c"}, func(name string) error {
		if name == "b" {
			return failure
		}
		return nil
	})
	if len(errs) != 1 || errs["b"] != failure {
		t.Errorf("%v", errs)
	}
}
