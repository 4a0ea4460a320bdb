package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/rogpeppe/go-internal/diff"
)

// maxLines is how many lines of a difference are shown without -v.
const maxLines = 12

// fields prints changed fields: name, old and new value, position. If all is
// true, values and differences are printed in full.
func (p *printer) fields(list []plan.Change, all bool) {
	type row struct{ name, values, position string }
	rows := make([]row, len(list))
	name, values := 0, 0
	for i, c := range list {
		rows[i] = row{name: clean(fieldName(c.Path)), position: clean(c.Position.String())}
		name = max(name, utf8.RuneCountInString(rows[i].name))
	}
	name = min(name, 32)
	for i, c := range list {
		if isMultiline(c) {
			continue
		}
		width := max(16, (p.width-name-len(rows[i].position)-18)/2)
		if all {
			width = 1 << 20
		}
		before, after := shortenPair(displayValue(c.Before), displayValue(c.After), width)
		rows[i].values = clean(quoted(c.Before, before) + " → " + quoted(c.After, after))
		if ends := changedLineEnds(c); ends != "" {
			rows[i].values += " (" + ends + ")"
		}
		if c.Replaces {
			rows[i].values += " (forces replacement)"
		}
		if n := utf8.RuneCountInString(rows[i].values); n <= 60 {
			values = max(values, n)
		}
	}
	for i, r := range rows {
		line := "      " + pad(r.name, name) + "  " + pad(r.values, values)
		if isMultiline(list[i]) {
			line = "      " + pad(r.name, name) + "  " + pad(countLines(list[i]), values)
		}
		if r.position != "" {
			line += "  " + p.faint(r.position)
		}
		p.println(strings.TrimRight(line, " "))
		if isMultiline(list[i]) {
			p.lines(list[i], all)
		}
	}
}

// isMultiline reports whether a value of a change has several lines.
func isMultiline(c plan.Change) bool {
	return strings.Contains(strings.TrimSuffix(linesOf(c.Before), "\n")+strings.TrimSuffix(linesOf(c.After), "\n"), "\n")
}

// linesOf returns a value as text; an absent one has no lines.
func linesOf(v any) string {
	if v == nil {
		return ""
	}
	return displayValue(v)
}

// diffLines returns the lines of a unified diff, without its headers.
func diffLines(c plan.Change) []string {
	before, after := linesOf(c.Before), linesOf(c.After)
	if changedLineEnds(c) != "" { // shown as a whole, not at each line
		before, after = strings.ReplaceAll(before, "\r\n", "\n"), strings.ReplaceAll(after, "\r\n", "\n")
	}
	if b, a := endLine(before), endLine(after); b != a {
		before, after = b, a // a missing final newline is not shown, unless nothing else differs
	}
	var out []string
	for i, l := range strings.Split(strings.TrimSuffix(string(diff.Diff("before", []byte(before), "after", []byte(after))), "\n"), "\n") {
		if i > 2 && (i == 3 || !strings.HasPrefix(l, "@@")) || strings.HasPrefix(l, "@@") && i > 3 {
			out = append(out, l)
		}
	}
	if len(out) > 0 && strings.HasPrefix(out[0], "@@") {
		out = out[1:]
	}
	return out
}

// endLine adds the final newline of a text.
func endLine(t string) string {
	if t == "" || strings.HasSuffix(t, "\n") {
		return t
	}
	return t + "\n"
}

// countLines says how many lines a change removes and adds.
func countLines(c plan.Change) string {
	removed, added := 0, 0
	for _, l := range diffLines(c) {
		switch l[:min(1, len(l))] {
		case "-":
			removed++
		case "+":
			added++
		}
	}
	text := fmt.Sprintf("%s removed, %d added", plural(removed, "line"), added)
	switch ends := changedLineEnds(c); {
	case ends == "":
		return text
	case removed+added == 0:
		return "only " + ends
	default:
		return text + ", and " + ends
	}
}

// changedLineEnds returns how a change changes the line ends of a text, "" if it does not:
// a checkout on another system may change nothing else.
func changedLineEnds(c plan.Change) string {
	before, after := lineEnds(linesOf(c.Before)), lineEnds(linesOf(c.After))
	if before == "" || after == "" || before == after {
		return ""
	}
	return "line ends: " + before + " → " + after
}

// lineEnds returns the kind of line ends in a text, "" if it has none.
func lineEnds(text string) string {
	windows := strings.Count(text, "\r\n")
	switch unix := strings.Count(text, "\n") - windows; {
	case windows == 0 && unix == 0:
		return ""
	case unix == 0:
		return "CRLF"
	case windows == 0:
		return "LF"
	}
	return "mixed"
}

// lines prints the difference of a change line by line.
func (p *printer) lines(c plan.Change, all bool) {
	lines := diffLines(c)
	rest := 0
	if len(lines) > maxLines && !all {
		rest = len(lines) - maxLines
		lines = lines[:maxLines]
	}
	for _, l := range lines {
		l = clean(l)
		switch l[:min(1, len(l))] {
		case "-":
			l = p.red(l)
		case "+":
			l = p.green(l)
		}
		p.println(strings.TrimRight("        "+l, " "))
	}
	if rest > 0 {
		p.printf("        %s\n", p.faint(fmt.Sprintf("… and %s more (-v shows all)", plural(rest, "line"))))
	}
}

var plainField = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// fieldName writes a JSON pointer as a field is written in Jsonnet: env.LOG,
// command[2], files["/etc/hydra.conf"].text.
func fieldName(pointer string) string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, p := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(p)
	}
	if parts[0] == "reads" && len(parts) > 1 {
		return parts[1]
	}
	var b strings.Builder
	for i, p := range parts {
		_, err := strconv.Atoi(p)
		switch {
		case i > 0 && err == nil:
			b.WriteString("[" + p + "]")
		case i > 0 && !plainField.MatchString(p):
			b.WriteString(fmt.Sprintf("[%q]", p))
		case i > 0:
			b.WriteString("." + p)
		default:
			b.WriteString(p)
		}
	}
	return b.String()
}

// displayValue writes a value of a change. Tokens in strings appear as ${…}.
func displayValue(v any) string {
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

// quoted puts the text of a string value into quotes, which tells it from numbers, tokens and (none).
func quoted(v any, text string) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(text)
	case map[string]any:
		if parts, ok := v["$text"].([]any); ok && len(parts) > 1 {
			return strconv.Quote(text)
		}
	}
	return text
}
