package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestApply_ConnectionCutAfterAnyByte cuts the output of machines after a growing number of
// bytes, during applies that change something: each of them ends by itself, and the next one
// completes the work. DEFX_TEST_CUTS is the number of cuts.
func TestApply_ConnectionCutAfterAnyByte(t *testing.T) {
	s := newSite(t, 2)
	s.writeApart("zero")
	s.wants(0, "3 created")
	// An ssh that ends after CUT bytes of the machine's output.
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/bash\nexec 4<&0\ndd bs=1 count=\"$CUT\" 2>/dev/null < <(exec %s/ssh \"$@\" <&4)\n", s.lab.Bin)
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cuts := number("DEFX_TEST_CUTS", 8)
	broken := 0
	for i := range cuts {
		cut := 1 + i*4000/cuts // an apply of these three reads about 4000 bytes
		s.writeApart(fmt.Sprintf("word %d", i))
		s.env = []string{fmt.Sprintf("PATH=%s:%s", dir, os.Getenv("PATH")), fmt.Sprintf("CUT=%d", cut)}
		cmd := s.start("apply", "--yes")
		err := cmd.Wait()
		s.env = nil
		out := cmd.Stdout.(*bytes.Buffer).String()
		if err != nil {
			broken++
			if cmd.ProcessState.ExitCode() < 0 {
				t.Fatalf("cut after %d bytes: it hangs\n%s", cut, out)
			}
			if !strings.Contains(out, "machine m1") && !strings.Contains(out, "✗ apart/") {
				t.Errorf("cut after %d bytes: the output does not say what failed\n%s", cut, out)
			}
		}
		t.Logf("cut after %d bytes: %v", cut, err)
		if code, out := s.run("apply", "--yes"); code != 0 {
			t.Fatalf("cut after %d bytes: the next apply ends with %d\n%s", cut, code, out)
		}
	}
	if broken < cuts/4 {
		t.Errorf("only %d of %d were cut in the middle, so this test is not significant", broken, cuts)
	}
	s.says("No changes", "apply", "--yes")
	for _, m := range s.lab.Machines {
		if got := m.Exec("for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep -c /var/lib/defx/bin/ || true"); got != "0\n" {
			t.Errorf("agents without a client on %s: %s", m.Name, got)
		}
	}
}
