package eval

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

func evaluate(t *testing.T, o Options, code string) *Result {
	t.Helper()
	r, err := New(o).EvaluateSnippet(context.Background(), "test.jsonnet", code)
	if err != nil {
		t.Fatal(FormatError(err))
	}
	return r
}

func TestEvaluate_TopLevelArguments(t *testing.T) {
	r := evaluate(t, Options{TLAs: map[string]Arg{"a": {Value: "x"}, "b": {Value: "1 + 1", Code: true}}}, "function(a, b, c=b + 1) [a, b, c]")
	if got := string(r.Output); got != "[\n   \"x\",\n   2,\n   3\n]\n" {
		t.Error(got)
	}
}

func TestEvaluate_Stream(t *testing.T) {
	r := evaluate(t, Options{Mode: Stream}, "[{ a: 1 }, 2]")
	if len(r.Docs) != 2 || string(r.Docs[0]) != "{\n   \"a\": 1\n}\n" || string(r.Docs[1]) != "2\n" {
		t.Errorf("%s", r.Docs)
	}
}

func TestEvaluate_ThisFileAndImports(t *testing.T) {
	files := memoryImporter{"a.libsonnet": "[std.thisFile, import 'b.libsonnet']", "b.libsonnet": "std.thisFile", "t.txt": "t\xff"}
	r := evaluate(t, Options{Importer: files}, "[std.thisFile, (std).thisFile, import 'a.libsonnet', importstr 't.txt', importbin 't.txt']")
	if got := strings.Join(strings.Fields(string(r.Output)), ""); got != `["test.jsonnet","test.jsonnet",["a.libsonnet","b.libsonnet"],"t`+"\ufffd"+`",[116,255]]` {
		t.Error(got)
	}
	if len(r.Stats.Files) != 3 || r.Stats.Steps == 0 || r.Stats.Allocated == 0 {
		t.Errorf("%+v", r.Stats)
	}
}

func TestEvaluate_TraceOnce(t *testing.T) {
	var b bytes.Buffer
	_, err := New(Options{Trace: &b}).EvaluateSnippet(context.Background(), "t.jsonnet", "local x = std.trace('hello', 1);\n[x, x, error 'e']")
	if err == nil || b.String() != "TRACE: t.jsonnet:1 hello\n" {
		t.Errorf("%v %q", err, b.String())
	}
}

func TestEvaluate_ErrorWithFrames(t *testing.T) {
	_, err := New(Options{}).EvaluateSnippet(context.Background(), "t.jsonnet", "local f(x) = x + error 'no';\n{ a: [f(1)] }")
	var e *Error
	if !errors.As(err, &e) || e.Error() != "RUNTIME ERROR: no" || len(e.Frames) == 0 {
		t.Fatal(err)
	}
	want := "RUNTIME ERROR: no\n\tt.jsonnet:1:18-28\tfunction <f>\n\tt.jsonnet:2:7-11\tthunk from <object <anonymous>>\n\tArray element 0\t\n\tField \"a\"\t\n\tDuring manifestation\t"
	if got := FormatError(err); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestEvaluate_StaticError(t *testing.T) {
	_, err := New(Options{}).EvaluateSnippet(context.Background(), "t.jsonnet", "{")
	var e *Error
	if !errors.As(err, &e) || e.Kind != Static || !strings.Contains(e.Error(), "t.jsonnet:1:2") {
		t.Error(err)
	}
}

// Programs are shared, and compiled as they run: goroutines that evaluate the
// same file meet in the compiler and in its caches.
func TestEvaluate_Concurrently(t *testing.T) {
	forget()
	for _, c := range workloads(t) {
		if c.name == "services" {
			continue
		}
		var outs [4]outcome
		var wg sync.WaitGroup
		for i := range outs {
			wg.Go(func() { outs[i] = evalWith(c) })
		}
		wg.Wait()
		for _, o := range outs[1:] {
			if d := differ(o, outs[0]); d != "" || o.failed {
				t.Errorf("%s: %s %s", c.name, d, o.line)
			}
		}
	}
}

func TestLimits_StepsAreTheSame(t *testing.T) {
	var first Stats
	for i := range 4 {
		if i%2 == 0 {
			forget()
		}
		s := evaluate(t, Options{}, "[std.foldl(function(a, b) a + b, std.range(1, 1000), 0), { a: 1 } + { b: $.a }, [{ ['k' + j]: i for j in [1, 2] } + { ['c' + i]: 1 } for i in [1, 2, 3]]]").Stats
		if i > 0 && (s.Steps != first.Steps || s.Allocated != first.Allocated) {
			t.Errorf("%+v, then %+v", first, s)
		}
		first = s
	}
}

func TestLocate_OverridesAndElements(t *testing.T) {
	code := "local base = {\n  a: { x: 1,\n    y: 2 },\n};\nbase {\n  a+: { x: 3 },\n  list: [\n    { n: 1 },\n    { n: 2 },\n  ],\n}"
	got, err := New(Options{}).Locate(context.Background(), "t.jsonnet", code, [][]string{
		{"a", "x"}, {"a", "y"}, {"list", "1", "n"}, {"list", "7"}, {"list", "1"}, {"none"}, {"a"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range []int{6, 3, 9, 7, 9, 1, 6} {
		if got[i].Begin.Line != line || got[i].FileName != "t.jsonnet" {
			t.Errorf("%d: %v, want line %d", i, got[i].String(), line)
		}
	}
}

func TestKeepImports_EvaluatedOnce(t *testing.T) {
	var trace bytes.Buffer
	vm := New(Options{
		Importer:    memoryImporter{"lib": "std.trace('lib', { f(x):: x + 1, v: 1 })"},
		Trace:       &trace,
		KeepImports: true,
	})
	for i, code := range []string{"(import 'lib').f(1)", "(import 'lib') + { a: error 'no' }", "(import 'lib').v", "(import 'lib').v"} {
		_, err := vm.EvaluateSnippet(context.Background(), "t.jsonnet", code)
		if (err != nil) != (i == 1) {
			t.Error(code, err)
		}
	}
	// An evaluation that failed leaves nothing behind.
	if n := strings.Count(trace.String(), "TRACE"); n != 2 {
		t.Errorf("the library is evaluated %d times", n)
	}
}
