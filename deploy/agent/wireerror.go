package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/defx-dev/defx/deploy/engine"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/nofollow"
)

// Codes of errors that a client has to distinguish.
const (
	CodeStaleToken  = "stale-token" // an ErrStaleToken
	CodeUnhealthy   = "unhealthy"   // an Unhealthy
	CodeUnavailable = "unavailable" // what has to run the units does not answer
	CodeRetire      = "retire"      // the unit's retire command failed
	CodeLineage     = "lineage"     // an ErrOtherLineage
	CodeDamaged     = "damaged"     // a Damaged
	CodeNewer       = "newer"       // a NewerFormat
	CodeRolledBack  = "rolled-back" // a RolledBack
)

// Error is an error in the form in which it travels over the agent's wire. The
// client returns it as it is; errors.As finds the typed error that its code
// stands for.
type Error struct {
	Code    string `json:"code,omitempty"` // one of the codes above; empty: of no particular kind
	Summary string `json:"summary"`        // the whole message, without the hint
	Hint    string `json:"hint,omitempty"`
	Address string `json:"address,omitempty"` // stale-token: of the unit, or the scope
	Token   int64  `json:"token,omitempty"`   // stale-token: the highest one that the machine has seen
	Apply   string `json:"apply,omitempty"`   // stale-token: of that token
	Lineage string `json:"lineage,omitempty"` // lineage: of the units
	Caller  string `json:"caller,omitempty"`  // lineage: of the request
}

// Error returns the summary, and the hint on a line of its own.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Summary
	}
	return e.Summary + "\n    hint: " + e.Hint
}

// Unwrap returns the typed error that the code stands for; nil if none.
func (e *Error) Unwrap() error {
	switch e.Code {
	case CodeStaleToken:
		return &ErrStaleToken{Address: e.Address, Token: e.Token, Apply: e.Apply}
	case CodeLineage:
		return &ErrOtherLineage{Scope: e.Address, Lineage: e.Lineage, Caller: e.Caller}
	case CodeDamaged:
		return &Damaged{Problem: errors.New(e.Summary)}
	case CodeUnhealthy:
		return &Unhealthy{errors.New(e.Summary)}
	case CodeRolledBack:
		return &RolledBack{errors.New(e.Summary)}
	}
	return nil
}

// UnmarshalJSON also accepts a string, which is how agents before protocol 2
// send an error: so a client can show why such an agent refuses its protocol.
func (e *Error) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &e.Summary)
	}
	type plain Error
	return json.Unmarshal(raw, (*plain)(e))
}

// RolledBack is the error of a version that was tried and did not work, so that the previous one
// was restored.
type RolledBack struct{ err error }

func (r *RolledBack) Error() string { return r.err.Error() }
func (r *RolledBack) Unwrap() error { return r.err }

// newError returns err in the form in which it travels.
func newError(err error) *Error {
	if e, ok := err.(*Error); ok {
		return e
	}
	e := &Error{Summary: err.Error(), Hint: hintFor(err)}
	if d, ok := err.(*diag.Error); ok && d.Hint != "" && len(d.Trace) == 0 {
		e.Summary, e.Hint = d.Headline(), d.Hint
	}
	if stale, ok := errors.AsType[*ErrStaleToken](err); ok {
		e.Code, e.Address, e.Token, e.Apply = CodeStaleToken, stale.Address, stale.Token, stale.Apply
	} else if other, ok := errors.AsType[*ErrOtherLineage](err); ok {
		e.Code, e.Address, e.Lineage, e.Caller = CodeLineage, other.Scope, other.Lineage, other.Caller
	} else if _, ok := errors.AsType[*Damaged](err); ok {
		e.Code = CodeDamaged
	} else if _, ok := errors.AsType[*NewerFormat](err); ok {
		e.Code, e.Hint = CodeNewer, "update defx; nothing was changed"
	} else if _, ok := errors.AsType[*Unhealthy](err); ok {
		e.Code = CodeUnhealthy
	} else if isUnavailable(err) {
		e.Code = CodeUnavailable
	} else if _, ok := errors.AsType[*RolledBack](err); ok {
		e.Code = CodeRolledBack
	}
	return e
}

// isUnavailable reports whether err means that systemd or the docker engine is
// not available.
func isUnavailable(err error) bool {
	_, noSystemd := errors.AsType[*systemdUnavailableError](err)
	_, noEngine := errors.AsType[*engine.ErrEngineUnavailable](err)
	return noSystemd || noEngine
}

// hintFor returns what to do about a problem of the machine; "" if nothing is
// known.
func hintFor(err error) string {
	const dir = "a machine on which nothing runs has connect: 'dir:PATH'"
	_, noSystemd := errors.AsType[*systemdUnavailableError](err)
	unavailable, noEngine := errors.AsType[*engine.ErrEngineUnavailable](err)
	refused, isRefused := errors.AsType[*nofollow.Refused](err)
	switch {
	case isRefused:
		return refused.Hint()
	case mentions(err, syscall.ENOSPC):
		return "the machine's disk is full: free some space"
	case mentions(err, syscall.EROFS):
		return "defx writes below /var/lib/defx and /etc/systemd/system: both must be writable"
	case noSystemd && noEngine:
		return "a machine needs systemd, a docker engine (docker: 'unix:///PATH' sets its socket) or both; " + dir
	case noEngine && errors.Is(unavailable.Err, fs.ErrPermission):
		return "run defx as root, or as a member of the group docker"
	case noEngine:
		return "install and start docker there, or set the engine's socket: docker: 'unix:///PATH' of the machine"
	case noSystemd:
		return "defx runs units under systemd; " + dir
	case engine.IsUnauthorized(err):
		return "run docker login on that machine, as the user that defx connects as"
	}
	return ""
}

// mentions reports whether err is errno, or the text of a program or service
// that reports it: these have no other form.
func mentions(err error, errno syscall.Errno) bool {
	return errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error())
}
