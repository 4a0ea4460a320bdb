//go:build race

package lang_test

// slow is by how much the race detector stretches the bound of a bomb.
const slow = 4
