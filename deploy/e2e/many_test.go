package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestManyUnits_Times logs how long it takes to apply DEFX_TEST_UNITS units on
// DEFX_TEST_MACHINES machines. It is for `make torture`; it asserts no times.
func TestManyUnits_Times(t *testing.T) {
	units, machines := number("DEFX_TEST_UNITS", 0), number("DEFX_TEST_MACHINES", 1)
	if units == 0 {
		t.Skip("DEFX_TEST_UNITS is not set")
	}
	s := newSite(t, machines)
	s.limit = 20 * time.Minute
	write := func(word string) {
		var lib, entry strings.Builder
		lib.WriteString("{\n")
		for i := range units {
			fmt.Fprintf(&lib, "  u%d: { place: { machine: 'm%d' }, service: { command: ['/bin/sleep', '100000'], env: { W: '%s' } } },\n", i, i%machines+1, word)
		}
		lib.WriteString("}\n")
		s.file("libs/many.libsonnet", lib.String(), 0o644)
		entry.WriteString("{ name: 'many', libs: { many: import 'libs/many.libsonnet' }, machines: {\n")
		for _, m := range s.lab.Machines {
			fmt.Fprintf(&entry, "%s: { connect: 'ssh://root@%s' },\n", m.Name, m.Address)
		}
		entry.WriteString("} }\n")
		s.file("defx.jsonnet", entry.String(), 0o644)
	}
	timed := func(what, want string) {
		t.Helper()
		begun := time.Now()
		cmd := s.start("apply", "--yes", "--parallel", strconv.Itoa(number("DEFX_TEST_PARALLEL", 10)))
		err := cmd.Wait()
		out := fmt.Sprint(cmd.Stdout)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		fmt.Fprintf(os.Stderr, "%d units on %d machines: %s in %.2f s\n", units, machines, what, time.Since(begun).Seconds())
	}
	write("one")
	timed("created", fmt.Sprintf("%d created", units))
	timed("nothing to do", "No changes")
	if os.Getenv("DEFX_TEST_LOOK") != "" {
		t.Log(s.lab.Machines[0].Exec("time systemctl daemon-reload; time systemctl daemon-reload"))
	}
	write("two")
	timed("updated", fmt.Sprintf("%d updated", units))
}
