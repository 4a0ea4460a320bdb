package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
)

// progressPrinter prints the events of an apply: a line for each action that
// ended, and on a terminal a status line of the running actions, which is
// rewritten in place.
type progressPrinter struct {
	out         *printer
	status      io.Writer // of the status line
	statusStyle style
	names       *graph.Names
	total, done int // actions
	address     int // width of the column
	machine     int // width of the column
	running     []string
	waits       map[string]string    // running address → what it waits for
	reported    map[string]time.Time // address → when that was last printed
	drawn       int                  // width of the status line; 0 = there is none
}

func newProgressPrinter(out *printer, status io.Writer, statusStyle style, cs *plan.ChangeSet) *progressPrinter {
	p := &progressPrinter{out: out, status: status, statusStyle: statusStyle, names: cs.Names, total: len(cs.Actions),
		waits: map[string]string{}, reported: map[string]time.Time{}}
	for _, a := range cs.Actions {
		p.address = max(p.address, utf8.RuneCountInString(cs.Names.Text(a.Address)))
		p.machine = max(p.machine, utf8.RuneCountInString(a.Machine))
	}
	p.address, p.machine = min(p.address, 44), min(p.machine, 20)
	return p
}

// event prints an event.
func (p *progressPrinter) event(e apply.Event) {
	p.clear()
	line := func(symbol, text string) {
		p.out.printf("  %s %s  %s  %s\n", symbol, pad(p.names.Text(e.Action.Address), p.address), pad(e.Action.Machine, p.machine), text)
	}
	switch e.Outcome {
	case apply.Waiting:
		if e.Wait == nil {
			fmt.Fprintf(p.status, "waiting: %v\n", e.Err)
		} else {
			p.wait(p.names.Text(e.Action.Address), e.Wait.String())
		}
	case apply.Started:
		p.running = append(p.running, p.names.Text(e.Action.Address))
	case apply.Done:
		p.end(p.names.Text(e.Action.Address))
		line(p.out.green("✓"), fmt.Sprintf("%s in %s", doneText(e.Action), elapsed(e.Took)))
	case apply.Failed:
		p.end(p.names.Text(e.Action.Address))
		line(p.out.red("✗"), fmt.Sprintf("failed after %s: %s", elapsed(e.Took), strings.ReplaceAll(copyableHints(clean(e.Err.Error())), "\n", "\n      ")))
	case apply.Skipped:
		line(p.out.yellow("·"), fmt.Sprintf("skipped: %v", e.Err))
	}
	p.draw()
}

// end counts an action that is no longer running.
func (p *progressPrinter) end(address string) {
	delete(p.waits, address)
	if !slices.Contains(p.running, address) { // it had succeeded, and ended soon afterwards
		return
	}
	p.done++
	for i, u := range p.running {
		if u == address {
			p.running = append(p.running[:i], p.running[i+1:]...)
			return
		}
	}
}

// waitInterval is how often a wait is printed where there is no status line.
const waitInterval = 10 * time.Second

// wait records what an action waits for, for the status line. Without one it prints the wait now and
// then.
func (p *progressPrinter) wait(address, what string) {
	p.waits[address] = clean(what)
	if !p.statusStyle.terminal && time.Since(p.reported[address]) >= waitInterval {
		p.reported[address] = time.Now()
		fmt.Fprintf(p.status, "  … %s  %s\n", address, p.waits[address])
	}
}

// draw writes the status line.
func (p *progressPrinter) draw() {
	if !p.statusStyle.terminal || len(p.running) == 0 {
		return
	}
	running := slices.Clone(p.running)
	for i, address := range running {
		if what := p.waits[address]; what != "" {
			running[i] += " (" + what + ")"
		}
	}
	line := shorten(fmt.Sprintf("  %d/%d  %s", p.done, p.total, strings.Join(running, ", ")), p.statusStyle.width-1)
	p.drawn = utf8.RuneCountInString(line)
	fmt.Fprint(p.status, line+"\r")
}

// clear removes the status line.
func (p *progressPrinter) clear() {
	if p.drawn > 0 {
		fmt.Fprint(p.status, strings.Repeat(" ", p.drawn)+"\r")
		p.drawn = 0
	}
}

// actionDocument is an event of an apply.
type actionDocument struct {
	header
	Outcome apply.Outcome `json:"outcome"`
	Op      plan.Op       `json:"op,omitempty"`      // this and the next two are absent if the apply waits for another one
	Address string        `json:"address,omitempty"` //
	Machine *string       `json:"machine,omitempty"` // "" = a module
	Error   string        `json:"error,omitempty"`
	Seconds float64       `json:"seconds,omitempty"`
	Wait    string        `json:"wait,omitempty"`    // what the action waits for
	Elapsed float64       `json:"elapsed,omitempty"` // seconds of that wait
	Limit   float64       `json:"limit,omitempty"`   // seconds after which that wait ends; absent: unknown
}

func newActionDocument(e apply.Event) actionDocument {
	doc := actionDocument{header: newHeader("Action"), Outcome: e.Outcome, Seconds: max(0, e.Took.Seconds())}
	if w := e.Wait; w != nil {
		doc.Wait, doc.Elapsed, doc.Limit = w.What, w.Elapsed.Seconds(), w.Limit.Seconds()
	}
	if e.Outcome != apply.Waiting || e.Wait != nil {
		doc.Op, doc.Address, doc.Machine = e.Action.Op, e.Action.Address, &e.Action.Machine
	}
	if e.Err != nil {
		doc.Error = copyableHints(e.Err.Error())
	}
	return doc
}

// doneText says what an action did.
func doneText(a plan.Action) string {
	verbs := map[plan.Verb]string{plan.RepairUnit: "repaired", plan.Start: "started", plan.Stop: "stopped"}
	if text := verbs[a.Verb]; text != "" && a.Op == plan.Update {
		return text
	}
	return pastTense[a.Op]
}

var pastTense = map[plan.Op]string{plan.Create: "created", plan.Update: "updated", plan.Replace: "replaced", plan.Move: "moved", plan.Delete: "deleted"}

// elapsed writes how long something took.
func elapsed(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
