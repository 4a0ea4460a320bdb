package lang

import "regexp"

// hintRule adds a hint to messages of go-jsonnet. Errors of go-jsonnet have no
// codes, so its messages are recognised by their text, in this table and nowhere
// else. Errors of defx itself carry their own hints, also through Jsonnet: see
// hintMark.
type hintRule struct {
	name    string         // identifies the rule in its test
	pattern *regexp.Regexp // matches the message, which starts with a lower-case letter
	hint    string
}

// findHint returns the first rule that matches a message, or nil.
func findHint(msg string) *hintRule {
	for i := range hintRules {
		if hintRules[i].pattern.MatchString(msg) {
			return &hintRules[i]
		}
	}
	return nil
}

// hintRules are in order of precedence. Each has a test in TestHintRules with a
// program that makes go-jsonnet report such an error.
var hintRules = []hintRule{
	{"endless recursion", regexp.MustCompile(`^max stack frames exceeded`),
		"a function or value calls itself without end"},
	{"missing field", regexp.MustCompile(`^field does not exist: `),
		"the field is read here; a library may have renamed it"},
	{"import not found", regexp.MustCompile(`^couldn't open import `),
		"paths are resolved from the importing file, then -J directories, then vendor/"},
	{"format arguments", regexp.MustCompile(`^(not enough|too many) values to format`),
		"each % in the string takes one of the values; %% is a literal percent sign"},
	{"escape sequence", regexp.MustCompile(`^(unknown|truncated|unicode) .*escape sequence`),
		`in @'…' backslashes are literal; '\\' is one backslash`},
	{"duplicate name", regexp.MustCompile(`^duplicate (field|local var)`),
		"remove or rename one of the two"},
	{"lexer", regexp.MustCompile(`^(couldn't lex|could not lex|unterminated String|unexpected EOF|text block|multi-line comment)`),
		syntaxHint},
	{"parser", regexp.MustCompile(`^(unexpected: |unexpected end of file|did not expect: |not a (unary|binary) operator|expected (a comma|token|operator|one of|for, if|, or ;|\.|\())`),
		syntaxHint},
	{"wrong type", regexp.MustCompile(`^unexpected type `),
		"a value of another type is expected here; check what it is combined or compared with"},
	{"no external variables", undefinedRE,
		"deployments have no external variables: add a parameter to the entry's function, and give its value with -A NAME=VALUE"},
	{"missing argument", missingArgumentRE,
		"the function has this parameter, and the call gives no value for it"},
	{"function as a value", regexp.MustCompile(`^couldn't manifest function`),
		"a function is not a value: call it, as in .port('sql')"},
	{"unknown variable", regexp.MustCompile(`^unknown variable: \S`),
		"declare it with local, or import the library that has it"},
}

// undefinedRE matches the message for an external variable.
var undefinedRE = regexp.MustCompile(`^undefined external variable: `)

const syntaxHint = "a comma, bracket or quote is missing or superfluous, here or just before"
