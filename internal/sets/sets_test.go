package sets

import (
	"slices"
	"testing"
)

func TestUnion_SortsAndDropsRepetitions(t *testing.T) {
	a := []string{"c", "a"}
	if got := Union(a, []string{"b", "a"}); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %v", got)
	}
	if a[0] != "c" {
		t.Error("the argument was changed")
	}
}

func TestMinus_KeepsOrderAndArguments(t *testing.T) {
	a := []int{3, 1, 2, 3}
	if got := Minus(a, []int{2}); !slices.Equal(got, []int{1, 3}) {
		t.Errorf("got %v", got)
	}
	if !slices.Equal(a, []int{3, 1, 2, 3}) {
		t.Error("the argument was changed")
	}
}

func TestKeys_AreSorted(t *testing.T) {
	if got := Keys(map[string]int{"b": 1, "a": 2}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
}
