package main

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/rogpeppe/go-internal/diff"
)

// manyLines is how many lines of a difference are shown without -v.
const manyLines = 12

// printFields writes the fields that differ: name, old and new value, position.
func (s style) printFields(w io.Writer, list []plan.Change, all bool) {
	type row struct{ name, values, position string }
	rows := make([]row, len(list))
	name, values := 0, 0
	for i, c := range list {
		rows[i] = row{name: clean(field(c.Path)), position: clean(c.Position.String())}
		name = max(name, utf8.RuneCountInString(rows[i].name))
	}
	name = min(name, 32)
	for i, c := range list {
		if manyLined(c) {
			continue
		}
		room := max(16, (s.width-name-len(rows[i].position)-18)/2)
		if all {
			room = 1 << 20
		}
		before, after := cutAlike(shownValue(c.Before), shownValue(c.After), room)
		rows[i].values = clean(quoted(c.Before, before) + " → " + quoted(c.After, after))
		if c.Replaces {
			rows[i].values += " (forces replacement)"
		}
		if n := utf8.RuneCountInString(rows[i].values); n <= 60 {
			values = max(values, n)
		}
	}
	for i, r := range rows {
		line := "      " + pad(r.name, name) + "  " + pad(r.values, values)
		if manyLined(list[i]) {
			line = "      " + pad(r.name, name) + "  " + pad(linesChanged(list[i]), values)
		}
		if r.position != "" {
			line += "  " + s.faint(r.position)
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
		if manyLined(list[i]) {
			s.printLines(w, list[i], all)
		}
	}
}

func manyLined(c plan.Change) bool {
	return strings.Contains(strings.TrimSuffix(lined(c.Before), "\n")+strings.TrimSuffix(lined(c.After), "\n"), "\n")
}

// lined is a value as lines: what is absent has none.
func lined(v any) string {
	if v == nil {
		return ""
	}
	return shownValue(v)
}

// difference is the lines of a unified diff, without its heads.
func difference(c plan.Change) []string {
	before, after := lined(c.Before), lined(c.After)
	if b, a := whole(before), whole(after); b != a {
		before, after = b, a // a last line that has no end is not worth a word, unless it is all
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

func whole(t string) string {
	if t == "" || strings.HasSuffix(t, "\n") {
		return t
	}
	return t + "\n"
}

func linesChanged(c plan.Change) string {
	gone, come := 0, 0
	for _, l := range difference(c) {
		switch l[:min(1, len(l))] {
		case "-":
			gone++
		case "+":
			come++
		}
	}
	return fmt.Sprintf("%s removed, %d added", plural(gone, "line"), come)
}

func (s style) printLines(w io.Writer, c plan.Change, all bool) {
	lines := difference(c)
	rest := 0
	if len(lines) > manyLines && !all {
		rest = len(lines) - manyLines
		lines = lines[:manyLines]
	}
	for _, l := range lines {
		l = clean(l)
		switch l[:min(1, len(l))] {
		case "-":
			l = s.red(l)
		case "+":
			l = s.green(l)
		}
		fmt.Fprintln(w, strings.TrimRight("        "+l, " "))
	}
	if rest > 0 {
		fmt.Fprintf(w, "        %s\n", s.faint(fmt.Sprintf("… and %s more (-v shows all)", plural(rest, "line"))))
	}
}

var plainField = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// field writes a JSON pointer as people write fields: env.LOG, command[2],
// files["/etc/hydra.conf"].text.
func field(pointer string) string {
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

// quoted puts texts into quotes, so that they cannot be taken for numbers, names or nothing.
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
