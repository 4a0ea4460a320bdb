package native

import (
	"cmp"
	"slices"
)

func init() {
	registerFast("set", func(a []any) any { return byKeyType(uniqueIndexes[string], uniqueIndexes[float64], a[0]) }, "keys")
	for name, keep := range map[string]keepRule{
		"union": {left: true, right: true, common: true},
		"inter": {common: true},
		"diff":  {left: true},
	} {
		registerFast(name, func(a []any) any {
			return byKeyType(func(l ...[]string) []any { return mergeIndexes(l[0], l[1], keep) }, func(l ...[]float64) []any { return mergeIndexes(l[0], l[1], keep) }, a...)
		}, "a", "b")
	}
}

// byKeyType calls strs if the keys in all lists are strings, and numbers if they
// are numbers. Otherwise it returns nil.
func byKeyType(strs func(...[]string) []any, numbers func(...[]float64) []any, lists ...any) any {
	if l := keysOfType[string](lists); l != nil {
		return strs(l...)
	}
	if l := keysOfType[float64](lists); l != nil {
		return numbers(l...)
	}
	return nil
}

// keysOfType returns the lists with keys of type K, or nil if a key has another type.
func keysOfType[K any](lists []any) [][]K {
	out := make([][]K, len(lists))
	for i, l := range lists {
		for _, v := range l.([]any) {
			k, ok := v.(K)
			if !ok {
				return nil
			}
			out[i] = append(out[i], k)
		}
	}
	return out
}

// uniqueIndexes returns the indexes of the elements of the set of l[0], in its
// order; of equal elements the first.
func uniqueIndexes[K cmp.Ordered](l ...[]K) []any {
	order := make([]int, len(l[0]))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(l[0][i], l[0][j]) })
	out := []any{}
	for n, i := range order {
		if n == 0 || l[0][i] != l[0][order[n-1]] {
			out = append(out, float64(i))
		}
	}
	return out
}

// keepRule is which elements of two sets are kept.
type keepRule struct{ left, right, common bool }

// mergeIndexes merges two lists as the old bodies do, sorted or not, and returns
// the indexes of the kept elements in the concatenation of both lists. Of an
// element that is in both, that of a is kept.
func mergeIndexes[K cmp.Ordered](a, b []K, keep keepRule) []any {
	out := []any{}
	add := func(is bool, i int) {
		if is {
			out = append(out, float64(i))
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			add(keep.common, i)
			i++
			j++
		case a[i] < b[j]:
			add(keep.left, i)
			i++
		default:
			add(keep.right, len(a)+j)
			j++
		}
	}
	for ; i < len(a); i++ {
		add(keep.left, i)
	}
	for ; j < len(b); j++ {
		add(keep.right, len(a)+j)
	}
	return out
}
