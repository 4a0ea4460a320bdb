// Package heap decides how much memory is used before any of it is collected.
//
// It knows Go's collector. It refuses to know what memory is used for.
package heap

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// least is the live memory, in bytes, that Go's collector reckons with where there is less.
const least = 4 << 20

// CollectLate lets a process use floor bytes of heap before any of it is
// collected, and as much again after each time: most runs end before they have
// used it up. What lives may grow by percent besides, as GOGC means it, but by no
// more than most bytes. A user who set GOGC or GOMEMLIMIT knows better.
func CollectLate(floor, percent, most int) {
	if was := debug.SetGCPercent(floor / least * 100); was != 100 || debug.SetMemoryLimit(-1) < math.MaxInt64 {
		debug.SetGCPercent(was)
		return
	}
	afterwards(floor, percent, most)
}

// afterwards decides anew each time that memory was collected: a finalizer of
// something that nobody holds tells when.
func afterwards(floor, percent, most int) {
	runtime.SetFinalizer(new([16]byte), func(any) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		debug.SetGCPercent(after(int(live[0].Value.Uint64()), floor, percent, most))
		afterwards(floor, percent, most)
	})
}

// after is by how much, in percent, live bytes may grow.
func after(live, floor, percent, most int) int {
	live = max(live, least)
	return max(floor-live, min(live*percent/100, most), live/16) * 100 / live
}
