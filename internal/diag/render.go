package diag

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Headline returns the first line: position, severity unless it is an error,
// subject, message.
func (e *Error) Headline() string {
	var b strings.Builder
	if p := e.Pos.String(); p != "" {
		b.WriteString(p + ": ")
	}
	if e.Severity != SeverityError {
		b.WriteString(e.Severity.String() + ": ")
	}
	if e.Subject != "" {
		b.WriteString(e.Subject + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Error returns the whole text: the headline, then the detail, the other
// positions, the trace and the hint, each indented on lines of its own.
func (e *Error) Error() string { return e.Render(nil) }

// Render returns the text of Error with the source line of each position in the
// diagnostic quoted below it, as far as source returns it:
//
//	defx.jsonnet:14:7: hydra/hydra-web: requires "hydra-dv", which no library defines
//	      14 |   requires: ['hydra-dv'],
//	    hint: did you mean "hydra-db"?
//
// Lines of frames in the trace are not quoted, nor any line of a Sensitive
// diagnostic. source may be nil.
func (e *Error) Render(source func(file string, line int) (string, bool)) string {
	var b strings.Builder
	quote := func(p Position) {
		if source == nil || e.Secret || !p.Known() {
			return
		}
		if text, ok := source(p.File, p.Line); ok && strings.TrimSpace(text) != "" {
			fmt.Fprintf(&b, "\n%8d | %s", p.Line, excerpt(Redact(text), p.Col))
		}
	}
	b.WriteString(e.Headline())
	quote(e.Pos)
	if e.Detail != "" {
		for line := range strings.SplitSeq(e.Detail, "\n") {
			b.WriteString(strings.TrimRight("\n    "+line, " "))
		}
	}
	for _, p := range e.Places {
		at := p.Pos.String()
		if at == "" {
			at = strings.Join(p.Path, ".")
		}
		b.WriteString("\n    " + at + ": " + p.Label)
		quote(p.Pos)
	}
	for _, f := range e.Trace {
		b.WriteString("\n    " + f.What + " " + f.Pos.String())
	}
	if e.Hint != "" {
		b.WriteString("\n    hint: " + e.Hint)
	}
	return b.String()
}

// maxExcerpt is the longest excerpt of a source line, in characters.
const maxExcerpt = 100

// excerpt returns a source line without trailing space, tabs replaced by two
// spaces, and a long line reduced to the part around a column, in bytes.
func excerpt(line string, col int) string {
	line = strings.TrimRight(line, " \t\r\n")
	if utf8.RuneCountInString(line) > maxExcerpt {
		before := utf8.RuneCountInString(line[:max(0, min(col-1, len(line)))])
		runes := []rune(line)
		from := max(0, min(before-maxExcerpt/3, len(runes)-maxExcerpt))
		to := from + maxExcerpt
		line = string(runes[from:to])
		if from > 0 {
			line = "…" + line
		}
		if to < len(runes) {
			line += "…"
		}
	}
	return strings.ReplaceAll(line, "\t", "  ")
}
