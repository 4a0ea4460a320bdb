package eval

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// bombs are programs that would take all memory, time or stack. Each has to end
// with an error that has a position, the same whenever it runs.
func bombs() map[string]string {
	deep := func(open, mid, close string, n int) string {
		return strings.Repeat(open, n) + mid + strings.Repeat(close, n)
	}
	return map[string]string{
		"recursion":        "local f(x) = 1 + f(x + 1); f(0)",
		"tail calls":       "local f(x) = f(x + 1) tailstrict; f(0)",
		"false tail calls": "local f(x) = 1 + f(x + 1) tailstrict; f(0)",
		"doubling":         "local f(x) = f(x + x) tailstrict; f('ab')",
		"doubling array":   "local f(x) = f(x + x) tailstrict; f([1])",
		"growing object":   "local f(o, i) = f(o { ['k' + i]: i }, i + 1) tailstrict; f({}, 0)",
		"range":            "std.range(1, 2000000000)",
		"makeArray":        "std.makeArray(2000000000, function(i) i)",
		"repeat":           "std.repeat('abc', 1000000000)",
		"format width":     "'%1000000000d' % 1",
		"format zeros":     "'%01000000000d' % 1",
		"join":             "local a = std.repeat('x', 1000000); std.join(a, std.makeArray(100000, function(i) a))",
		"nested arrays":    "local f(i) = if i == 0 then [] else [f(i - 1)]; f(1000000)",
		"infinite object":  "local f(i) = { x: f(i + 1) }; f(0)",
		"infinite array":   "local f(i) = [f(i + 1)]; f(0)",
		"equal":            "local f(i) = [f(i + 1)]; f(0) == f(0)",
		"compare":          "local f(i) = [f(i + 1)]; f(0) < f(0)",
		"prune":            "local f(i) = [f(i + 1)]; std.prune(f(0))",
		"flatten":          "local f(i) = [f(i + 1)]; std.flattenDeepArray(f(0))",
		"deepJoin":         "local f(i) = [f(i + 1)]; std.deepJoin(f(0))",
		"mergePatch":       "local f(i) = { x: f(i + 1) }; std.mergePatch(f(0), f(0))",
		"yaml":             "local f(i) = { x: f(i + 1) }; std.manifestYamlDoc(f(0))",
		"json":             "local f(i) = { x: f(i + 1) }; std.manifestJsonEx(f(0), ' ')",
		"toml":             "local f(i) = { x: f(i + 1) }; std.manifestTomlEx(f(0), ' ')",
		"python":           "local f(i) = { x: f(i + 1) }; std.manifestPython(f(0))",
		"toString":         "local f(i) = { x: f(i + 1) }; '' + f(0)",
		"live arrays":      "local f(a, i) = f([a, std.range(1, 10000)], i + 1) tailstrict; f([], 0)",
		"billion laughs":   "local a = std.repeat('ha', 500000); local b = [a + i for i in std.range(1, 1000)]; std.length(std.join('', b)) + std.length(std.join('', std.map(function(x) x + x, b)))",
		"self":             "local a = { b: self.c, c: self.b }; a.b",
		"super":            "local f(o) = f(o { x: super.x + 1 }) tailstrict; f({ x: 0 })",
		"comprehension":    "[x + y + z for x in std.range(1, 100000) for y in std.range(1, 100000) for z in std.range(1, 100000)]",
		"filter":           "std.filter(function(x) std.length(std.range(1, 100000)) < x, std.range(1, 1000000))",
		"sort":             "std.sort(std.range(1, 100000000))",
		"foldl":            "std.foldl(function(a, b) a + a, std.range(1, 100), 'x')",
		"replace":          "std.strReplace(std.repeat('a', 1000000), 'a', std.repeat('b', 100000))",
		"slice":            "std.slice(std.range(1, 10), 0, 10, 1e-9)",
		"render":           "'%x' % 0.5 + ('%.*f' % [400, 1])",
		"plus":             "1" + strings.Repeat("+1", 1_000_000),
		"not":              strings.Repeat("!", 100_000) + "true",
		"minus":            strings.Repeat("-", 1_000_000) + "1",
		"brackets":         deep("[", "", "]", 1_000_000),
		"parentheses":      deep("(", "1", ")", 1_000_000),
		"braces":           deep("{a:", "1", "}", 1_000_000),
		"locals":           strings.Repeat("local a=1;", 100_000) + "a",
		"ifs":              strings.Repeat("if true then ", 100_000) + "1",
		"else ifs":         strings.Repeat("if false then 1 else ", 100_000) + "1",
		"fields":           "{}" + strings.Repeat(".b", 1_000_000),
		"indices":          "[]" + strings.Repeat("[0]", 1_000_000),
		"calls":            "f" + strings.Repeat("()", 1_000_000),
		"applied braces":   "{}" + strings.Repeat("{}", 1_000_000),
		"functions":        strings.Repeat("function(x) ", 100_000) + "1",
		"errors":           strings.Repeat("error ", 100_000) + "1",
		"asserts":          strings.Repeat("assert true;", 100_000) + "1",
		"imports":          strings.Repeat("import ", 100_000) + "1",
		"ins":              "1" + strings.Repeat(" in {}", 100_000),
		"comprehensions":   "[1 " + strings.Repeat("for x in [] ", 100_000) + "]",
	}
}

