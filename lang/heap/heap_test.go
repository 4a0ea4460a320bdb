package heap

import (
	"os"
	"runtime"
	"testing"
)

func TestWhatLivesMayGrowToTheFloorAndThenByItsShareWithinBounds(t *testing.T) {
	for _, c := range []struct{ live, want int }{
		{0, 3900}, {4 << 20, 3900}, {80 << 20, 100}, {100 << 20, 60}, {400 << 20, 50}, {1 << 30, 25}, {1 << 40, 6},
	} {
		if got := after(c.live, 160<<20, 50, 256<<20); got != c.want {
			t.Errorf("with %d bytes alive: %d %%, not %d", c.live, got, c.want)
		}
	}
}

var sink []byte

// count tells how often memory was collected while so many bytes were used for a moment.
func count(bytes int) uint32 {
	var before, behind runtime.MemStats
	runtime.ReadMemStats(&before)
	for range bytes >> 16 {
		sink = make([]byte, 1<<16)
	}
	runtime.ReadMemStats(&behind)
	return behind.NumGC - before.NumGC
}

func TestMemoryIsCollectedSeldom(t *testing.T) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		t.Skip("GOGC or GOMEMLIMIT is set")
	}
	CollectLate(128<<20, 100, 1<<30)
	runtime.GC() // so that it is the second time that is looked at
	if times := count(1 << 30); times == 0 || times > 20 {
		t.Errorf("a GiB was collected %d times; as usual it is more than 200", times)
	}
}
