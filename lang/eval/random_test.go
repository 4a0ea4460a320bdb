package eval

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// programCount returns how many random programs to compare.
func programCount(def int) int {
	if n, err := strconv.Atoi(os.Getenv("DEFX_EVAL_PROGRAMS")); err == nil {
		return n
	}
	return def
}

func TestConformance_RandomPrograms(t *testing.T) {
	n := programCount(2000)
	start, _ := strconv.Atoi(os.Getenv("DEFX_EVAL_SEED"))
	failed, differs := 0, 0
	for i := range n {
		c := randomProgram(uint64(start + i))
		got := evalWith(c)
		if got.bound {
			continue
		}
		want := goJsonnet(c)
		if strings.Contains(want.line, "max stack frames") || strings.Contains(want.line, "CRASH") {
			continue
		}
		if want.failed {
			failed++
		}
		d := differ(got, want)
		// go-jsonnet evaluates the arguments of a tail-strict call in the order
		// of a Go map, and with them different ones fail first.
		for range 20 {
			if d == "" || !want.failed {
				break
			}
			d = differ(got, goJsonnet(c))
		}
		if d != "" {
			differs++
			if differs <= 10 {
				t.Errorf("seed %d:\n%s\nfiles %v\n%s", start+i, c.code, c.files, d)
			}
		}
	}
	t.Logf("%d programs, of which %d fail; %d differ", n, failed, differs)
}
