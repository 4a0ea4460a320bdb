package main

import (
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/internal/diag"
	"golang.org/x/term"
)

// Rules of what people see:
//
//   - results on stdout, everything else on stderr;
//   - one idea a line, in a stable order, within 80 columns where it can;
//   - a symbol or word says what colour says too;
//   - when nothing happened, one line says so and nothing else;
//   - every failure ends with what to do next;
//   - progress is rewritten in place on a terminal and absent elsewhere;
//   - --color always and never are obeyed; else NO_COLOR turns colour off, then
//     CLICOLOR_FORCE turns it on, then a terminal that is not dumb has it;
//   - control characters of other people's texts never reach a terminal.

// style writes for one stream.
type style struct {
	colour   bool
	terminal bool // lines can be rewritten in place
	width    int  // columns
}

func styleFor(f *os.File, when string) style {
	s := style{terminal: term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb", width: 120}
	if term.IsTerminal(int(f.Fd())) {
		s.width = 80
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			s.width = w
		}
	}
	switch when {
	case "always":
		s.colour = true
	case "auto":
		force := os.Getenv("CLICOLOR_FORCE")
		s.colour = os.Getenv("NO_COLOR") == "" && (s.terminal || force != "" && force != "0")
	}
	return s
}

func (s style) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) red(t string) string    { return s.paint("31", t) }
func (s style) green(t string) string  { return s.paint("32", t) }
func (s style) yellow(t string) string { return s.paint("33", t) }
func (s style) faint(t string) string  { return s.paint("2", t) }
func (s style) bold(t string) string   { return s.paint("1", t) }

// problem is an error with its first line coloured. One that names neither a
// place nor a subject is called an error, so that it cannot be taken for a result.
func (s style) problem(e *diag.Error) string {
	head, rest, more := strings.Cut(clean(e.Error()), "\n")
	if e.Pos.String() == "" && e.Subject == "" {
		head = "error: " + head
	}
	head = s.red(head)
	if more {
		return head + "\n" + rest
	}
	return head
}

// clean keeps control characters of other people's texts off the terminal.
func clean(t string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '�'
		}
		return r
	}, t)
}

// cut shortens a text in its middle.
func cut(t string, width int) string {
	r := []rune(t)
	if len(r) <= width || width < 8 {
		return t
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

// cutAlike shortens two texts to a width so that what differs stays in sight:
// the ends that they share go first.
func cutAlike(a, b string, width int) (string, string) {
	x, y := []rune(a), []rune(b)
	if len(x) <= width && len(y) <= width {
		return a, b
	}
	head, shorter := 0, min(len(x), len(y))
	for head < shorter && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < shorter-head && x[len(x)-1-tail] == y[len(y)-1-tail] {
		tail++
	}
	spare := max(0, width-2-(max(len(x), len(y))-head-tail)) // for what surrounds the difference
	right := min(tail, spare/2)
	left := min(head, spare-right)
	right = min(tail, spare-left)
	shorten := func(r []rune) string {
		from, to := head-left, len(r)-tail+right
		t := string(r[from:to])
		if from > 0 {
			t = "…" + t
		}
		if to < len(r) {
			t += "…"
		}
		return cut(t, width)
	}
	return shorten(x), shorten(y)
}

// pad fills a text to a width.
func pad(t string, width int) string {
	if n := utf8.RuneCountInString(t); n < width {
		return t + strings.Repeat(" ", width-n)
	}
	return t
}

// table writes rows in columns as wide as their widest cell, two spaces apart.
func table(w *os.File, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, c := range row {
			if i == len(row)-1 {
				b.WriteString(c)
			} else {
				b.WriteString(pad(c, widths[i]+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(clean(b.String()), " "))
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", what)
	}
	if strings.HasSuffix(what, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(what, "y"))
	}
	return fmt.Sprintf("%d %ss", n, what)
}
