package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
)

// changesDocument is a change set. plan prints it as JSON.
type changesDocument struct {
	*plan.ChangeSet

	verb       string            // of the apply, for the command that deletes what is protected
	title      string            // first line; "" = none
	notes      map[string]string // address → a remark, in one line
	unfinished bool              // there is work to do even without changes
}

func (c changesDocument) print(p *printer) {
	cs := c.ChangeSet
	empty := cs.Empty() && !c.unfinished
	if empty && len(cs.Protected) == 0 && len(cs.Refresh) == 0 {
		p.println(noChanges(cs))
		return
	}
	if c.title != "" && (!empty || c.verb == "apply") {
		p.printf("%s\n\n", c.title)
	}
	p.changes(cs, c.verb, c.notes)
	p.refreshed(cs)
	if empty {
		p.println(noChanges(cs))
		return
	}
	p.println(p.summary(cs))
}

// planTitle names the deployment and what its plan was compared with.
func planTitle(d *project.Desired, cs *plan.ChangeSet) string {
	compared := "nothing applied yet"
	if cs.Base > 0 {
		compared = fmt.Sprintf("generation %d, machines not asked", cs.Base)
	}
	return fmt.Sprintf("%s (%s) · %s, %s, %s · %s", d.Name, d.Environment, plural(d.Libraries, "library"),
		plural(len(d.Graph.Services), "service"), plural(len(d.Graph.Machines), "machine"), compared)
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

// actionText says in a few words what an action does.
func actionText(a plan.Action) string {
	switch {
	case !a.Certain && a.Op == plan.Create:
		return "create, once the values it reads are known"
	case !a.Certain && a.Op == plan.Delete:
		return "delete: " + a.Reason
	case !a.Certain:
		return "update " + a.Reason
	case a.PreviousAddress != "":
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

// changes prints the actions of a change set and what is protected. More than
// maxAlike actions with the same changes are printed once, except with -v.
func (p *printer) changes(cs *plan.ChangeSet, verb string, notes map[string]string) {
	address, machine, backend := 0, 0, 0
	for _, a := range cs.Actions {
		address = max(address, utf8.RuneCountInString(a.Address))
		machine = max(machine, utf8.RuneCountInString(a.Machine))
		backend = max(backend, utf8.RuneCountInString(a.Backend))
	}
	for _, k := range cs.Protected {
		address = max(address, utf8.RuneCountInString(k.Address))
		machine = max(machine, utf8.RuneCountInString(k.Machine))
	}
	address, machine = min(address, 44), min(machine, 20)
	for _, g := range groupActions(cs.Actions, p.verbose) {
		for _, a := range g.shown {
			p.printf("  %s %s  %s  %s  %s\n", p.symbol(a), pad(a.Address, address), pad(a.Machine, machine), pad(a.Backend, backend), clean(actionText(a)))
		}
		if g.more > 0 {
			p.printf("    %s\n", p.faint(fmt.Sprintf("… and %d more like this (-v shows all)", g.more)))
		}
		p.fields(g.shown[0].Changes, p.verbose)
		if note := notes[g.shown[0].Address]; note != "" && len(g.shown) == 1 {
			p.printf("      %s\n", p.faint(note))
		}
	}
	for _, k := range cs.Protected {
		p.printf("  %s %s  %s  stays: %s\n", p.yellow("!"), pad(k.Address, address), pad(k.Machine, machine), k.Reason)
		p.printf("      to delete it: defx %s --allow-delete %s\n", verb, k.Address)
	}
	if len(cs.Actions)+len(cs.Protected) > 0 {
		p.println()
	}
}

// refreshed prints what the cloud reported about modules.
func (p *printer) refreshed(cs *plan.ChangeSet) {
	for _, module := range slices.Sorted(maps.Keys(cs.Refresh)) {
		result := cs.Refresh[module]
		if len(result.Changes)+len(result.Drift) == 0 {
			continue
		}
		p.printf("%s, according to the cloud:\n", module)
		for _, r := range result.Drift {
			p.printf("  %s %s  %s\n", p.faint("!"), r.Address, "changed outside defx")
			p.fields(r.Fields, false)
		}
		for _, r := range result.Changes {
			p.printf("  %s %s  %s\n", p.symbol(plan.Action{Op: r.Op, Certain: true}), r.Address, r.Op)
			p.fields(r.Fields, false)
		}
		p.println()
	}
}

// maxAlike is the largest number of actions with the same changes that are
// printed one by one.
const maxAlike = 20

// actionGroup is actions that differ only in their address.
type actionGroup struct {
	shown []plan.Action
	more  int // not shown
}

// groupActions groups actions of which more than maxAlike are alike. If all is
// true, each action is a group.
func groupActions(actions []plan.Action, all bool) []actionGroup {
	keys, count := make([]string, len(actions)), map[string]int{}
	for i, a := range actions {
		key := symbol(a) + a.Backend + actionText(a)
		for _, c := range a.Changes {
			key += fmt.Sprint("\x00", c.Path, "\x00", displayValue(c.Before), "\x00", displayValue(c.After), "\x00", c.Position)
		}
		keys[i] = key
		count[key]++
	}
	var out []actionGroup
	index := map[string]int{}
	for i, a := range actions {
		g, known := index[keys[i]]
		switch {
		case all || count[keys[i]] <= maxAlike:
			out = append(out, actionGroup{shown: []plan.Action{a}})
		case !known:
			index[keys[i]] = len(out)
			out = append(out, actionGroup{shown: []plan.Action{a}})
		case len(out[g].shown) < maxAlike/2:
			out[g].shown = append(out[g].shown, a)
		default:
			out[g].more++
		}
	}
	return out
}

// summary counts the actions of a change set in one line.
func (s style) summary(cs *plan.ChangeSet) string {
	n := cs.Summary
	var changing, staying []string
	for _, c := range []struct {
		n    int
		text string
	}{{n.Create, "to create"}, {n.Update, "to update"}, {n.Replace, "to replace"}, {n.Move, "to move"}, {n.Delete, "to delete"}, {n.Uncertain, "uncertain"}} {
		if c.n > 0 {
			changing = append(changing, fmt.Sprintf("%d %s", c.n, c.text))
		}
	}
	for _, c := range []struct {
		n    int
		text string
	}{{n.Held, "held"}, {n.Protected, "protected"}, {n.Unchanged, "unchanged"}} {
		if c.n > 0 || c.text == "unchanged" {
			staying = append(staying, fmt.Sprintf("%d %s", c.n, c.text))
		}
	}
	return s.bold(strings.Join(changing, ", ")) + "; " + strings.Join(staying, ", ") + ". Change set " + cs.ChangeSet.Brief() + "."
}

// noChanges is the one line for a change set without changes. It states what was compared.
func noChanges(cs *plan.ChangeSet) string {
	n := cs.Summary
	staying := func(n int, what string) string {
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
		return fmt.Sprintf("No changes: %s.", staying(n.Protected, "protected unit"))
	}
	match := "match"
	if n.Unchanged+n.Protected == 1 {
		match = "matches"
	}
	text := fmt.Sprintf("No changes: %s already %s generation %d (machines not asked)", plural(n.Unchanged+n.Protected, "service"), match, cs.Base)
	if n.Held > 0 {
		text += "; " + staying(n.Held, "held unit")
	}
	return text + "."
}
