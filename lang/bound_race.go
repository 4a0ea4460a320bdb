//go:build race

package lang

// limitsMemory reports whether a child process limits its memory. The race
// detector uses many times the memory of the program, so it does not.
const limitsMemory = false

// timeFactor multiplies the default time limit of a child process: the race
// detector slows it down.
const timeFactor = 10
