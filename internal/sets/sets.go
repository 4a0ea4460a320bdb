// Package sets has operations on sorted slices and maps that are used as sets.
//
// It refuses to know what the elements mean. Invariant: results are sorted and
// hold no element twice, so they can be printed and compared as they are.
package sets

import (
	"cmp"
	"maps"
	"slices"
)

// Keys returns the keys of m in order.
func Keys[M ~map[K]V, K cmp.Ordered, V any](m M) []K {
	return slices.Sorted(maps.Keys(m))
}

// Union returns the elements of all lists, sorted, each once.
func Union[S ~[]E, E cmp.Ordered](lists ...S) S {
	out := slices.Concat(lists...)
	slices.Sort(out)
	return slices.Compact(out)
}

// Minus returns the elements of a that are not in b, sorted, each once.
func Minus[S ~[]E, E cmp.Ordered](a, b S) S {
	in := make(map[E]bool, len(b))
	for _, e := range b {
		in[e] = true
	}
	return Union(slices.DeleteFunc(slices.Clone(a), func(e E) bool { return in[e] }))
}
