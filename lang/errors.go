package lang

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
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

// hints tell what to do about messages of go-jsonnet and of our own library. The
// first that fits counts.
var hints = []struct {
	says *regexp.Regexp
	hint string
}{
	{says(`^max stack frames exceeded`), "something calls itself without an end"},
	{says(`^field does not exist`), "the field is read here; a library may have renamed it"},
	{says(`^couldn't open import`), "paths start at the importing file, then at -J folders, then at vendor/"},
	{says(`^libs: `), "libs: { name: import 'library.libsonnet' }"},
	{says(`^overrides: `), "overrides: { 'lib/name': { service+: { env+: { NAME: 'value' } } } }"},
	{says(`^a library is an object`), "{ name: { service: { command: ['/usr/bin/program'] } } }"},
	{says(`^join: the function`), "function(r) r.host + ':' + r.port('name') gives a text"},
	{says(`^a deployment is an object`), "{ name: 'shop', libs: { … }, machines: { … } }"},
	{says(`a function of one replica is needed$|: a function of one replica is needed, `), "each(function(r) r.host), join(',', function(r) r.host)"},
	{says(`\.join: the separator is a text`), "join(',', function(r) …)"},
	{says(`^defx\.all: `), "connects: { targets: defx.all({ port: 'metrics' }) }"},
	{says(`^(not enough|too many) values to format`), "each % of the text takes one of the values; %% is a percent sign"},
	{says(`^unknown escape sequence`), "@'…' takes backslashes as they are; '\\\\' is one backslash"},
	{says(`(?i)^(unexpected: |not a unary operator|expected |unterminated|couldn't lex|could not lex|did not expect|got |unexpected end|open .* not closed|a comma|duplicate|could not parse|missing)|while parsing|^text block`),
		"a comma, a bracket or a quote is missing or too much, here or just before"},
	{says(`^unexpected type `), "a value of another kind is needed here; look at what it is joined or compared with"},
	{says(`^unknown variable: \S`), "declare it with local, or import the library that has it"},
}

var says = regexp.MustCompile

// noValue ends a message that brings its own hint.
const noValue = "is no value: read something of it, such as .host, .port(name) or .each(function(r) …)"

// improve puts a message into our form and adds what to do.
func improve(e *diag.Error) *diag.Error {
	if r := []rune(e.Msg); len(r) > 0 && r[0] >= 'A' && r[0] <= 'Z' && (len(r) < 2 || r[1] < 'A' || r[1] > 'Z') {
		e.Msg = strings.ToLower(string(r[0])) + string(r[1:])
	}
	if e.Hint != "" {
		return e
	}
	if strings.HasSuffix(e.Msg, noValue) {
		e.Msg, e.Hint, _ = strings.Cut(e.Msg, ": ")
		return e
	}
	for _, h := range hints {
		if h.says.MatchString(e.Msg) {
			e.Hint = h.hint
			break
		}
	}
	return e
}
