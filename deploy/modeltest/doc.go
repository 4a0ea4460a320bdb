// Package modeltest applies random sequences of edits, accidents and crashes with the
// real planner, executor, state and agent, and compares what becomes of the machines
// with a simple model. It contains only tests.
package modeltest
