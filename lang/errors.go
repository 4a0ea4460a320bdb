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

// positionedError passes an error of defx through go-jsonnet, which keeps
// nothing but its text: the text has the position in go-jsonnet's own form, and
// the hint after hintMark.
type positionedError struct{ err *diag.Error }

// Error returns the position, the message and the hint.
func (l *positionedError) Error() string {
	s := l.err.Pos.String() + " " + l.err.Msg
	if l.err.Hint != "" {
		s += hintMark + l.err.Hint
	}
	return s
}

const (
	hintMark = "\n\thint: "   // separates message and hint in errors that pass through Jsonnet
	driver   = "<deployment>" // the file name of the snippet that is evaluated
	maxTrace = 5              // the longest trace of an error
)

// jsonnetError returns a Jsonnet expression that fails with a message, which is
// an expression, and a hint.
func jsonnetError(message, hint string) string {
	return "error " + message + " + " + quoteJSON(hintMark+hint)
}

// isUserFile reports whether a place is a file that the user can edit.
func isUserFile(place string) bool { return place != "" && !strings.HasPrefix(place, "<") }

// staticRE matches the position that go-jsonnet writes before a syntax error.
var staticRE = regexp.MustCompile(`(?s)^(?:couldn't open import "[^"]*": )?([^\n:]+):(?:(\d+):(\d+)(?:-\d+)?|\((\d+):(\d+)\)-\(\d+:\d+\)) (.*)$`)

// convertError converts an error of go-jsonnet: its position is the innermost
// one in a user's file, its trace the calls and imports that lead there.
func convertError(err error) *diag.Error {
	var runtime jsonnet.RuntimeError
	if !errors.As(err, &runtime) {
		var static interface{ Loc() ast.LocationRange }
		if errors.As(err, &static) && !strings.HasPrefix(err.Error(), "RUNTIME") {
			loc := static.Loc()
			msg := strings.TrimSpace(strings.TrimPrefix(err.Error(), loc.String()))
			e := parsePositioned(msg)
			if !e.Pos.Known() {
				e.Pos = position(loc)
			}
			return normalize(e)
		}
		return normalize(parsePositioned(strings.TrimPrefix(err.Error(), "RUNTIME ERROR: ")))
	}
	e := parsePositioned(runtime.Msg)
	var last diag.Position
	for _, f := range slices.Backward(runtime.StackTrace) { // go-jsonnet lists the innermost frame last
		p := position(f.Loc)
		if !isUserFile(p.File) || !p.Known() || p == last {
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
	return normalize(e)
}

// parsePositioned separates a message into position, message and hint, as far as
// it has them.
func parsePositioned(msg string) *diag.Error {
	msg, hint, _ := strings.Cut(msg, hintMark)
	e := diag.Errorf("", "%s", msg).WithHint("%s", hint)
	for m := staticRE.FindStringSubmatch(msg); m != nil && isUserFile(m[1]); m = staticRE.FindStringSubmatch(e.Msg) { // some messages repeat the position
		line, col := m[2]+m[4], m[3]+m[5]
		e.Pos.File, e.Msg = m[1], m[6]
		e.Pos.Line, _ = strconv.Atoi(line)
		e.Pos.Col, _ = strconv.Atoi(col)
	}
	return e
}

// position converts a location of go-jsonnet.
func position(l ast.LocationRange) diag.Position {
	if l.File == nil {
		return diag.Position{}
	}
	return diag.Position{File: string(l.File.DiagnosticFileName), Line: l.Begin.Line, Col: l.Begin.Column}
}

// normalize starts the message with a lower-case letter and adds a hint if
// hintRules has one.
func normalize(e *diag.Error) *diag.Error {
	if r := []rune(e.Msg); len(r) > 0 && r[0] >= 'A' && r[0] <= 'Z' && (len(r) < 2 || r[1] < 'A' || r[1] > 'Z') {
		e.Msg = strings.ToLower(string(r[0])) + string(r[1:])
	}
	if e.Hint == "" {
		if r := findHint(e.Msg); r != nil {
			e.Hint = r.hint
		}
	}
	return e
}
