package eval

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// operands are arguments of all types for functions of std.
var operands = []string{
	"0", "1", "-1", "2", "3.5", "1e10", "-0.25", "255",
	"''", "'a'", "'abc'", "'ABC'", "'a,b,,c'", "'ü€😀'", "' x '", "'12'", "'-7'", "'ff'", "'YWJj'", "'a\\nb\\n'", "'[1, {\"a\": null}]'", "'%d %s'",
	"true", "false", "null",
	"[]", "[1]", "[3, 1, 2, 2]", "['b', 'a', 'b']", "[[1], [2, [3]]]", "[true, false]", "[{ a: 1 }, { b: 2 }]", "[null, '', [], {}]", "['x', { y: 1 }, 'z']", "[1, 'a']", "[97, 98]",
	"{}", "{ a: 1 }", "{ b: { c: null, d: [1] }, a:: 2, e::: 'x' }", "{ main: { a: [1, 2] }, sections: { s: { k: 'v' } } }", "({ a: 1, x: super.y } + { a+: 2 })", "{ a: error 'field' }", "{ assert false : 'assertion', a: 1 }",
	"function(x) x", "function(a, b) a", "function(x) [x]", "function(x, y=1) x + y", "function() 1", "function(k, v) [k, v]", "function(x) x > 1", "std.length",
	"error 'argument'", "[error 'element']",
}

func TestConformance_EveryFunctionOfStd(t *testing.T) {
	want := goJsonnet(&testCase{name: "names", code: "{ [n]: if std.type(std[n]) == 'function' then std.length(std[n]) else -1 for n in std.objectFieldsAll(std) }"})
	got := evalWith(&testCase{name: "names", code: "{ [n]: if std.type(std[n]) == 'function' then std.length(std[n]) else -1 for n in std.objectFieldsAll(std) }"})
	if d := differ(got, want); d != "" {
		t.Error(d)
	}
	var required map[string]int
	if err := json.Unmarshal([]byte(want.out), &required); err != nil {
		t.Fatal(err)
	}
	samples := max(6, programCount(0)/100)
	r := rand.New(rand.NewPCG(uint64(programCount(0)), 2))
	n, bad := 0, 0
	for name, count := range required {
		if count < 0 || strings.HasPrefix(name, "$") || name == "native" || name == "trace" || name == "extVar" || name == "removeAt" {
			continue
		}
		for range samples * max(1, count) {
			args := make([]string, count)
			for i := range args {
				args[i] = operands[r.IntN(len(operands))]
			}
			if r.IntN(6) == 0 {
				args = append(args, operands[r.IntN(len(operands))])
			}
			call := fmt.Sprintf("std.%s(%s)", name, strings.Join(args, ", "))
			switch r.IntN(6) {
			case 0:
				call = fmt.Sprintf("(local f = std.%s; f(%s))", name, strings.Join(args, ", "))
			case 1:
				call = fmt.Sprintf("std.map(function(x) %s, [1])", call)
			}
			c := &testCase{name: "call", code: call, limits: Limits{MaxSteps: 1_000_000, MaxString: 1_000_000, MaxArray: 100_000}}
			got := evalWith(c)
			if got.bound {
				continue
			}
			n++
			want := goJsonnet(c)
			d := differ(got, want)
			for range 20 {
				if d == "" || !want.failed {
					break
				}
				d = differ(got, goJsonnet(c))
			}
			if d != "" {
				if bad++; bad <= 20 {
					t.Errorf("%s: %s", call, d)
				}
			}
		}
	}
	t.Logf("%d calls, %d differ", n, bad)
}