func TestBounds_Bombs(t *testing.T) {
	for name, code := range bombs() {
		t.Run(name, func(t *testing.T) {
			verdict := func() string {
				vm := New(Options{Limits: Limits{MaxSteps: 3_000_000, MaxMemory: 64 << 20, MaxString: 8 << 20, MaxArray: 4 << 20, MaxOutput: 8 << 20}})
				t0 := time.Now()
				_, err := vm.EvaluateSnippet(context.Background(), "bomb", code)
				if d := time.Since(t0); d > time.Minute {
					t.Errorf("takes %v", d)
				}
				var e *Error
				if err == nil || !errors.As(err, &e) || e.Kind == Internal {
					t.Fatalf("error %v", err)
				}
				return fmt.Sprint(e.Kind, e.Msg, len(e.Frames), e.Err)
			}
			first := verdict()
			t.Log(clip(first))
			if again := verdict(); again != first {
				t.Errorf("first %s\nthen %s", first, again)
			}
		})
	}
}

func TestBounds_CancelledSoon(t *testing.T) {
	worst := time.Duration(0)
	for name, code := range bombs() {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(20*time.Millisecond, cancel)
		t0 := time.Now()
		_, err := New(Options{}).EvaluateSnippet(ctx, "bomb", code)
		d := time.Since(t0)
		cancel()
		worst = max(worst, d-20*time.Millisecond)
		if d > 20*time.Millisecond+cancelSlack {
			t.Errorf("%s ends after %v with %v", name, d, err)
		}
	}
	t.Logf("the latest ends %v after it was cancelled", worst)
}

// cancelSlack is the time that cancelling may take, on a busy machine.
const cancelSlack = time.Second

func TestBounds_DeepHostStack(t *testing.T) {
	vm := New(Options{Limits: Limits{MaxStack: 100_000_000, MaxMemory: 256 << 20}})
	for i, code := range []string{
		"local f(x) = 1 + f(x + 1); f(0)",
		"local f(x) = if ((([x + f(x + 1)])))[0] == 1 then 2 else 3; f(0)",
		"local f(i) = { x: f(i + 1) }; f(0)",
		"local f(i) = [f(i + 1)]; f(0) == f(0)",
		"local f(i) = std.map(function(x) x, [f(i + 1)])[0]; f(0)",
		"local f(i) = std.foldl(function(a, b) f(b), [1, 2], 0); f(0)",
		"local f(i) = std.sort([f(i), 1]); f(0)",
		"local f(o) = f(o { x+: { y: $ } }); f({})",
		"local f(i) = { assert f(i + 1).x == 1, x: 1 }; f(0)",
		"local f(i) = { x+: f(i + 1) }; f(0) + f(0)",
		"local f(i) = '%s' % [f(i + 1)]; f(0)",
		"local f(i) = std.mergePatch({ a: f(i + 1) }, { a: f(i + 1) }); f(0)",
		"local f(i) = { [f(i + 1)]: 1 }; f(0)",
		"local f(i) = [x for x in f(i + 1)]; f(0)",
	} {
		if i > 2 && programCount(0) == 0 {
			break // the others take long
		}
		_, err := vm.EvaluateSnippet(context.Background(), "deep", code)
		var e *Error
		if !errors.As(err, &e) || e.Kind == Internal {
			t.Errorf("%s: %v", code, err)
		}
	}
}
