package heap

import (
	"os"
	"runtime"
	"testing"
)

func TestGrowthPercent(t *testing.T) {
	for _, c := range []struct{ live, want int }{
		{0, 3900}, {4 << 20, 3900}, {80 << 20, 100}, {100 << 20, 60}, {400 << 20, 50}, {1 << 30, 25}, {1 << 40, 6},
	} {
		if got := growthPercent(c.live, 160<<20, 50, 256<<20); got != c.want {
			t.Errorf("with %d live bytes: %d %%, want %d", c.live, got, c.want)
		}
	}
}

var sink []byte

// countCollections returns the number of collections while short-lived objects of a total
// size are allocated.
func countCollections(bytes int) uint32 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range bytes >> 16 {
		sink = make([]byte, 1<<16)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

func TestCollectLate_CollectsRarely(t *testing.T) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		t.Skip("GOGC or GOMEMLIMIT is set")
	}
	CollectLate(128<<20, 100, 1<<30)
	runtime.GC() // the first collection installs the new setting
	if times := countCollections(1 << 30); times == 0 || times > 20 {
		t.Errorf("%d collections while allocating 1 GiB; the default is more than 200", times)
	}
}
