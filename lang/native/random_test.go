package native_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/defx-dev/defx/lang/native"
)

// size returns the number of calls that a test makes: few, or DEFX_TEST_CALLS.
func size(t testing.TB, few int) int {
	if s := os.Getenv("DEFX_TEST_CALLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return few
}

// generator generates random Jsonnet programs.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 7))} }

// choose returns one of the strings.
func (d generator) choose(list ...string) string { return list[d.IntN(len(list))] }

// oneIn returns true once in n calls on average.
func (d generator) oneIn(n int) bool { return d.IntN(n) == 0 }

// randomString returns a string with special characters.
func (d generator) randomString() string {
	var b strings.Builder
	for range d.IntN(6) {
		b.WriteString(d.choose("a", "B", "7", " ", "-", "_", "%", "$", "'", `"`, "\\", "\n", "\t", "é", "ß", "日本", "😀", "<", "&", ">", "=", ".", "ſ", "\u0085", "\u007f", "\x01",
			"\ue000\ue101\ue001", "İ", "true", "0x1f", "e5", "~"))
	}
	return b.String()
}

// literal returns a string as a Jsonnet literal.
func literal(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < 0x20:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (d generator) number() string {
	switch d.IntN(8) {
	case 0:
		return d.choose("0", "-0", "1", "-1", "0.5", "-0.5", "0.9", "-0.9", "1e15", "1e16", "-1e20", "1e-15", "1e-16", "5e-324", "1.7976931348623157e308", "9007199254740993", "1e22", "999999.5", "0.000123456", "99999.95", "1e100")
	case 1:
		return fmt.Sprint(d.IntN(100) - 50)
	case 2:
		return fmt.Sprint(d.Int64N(1<<53) - 1<<52)
	case 3:
		return strconv.FormatFloat(d.NormFloat64(), 'g', -1, 64)
	case 4:
		return strconv.FormatFloat(d.NormFloat64()*1e6, 'f', d.IntN(5), 64)
	case 5:
		return strconv.FormatFloat(d.NormFloat64(), 'f', 2, 64) + "e" + fmt.Sprint(d.IntN(40)-20)
	case 6:
		return fmt.Sprint(d.IntN(1 << 20))
	}
	return fmt.Sprint(d.IntN(10))
}

// value returns a random value as Jsonnet; a few fail when they are evaluated.
func (d generator) value(depth int) string {
	switch n := d.IntN(24); {
	case n < 7:
		return literal(d.randomString())
	case n < 14:
		return d.number()
	case n == 14:
		return d.choose("null", "true", "false")
	case n == 15:
		return d.choose("error 'boom'", "(function(x) x)", "std.length", "(1 + error 'deep')", "std.parseInt('x')")
	case n == 16:
		return d.choose("{ assert false : 'no' }", "{ a:: 1 }", "{ assert self.a == 2, a: 1 }", "{ local x = error 'unread', a: 1 }", "{ a: error 'inside' }", "[error 'element']")
	case depth <= 0:
		return d.number()
	case n < 20:
		return d.list(depth)
	default:
		return d.object(depth)
	}
}

func (d generator) list(depth int) string {
	var parts []string
	for range d.IntN(5) {
		parts = append(parts, d.value(depth-1))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (d generator) object(depth int) string {
	var parts []string
	for i := range d.IntN(5) {
		parts = append(parts, fmt.Sprintf("%s%s %s", literal(fmt.Sprint(d.choose("a", "b", "c", "x y", "é", "main", d.randomString()), d.choose("", fmt.Sprint(i)))), d.choose(":", ":", ":", "::"), d.value(depth-1)))
	}
	seen := map[string]bool{}
	var unique []string
	for _, p := range parts {
		k, _, _ := strings.Cut(p, `":`)
		if !seen[k] {
			seen[k] = true
			unique = append(unique, p)
		}
	}
	return "{" + strings.Join(unique, ", ") + "}"
}

// directive returns one % directive, usually a valid one.
func (d generator) directive(keys bool) string {
	var b strings.Builder
	b.WriteByte('%')
	if keys != d.oneIn(30) {
		b.WriteString("(" + d.choose("a", "b", "c", "x y", "é") + ")")
	}
	for range d.IntN(3) * d.IntN(2) {
		b.WriteString(d.choose("#", "0", "-", " ", "+"))
	}
	if d.oneIn(3) {
		b.WriteString(d.choose("1", "2", "5", "8", "12", "20", "399", "401", "*"))
	}
	if d.oneIn(3) {
		b.WriteString("." + d.choose("", "0", "1", "3", "8", "20", "21", "*"))
	}
	if d.oneIn(8) {
		b.WriteString(d.choose("h", "l", "L", "ll"))
	}
	if !d.oneIn(60) {
		b.WriteString(d.choose("d", "i", "u", "o", "x", "X", "e", "E", "f", "F", "g", "G", "c", "s", "s", "s", "s", "%", "%", "r", "(", "日"))
	}
	return b.String()
}

func (d generator) format() (string, []string) {
	var b strings.Builder
	keys := d.oneIn(3)
	n := d.IntN(4)
	var vals []string
	for range n {
		b.WriteString(strings.ReplaceAll(d.randomString(), "%", ""))
		c := d.directive(keys)
		b.WriteString(c)
		switch {
		case d.oneIn(6):
			vals = append(vals, d.value(2))
		case strings.ContainsAny(c[len(c)-1:], "diuoxXeEfFgG"):
			vals = append(vals, d.number())
		case strings.HasSuffix(c, "c"):
			vals = append(vals, d.choose(`"x"`, `"é"`, "65", "8364", "-1", "2e6", `"xy"`))
		case strings.HasSuffix(c, "%") && !d.oneIn(20):
		default:
			vals = append(vals, d.value(2))
		}
		for range strings.Count(c, "*") {
			vals = append(vals, fmt.Sprint(d.IntN(9)))
		}
	}
	b.WriteString(strings.ReplaceAll(d.randomString(), "%", d.choose("", "%%")))
	if d.oneIn(15) {
		vals = append(vals, d.value(1))
	}
	if d.oneIn(15) && len(vals) > 0 {
		vals = vals[1:]
	}
	if keys && !d.oneIn(10) {
		names := []string{"a", "b", "c", `"x y"`, `"é"`}
		d.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		var fields []string
		for i, name := range names[:d.IntN(3)+3] {
			v := d.value(2)
			if i < len(vals) {
				v = vals[i]
			}
			fields = append(fields, name+d.choose(": ", ":: ")+v)
		}
		return b.String(), []string{"{" + strings.Join(fields, ", ") + "}"}
	}
	if len(vals) == 1 && d.oneIn(2) {
		return b.String(), vals
	}
	return b.String(), []string{"[" + strings.Join(vals, ", ") + "]"}
}

func (d generator) formatCall() string {
	f, vals := d.format()
	text := literal(f)
	if d.oneIn(50) {
		text = d.value(1)
	}
	if d.oneIn(4) {
		return fmt.Sprintf("std.format(%s, %s)", text, vals[0])
	}
	return fmt.Sprintf("%s %% %s", text, vals[0])
}

// compareAll runs random calls with and without new bodies.
func compareAll(t *testing.T, calls int, call func(d generator) string) {
	p := startReference(t)
	failing, bad := 0, 0
	d := newGenerator(uint64(calls))
	for range calls {
		q := query{Code: call(d)}
		want := p.run(t, q)
		if want.Err != "" {
			failing++
		}
		if !compare(t, q, runFast(q), want) || !compare(t, q, runStrict(q), want) {
			if bad++; bad > 20 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d calls, of which %d are expected to fail", calls, failing)
	if calls > 100 && (failing == 0 || failing == calls) {
		t.Error("all calls have the same kind of result")
	}
}

func TestInstall_FormatCallsUnchanged(t *testing.T) {
	compareAll(t, 10*size(t, 200), generator.formatCall)
}

// strings returns a list of strings; a few have other elements.
func (d generator) strings() string {
	if d.oneIn(12) {
		return d.value(2)
	}
	var parts []string
	for range d.IntN(6) {
		if d.oneIn(25) {
			parts = append(parts, d.value(1))
		} else {
			parts = append(parts, literal(d.randomString()))
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (d generator) text() string {
	if d.oneIn(12) {
		return d.value(1)
	}
	return literal(d.randomString() + d.randomString())
}

// whole returns an index or step of a slice, sometimes not an integer.
func (d generator) whole() string {
	if d.oneIn(15) {
		return d.choose("'x'", "[]", "true", "error 'index'") // with a tiny step the old body does not terminate
	}
	return d.choose("null", "null", "0", "1", "2", "3", "7", "-1", "-2", "-9", "1.5", "1e10")
}

// jsonml returns JSONML, usually a list that begins with a name.
func (d generator) jsonml(depth int) string {
	if depth == 0 || d.oneIn(4) {
		return d.text()
	}
	parts := []string{literal(d.choose("a", "b", "c-d"))}
	if d.oneIn(10) {
		parts = nil
	}
	if d.oneIn(2) {
		parts = append(parts, d.object(1))
	}
	for range d.IntN(3) {
		parts = append(parts, d.jsonml(depth-1))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (d generator) ini() string {
	var sections []string
	for _, s := range []string{"a", "b c", "[x]", "é"}[:d.IntN(5)] {
		sections = append(sections, literal(s)+": "+d.object(2))
	}
	fields := []string{"sections: {" + strings.Join(sections, ", ") + "}"}
	if d.oneIn(15) {
		fields[0] = "sections: " + d.value(2)
	}
	if d.oneIn(15) {
		fields = nil
	}
	if d.oneIn(2) {
		fields = append(fields, d.choose("main: ", "main: ", "main: ", "main:: ")+d.choose(d.object(2), d.object(2), d.object(2), d.value(1)))
	}
	if d.oneIn(10) {
		fields = append(fields, "more: error 'unread'")
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// read accesses a list or a part of it, to test which elements are not forced.
func (d generator) read(list string) string {
	switch d.IntN(4) {
	case 0:
		return "std.length(" + list + ")"
	case 1:
		return fmt.Sprintf("(%s)[%d]", list, d.IntN(3))
	}
	return list
}

// keyed returns a list of keys, usually of one type.
func (d generator) keyed() string {
	switch d.IntN(6) {
	case 0, 1:
		return d.strings()
	case 2:
		return "[" + strings.Join([]string{d.number(), d.number(), d.number(), "1", "2", "2", "1"}[d.IntN(7):], ", ") + "]"
	case 3:
		return `["b", "a", "é", "b", "ab", "日本", "😀", "\uffff"]`
	case 4:
		return d.choose("[]", `["a", error "late"]`, `["a", 1]`, `[{ k: 2, v: error "unread" }, { k: 1 }]`, "[[1, 2], [1]]", "'abc'")
	}
	return d.list(1)
}

// set returns a list of keys, usually sorted.
func (d generator) set() string {
	if d.oneIn(5) {
		return d.keyed()
	}
	return "std.sort(" + d.keyed() + ")"
}

// sets returns two sets, of which at most one fails when it is forced: if both
// fail, which error the interpreter reports is not defined.
func (d generator) sets() string {
	if d.oneIn(2) {
		return d.set() + ", " + d.proper()
	}
	return d.proper() + ", " + d.set()
}

// proper returns a set of strings or numbers.
func (d generator) proper() string {
	return d.choose("[]", "[1, 2, 3]", "[2, 4, 7, 50]", `["a", "b", "日本"]`, `["", "B", "a", "true", "é"]`)
}

func (d generator) key() string {
	return d.choose("", "", "", ", function(x) std.length(x)", ", function(x) -x", ", keyF=function(x) 1", ", std.toString", ", function(x) std.get(x, 'k', 0)")
}

func (d generator) digits() string {
	if d.oneIn(6) {
		return d.value(1)
	}
	var b strings.Builder
	for range d.IntN(12) {
		b.WriteString(d.choose("0", "1", "7", "5", "2", "4", "3", "6", "9", "a", "F", "f", "c", d.choose("g", "-", "@", "`", " ", "é", "8")))
	}
	if d.oneIn(10) {
		return literal(strings.Repeat(b.String(), 60)) // exceeds the range of a number
	}
	return literal(b.String())
}

// calls has a generator of calls for each function with a new body.
var calls = map[string]func(d generator) string{
	"mod":    func(d generator) string { return d.value(1) + " % " + d.value(1) },
	"format": generator.formatCall,
	"manifestIni": func(d generator) string {
		return "std.manifestIni(" + d.choose(d.ini(), d.ini(), d.ini(), d.value(2)) + ")"
	},
	"manifestPython": func(d generator) string { return "std.manifestPython(" + d.value(3) + ")" },
	"manifestPythonVars": func(d generator) string {
		return "std.manifestPythonVars(" + d.choose(d.object(2), d.object(2), d.value(2)) + ")"
	},
	"manifestXmlJsonml": func(d generator) string {
		return "std.manifestXmlJsonml(" + d.choose(d.jsonml(3), d.jsonml(3), d.value(2)) + ")"
	},
	"deepJoin": func(d generator) string {
		return "std.deepJoin([" + d.strings() + ", " + d.text() + ", " + d.strings() + "])"
	},
	"escapeStringXML": func(d generator) string { return "std.escapeStringXML(" + d.choose(d.text(), d.value(2)) + ")" },
	"asciiUpper":      func(d generator) string { return "std.asciiUpper(" + d.choose(d.text(), d.text(), d.strings()) + ")" },
	"asciiLower":      func(d generator) string { return "std.asciiLower(" + d.choose(d.text(), d.text(), d.strings()) + ")" },
	"slice": func(d generator) string {
		what := d.choose(d.text(), d.list(1), d.strings())
		if d.oneIn(2) {
			part := func() string { return strings.ReplaceAll(d.whole(), "null", "") }
			return d.read("(" + what + ")[" + part() + ":" + part() + d.choose("", ":"+part()) + "]")
		}
		return d.read(fmt.Sprintf("std.slice(%s, %s, %s, %s)", what, d.whole(), d.whole(), d.whole()))
	},
	"findSubstr": func(d generator) string {
		return fmt.Sprintf("std.findSubstr(%s, %s)", d.choose(d.text(), `"a"`, `"é"`, `"aa"`, `""`), d.choose(d.text(), `"aaa"`, `"éaéa日"`))
	},
	"flattenArrays": func(d generator) string {
		return d.read("std.flattenArrays([" + d.list(1) + ", " + d.choose(d.list(1), d.list(1), d.list(1), d.value(1)) + ", " + d.list(1) + "])")
	},
	"uniq": func(d generator) string {
		return d.read("std.uniq(" + d.choose("std.sort("+d.strings()+")", d.list(1), d.value(1), "[1, 1, 2, 2, 2, 3, 1, 1]", "[[1], [1], [2]]") + d.choose("", "", ", function(x) std.length(x)", ", function(x) x", ", keyF=function(x) 1", ", std.type") + ")")
	},
	"set":        func(d generator) string { return d.read("std.set(" + d.keyed() + d.key() + ")") },
	"setUnion":   func(d generator) string { return d.read("std.setUnion(" + d.sets() + d.key() + ")") },
	"setInter":   func(d generator) string { return d.read("std.setInter(" + d.sets() + d.key() + ")") },
	"setDiff":    func(d generator) string { return d.read("std.setDiff(" + d.sets() + d.key() + ")") },
	"parseHex":   func(d generator) string { return "std.parseHex(" + d.digits() + ")" },
	"parseOctal": func(d generator) string { return "std.parseOctal(" + d.digits() + ")" },
	"mergePatch": func(d generator) string {
		return d.choose("std.mergePatch(%s, %s)", "std.objectFields(std.mergePatch(%s, %s))", "std.get(std.mergePatch(%s, %s), 'a')")
	},
	"prune": func(d generator) string {
		return d.choose("std.prune(%s)", "std.length(std.prune(%s))", "std.prune({ a: null, b: [null, [], {}, [{}]], c: { d: null, e: [[null]] }, f: 0, g:: 1, h: '', i: %s })")
	},
}

func init() {
	for _, name := range []string{"mergePatch", "prune"} {
		call := calls[name]
		calls[name] = func(d generator) string {
			text := call(d)
			for strings.Contains(text, "%s") {
				text = strings.Replace(text, "%s", d.choose(d.object(3), d.object(3), d.value(3)), 1)
			}
			return text
		}
	}
}

func TestInstall_CallsUnchanged(t *testing.T) {
	for _, name := range native.Names() {
		t.Run(name, func(t *testing.T) {
			call := calls[name]
			if call == nil {
				t.Fatal("the function has a new body, but no calls to compare")
			}
			compareAll(t, size(t, 200), call)
		})
	}
}

// FuzzCalls compares calls of all functions that have a new body.
func FuzzCalls(f *testing.F) {
	d := newGenerator(1)
	for _, name := range native.Names() {
		for range 20 {
			f.Add(calls[name](d))
		}
	}
	p := startReference(f)
	f.Fuzz(func(t *testing.T, code string) {
		if len(code) > 400 || !utf8.ValidString(code) { // queries are sent as JSON
			t.Skip()
		}
		q := query{Code: code}
		want := p.run(t, q)
		compare(t, q, runFast(q), want)
		compare(t, q, runStrict(q), want)
	})
}

// FuzzFormat compares arbitrary formats and values.
func FuzzFormat(f *testing.F) {
	d := newGenerator(1)
	for range 200 {
		text, vals := d.format()
		f.Add(text, vals[0])
	}
	p := startReference(f)
	f.Fuzz(func(t *testing.T, text, vals string) {
		if len(text) > 200 || len(vals) > 200 || !utf8.ValidString(text+vals) {
			t.Skip()
		}
		q := query{Code: "std.format(" + literal(text) + ", " + vals + ")"}
		want := p.run(t, q)
		compare(t, q, runFast(q), want)
		compare(t, q, runStrict(q), want)
	})
}
