package main

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
)

// teller writes events as they come: a line for each action that ended, and on
// a terminal one more, rewritten in place, of what is under way.
type teller struct {
	o                *options
	s                style
	bar              style // of stderr
	all, done        int   // actions
	address, machine int   // widths
	under            []string
	drawn            int // columns of the line to be rewritten; 0 = none
}

func newTeller(o *options, cs *plan.ChangeSet) *teller {
	t := &teller{o: o, s: styleFor(os.Stdout, colorFlag), bar: styleFor(os.Stderr, colorFlag), all: len(cs.Actions)}
	for _, a := range cs.Actions {
		t.address = max(t.address, utf8.RuneCountInString(a.Address))
		t.machine = max(t.machine, utf8.RuneCountInString(a.Machine))
	}
	t.address, t.machine = min(t.address, 44), min(t.machine, 20)
	return t
}

func (t *teller) tell(e apply.Event) {
	if t.o.json {
		t.tellJSON(e)
		return
	}
	t.clear()
	line := func(symbol, text string) {
		fmt.Printf("  %s %s  %s  %s\n", symbol, pad(e.Action.Address, t.address), pad(e.Action.Machine, t.machine), text)
	}
	switch e.Outcome {
	case apply.Waiting:
		fmt.Fprintf(os.Stderr, "waiting: %v\n", e.Err)
	case apply.Started:
		t.under = append(t.under, e.Action.Address)
	case apply.Done:
		t.over(e.Action.Address)
		line(t.s.green("✓"), fmt.Sprintf("%s in %s", past[e.Action.Op], duration(e.Took)))
	case apply.Failed:
		t.over(e.Action.Address)
		line(t.s.red("✗"), fmt.Sprintf("failed after %s: %s", duration(e.Took), strings.ReplaceAll(clean(e.Err.Error()), "\n", "\n      ")))
	case apply.Skipped:
		line(t.s.yellow("·"), fmt.Sprintf("skipped: %v", e.Err))
	}
	t.draw()
}

func (t *teller) over(address string) {
	t.done++
	for i, u := range t.under {
		if u == address {
			t.under = append(t.under[:i], t.under[i+1:]...)
			return
		}
	}
}

// draw shows how far it is, on a terminal.
func (t *teller) draw() {
	if !t.bar.terminal || len(t.under) == 0 {
		return
	}
	line := cut(fmt.Sprintf("  %d/%d  %s", t.done, t.all, strings.Join(t.under, ", ")), t.bar.width-1)
	t.drawn = utf8.RuneCountInString(line)
	fmt.Fprint(os.Stderr, line+"\r")
}

func (t *teller) clear() {
	if t.drawn > 0 {
		fmt.Fprint(os.Stderr, strings.Repeat(" ", t.drawn)+"\r")
		t.drawn = 0
	}
}

func (t *teller) tellJSON(e apply.Event) {
	m := map[string]any{"apiVersion": plan.APIVersion, "kind": "Action", "outcome": e.Outcome}
	if e.Outcome != apply.Waiting {
		m["op"], m["address"], m["machine"] = e.Action.Op, e.Action.Address, e.Action.Machine
	}
	if e.Err != nil {
		m["error"] = e.Err.Error()
	}
	if e.Took > 0 {
		m["seconds"] = e.Took.Seconds()
	}
	printJSON(os.Stdout, m)
}

var past = map[plan.Op]string{plan.Create: "created", plan.Update: "updated", plan.Replace: "replaced", plan.Move: "moved", plan.Delete: "deleted"}

func duration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
