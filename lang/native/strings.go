package native

import (
	"math"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/sets"
)

func init() {
	escape := strings.NewReplacer("<", "&lt;", ">", "&gt;", "&", "&amp;", `"`, "&quot;", "'", "&apos;")
	register("escapeXML", func(a []any) (any, error) { return escape.Replace(a[0].(string)), nil }, "str")
	register("upper", func(a []any) (any, error) { return swapCase(a[0].(string), 'a', 'z'), nil }, "str")
	register("lower", func(a []any) (any, error) { return swapCase(a[0].(string), 'A', 'Z'), nil }, "str")
	register("slice", slice, "str", "index", "end", "step")
	register("findSubstr", findSubstr, "pat", "str")
	register("parse", parseInteger, "str", "base")
	register("merged", mergedNames, "target", "patch", "nulls")
}

// swapCase changes the case of the ASCII letters in a range.
func swapCase(s string, from, to byte) string {
	b := []byte(s)
	for i, c := range b {
		if c >= from && c <= to {
			b[i] = c ^ 0x20
		}
	}
	return string(b)
}

// slice implements std.slice for strings and positive steps.
func slice(a []any) (any, error) {
	str := []rune(a[0].(string))
	length := len(str)
	intOr := func(v any, fallback int) int {
		if n, ok := v.(float64); ok {
			return int(n)
		}
		return fallback
	}
	from, to, by := intOr(a[1], 0), intOr(a[2], length), intOr(a[3], 1)
	if from < 0 {
		from = max(0, length+from)
	}
	if to < 0 {
		to += length
	}
	to = min(to, length)
	if by == 1 {
		return string(str[min(from, max(to, 0)):max(to, 0)]), nil
	}
	var out []rune
	for i := from; i < to; i += by {
		out = append(out, str[i])
	}
	return string(out), nil
}

// findSubstr returns the positions of a string in another, in code points.
func findSubstr(a []any) (any, error) {
	pat, str := []rune(a[0].(string)), []rune(a[1].(string))
	out := []any{}
	if len(pat) == 0 {
		return out, nil
	}
	for i := 0; i+len(pat) <= len(str); i++ {
		if slices.Equal(str[i:i+len(pat)], pat) {
			out = append(out, float64(i))
		}
	}
	return out, nil
}

// parseInteger parses a non-negative integer, and returns nil if the string is not one.
func parseInteger(a []any) (any, error) {
	str, base := a[0].(string), a[1].(float64)
	n := 0.0
	for _, c := range []byte(str) {
		digit := strings.IndexByte("0123456789abcdef", c|0x20)
		if digit < 0 || float64(digit) >= base {
			return nil, nil
		}
		n = n*base + float64(digit)
	}
	if str == "" || math.IsInf(n, 0) {
		return nil, nil
	}
	return n, nil
}

// mergedNames returns the field names of a mergePatch, sorted: those of target
// and patch without those that the patch sets to null.
func mergedNames(a []any) (any, error) {
	names, removed := map[string]any{}, map[string]bool{}
	for _, list := range a[:2] {
		for _, n := range list.([]any) {
			names[n.(string)] = nil
		}
	}
	for i, n := range a[1].([]any) {
		removed[n.(string)] = a[2].([]any)[i].(bool)
	}
	out := []any{}
	for _, n := range sets.Keys(names) {
		if !removed[n] {
			out = append(out, n)
		}
	}
	return out, nil
}
