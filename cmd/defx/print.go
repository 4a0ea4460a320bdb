package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
)

// printJSON writes one object on one line.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func symbol(a plan.Action) string {
	if !a.Certain && a.Op != plan.Create {
		return "?"
	}
	return map[plan.Op]string{plan.Create: "+", plan.Update: "~", plan.Replace: "±", plan.Move: ">", plan.Delete: "-"}[a.Op]
}

func (s style) symbol(a plan.Action) string {
	switch sym := symbol(a); sym {
	case "+":
		return s.green(sym)
	case "-", "±":
		return s.red(sym)
	default:
		return s.yellow(sym)
	}
}

// does says what an action does, in a few words.
func does(a plan.Action) string {
	switch {
	case !a.Certain && a.Op == plan.Create:
		return "create, once the values it reads are known"
	case !a.Certain && a.Op == plan.Delete:
		return "delete: " + a.Reason
	case !a.Certain:
		return "update " + a.Reason
	case a.PreviousMachine != "":
		return a.Reason
	case a.Graceful:
		return "restart (graceful)"
	case a.Op == plan.Update && len(a.Changes) == 0:
		return string(a.Verb) + ": " + a.Reason
	case a.Op == plan.Update:
		return string(a.Verb)
	case a.Op == plan.Move || a.Op == plan.Replace:
		return string(a.Op) + ": " + a.Reason
	}
	return string(a.Op)
}

func header(d *project.Desired, cs *plan.ChangeSet) string {
	at := "nothing applied yet"
	if cs.Base > 0 {
		at = fmt.Sprintf("generation %d, machines not asked", cs.Base)
	}
	return fmt.Sprintf("%s (%s) · %s, %s, %s · %s", d.Name, d.Environment, plural(d.Libraries, "library"),
		plural(len(d.Graph.Services), "service"), plural(len(d.Graph.Machines), "machine"), at)
}

// printChanges writes a change set for people. More than manyAlike actions with
// the same changes are told once, unless all is true. verb is what would remove
// what is protected, notes is what else is known of addresses, for one line each.
func (s style) printChanges(w io.Writer, cs *plan.ChangeSet, verb string, all bool, notes map[string]string) {
	address, machine, backend := 0, 0, 0
	for _, a := range cs.Actions {
		address = max(address, utf8.RuneCountInString(a.Address))
		machine = max(machine, utf8.RuneCountInString(a.Machine))
		backend = max(backend, utf8.RuneCountInString(a.Backend))
	}
	for _, p := range cs.Protected {
		address = max(address, utf8.RuneCountInString(p.Address))
		machine = max(machine, utf8.RuneCountInString(p.Machine))
	}
	address, machine = min(address, 44), min(machine, 20)
	for _, g := range groups(cs.Actions, all) {
		for _, a := range g.shown {
			fmt.Fprintf(w, "  %s %s  %s  %s  %s\n", s.symbol(a), pad(a.Address, address), pad(a.Machine, machine), pad(a.Backend, backend), clean(does(a)))
		}
		if g.more > 0 {
			fmt.Fprintf(w, "    %s\n", s.faint(fmt.Sprintf("… and %d more like this (-v shows all)", g.more)))
		}
		s.printFields(w, g.shown[0].Changes, all)
		if note := notes[g.shown[0].Address]; note != "" && len(g.shown) == 1 {
			fmt.Fprintf(w, "      %s\n", s.faint(note))
		}
	}
	for _, p := range cs.Protected {
		fmt.Fprintf(w, "  %s %s  %s  stays: %s\n", s.yellow("!"), pad(p.Address, address), pad(p.Machine, machine), p.Reason)
		fmt.Fprintf(w, "      to delete it: defx %s --allow-delete %s\n", verb, p.Address)
	}
	if len(cs.Actions)+len(cs.Protected) > 0 {
		fmt.Fprintln(w)
	}
}

// printLooks writes what only the cloud tells of modules.
func (s style) printLooks(w io.Writer, cs *plan.ChangeSet) {
	for _, module := range slices.Sorted(maps.Keys(cs.Refresh)) {
		look := cs.Refresh[module]
		if len(look.Changes)+len(look.Drift) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s, according to the cloud:\n", module)
		for _, r := range look.Drift {
			fmt.Fprintf(w, "  %s %s  %s\n", s.faint("!"), r.Address, "changed outside defx")
			s.printFields(w, r.Fields, false)
		}
		for _, r := range look.Changes {
			fmt.Fprintf(w, "  %s %s  %s\n", s.symbol(plan.Action{Op: r.Op, Certain: true}), r.Address, r.Op)
			s.printFields(w, r.Fields, false)
		}
		fmt.Fprintln(w)
	}
}

// manyAlike is how many actions with the same changes are told one by one.
const manyAlike = 20

// group is actions that differ in their address alone.
type group struct {
	shown []plan.Action
	more  int // not shown
}

