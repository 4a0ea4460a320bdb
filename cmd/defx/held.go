package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
)

// heldCause is one error and what it holds.
type heldCause struct {
	err   *diag.Error
	names []string // functionalities, or one library
	units int      // deployed
}

// printHeld prints each error of a library or functionality, followed by what is
// held because of it. What is only held because it depends on something held is
// listed once at the end.
func printHeld(w io.Writer, s style, d *project.Desired) {
	printed := map[string]bool{}
	var dependents []string
	for _, c := range heldCauses(d) {
		errs := compile.ErrorList(c.err)
		if !slices.ContainsFunc(errs, func(e *diag.Error) bool { return e.Because == "" }) {
			dependents = append(dependents, c.names...)
			continue
		}
		for _, e := range errs {
			if text := s.problem(e); !printed[text] {
				printed[text] = true
				printDiagnostics(w, s, []*diag.Error{e})
			}
		}
		generation := 0
		if d.Generation != nil {
			generation = d.Generation.Number
		}
		fmt.Fprintf(w, "  %s %s\n", s.yellow("held:"), clean(heldText(c.names, c.units, generation)))
	}
	if len(dependents) > 0 {
		slices.Sort(dependents)
		more := ""
		if n := len(dependents) - 6; n > 0 {
			dependents, more = dependents[:6], fmt.Sprintf(" and %d more", n)
		}
		fmt.Fprintf(w, "  %s %s\n", s.yellow("held:"), clean(strings.Join(dependents, ", ")+more+", because of the above"))
	}
}

// heldCauses groups what is held by error.
func heldCauses(d *project.Desired) []*heldCause {
	var causes []*heldCause
	byError := map[*diag.Error]*heldCause{}
	for _, h := range d.Held {
		c := byError[h.Err]
		if c == nil {
			c = &heldCause{err: h.Err}
			byError[h.Err] = c
			causes = append(causes, c)
		}
		c.names = append(c.names, h.Name)
		for _, u := range d.HeldUnits {
			if a, err := graph.ParseAddress(u); err == nil && a.Functionality() == h.Name {
				c.units++
			}
		}
	}
	return causes
}

// heldText names what is held and says what happens to it.
func heldText(names []string, units, generation int) string {
	what := names[0]
	lib, _, _ := strings.Cut(names[0], "/")
	many := false
	switch {
	case lib == names[0]:
		what = "library " + lib
	case len(names) > 1 && len(names) <= 3:
		what, many = strings.Join(names, ", "), true
	case len(names) > 3:
		what = "library " + lib
		if slices.ContainsFunc(names, func(n string) bool { return !strings.HasPrefix(n, lib+"/") }) {
			what, many = strings.Join(names[:3], ", ")+fmt.Sprintf(" and %d more", len(names)-3), true
		}
	}
	switch {
	case units > 0 && many:
		return fmt.Sprintf("%s (%s) stay as in generation %d", what, plural(units, "service"), generation)
	case units > 0:
		return fmt.Sprintf("%s (%s) stays as in generation %d", what, plural(units, "service"), generation)
	case many:
		return what + " skipped: they were never deployed"
	}
	return what + " skipped: it was never deployed"
}
