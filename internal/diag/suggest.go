package diag

import "fmt"

// Suggest returns `did you mean "x"?` for the candidate most similar to name, or
// "" if none is similar: at most a third of the letters may differ, and only one
// letter in a name of up to three. Of equally similar candidates it returns the
// first in alphabetical order.
func Suggest(name string, candidates []string) string {
	letters := []rune(name)
	if len(letters) == 0 {
		return ""
	}
	best, limit := "", max(1, len(letters)/3)
	for _, c := range candidates {
		if c == name {
			continue
		}
		if d := distance(letters, []rune(c)); d < limit || d == limit && (best == "" || c < best) {
			best, limit = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// distance returns the number of insertions, deletions, substitutions and swaps
// of adjacent letters that turn a into b.
func distance(a, b []rune) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