// groups puts actions together of which there are more than manyAlike alike. If
// all is true, every action stands for itself.
func groups(actions []plan.Action, all bool) []group {
	keys, count := make([]string, len(actions)), map[string]int{}
	for i, a := range actions {
		key := symbol(a) + a.Backend + does(a)
		for _, c := range a.Changes {
			key += fmt.Sprint("\x00", c.Path, "\x00", shownValue(c.Before), "\x00", shownValue(c.After), "\x00", c.Position)
		}
		keys[i] = key
		count[key]++
	}
	var out []group
	at := map[string]int{}
	for i, a := range actions {
		g, begun := at[keys[i]]
		switch {
		case all || count[keys[i]] <= manyAlike:
			out = append(out, group{shown: []plan.Action{a}})
		case !begun:
			at[keys[i]] = len(out)
			out = append(out, group{shown: []plan.Action{a}})
		case len(out[g].shown) < manyAlike/2:
			out[g].shown = append(out[g].shown, a)
		default:
			out[g].more++
		}
	}
	return out
}

func (s style) summary(cs *plan.ChangeSet) string {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	n := cs.Summary
	add(n.Create, "to create")
	add(n.Update, "to update")
	add(n.Replace, "to replace")
	add(n.Move, "to move")
	add(n.Delete, "to delete")
	add(n.Uncertain, "uncertain")
	var rest []string
	for _, r := range []struct {
		n    int
		what string
	}{{n.Held, "held"}, {n.Protected, "protected"}, {n.Unchanged, "unchanged"}} {
		if r.n > 0 || r.what == "unchanged" {
			rest = append(rest, fmt.Sprintf("%d %s", r.n, r.what))
		}
	}
	return s.bold(strings.Join(parts, ", ")) + "; " + strings.Join(rest, ", ") + ". Change set " + cs.ChangeSet.Brief() + "."
}

// noChanges is the one line for a plan without changes. It states what was compared.
func noChanges(cs *plan.ChangeSet) string {
	n := cs.Summary
	stay := func(n int, what string) string {
		if n == 1 {
			return "1 " + what + " stays as it is"
		}
		return fmt.Sprintf("%d %ss stay as they are", n, what)
	}
	switch {
	case n.Unchanged+n.Held+n.Protected == 0:
		return "No changes: nothing is deployed and nothing is configured."
	case n.Held > 0 && n.Unchanged == 0:
		return fmt.Sprintf("No changes possible: %s held.", plural(n.Held, "unit"))
	case n.Unchanged == 0:
		return fmt.Sprintf("No changes: %s.", stay(n.Protected, "protected unit"))
	}
	match := "match"
	if n.Unchanged+n.Protected == 1 {
		match = "matches"
	}
	text := fmt.Sprintf("No changes: %s already %s generation %d (machines not asked)", plural(n.Unchanged+n.Protected, "service"), match, cs.Base)
	if n.Held > 0 {
		text += "; " + stay(n.Held, "held unit")
	}
	return text + "."
}

// printHeld tells on stderr what did not evaluate and what stays because of it.
func printHeld(d *project.Desired) {
	s := styleFor(os.Stderr, colorFlag)
	type cause struct {
		err   *diag.Error
		names []string // functionalities, or one library
		units int
	}
	var causes []*cause
	at := map[*diag.Error]*cause{}
	for _, h := range d.Held {
		c := at[h.Err]
		if c == nil {
			c = &cause{err: h.Err}
			at[h.Err] = c
			causes = append(causes, c)
		}
		c.names = append(c.names, h.Name)
		for _, u := range d.HeldUnits {
			if a, err := graph.ParseAddress(u); err == nil && a.Functionality() == h.Name {
				c.units++
			}
		}
	}
	told := map[string]bool{}
	var follow []string
	for _, c := range causes {
		all := compile.ErrorList(c.err)
		if !slices.ContainsFunc(all, func(e *diag.Error) bool { return e.Because == "" }) {
			follow = append(follow, c.names...)
			continue
		}
		for _, e := range all {
			if text := s.problem(e); !told[text] {
				told[text] = true
				fmt.Fprintln(os.Stderr, text)
			}
		}
		fmt.Fprintf(os.Stderr, "  %s %s\n", s.yellow("held:"), clean(heldText(c.names, c.units, generation(d))))
	}
	if len(follow) > 0 { // they are told once: mending the above mends them
		fmt.Fprintf(os.Stderr, "  %s %s\n", s.yellow("held:"), clean(followText(follow)))
	}
}

// followText says what is held because of something else that is.
func followText(names []string) string {
	slices.Sort(names)
	more := ""
	if n := len(names) - 6; n > 0 {
		names, more = names[:6], fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(names, ", ") + more + ", which depend on the above"
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

func generation(d *project.Desired) int {
	if d.Generation == nil {
		return 0
	}
	return d.Generation.Number
}
