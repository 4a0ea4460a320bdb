package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/internal/sets"
)

// Exit codes.
const (
	exitSuccess     = 0
	exitFailure     = 1
	exitChanges     = 2   // there are changes, with plan --exit-code
	exitPartial     = 3   // something is held or failed
	exitInterrupted = 130 // Ctrl-C
)

// exitError ends a command with an exit code other than 1. Its err, which may be
// nil, is still to be printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// printError prints an error to a terminal or file, each one of a list in the same form.
func printError(w *os.File, err error) {
	printDiagnostics(w, styleFor(w, colorFlag), diagnostics(err))
}

// printDiagnostics prints errors. It is the only place that decides how an error looks.
func printDiagnostics(w io.Writer, s style, list []*diag.Error) {
	for _, e := range list {
		fmt.Fprintln(w, s.problem(e))
	}
}

// diagnostics returns the errors that err consists of. An error that only wraps
// others adds context to them, and counts as one.
func diagnostics(err error) []*diag.Error {
	switch e := err.(type) {
	case diag.List:
		return e
	case *diag.Error:
		return []*diag.Error{e}
	}
	if wrapped, ok := errors.AsType[*openfile.Error](err); ok {
		return []*diag.Error{{Msg: err.Error(), Hint: wrapped.Hint(), Cause: err}}
	}
	return []*diag.Error{{Msg: err.Error(), Cause: err}}
}

// hintPrefix begins the hint in the text of an error.
const hintPrefix = "\n    hint: "

// withHint adds a hint to an error that has none.
func withHint(err error, format string, args ...any) error {
	if strings.Contains(err.Error(), hintPrefix) {
		return err
	}
	e := diag.Errorf("", "%v", err).WithHint(format, args...)
	e.Cause = err
	return e
}

// stateFolderError returns the error of a state folder that the user may not read or write; nil if
// err is another one. Another attempt would end in the same way.
func stateFolderError(err error) *diag.Error {
	p, ok := errors.AsType[*fs.PathError](err)
	if !ok || stateFolder == "" || !errors.Is(p.Err, fs.ErrPermission) && !errors.Is(p.Err, syscall.EROFS) && !errors.Is(p.Err, fs.ErrNotExist) && !errors.Is(p.Err, syscall.ENOTDIR) {
		return nil
	}
	rel, relErr := filepath.Rel(stateFolder, p.Path)
	inside := relErr == nil && filepath.IsLocal(rel)
	done := "read"
	if p.Op != "open" && p.Op != "stat" && p.Op != "lstat" || strings.HasSuffix(p.Path, "/lock") {
		done = "written"
	}
	if done == "read" && errors.Is(p.Err, fs.ErrNotExist) || !inside {
		return nil
	}
	e := diag.Errorf("", "the state folder %s cannot be %s: %v", stateFolder, done, p.Err).WithHint("give your user access to it, or choose another folder with --state")
	e.Cause = err
	return e
}

// unreachableError is the error of a command that could not ask some machines; nil if
// there are none.
func unreachableError(errs map[string]error) error {
	if len(errs) == 0 {
		return nil
	}
	return &exitError{exitPartial, fmt.Errorf("%s unreachable", plural(len(errs), "machine"))}
}

// warnAll prints the errors of machines, by name.
func warnAll(v view, errs map[string]error) {
	for _, name := range sets.Keys(errs) {
		v.warn(errs[name])
	}
}

// errCancelled is returned if a person does not confirm.
var errCancelled = errors.New("cancelled: nothing was changed")
