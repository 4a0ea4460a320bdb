package native

import (
	"cmp"
	"slices"
)

func init() {
	eager("set", func(a []any) any { return ofKeys(uniqueOrder[string], uniqueOrder[float64], a[0]) }, "keys")
	for name, keep := range map[string]stays{
		"union": {left: true, right: true, both: true},
		"inter": {both: true},
		"diff":  {left: true},
	} {
		eager(name, func(a []any) any {
			return ofKeys(func(l ...[]string) []any { return merge(l[0], l[1], keep) }, func(l ...[]float64) []any { return merge(l[0], l[1], keep) }, a...)
		}, "a", "b")
	}
}

// ofKeys applies a function to lists of keys that are all texts or all numbers,
// and is nil of others.
func ofKeys(texts func(...[]string) []any, numbers func(...[]float64) []any, lists ...any) any {
	if l := keys[string](lists); l != nil {
		return texts(l...)
	}
	if l := keys[float64](lists); l != nil {
		return numbers(l...)
	}
	return nil
}

func keys[K any](lists []any) [][]K {
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

// uniqueOrder gives where the elements of a set stood, in its order: of those
// with the same key the first.
func uniqueOrder[K cmp.Ordered](l ...[]K) []any {
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

// stays tells what stays of two sets.
type stays struct{ left, right, both bool }

// merge walks over two sets as the old bodies do, sorted or not, and gives where
// what stays stands in the two, one after the other. Of what is in both that of
// the first stays.
func merge[K cmp.Ordered](a, b []K, keep stays) []any {
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
			add(keep.both, i)
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
