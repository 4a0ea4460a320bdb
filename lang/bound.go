//go:build !race

package lang

// limitsMemory reports whether a child process limits its memory.
const limitsMemory = true

// timeFactor multiplies the default time limit of a child process.
const timeFactor = 1
