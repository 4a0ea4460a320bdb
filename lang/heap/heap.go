// Package heap sets how much memory a process uses before garbage is collected.
//
// It knows Go's garbage collector. It refuses to know what memory is used for.
package heap

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// minLive is the live heap size, in bytes, that Go's collector assumes if less is live.
const minLive = 4 << 20

// CollectLate lets the heap grow to floor bytes before the first collection:
// most runs end earlier. Afterwards the heap may grow to floor bytes, or by
// percent of the live heap but at most by most bytes, whichever is larger. It
// does nothing if the user set GOGC or GOMEMLIMIT.
func CollectLate(floor, percent, most int) {
	if was := debug.SetGCPercent(floor / minLive * 100); was != 100 || debug.SetMemoryLimit(-1) < math.MaxInt64 {
		debug.SetGCPercent(was)
		return
	}
	retuneAfterGC(floor, percent, most)
}

// retuneAfterGC adjusts the growth after every collection: the finalizer of an
// unreachable object runs after each one.
func retuneAfterGC(floor, percent, most int) {
	runtime.SetFinalizer(new([16]byte), func(any) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		debug.SetGCPercent(growthPercent(int(live[0].Value.Uint64()), floor, percent, most))
		retuneAfterGC(floor, percent, most)
	})
}

// growthPercent returns the GOGC value for a live heap size in bytes.
func growthPercent(live, floor, percent, most int) int {
	live = max(live, minLive)
	return max(floor-live, min(live*percent/100, most), live/16) * 100 / live
}
