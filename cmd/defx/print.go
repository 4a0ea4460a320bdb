package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang/digest"
	"github.com/defx-dev/defx/lang/token"
	"github.com/rogpeppe/go-internal/diff"
)

// printJSON writes one object on one line.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func symbol(a plan.Action) string {
	if !a.Certain {
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
	case !a.Certain:
		return "update " + a.Reason
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
		at = fmt.Sprintf("generation %d", cs.Base)
	}
	return fmt.Sprintf("%s (%s) · %s, %s, %s · state: %s", d.Name, d.Environment, plural(d.Libraries, "library"),
		plural(len(d.Graph.Services), "service"), plural(len(d.Graph.Machines), "machine"), at)
}

// printChanges writes a change set for people. More than manyAlike actions with
// the same changes are told once, unless all is true.
func (s style) printChanges(w *os.File, cs *plan.ChangeSet, all bool) {
	address, machine, backend := 0, 0, 0
	for _, a := range cs.Actions {
		address = max(address, utf8.RuneCountInString(a.Address))
		machine = max(machine, utf8.RuneCountInString(a.Machine))
		backend = max(backend, utf8.RuneCountInString(a.Backend))
	}
	address, machine = min(address, 44), min(machine, 20)
	for _, g := range groups(cs.Actions, all) {
		for _, a := range g.shown {
			fmt.Fprintf(w, "  %s %s  %s  %s  %s\n", s.symbol(a), pad(a.Address, address), pad(a.Machine, machine), pad(a.Backend, backend), clean(does(a)))
		}
		if g.more > 0 {
			fmt.Fprintf(w, "    %s\n", s.faint(fmt.Sprintf("… and %d more alike (-v shows all)", g.more)))
		}
		for _, c := range g.shown[0].Changes {
			s.printChange(w, c, all)
		}
	}
	for _, p := range cs.Protected {
		fmt.Fprintf(w, "  %s %s  %s  stays: %s\n", s.yellow("!"), p.Address, p.Machine, p.Reason)
		fmt.Fprintf(w, "      to remove it: defx apply --allow-delete %s\n", p.Address)
	}
	if len(cs.Actions)+len(cs.Protected) > 0 {
		fmt.Fprintln(w)
	}
}

const manyAlike = 10

type group struct {
	shown []plan.Action
	more  int
}

func groups(actions []plan.Action, all bool) []group {
	var out []group
	at := map[string]int{}
	for _, a := range actions {
		key := fmt.Sprint(a.Op, a.Certain, does(a))
		for _, c := range a.Changes {
			key += fmt.Sprint("\x00", c.Path, shownValue(c.Before), shownValue(c.After), c.Position)
		}
		i, ok := at[key]
		switch {
		case all || !ok || len(a.Changes) > 0 && len(out[i].shown) < 3 && i == len(out)-1 && false:
			at[key] = len(out)
			out = append(out, group{shown: []plan.Action{a}})
		case len(out[i].shown) < manyAlike:
			out[i].shown = append(out[i].shown, a)
		default:
			out[i].more++
		}
	}
	return out
}

func (s style) printChange(w *os.File, c plan.Change, all bool) {
	name := field(c.Path)
	before, after := shownValue(c.Before), shownValue(c.After)
	if strings.Contains(before, "\n") || strings.Contains(after, "\n") {
		fmt.Fprintf(w, "      %s  %s\n", pad(name, 18), s.faint(c.Position.String()))
		lines := strings.Split(strings.TrimSpace(string(diff.Diff("before", []byte(before), "after", []byte(after)))), "\n")
		for i, l := range lines[min(3, len(lines)):] {
			if i > 12 && !all {
				fmt.Fprintln(w, "        …")
				break
			}
			fmt.Fprintln(w, "        "+clean(l))
		}
		return
	}
	room := max(12, (s.width-50)/2)
	text := fmt.Sprintf("%s → %s", quoteValue(c.Before, cut(before, room)), quoteValue(c.After, cut(after, room)))
	fmt.Fprintf(w, "      %s %s  %s\n", pad(name, 18), pad(clean(text), 30), s.faint(c.Position.String()))
}

// field writes a JSON pointer as people write fields.
func field(pointer string) string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, p := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(p)
	}
	if parts[0] == "reads" && len(parts) > 1 {
		return parts[1]
	}
	return strings.Join(parts, ".")
}

// shownValue writes a value of a change: texts with their tokens named.
func shownValue(v any) string {
	switch v := v.(type) {
	case nil:
		return "(none)"
	case string:
		return v
	case map[string]any:
		if parts, ok := v["$text"].([]any); ok && len(v) == 1 {
			var b strings.Builder
			for _, p := range parts {
				switch p := p.(type) {
				case string:
					b.WriteString(p)
				case map[string]any:
					raw, _ := json.Marshal(p)
					var t token.Token
					json.Unmarshal(raw, &t)
					b.WriteString("${" + t.String() + "}")
					if t.Digest != "" {
						b.WriteString(" " + digest.Digest(t.Digest).Brief())
					}
					if t.Version != "" {
						b.WriteString(" v" + t.Version)
					}
				}
			}
			return b.String()
		}
	}
	raw, _ := json.Marshal(v)
	return string(raw)
}

func quoteValue(v any, text string) string {
	if _, ok := v.(string); ok {
		return fmt.Sprintf("%q", text)
	}
	return text
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

// nothing is the one line of a plan without a change.
func nothing(cs *plan.ChangeSet) string {
	if cs.Summary.Held > 0 {
		return fmt.Sprintf("Nothing to do for the other %s.", plural(cs.Summary.Unchanged, "service"))
	}
	return fmt.Sprintf("Nothing to do: %s.", isAre(cs.Summary.Unchanged+cs.Summary.Protected))
}

func isAre(n int) string {
	if n == 1 {
		return "1 service is as it should be"
	}
	return fmt.Sprintf("%d services are as they should be", n)
}

// printHeld tells on stderr what did not evaluate and what stays because of it.
func printHeld(d *project.Desired) {
	s := styleFor(os.Stderr, colorFlag)
	told := map[string]bool{}
	for _, h := range d.Held {
		for _, e := range compile.All(h.Err) {
			if text := s.problem(e); !told[text] {
				told[text] = true
				fmt.Fprintln(os.Stderr, text)
			}
		}
	}
	if len(d.Held) == 0 {
		return
	}
	stays := fmt.Sprintf("as generation %d left them", generation(d))
	if len(d.HeldUnits) == 0 {
		stays = "out: it was never deployed"
		if len(d.Held) > 1 {
			stays = "out: they were never deployed"
		}
	}
	names := make([]string, len(d.Held))
	for i, h := range d.Held {
		names[i] = h.Name
	}
	slices.Sort(names)
	verb := "stays"
	if len(d.Held) > 1 {
		verb = "stay"
	}
	if len(names) > 6 {
		names = append(names[:6], fmt.Sprintf("and %d more", len(names)-6))
	}
	fmt.Fprintf(os.Stderr, "  %s %s (%s) %s %s\n", s.yellow("held:"), strings.Join(names, ", "), plural(len(d.HeldUnits), "service"), verb, stays)
}

func generation(d *project.Desired) int {
	if d.Generation == nil {
		return 0
	}
	return d.Generation.Number
}
