//go:build race

package lang

// bounded tells whether a child bounds its memory. The race detector takes
// memory of its own, many times that of the program.
const bounded = false
