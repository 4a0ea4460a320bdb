//go:build !linux

package agent

func diskFree(string) uint64 { return 0 }
