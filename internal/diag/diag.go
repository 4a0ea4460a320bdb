// Package diag is the one type for errors, warnings and notes that users see:
// what is wrong, where in the data and in the source, and what to do about it.
//
// It knows how a diagnostic is written, encoded and ordered. It refuses to know
// which code reports it. Invariant: the text of a diagnostic never has the value of a
// secret, because it never gets one; a diagnostic about a secret in the source is
// marked Sensitive, and its source line is not quoted.
package diag

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Position is a place in a source file. Line and Col start at 1; a zero Line
// means that the position is unknown.
type Position struct {
	File string // relative to the deployment's root, with forward slashes
	Line int
	Col  int
}

// Known reports whether the position has a line.
func (p Position) Known() bool { return p.Line > 0 }

// String returns "file:line:col", the file alone if the line is unknown, or "".
func (p Position) String() string {
	if !p.Known() {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Compare orders positions by file, line and column.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Col, q.Col))
}

// MarshalText returns the form of String. The name of a file that itself looks
// like a position is followed by ":0:0".
func (p Position) MarshalText() ([]byte, error) {
	s := p.String()
	if _, looksKnown := parsePosition(p.File); looksKnown && !p.Known() {
		s += ":0:0"
	}
	return []byte(s), nil
}

// UnmarshalText parses the form of MarshalText. A text that does not end in two
// numbers is the name of a file.
func (p *Position) UnmarshalText(b []byte) error {
	*p, _ = parsePosition(string(b))
	return nil
}

func parsePosition(s string) (Position, bool) {
	rest, col, ok := cutNumber(s)
	if !ok {
		return Position{File: s}, false
	}
	file, line, ok := cutNumber(rest)
	if !ok {
		return Position{File: s}, false
	}
	return Position{File: file, Line: line, Col: col}, true
}

// cutNumber separates ":N" from the end of s.
func cutNumber(s string) (before string, n int, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, 0, false
	}
	v, err := strconv.ParseUint(s[i+1:], 10, 31)
	return s[:i], int(v), err == nil
}

// Severity is how serious a diagnostic is. The zero value is SeverityError.
type Severity uint8

const (
	SeverityError   Severity = iota // what was asked for cannot be done
	SeverityWarning                 // it can be done, but is probably not intended
	SeverityNote                    // for information
)

var severities = [...]string{"error", "warning", "note"}

// String returns "error", "warning" or "note".
func (s Severity) String() string {
	if int(s) < len(severities) {
		return severities[s]
	}
	return fmt.Sprintf("severity %d", s)
}

// MarshalText returns the form of String.
func (s Severity) MarshalText() ([]byte, error) {
	if int(s) >= len(severities) {
		return nil, fmt.Errorf("unknown %v", s)
	}
	return []byte(s.String()), nil
}

// UnmarshalText parses the form of String.
func (s *Severity) UnmarshalText(b []byte) error {
	i := slices.Index(severities[:], string(b))
	if i < 0 {
		return fmt.Errorf("unknown severity %q", b)
	}
	*s = Severity(i)
	return nil
}

// Frame is one step on the way from the entry file to an error.
type Frame struct {
	What string   `json:"what"` // "imported from", "called from"
	Pos  Position `json:"position,omitzero"`
}

// Place is a further position of a diagnostic, with its role.
type Place struct {
	Label string   `json:"label"`             // such as "also claimed here"
	Path  []string `json:"path,omitempty"`    // path of the value in the entry's value; nil if none
	Pos   Position `json:"position,omitzero"` // set later from Path if unknown
}

// Error is a diagnostic: an error, warning or note that a user can act on.
type Error struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code,omitempty"`      // identifies the kind of diagnostic for programs and lint rules; may be empty
	Subject  string   `json:"subject,omitempty"`   // what it is about: "hydra/hydra-web", "library hydra", "machine web1"; may be empty
	Path     []string `json:"path,omitempty"`      // path of the value in the entry's value, such as libs, hydra, hydra-web, service; nil if none
	Pos      Position `json:"position,omitzero"`   // where to fix it; set later from Path if unknown
	Msg      string   `json:"summary"`             // one line in lower case, values quoted, no full stop
	Detail   string   `json:"detail,omitempty"`    // more text, in lines; may be empty
	Places   []Place  `json:"places,omitempty"`    // other positions that contribute
	Trace    []Frame  `json:"trace,omitempty"`     // innermost first
	Hint     string   `json:"hint,omitempty"`      // what to do next; may be empty
	Word     string   `json:"name,omitempty"`      // the name at fault, quoted inside the value; narrows Pos to its line
	Because  string   `json:"causedBy,omitempty"`  // the functionality whose error causes this one; "" if this is a root cause
	Secret   bool     `json:"sensitive,omitempty"` // the source line may contain a secret: see Sensitive

	Cause error `json:"-"` // may be nil; not encoded
}

