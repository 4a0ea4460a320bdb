//go:build race

package lang

// bounded tells whether a child bounds its memory. The race detector takes
// memory of its own, many times that of the program.
const bounded = false

// patience multiplies the time that a child has by default: the race detector slows it down.
const patience = 10
