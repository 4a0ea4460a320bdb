package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/sets"
)

// changesDocument is a change set. plan prints it as JSON.
type changesDocument struct {
	*plan.ChangeSet
	Diffs map[string]string `json:"diffs,omitempty"` // with --diff: address → difference of its rendered files

	verb       string            // of the apply, for the command that deletes what is protected
	title      string            // first line; "" = none
	notes      map[string]string // address → a remark, in one line
	unfinished bool              // there is work to do even without changes
}

func (c changesDocument) print(p *printer) {
	cs := c.ChangeSet
	empty := cs.Empty() && !c.unfinished
	if empty && len(cs.Protected)+len(cs.Drifted) == 0 && len(cs.Refresh) == 0 {
		p.println(noChanges(cs))
		return
	}
	if c.title != "" && (!empty || c.verb == "apply") {
		p.printf("%s\n\n", c.title)
	}
	p.changes(cs, c.verb, c.notes)
	for _, address := range sets.Keys(c.Diffs) {
		p.printf("%s\n", p.bold(cs.Names.Text(address)))
		for l := range strings.Lines(c.Diffs[address]) {
			p.println(p.diffLine(clean(strings.TrimSuffix(l, "\n"))))
		}
		p.println()
	}
	p.drifted(cs, c.verb)
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
	if cs.Base > 0 && cs.Machines != nil {
		compared = fmt.Sprintf("generation %d, %s asked", cs.Base, plural(len(cs.Machines.Asked), "machine"))
	}
	return fmt.Sprintf("%s (%s) · %s, %s, %s · %s", d.Name, d.Environment, plural(d.Libraries, "library"),
		plural(len(d.Graph.Services), "service"), plural(len(d.Graph.Machines), "machine"), compared)
}