// Errorf returns an error about subject. Its cause is the last argument that is
// an error.
func Errorf(subject, format string, args ...any) *Error {
	e := &Error{Subject: subject, Msg: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.Cause = err
		}
	}
	return e
}

// Warningf is like Errorf and returns a warning with a code.
func Warningf(code, subject, format string, args ...any) *Error {
	return Errorf(subject, format, args...).WithSeverity(SeverityWarning).WithCode(code)
}

// Notef is like Errorf and returns a note with a code.
func Notef(code, subject, format string, args ...any) *Error {
	return Errorf(subject, format, args...).WithSeverity(SeverityNote).WithCode(code)
}

// WithSeverity sets the severity and returns e.
func (e *Error) WithSeverity(s Severity) *Error { e.Severity = s; return e }

// WithCode sets the code and returns e.
func (e *Error) WithCode(code string) *Error { e.Code = code; return e }

// At sets the path in the entry's value and returns e.
func (e *Error) At(path ...string) *Error { e.Path = slices.Clone(path); return e }

// In sets the position and returns e.
func (e *Error) In(p Position) *Error { e.Pos = p; return e }

// Also adds another position, such as "also claimed here", and returns e.
func (e *Error) Also(label string, p Position) *Error {
	e.Places = append(e.Places, Place{Label: label, Pos: p})
	return e
}

// AlsoAt adds another position by its path in the entry's value and returns e.
func (e *Error) AlsoAt(label string, path ...string) *Error {
	e.Places = append(e.Places, Place{Label: label, Path: slices.Clone(path)})
	return e
}

// WithDetail sets the detail and returns e.
func (e *Error) WithDetail(format string, args ...any) *Error {
	e.Detail = fmt.Sprintf(format, args...)
	return e
}

// WithHint sets the hint and returns e; an empty format changes nothing.
func (e *Error) WithHint(format string, args ...any) *Error {
	if format != "" {
		e.Hint = fmt.Sprintf(format, args...)
	}
	return e
}

// Sensitive marks e as being about a value in the source that may be a secret,
// so that Render does not quote the line, and returns e.
func (e *Error) Sensitive() *Error { e.Secret = true; return e }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// From returns err as an Error. The hint of an error that has one becomes its hint.
func From(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Msg: err.Error(), Cause: err}
	if h, ok := errors.AsType[hinter](err); ok {
		e.Hint = h.Hint()
	}
	return e
}

// hinter is an error that says what to do about it.
type hinter interface {
	error
	Hint() string
}

// HasCode reports whether err is or wraps a diagnostic with a code.
func HasCode(err error, code string) bool {
	for err != nil {
		if e, ok := err.(*Error); ok && e.Code == code {
			return true
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			return slices.ContainsFunc(many.Unwrap(), func(e error) bool { return HasCode(e, code) })
		}
		err = errors.Unwrap(err)
	}
	return false
}

// List is the diagnostics of one run. It is an error itself if it is not empty.
type List []*Error

// HasErrors reports whether the list has a diagnostic of severity error.
func (l List) HasErrors() bool {
	return slices.ContainsFunc(l, func(e *Error) bool { return e.Severity == SeverityError })
}

// Sort sorts by position, subject, code and message, and drops repetitions.
func (l List) Sort() List {
	slices.SortStableFunc(l, func(a, b *Error) int {
		return cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Msg, b.Msg))
	})
	return slices.CompactFunc(l, func(a, b *Error) bool {
		return a.Pos == b.Pos && a.Subject == b.Subject && a.Code == b.Code && a.Msg == b.Msg
	})
}

// Error returns the texts of all diagnostics, each on lines of its own.
func (l List) Error() string {
	parts := make([]string, len(l))
	for i, e := range l {
		parts[i] = e.Error()
	}
	return strings.Join(parts, "\n")
}

// Unwrap returns the diagnostics for errors.Is and errors.As.
func (l List) Unwrap() []error {
	out := make([]error, len(l))
	for i, e := range l {
		out[i] = e
	}
	return out
}

// Err returns the sorted list as an error, or nil if no diagnostic is an error.
func (l List) Err() error {
	if !l.HasErrors() {
		return nil
	}
	return l.Sort()
}

// Locate sets the unknown positions of diagnostics and their places that have a
// path. find returns the position of each path.
func (l List) Locate(find func(paths [][]string) []Position) {
	var paths [][]string
	var targets []*Position
	add := func(path []string, p *Position) {
		if path != nil && !p.Known() {
			paths, targets = append(paths, path), append(targets, p)
		}
	}
	for _, e := range l {
		add(e.Path, &e.Pos)
		for i := range e.Places {
			add(e.Places[i].Path, &e.Places[i].Pos)
		}
	}
	if len(paths) == 0 {
		return
	}
	for i, p := range find(paths) {
		*targets[i] = p
	}
}
