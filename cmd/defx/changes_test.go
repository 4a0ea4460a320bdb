package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/defx-dev/defx/compile/plan"
)

func printerTo(w *bytes.Buffer, verbose bool) *printer {
	return &printer{style{width: 80}, w, verbose}
}

func TestShortenPair_KeepsTheDifference(t *testing.T) {
	long := strings.Repeat("x", 200)
	for _, c := range []struct{ before, after, wantBefore, wantAfter string }{
		{"info", "debug", "info", "debug"},
		{long + "60" + long, long + "61" + long, "…xxxxxxxx60xxxxxxxx…", "…xxxxxxxx61xxxxxxxx…"},
		{"60" + long, "61" + long, "60xxxxxxxxxxxxxxxx…", "61xxxxxxxxxxxxxxxx…"},
		{long + "60", long + "61", "…xxxxxxxxxxxxxxxx60", "…xxxxxxxxxxxxxxxx61"},
		{long, long + "1", "…xxxxxxxxxxxxxxxxx", "…xxxxxxxxxxxxxxxxx1"},
		{"", long, "", "xxxxxxxxx…xxxxxxxxxx"},
		{"é" + long, "è" + long, "éxxxxxxxxxxxxxxxxx…", "èxxxxxxxxxxxxxxxxx…"},
	} {
		before, after := shortenPair(c.before, c.after, 20)
		if before != c.wantBefore || after != c.wantAfter {
			t.Errorf("%.20q, %.20q are shortened to\n%q, %q, want\n%q, %q", c.before, c.after, before, after, c.wantBefore, c.wantAfter)
		}
		if n := max(utf8.RuneCountInString(before), utf8.RuneCountInString(after)); n > 20 {
			t.Errorf("%q, %q are %d wide", before, after, n)
		}
	}
}

func TestFieldName_AsInJsonnet(t *testing.T) {
	for pointer, want := range map[string]string{
		"/env/LOG":                     "env.LOG",
		"/command/2":                   "command[2]",
		"/files/~1etc~1a.conf/text":    `files["/etc/a.conf"].text`,
		"/labels/a~0b":                 `labels["a~b"]`,
		"/reads/data~1db.port(sql)":    "data/db.port(sql)",
		"/systemd/service/ProtectHome": "systemd.service.ProtectHome",
	} {
		if got := fieldName(pointer); got != want {
			t.Errorf("%s is %s, want %s", pointer, got, want)
		}
	}
}

func TestDisplayValue_NamesTokens(t *testing.T) {
	text := func(parts ...any) any { return map[string]any{"$text": parts} }
	port := map[string]any{"kind": "ref", "of": "set", "name": "data/db", "field": "port", "arg": "sql"}
	for _, c := range []struct {
		v    any
		want string
	}{
		{nil, "(none)"},
		{"info", `"info"`},
		{float64(5432), "5432"},
		{true, "true"},
		{[]any{"a", "b"}, `["a","b"]`},
		{text("db=", port, "!"), `"db=${data/db.port(sql)}!"`},
		{text(port), "${data/db.port(sql)}"},
		{text(map[string]any{"kind": "artifact", "name": "a.tar", "digest": "sha256:" + strings.Repeat("ab", 32)}), "${artifact(a.tar)} abababab"},
		{text(map[string]any{"kind": "secret", "name": "pw", "version": "3"}), "${secret(pw)} v3"},
	} {
		if got := quoted(c.v, displayValue(c.v)); got != c.want {
			t.Errorf("%v is shown as %s, want %s", c.v, got, c.want)
		}
	}
}

