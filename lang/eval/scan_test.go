package eval

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// Sources that scan lets pass, but only just, are parsed in time and without
// overflowing the stack.
func TestScan_JustBelowTheLimits(t *testing.T) {
	n := maxNesting - 20
	h := n / heavy
	for name, code := range map[string]string{
		"plus":          "1" + strings.Repeat("+1", n),
		"not":           strings.Repeat("!", maxUnary-10) + "true",
		"brackets":      strings.Repeat("[", h) + strings.Repeat("]", h),
		"parentheses":   strings.Repeat("(", h) + "1" + strings.Repeat(")", h),
		"braces":        strings.Repeat("{a:", h*9/10) + "1" + strings.Repeat("}", h*9/10),
		"locals":        strings.Repeat("local a=1;", maxLocals-10) + "a",
		"many locals":   strings.Repeat("local a=1, b=2, c=3;", (maxLocals-10)/3) + "a",
		"ifs":           strings.Repeat("if true then ", h) + "1",
		"else ifs":      strings.Repeat("if false then 1 else ", h) + "1",
		"fields":        "{}" + strings.Repeat(".b", n),
		"functions":     strings.Repeat("function(x) ", h*9/10) + "1",
		"parameters":    strings.Repeat("function(a,b,c,d,e,f,g,h) ", h*9/10) + "1",
		"calls":         "local f = function() f; f" + strings.Repeat("()", n-20),
		"object locals": strings.Repeat("{local a=1, b:", h*8/10) + "1" + strings.Repeat("}", h*8/10),
		"loops":         "[1 " + strings.Repeat("for x in [1] ", n/4) + "]",
	} {
		t0 := time.Now()
		if pos := scan([]byte(code)); pos != nil {
			t.Errorf("%s: refused at %v", name, *pos)
			continue
		}
		_, err := New(Options{Limits: Limits{MaxSteps: 1_000_000}}).EvaluateSnippet(context.Background(), "deep", code)
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Kind == Internal) {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(t0); d > time.Minute {
			t.Errorf("%s takes %v", name, d)
		} else {
			t.Logf("%s: %v, %s", name, d, clip(firstLine(errorText(err))))
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return "succeeds"
	}
	return err.Error()
}

// Real programs are nowhere near the limits: strings, comments and text blocks
// count for nothing.
func TestScan_Tokens(t *testing.T) {
	filler := strings.Repeat(" ", maxUnary)
	for _, code := range []string{
		"'" + strings.Repeat("((((!!!!", 10_000) + "'",
		"\"" + strings.Repeat("\\\"((", 10_000) + "\"",
		"@'" + strings.Repeat("''((", 10_000) + "'",
		"/* " + strings.Repeat("((((", 10_000) + " */ 1",
		"1 // " + strings.Repeat("((((", 10_000) + "\n# " + strings.Repeat("!", 10_000),
		"|||\n  " + strings.Repeat("((((", 10_000) + "\n\n   ((((\n|||",
		"[" + strings.Repeat("1 + 1, ", 30_000) + "]",
		"{" + strings.Repeat("local a = 1, ", 30_000) + "}",
		strings.Repeat("local f(x) = if x then 1 + 2 else [3];", 3_900) + "1",
	} {
		if pos := scan([]byte(code + filler)); pos != nil {
			t.Errorf("%s…: refused at %v", code[:10], *pos)
		}
	}
}
