//go:build !race

package lang

// bounded tells whether a child bounds its memory.
const bounded = true
