// Package diag is the one error type that users see: where in the data, where
// in the source, what, why, and what to do about it.
//
// It knows how an error is written and how a list of them is ordered. It
// refuses to know who found it. Invariant: the text of an Error never carries
// a value of a secret, because it is never handed one.
package diag

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a source file. Line and Col start at 1; a zero Line
// means that the position is unknown.
type Position struct {
	File string // relative to the deployment's root, with forward slashes
	Line int
	Col  int
}

// Known tells whether the position names a line.
func (p Position) Known() bool { return p.Line > 0 }

// String gives "file:line:col", the file alone if the line is unknown, or "".
func (p Position) String() string {
	if !p.Known() {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// MarshalText writes the form of String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the form of String. What does not end in two numbers is a file.
func (p *Position) UnmarshalText(b []byte) error {
	s := string(b)
	*p = Position{File: s}
	j := strings.LastIndexByte(s, ':')
	if j < 0 {
		return nil
	}
	i := strings.LastIndexByte(s[:j], ':')
	if i < 0 {
		return nil
	}
	var line, col int
	if _, err := fmt.Sscanf(s[i:], ":%d:%d", &line, &col); err == nil {
		*p = Position{File: s[:i], Line: line, Col: col}
	}
	return nil
}

// Frame is one step of the road from the entry file to an error.
type Frame struct {
	What string   `json:"what"` // "imported from", "called from"
	Pos  Position `json:"position"`
}

// Error is an error a user can act on.
type Error struct {
	Word    string   // the user's word that is at fault, if it stands somewhere inside the value
	Because string   // the name of what is at fault instead, if this only follows from it
	Subject string   // what it is about: "hydra/hydra-web", "library hydra", "machine web1"; may be empty
	Path    []string // the way to the value inside the entry's value, e.g. libs, hydra, hydra-web, service, prots; nil if none
	Pos     Position // where to mend it; filled later from Path when unknown
	Msg     string   // lower case, values quoted, no full stop
	Hint    string   // what to do next; may be empty
	Trace   []Frame  // innermost first
	Cause   error    `json:"-"` // may be nil
}

// Errorf makes an Error about subject.
func Errorf(subject, format string, args ...any) *Error {
	e := &Error{Subject: subject, Msg: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.Cause = err
		}
	}
	return e
}

// At returns e with its path in the entry's value.
func (e *Error) At(path ...string) *Error { e.Path = slices.Clone(path); return e }

// In returns e with its position.
func (e *Error) In(p Position) *Error { e.Pos = p; return e }

// WithHint returns e with a hint; an empty one changes nothing.
func (e *Error) WithHint(format string, args ...any) *Error {
	if format != "" {
		e.Hint = fmt.Sprintf(format, args...)
	}
	return e
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Headline is the first line: place, subject, message.
func (e *Error) Headline() string {
	var b strings.Builder
	if p := e.Pos.String(); p != "" {
		b.WriteString(p + ": ")
	}
	if e.Subject != "" {
		b.WriteString(e.Subject + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Error gives the whole text: the headline, then the road, then the hint, each
// on an indented line of its own.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Headline())
	for _, f := range e.Trace {
		b.WriteString("\n    " + f.What + " " + f.Pos.String())
	}
	if e.Hint != "" {
		b.WriteString("\n    hint: " + e.Hint)
	}
	return b.String()
}

// List is a set of errors of one run. It is an error itself when not empty.
type List []*Error

// Sort orders by position, then subject, then message, and drops repetitions.
func (l List) Sort() List {
	slices.SortStableFunc(l, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Col, b.Pos.Col), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Msg, b.Msg))
	})
	return slices.CompactFunc(l, func(a, b *Error) bool {
		return a.Pos == b.Pos && a.Subject == b.Subject && a.Msg == b.Msg
	})
}

// Error joins the errors, each on lines of its own.
func (l List) Error() string {
	parts := make([]string, len(l))
	for i, e := range l {
		parts[i] = e.Error()
	}
	return strings.Join(parts, "\n")
}

// Unwrap gives the errors for errors.As.
func (l List) Unwrap() []error {
	out := make([]error, len(l))
	for i, e := range l {
		out[i] = e
	}
	return out
}

// Err is nil for an empty list.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l.Sort()
}

// Suggest gives `did you mean "x"?` for the candidate nearest to name, or ""
// if none is near (at most a third of the letters differ).
func Suggest(name string, candidates []string) string {
	best, dist := "", 1+max(len(name), 3)/3
	for _, c := range candidates {
		if d := distance(name, c); d < dist || d == dist && best != "" && c < best {
			best, dist = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// distance counts insertions, deletions, substitutions and swaps of neighbours.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