func TestChanges_ManyAlikeArePrintedOnce(t *testing.T) {
	cs := &plan.ChangeSet{}
	for i := range 100 {
		cs.Actions = append(cs.Actions, plan.Action{Op: plan.Update, Verb: plan.Restart, Certain: true, Address: fmt.Sprintf("a/s%02d", i), Machine: "box", Backend: "systemd",
			Changes: []plan.Change{{Path: "/env/LOG", Before: "info", After: "debug"}}})
	}
	cs.Actions = append(cs.Actions, plan.Action{Op: plan.Create, Certain: true, Address: "a/z", Machine: "box", Backend: "systemd"})
	var brief, all bytes.Buffer
	printerTo(&brief, false).changes(cs, "apply", nil)
	if n := strings.Count(brief.String(), "\n"); n > 15 || strings.Count(brief.String(), "env.LOG") != 1 ||
		!strings.Contains(brief.String(), "… and 90 more like this (-v shows all)") || !strings.Contains(brief.String(), "+ a/z") {
		t.Errorf("%d lines:\n%s", n, brief.String())
	}
	printerTo(&all, true).changes(cs, "apply", nil)
	for _, a := range cs.Actions {
		if !strings.Contains(all.String(), a.Address+" ") {
			t.Errorf("-v does not show %s", a.Address)
		}
	}
	// Twenty are printed one by one, and so are those that differ.
	var few bytes.Buffer
	cs.Actions = cs.Actions[:20]
	printerTo(&few, false).changes(cs, "apply", nil)
	if strings.Contains(few.String(), "like this") || strings.Count(few.String(), "env.LOG") != 20 {
		t.Errorf("twenty:\n%s", few.String())
	}
}

func TestSymbol_UniqueForEachOperation(t *testing.T) {
	seen := map[string]plan.Op{}
	for _, op := range []plan.Op{plan.Create, plan.Update, plan.Replace, plan.Move, plan.Delete} {
		sym := symbol(plan.Action{Op: op, Certain: true})
		if sym == "" || seen[sym] != "" {
			t.Errorf("%s has the symbol %q", op, sym)
		}
		seen[sym] = op
	}
	if symbol(plan.Action{Op: plan.Update}) != "?" {
		t.Error("an uncertain action has no question mark")
	}
}

func TestFields_ReplaceControlCharacters(t *testing.T) {
	var b bytes.Buffer
	printerTo(&b, true).fields([]plan.Change{{Path: "/env/A", Before: "a\x1b[31mb", After: nil}, {Path: "/env/\x1bX", Before: nil, After: "x\ny\x1b[0m\n"}}, true)
	if strings.ContainsRune(b.String(), 0x1b) {
		t.Errorf("%q", b.String())
	}
}

func TestNoChanges_StatesWhatWasCompared(t *testing.T) {
	for want, n := range map[string]plan.Summary{
		"No changes: nothing is deployed and nothing is configured.":                              {},
		"No changes: 1 unit matches generation 7; machines not asked.":                            {Unchanged: 1},
		"No changes: 5 units match generation 7; machines not asked.":                             {Unchanged: 4, Protected: 1},
		"No changes: 2 protected units stay as they are.":                                         {Protected: 2},
		"No changes possible: 3 units held.":                                                      {Held: 3},
		"No changes: 2 units match generation 7; 1 held unit stays as it is; machines not asked.": {Unchanged: 2, Held: 1},
	} {
		if got := noChanges(&plan.ChangeSet{Base: 7, Summary: n}); got != want {
			t.Errorf("%+v: %q, want %q", n, got, want)
		}
	}
}

// TestFields_NameChangedLineEnds checks that a checkout on another system is recognised: its
// texts differ only in what ends their lines.
func TestFields_NameChangedLineEnds(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{"a\nb\n", "a\r\nb\r\n", "only line ends: LF → CRLF\n"},
		{"a\r\nb\r\n", "a\nb\n", "only line ends: CRLF → LF\n"},
		{"a\r\nb\n", "a\nb\n", "only line ends: mixed → LF\n"},
		{"a\nb\n", "a\r\nc\r\n", "1 line removed, 1 added, and line ends: LF → CRLF\n         a\n        -b\n        +c\n"},
		{"a\n", "a\r\n", "(line ends: LF → CRLF)\n"},
		{"a\nb\n", "a\nc\n", "1 line removed, 1 added\n         a\n        -b\n        +c\n"},
	} {
		var out bytes.Buffer
		printerTo(&out, false).fields([]plan.Change{{Path: "/env/A", Before: c.before, After: c.after}}, false)
		if got := out.String(); !strings.HasSuffix(got, c.want) {
			t.Errorf("%q → %q:\n%swant\n%s", c.before, c.after, got, c.want)
		}
	}
}
