//go:build !race

package lang

// bounded tells whether a child bounds its memory.
const bounded = true

// patience multiplies the time that a child has by default.
const patience = 1
