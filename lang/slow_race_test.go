//go:build race

package lang_test

// slow is by how much the race detector and a busy machine stretch the bound of a bomb.
const slow = 12
