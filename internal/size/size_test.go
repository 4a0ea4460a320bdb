package size

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
)

func TestParse_Table(t *testing.T) {
	for in, want := range map[string]int64{
		"1k": 1000, "1K": 1000, "3M": 3e6, "8G": 8e9, "2T": 2e12, "1Ki": 1024, "512Mi": 512 << 20, "8Gi": 8 << 30, "2Ti": 2 << 40, "007Mi": 7 << 20, "999999Ti": 999999 << 40,
		"": 0, "x": 0, "Mi": 0, "1m": 0, "1KI": 0, "1kB": 0, "512MB": 0, "512MiB": 0, "1.5Gi": 0, "-1Mi": 0, "+1Mi": 0, " 1Mi": 0, "1 Mi": 0, "0Mi": 0, "1000000T": 0, "99999999999999999999k": 0,
		"0": 0, "1": 0, "64": 0, "536870912": 0,
	} {
		if got, err := Parse(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParse_BareNumberNamesUnit(t *testing.T) {
	for in, want := range map[string]string{"64": "64Mi", "512": "512Mi", "536870912": "512Mi", "8589934592": "8Gi", "1500000000": "1500M", "1048577": "1025Ki"} {
		_, err := ParseMemory(in)
		var e *Error
		if !errors.As(err, &e) || e.Hint() != want {
			t.Errorf("%s: %v, want the hint %s", in, err, want)
			continue
		}
		if _, err := ParseMemory(e.Hint()); err != nil {
			t.Errorf("the hint %s does not help: %v", e.Hint(), err)
		}
	}
}

func TestParseMemory_RefusesLessThanOneMebibyte(t *testing.T) {
	for in, ok := range map[string]bool{"1Mi": true, "1024Ki": true, "1023Ki": false, "1M": false, "2M": true, "1048k": false, "1049k": true, "64k": false} {
		if _, err := ParseMemory(in); (err == nil) != ok {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestParseCores_Table(t *testing.T) {
	for in, want := range map[string]int64{"1": 1000, "0.5": 500, "2.25": 2250, "0.001": 1, "64": 64000, "0": 0, "0.0": 0, "": 0, ".5": 0, "1.": 0, "half": 0, "0.0001": 0, "-1": 0, "1234567": 0} {
		if got, err := ParseCores(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %d, %v; want %d", in, got, err, want)
		}
	}
}

// TestPatterns_MatchParsers also compares around the limits of each unit.
func TestPatterns_MatchParsers(t *testing.T) {
	compiled := map[string]*regexp.Regexp{}
	for _, p := range append(MemoryPatterns(), CoresPatterns()...) {
		compiled[p] = regexp.MustCompile(p)
	}
	memory, cores := MemoryPatterns(), CoresPatterns()
	matches := func(patterns []string, s string) bool {
		for _, p := range patterns {
			if !compiled[p].MatchString(s) {
				return false
			}
		}
		return true
	}
	check := func(s string) {
		t.Helper()
		if _, err := ParseMemory(s); matches(memory, s) != (err == nil) {
			t.Errorf("memory %q: the pattern does not agree with %v", s, err)
		}
		if _, err := ParseCores(s); matches(cores, s) != (err == nil) {
			t.Errorf("cores %q: the pattern does not agree with %v", s, err)
		}
	}
	for _, unit := range []string{"", "k", "K", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "B", "m", "KI", ".5"} {
		for n := range 3000 {
			check(fmt.Sprint(n, unit))
		}
		for digits := 1; digits < 20; digits++ {
			check(fmt.Sprintf("%0*d%s", digits, 7, unit))
			check(fmt.Sprintf("1%0*d%s", digits, 0, unit))
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		s := ""
		for range r.IntN(7) {
			s += string("0123456789.kKMGTi "[r.IntN(18)])
		}
		check(s)
	}
}

func TestFormat_ParsesBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		n := r.Int64N(1<<50) + 1
		if r.IntN(2) == 0 {
			n = (n>>20 + 1) << 20
		}
		got, err := Parse(Format(n))
		if err != nil || got < n || got >= n+1024 || n%1024 == 0 && got != n {
			t.Fatalf("%d is written %s, which is %d, %v", n, Format(n), got, err)
		}
	}
}
