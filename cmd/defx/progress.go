package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

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
	total, done int // actions
	address     int // width of the column
	machine     int // width of the column
	running     []string
	drawn       int // width of the status line; 0 = there is none
}

func newProgressPrinter(out *printer, status io.Writer, statusStyle style, cs *plan.ChangeSet) *progressPrinter {
	p := &progressPrinter{out: out, status: status, statusStyle: statusStyle, total: len(cs.Actions)}
	for _, a := range cs.Actions {
		p.address = max(p.address, utf8.RuneCountInString(a.Address))
		p.machine = max(p.machine, utf8.RuneCountInString(a.Machine))
	}
	p.address, p.machine = min(p.address, 44), min(p.machine, 20)
	return p
}

// event prints an event.
func (p *progressPrinter) event(e apply.Event) {
	p.clear()
	line := func(symbol, text string) {
		p.out.printf("  %s %s  %s  %s\n", symbol, pad(e.Action.Address, p.address), pad(e.Action.Machine, p.machine), text)
	}
	switch e.Outcome {
	case apply.Waiting:
		fmt.Fprintf(p.status, "waiting: %v\n", e.Err)
	case apply.Started:
		p.running = append(p.running, e.Action.Address)
	case apply.Done:
		p.end(e.Action.Address)
		line(p.out.green("✓"), fmt.Sprintf("%s in %s", pastTense[e.Action.Op], elapsed(e.Took)))
	case apply.Failed:
		p.end(e.Action.Address)
		line(p.out.red("✗"), fmt.Sprintf("failed after %s: %s", elapsed(e.Took), strings.ReplaceAll(clean(e.Err.Error()), "\n", "\n      ")))
	case apply.Skipped:
		line(p.out.yellow("·"), fmt.Sprintf("skipped: %v", e.Err))
	}
	p.draw()
}

// end counts an action that is no longer running.
func (p *progressPrinter) end(address string) {
	p.done++
	for i, u := range p.running {
		if u == address {
			p.running = append(p.running[:i], p.running[i+1:]...)
			return
		}
	}
}

// draw writes the status line.
func (p *progressPrinter) draw() {
	if !p.statusStyle.terminal || len(p.running) == 0 {
		return
	}
	line := shorten(fmt.Sprintf("  %d/%d  %s", p.done, p.total, strings.Join(p.running, ", ")), p.statusStyle.width-1)
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
}

func newActionDocument(e apply.Event) actionDocument {
	doc := actionDocument{header: newHeader("Action"), Outcome: e.Outcome, Seconds: max(0, e.Took.Seconds())}
	if e.Outcome != apply.Waiting {
		doc.Op, doc.Address, doc.Machine = e.Action.Op, e.Action.Address, &e.Action.Machine
	}
	if e.Err != nil {
		doc.Error = e.Err.Error()
	}
	return doc
}

var pastTense = map[plan.Op]string{plan.Create: "created", plan.Update: "updated", plan.Replace: "replaced", plan.Move: "moved", plan.Delete: "deleted"}

// elapsed writes how long something took.
func elapsed(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
