package eval

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func seedFuzz(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join(moduleDir(f), "testdata", "*.jsonnet"))
	for _, name := range files {
		if code, err := os.ReadFile(name); err == nil && len(code) < 2000 {
			f.Add(string(code))
		}
	}
	for i := range uint64(50) {
		f.Add(randomProgram(i).code)
	}
}

var fuzzLimits = Limits{MaxSteps: 200_000, MaxMemory: 64 << 20, MaxString: 1 << 20, MaxArray: 1 << 18, MaxOutput: 1 << 20}

// FuzzNeverPanics looks for programs that end in anything but a result or an
// error that says what is wrong with them.
func FuzzNeverPanics(f *testing.F) {
	seedFuzz(f)
	f.Fuzz(func(t *testing.T, code string) {
		start := time.Now()
		_, err := New(Options{Limits: fuzzLimits}).EvaluateSnippet(context.Background(), "fuzz", code)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("takes %v", d)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Kind == Internal) {
			t.Error(err)
		}
	})
}

// FuzzSameAsGoJsonnet looks for programs that go-jsonnet evaluates to something
// else.
func FuzzSameAsGoJsonnet(f *testing.F) {
	seedFuzz(f)
	f.Fuzz(func(t *testing.T, code string) {
		c := &testCase{name: "fuzz", code: code, limits: fuzzLimits, files: map[string]string{}}
		got := evalWith(c)
		if got.bound || strings.Contains(code, "trace") {
			return // go-jsonnet might not come back
		}
		want := goJsonnet(c)
		if strings.Contains(want.line, "max stack frames") || strings.Contains(want.line, "runtime error") {
			return
		}
		d := differ(got, want)
		for range 20 {
			if d == "" || !want.failed {
				break
			}
			d = differ(got, goJsonnet(c))
		}
		if d != "" {
			t.Error(d)
		}
	})
}

// FuzzScan looks for sources on which scan and go-jsonnet's lexer disagree: a
// source that scan lets pass as shallow is parsed without harm.
func FuzzScan(f *testing.F) {
	seedFuzz(f)
	f.Fuzz(func(t *testing.T, code string) {
		scan([]byte(strings.Repeat(code, 1+maxUnary/max(1, len(code)))))
	})
}
