package lang

import (
	"testing"

	"github.com/google/go-jsonnet"
)

// hintExamples has programs for each rule of hintRules, by its name. Each makes
// go-jsonnet report an error that the rule matches.
var hintExamples = map[string][]string{
	"endless recursion": {"local f(x) = f(x + 1) + 1; f(1)"},
	"missing field":     {"{ a: 1 }.b", "local o = { a: 1 }; o['x y']"},
	"import not found":  {"import 'no-such-file.libsonnet'", "importstr 'no-such-file'"},
	"format arguments":  {"'%s %s' % ['a']", "'%s' % ['a', 'b']"},
	"escape sequence":   {`"\q"`, `"\u12"`, `"\uZZZZ"`},
	"duplicate name":    {"{ a: 1, a: 2 }", "local a = 1, a = 2; a", "{ ['a' + i]: 1 for i in ['', ''] }"},
	"lexer":             {"'a", `"a`, "@'a", "@a", "1.x", "1e+", "|||x", "|||\nx\n|||", "|||\n  x\n", "/* x", "\u00b6"},
	"parser": {"[1, 2", "{ a: 1", "{ a: 1 b: 2 }", "[1 2]", "f(1 2)", "{ a }", "{ a = 1 }", "(1", "1 1", "local a = 1 a", "if true 1", "=1", ")", "",
		"super", "[x for x in y z]", "assert true 1", "function x", "{ a: 1, }}"},
	"wrong type":       {"1 + {} * 2", "-'a'", "!1", "if 1 then 2", "[] < {}"},
	"unknown variable": {"x", "{ a: nothing }"},

	"no external variables": {"std.extVar('HOME')"},
	"missing argument":      {"(function(x) x)()"},
	"function as a value":   {"{ a: function(x) x }"},
}

func TestHintRules(t *testing.T) {
	for _, r := range hintRules {
		t.Run(r.name, func(t *testing.T) {
			if len(hintExamples[r.name]) == 0 {
				t.Fatal("the rule has no example")
			}
			for _, program := range hintExamples[r.name] {
				_, err := evaluateSnippet(program)
				if err == nil {
					t.Errorf("%s: evaluates without an error", program)
					continue
				}
				e := convertError(err)
				if got := findHint(e.Msg); got == nil || got.name != r.name || e.Hint != r.hint {
					t.Errorf("%s: %q has the hint %q", program, e.Msg, e.Hint)
				}
			}
		})
	}
}

func evaluateSnippet(program string) (string, error) {
	node, err := jsonnet.SnippetToAST("x.jsonnet", program)
	if err != nil {
		return "", err
	}
	return newVM(&jsonnet.FileImporter{}, false).Evaluate(node)
}

func TestConvertError_UnknownMessageHasNoHint(t *testing.T) {
	_, err := evaluateSnippet("error 'the field does not exist: x'")
	if e := convertError(err); e.Hint != "" || e.Msg != "the field does not exist: x" {
		t.Errorf("%q has the hint %q", e.Msg, e.Hint)
	}
}
