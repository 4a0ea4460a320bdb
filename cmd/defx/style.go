package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/openfile"
	"golang.org/x/term"
)

// Rules of the output for people:
//
//   - results on stdout, everything else on stderr;
//   - one idea a line, in a stable order, within 80 columns where it can;
//   - colour never carries meaning alone: a symbol or word says the same;
//   - one line is printed when nothing changed, and it says what was compared;
//   - errors come last, and end with what to do next;
//   - progress is rewritten in place on a terminal and absent elsewhere;
//   - colour: --color always or never wins, then NO_COLOR (off), then CLICOLOR_FORCE
//     (on), then it is on for a terminal that is not dumb;
//   - control characters in values never reach a terminal.

// style is what one output stream can do.
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

// problem writes an error, with its first line coloured. An error without
// position begins with "error:", to tell it from a result.
func (s style) problem(e *diag.Error) string {
	head, rest, more := strings.Cut(copyableHints(clean(e.Render(sourceLine))), "\n")
	if e.Pos.String() == "" {
		head = "error: " + head
	}
	head = s.red(head)
	if more {
		return head + "\n" + rest
	}
	return head
}

// sourceLine returns a line of a source file below sourceRoot, to be quoted below an error.
func sourceLine(file string, line int) (string, bool) {
	if sourceRoot == "" || !filepath.IsLocal(filepath.FromSlash(file)) {
		return "", false
	}
	raw, err := openfile.ReadBelow(context.Background(), sourceRoot, filepath.FromSlash(file), openfile.Small)
	if err != nil {
		return "", false
	}
	lines := strings.SplitN(string(raw), "\n", line+1)
	if line < 1 || line > len(lines) {
		return "", false
	}
	return lines[line-1], true
}

// clean replaces control characters, which could change the state of a terminal.
func clean(t string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '�'
		}
		return r
	}, t)
}

// shorten shortens a text to a width by removing its middle.
func shorten(t string, width int) string {
	r := []rune(t)
	if len(r) <= width || width < 8 {
		return t
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

// shortenPair shortens two texts to a width so that their difference stays
// visible: the ends that they share are removed first.
func shortenPair(a, b string, width int) (string, string) {
	x, y := []rune(a), []rune(b)
	if len(x) <= width && len(y) <= width {
		return a, b
	}
	head, shortest := 0, min(len(x), len(y))
	for head < shortest && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < shortest-head && x[len(x)-1-tail] == y[len(y)-1-tail] {
		tail++
	}
	context := max(0, width-2-(max(len(x), len(y))-head-tail)) // characters around the difference
	right := min(tail, context/2)
	left := min(head, context-right)
	right = min(tail, context-left)
	excerpt := func(r []rune) string {
		from, to := head-left, len(r)-tail+right
		t := string(r[from:to])
		if from > 0 {
			t = "…" + t
		}
		if to < len(r) {
			t += "…"
		}
		return shorten(t, width)
	}
	return excerpt(x), excerpt(y)
}

// pad adds spaces to a text up to a width.
func pad(t string, width int) string {
	if n := utf8.RuneCountInString(t); n < width {
		return t + strings.Repeat(" ", width-n)
	}
	return t
}

// table prints rows in columns as wide as their widest cell, two spaces apart.
func (p *printer) table(rows [][]string) { p.tableWith(rows, nil) }

// tableWith prints rows in columns, and lines below some of them, by the index of the row.
func (p *printer) tableWith(rows [][]string, below map[int][]string) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for n, row := range rows {
		var b strings.Builder
		for i, c := range row {
			if i == len(row)-1 {
				b.WriteString(c)
			} else {
				b.WriteString(pad(c, widths[i]+2))
			}
		}
		p.println(strings.TrimRight(clean(b.String()), " "))
		for _, l := range below[n] {
			p.println(l)
		}
	}
}

// plural writes a number with its noun.
func plural(n int, what string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", what)
	}
	if strings.HasSuffix(what, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(what, "y"))
	}
	return fmt.Sprintf("%d %ss", n, what)
}
