//go:build race

package lang_test

func init() { raceEnabled = true }