func symbol(a plan.Action) string {
	if !a.Certain && a.Op != plan.Create {
		return "?"
	}
	if a.Op == plan.Update && (a.Verb == plan.RepairUnit || a.Verb == plan.Start || a.Verb == plan.Stop) {
		return "!"
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
	text := actionName(a)
	if a.StopTimeout != "" {
		text += "; stopping it may take " + a.StopTimeout
	}
	if a.Stopped && a.Op != plan.Delete {
		text += ", stays stopped"
	}
	return text
}

func actionName(a plan.Action) string {
	switch {
	case a.Op == plan.Create && len(a.Drift) > 0:
		return "create: " + a.Reason
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
		address = max(address, utf8.RuneCountInString(cs.Names.Text(a.Address)))
		machine = max(machine, utf8.RuneCountInString(a.Machine))
		backend = max(backend, utf8.RuneCountInString(a.Backend))
	}
	for _, k := range cs.Protected {
		address = max(address, utf8.RuneCountInString(cs.Names.Text(k.Address)))
		machine = max(machine, utf8.RuneCountInString(k.Machine))
	}
	address, machine = min(address, 44), min(machine, 20)
	for _, g := range groupActions(cs.Actions, p.verbose) {
		for _, a := range g.shown {
			p.printf("  %s %s  %s  %s  %s\n", p.symbol(a), pad(cs.Names.Text(a.Address), address), pad(a.Machine, machine), pad(a.Backend, backend), clean(actionText(a)))
		}
		if g.more > 0 {
			p.printf("    %s\n", p.faint(fmt.Sprintf("… and %d more like this (-v shows all)", g.more)))
		}
		if a := g.shown[0]; len(a.Drift) > 0 && !strings.HasSuffix(actionName(a), a.Reason) {
			for _, d := range a.Drift {
				p.printf("      %s\n", p.faint("on "+a.Machine+": "+clean(d.String())))
			}
		}
		if text := needsText(g.shown[0].Needs); text != "" {
			p.printf("      %s\n", "needs "+clean(text))
		}
		p.fields(g.shown[0].Changes, p.verbose)
		if lost := g.shown[0].GivesUp; len(lost) > 0 {
			p.printf("      %s\n", p.red("gives up its data in "+clean(strings.Join(lost, ", "))+", which stays on the machine"))
		}
		if note := notes[g.shown[0].Address]; note != "" && len(g.shown) == 1 {
			p.printf("      %s\n", p.faint(note))
		}
	}
	for _, k := range cs.Protected {
		p.printf("  %s %s  %s  stays: %s\n", p.yellow("!"), pad(cs.Names.Text(k.Address), address), pad(k.Machine, machine), k.Reason)
		if k.Moved != "" {
			p.printf("      if it was renamed: %s\n", clean(k.Moved))
		}
		p.printf("      to delete it: %s\n", copyable("defx "+verb+" --allow-delete "+shellWord(cs.Names.Text(k.Address))))
	}
	if len(cs.Actions)+len(cs.Protected) > 0 {
		p.println()
	}
}

// drifted prints the units that differ on their machines and stay so, and what units left on
// machines that they have moved away from.
func (p *printer) drifted(cs *plan.ChangeSet, verb string) {
	for _, d := range cs.Drifted {
		var list []string
		for _, x := range d.Differences {
			list = append(list, x.On(d.Machine))
		}
		p.printf("  %s %s  %s  %s\n", p.yellow("!"), cs.Names.Text(d.Address), d.Machine, clean(strings.Join(list, "; ")))
		switch d.Needs {
		case plan.NeedsRepair:
			p.printf("      left as it is; to repair it: %s\n", copyable("defx "+verb+" --repair"))
		case plan.NeedsEmpty:
			p.printf("      restore the data there, or start it empty: %s\n", copyable("defx "+verb+" --allow-empty "+shellWord(cs.Names.Text(d.Address))))
		}
	}
	for _, r := range cs.Removals {
		when := "it moved"
		if r.Forgotten {
			when = "the machine was forgotten"
		}
		p.printf("  %s %s  %s  left there when %s: delete\n", p.red("-"), cs.Names.Text(r.Address), r.Machine, when)
	}
	if len(cs.Drifted)+len(cs.Removals) > 0 {
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

// needsText lists what a unit asks for, on one line. Needs of one kind are named once.
func needsText(needs []graph.Need) string {
	var parts []string
	last := graph.NeedKind("")
	for _, n := range needs {
		if n.Kind == last && n.Value != "" {
			parts = append(parts, n.Value)
		} else {
			parts = append(parts, n.String())
		}
		last = n.Kind
	}
	return strings.Join(parts, ", ")
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
		key := symbol(a) + a.Backend + actionText(a) + needsText(a.Needs)
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
	}{{n.Create, "to create"}, {n.Update, "to update"}, {n.Replace, "to replace"}, {n.Move, "to move"}, {n.Delete, "to delete"}, {n.Repair, "to repair"}, {len(cs.Removals), "left over"}, {n.Uncertain, "uncertain"}} {
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
	asked := ""
	if text := machinesAsked(cs.Machines); text != "" {
		asked = "; " + text
	}
	return s.bold(strings.Join(changing, ", ")) + "; " + strings.Join(staying, ", ") + asked + ". Change set " + cs.ChangeSet.Brief() + "."
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
	text := fmt.Sprintf("No changes: %s %s", plural(n.Unchanged+n.Protected, "unit"), match)
	if len(cs.Drifted) > 0 {
		text = "No changes"
	} else if cs.Machines == nil {
		text += fmt.Sprintf(" generation %d", cs.Base)
	}
	if n.Held > 0 {
		text += "; " + staying(n.Held, "held unit")
	}
	if left := len(cs.Drifted); left > 0 {
		text += fmt.Sprintf(": %d of %s on %s", left, plural(n.Unchanged+n.Protected, "unit"), map[bool]string{true: "its machine differs and stays so", false: "their machines differ and stay so"}[left == 1])
	}
	if asked := machinesAsked(cs.Machines); asked != "" {
		text += "; " + asked
	} else if cs.Machines == nil {
		text += "; machines not asked"
	}
	return text + "."
}

// machinesAsked says which machines and modules were asked; "" if that says nothing.
func machinesAsked(m *plan.MachinesAsked) string {
	if m == nil {
		return ""
	}
	var parts []string
	if len(m.Asked) > 0 {
		parts = append(parts, plural(len(m.Asked), "machine")+" asked")
	}
	if m.Modules > 0 {
		parts = append(parts, plural(m.Modules, "module")+" not (--refresh asks them)")
	}
	text := strings.Join(parts, ", ")
	for _, name := range sets.Keys(m.NotAsked) {
		if text != "" {
			text += "; "
		}
		text += name + " not asked: " + copyable(m.NotAsked[name])
	}
	return text
}

// diffLine colours a line of a unified difference.
func (s style) diffLine(l string) string {
	switch {
	case strings.HasPrefix(l, "+"):
		return s.green(l)
	case strings.HasPrefix(l, "-"):
		return s.red(l)
	}
	return l
}
