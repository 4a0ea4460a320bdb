package lang

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/lang/diag"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// located is an error of ours on its way through go-jsonnet, which keeps its
// text alone: the text carries the position in go-jsonnet's own form.
type located struct{ e *diag.Error }

func (l *located) Error() string {
	s := l.e.Pos.String() + " " + l.e.Msg
	if l.e.Hint != "" {
		s += hintMark + l.e.Hint
	}
	return s
}

const (
	hintMark = "\n\thint: "
	driver   = "<deployment>" // the snippet that selects what to evaluate
	maxTrace = 5
)

// user tells whether a place is a file that somebody can mend.
func user(place string) bool { return place != "" && !strings.HasPrefix(place, "<") }

// staticRE matches the position that go-jsonnet writes before a syntax error.
var staticRE = regexp.MustCompile(`(?s)^(?:couldn't open import "[^"]*": )?([^\n:]+):(?:(\d+):(\d+)(?:-\d+)?|\((\d+):(\d+)\)-\(\d+:\d+\)) (.*)$`)

// explain makes an error of ours of one of go-jsonnet's: the innermost place in
// a user's file, and the road there.
func explain(err error) *diag.Error {
	var runtime jsonnet.RuntimeError
	if !errors.As(err, &runtime) {
		var static interface{ Loc() ast.LocationRange }
		if errors.As(err, &static) && !strings.HasPrefix(err.Error(), "RUNTIME") {
			loc := static.Loc()
			msg := strings.TrimSpace(strings.TrimPrefix(err.Error(), loc.String()))
			e := static2(msg)
			if !e.Pos.Known() {
				e.Pos = position(loc)
			}
			return improve(e)
		}
		return improve(static2(strings.TrimPrefix(err.Error(), "RUNTIME ERROR: ")))
	}
	e := static2(runtime.Msg)
	var last diag.Position
	for _, f := range slices.Backward(runtime.StackTrace) { // the innermost comes last there
		p := position(f.Loc)
		if !user(p.File) || !p.Known() || p == last {
			continue
		}
		last = p
		if !e.Pos.Known() {
			e.Pos = p
			continue
		}
		if p == e.Pos || len(e.Trace) >= maxTrace {
			continue
		}
		what, from := "called from", e.Pos
		if n := len(e.Trace); n > 0 {
			from = e.Trace[n-1].Pos
		}
		if from.File != p.File {
			what = "imported from"
		}
		e.Trace = append(e.Trace, diag.Frame{What: what, Pos: p})
	}
	return improve(e)
}

// static2 reads the position in front of a message, if there is one.
func static2(msg string) *diag.Error {
	msg, hint, _ := strings.Cut(msg, hintMark)
	e := diag.Errorf("", "%s", msg).WithHint("%s", hint)
	for m := staticRE.FindStringSubmatch(msg); m != nil && user(m[1]); m = staticRE.FindStringSubmatch(e.Msg) { // some say it twice
		line, col := m[2]+m[4], m[3]+m[5]
		e.Pos.File, e.Msg = m[1], m[6]
		e.Pos.Line, _ = strconv.Atoi(line)
		e.Pos.Col, _ = strconv.Atoi(col)
	}
	return e
}

func position(l ast.LocationRange) diag.Position {
	if l.File == nil {
		return diag.Position{}
	}
	return diag.Position{File: string(l.File.DiagnosticFileName), Line: l.Begin.Line, Col: l.Begin.Column}
}

// syntaxRE matches what go-jsonnet says of text that is no Jsonnet.
var syntaxRE = regexp.MustCompile(`(?i)^(unexpected: |not a unary operator|expected |unterminated|couldn't lex|could not lex|did not expect|got |unexpected end|open .* not closed|a comma|duplicate|could not parse|missing)|while parsing|^text block`)

var unknownVar = regexp.MustCompile(`^Unknown variable: (\S+)`)

// improve puts a message into our form and adds what to do.
func improve(e *diag.Error) *diag.Error {
	if r := []rune(e.Msg); len(r) > 0 && r[0] >= 'A' && r[0] <= 'Z' && (len(r) < 2 || r[1] < 'A' || r[1] > 'Z') {
		e.Msg = strings.ToLower(string(r[0])) + string(r[1:])
	}
	if e.Hint != "" {
		return e
	}
	switch {
	case strings.HasPrefix(e.Msg, "max stack frames exceeded"):
		e.Hint = "something calls itself without an end"
	case strings.HasPrefix(e.Msg, "field does not exist"):
		e.Hint = "the field is read here; a library may have renamed it"
	case strings.HasPrefix(e.Msg, "couldn't open import"):
		e.Hint = "paths start at the importing file, then at -J folders, then at vendor/"
	case strings.HasPrefix(e.Msg, "libs: "):
		e.Hint = "libs: { name: import 'library.libsonnet' }"
	case strings.HasPrefix(e.Msg, "overrides: "):
		e.Hint = "overrides: { 'lib/name': { service+: { env+: { NAME: 'value' } } } }"
	case strings.HasPrefix(e.Msg, "a library is an object"):
		e.Hint = "{ name: { service: { command: ['/usr/bin/program'] } } }"
	case strings.HasPrefix(e.Msg, "join: the function"):
		e.Hint = "function(r) r.host + ':' + r.port('name') gives a text"
	case strings.HasPrefix(e.Msg, "a deployment is an object"):
		e.Hint = "{ name: 'shop', libs: { … }, machines: { … } }"
	case strings.HasSuffix(e.Msg, "a function of one replica is needed") || strings.Contains(e.Msg, ": a function of one replica is needed, "):
		e.Hint = "each(function(r) r.host), join(',', function(r) r.host)"
	case strings.Contains(e.Msg, ".join: the separator is a text"):
		e.Hint = "join(',', function(r) …)"
	case strings.HasPrefix(e.Msg, "defx.all: "):
		e.Hint = "connects: { targets: defx.all({ port: 'metrics' }) }"
	case strings.HasPrefix(e.Msg, "not enough values to format"), strings.HasPrefix(e.Msg, "too many values to format"):
		e.Hint = "each % of the text takes one of the values; %% is a percent sign"
	case strings.HasPrefix(e.Msg, "unknown escape sequence"):
		e.Hint = "@'…' takes backslashes as they are; '\\\\' is one backslash"
	case strings.HasSuffix(e.Msg, "is no value: read something of it, such as .host, .port(name) or .each(function(r) …)"):
		e.Msg, e.Hint, _ = strings.Cut(e.Msg, ": ")
	case syntaxRE.MatchString(e.Msg):
		e.Hint = "a comma, a bracket or a quote is missing or too much, here or just before"
	case strings.HasPrefix(e.Msg, "unexpected type "):
		e.Hint = "a value of another kind is needed here; look at what it is joined or compared with"
	case unknownVar.MatchString("U" + strings.TrimPrefix(e.Msg, "u")):
		e.Hint = "declare it with local, or import the library that has it"
	}
	return e
}
