package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/internal/diag"
	"golang.org/x/term"
)

// view prints what a command reports. One implementation prints for people, the
// other prints JSON documents.
type view interface {
	// show prints a result on stdout.
	show(document) error
	// propose prints changes that are about to be confirmed. As JSON they are
	// not printed: the result of the command follows.
	propose(document)
	// confirm asks a person for a word. Without a terminal to ask on it fails
	// with the hint.
	confirm(ctx context.Context, question, word, hint string) error
	// events returns a function that prints the events of an apply, and one
	// that ends the printing.
	events(*plan.ChangeSet) (event func(apply.Event), end func())
	// advise prints a remark for people on stderr. It is no part of JSON output.
	advise(format string, args ...any)
	// held prints on stderr, once, what has an error and what stays because of it.
	held(*project.Desired)
	// warn prints on stderr an error that does not end the command.
	warn(error)
	// note prints on stderr what a person or a log should know.
	note(label, text string)
}

// document is a result. Its fields are its JSON form; print writes it for people.
type document interface {
	print(*printer)
}

// header begins each JSON document.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

func newHeader(kind string) header { return header{plan.APIVersion, kind} }

// printer writes text for people.
type printer struct {
	style
	w       io.Writer
	verbose bool // print every action and field in full
}

func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p.w, format, args...) }

func (p *printer) println(args ...any) { fmt.Fprintln(p.w, args...) }

// messages is what both views print on stderr.
type messages struct {
	style
	w         io.Writer
	heldShown bool
}

func (m *messages) warn(err error) {
	if f, ok := err.(*session.Fallback); ok {
		m.note("warning", f.Error())
		return
	}
	printDiagnostics(m.w, m.style, diagnostics(err))
}

func (m *messages) note(label, text string) {
	fmt.Fprintf(m.w, "%s: %s\n", label, copyable(clean(text)))
}

func (m *messages) held(d *project.Desired) {
	if !m.heldShown {
		m.heldShown = true
		printHeld(m.w, m.style, d)
		for _, w := range d.Unlocked {
			m.note("warning", w.Msg+hintPrefix+w.Hint)
		}
	}
}

// textView prints for people.
type textView struct {
	messages
	out printer
}

// jsonView prints JSON documents, one a line.
type jsonView struct {
	messages
	out io.Writer
}

var (
	_ view = (*textView)(nil)
	_ view = (*jsonView)(nil)
)

// view returns the view that the global flags choose.
func (o *globalOptions) view() view {
	m := messages{style: styleFor(os.Stderr, colorFlag), w: os.Stderr}
	if o.json {
		return &jsonView{m, stdout}
	}
	return &textView{m, printer{styleFor(os.Stdout, colorFlag), stdout, o.verbose}}
}

func (v *textView) show(d document) error {
	d.print(&v.out)
	return nil
}

func (v *textView) propose(d document) { d.print(&v.out) }

func (v *textView) advise(format string, args ...any) {
	fmt.Fprintln(v.w, copyable(fmt.Sprintf(format, args...)))
}

func (v *textView) events(cs *plan.ChangeSet) (func(apply.Event), func()) {
	p := newProgressPrinter(&v.out, v.w, v.style, cs)
	return p.event, p.clear
}

func (v *textView) confirm(ctx context.Context, question, word, hint string) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) || os.Getenv("CI") != "" {
		return diag.Errorf("", "confirmation required, but stdin is not a terminal").WithHint("%s", hint)
	}
	fmt.Fprint(v.w, question)
	answers := make(chan string, 1)
	go func() { // a read from a terminal cannot be cancelled
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answers <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(v.w)
		return ctx.Err()
	case a := <-answers:
		if a == word || word == "y" && (strings.EqualFold(a, "y") || strings.EqualFold(a, "yes")) {
			return nil
		}
	}
	return errCancelled
}

func (v *jsonView) show(d document) error { return printJSON(v.out, d) }

func (v *jsonView) propose(document) {}

func (v *jsonView) advise(string, ...any) {}

func (v *jsonView) events(*plan.ChangeSet) (func(apply.Event), func()) {
	return func(e apply.Event) { printJSON(v.out, newActionDocument(e)) }, func() {}
}

func (v *jsonView) confirm(_ context.Context, _, _, hint string) error {
	return diag.Errorf("", "confirmation required, but --json never asks").WithHint("%s", hint)
}

// printJSON writes one object on one line.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
