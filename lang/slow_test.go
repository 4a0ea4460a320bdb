//go:build !race

package lang_test

// slow is by how much a busy machine may stretch the bound of a bomb, which docs/reliability.md states.
const slow = 6
