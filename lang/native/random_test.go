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

// size is how many calls a test makes: few by default, DEFX_TEST_CALLS in full.
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

type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 7))} }

func (d dice) of(list ...string) string { return list[d.IntN(len(list))] }

func (d dice) odds(n int) bool { return d.IntN(n) == 0 }

// word is a text with what is special somewhere.
func (d dice) word() string {
	var b strings.Builder
	for range d.IntN(6) {
		b.WriteString(d.of("a", "B", "7", " ", "-", "_", "%", "$", "'", `"`, "\\", "\n", "\t", "é", "ß", "日本", "😀", "<", "&", ">", "=", ".", "ſ", "\u0085", "\u007f", "\x01",
			"\ue000\ue101\ue001", "İ", "true", "0x1f", "e5", "~"))
	}
	return b.String()
}

// literal writes a text as Jsonnet.
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

func (d dice) number() string {
	switch d.IntN(8) {
	case 0:
		return d.of("0", "-0", "1", "-1", "0.5", "-0.5", "0.9", "-0.9", "1e15", "1e16", "-1e20", "1e-15", "1e-16", "5e-324", "1.7976931348623157e308", "9007199254740993", "1e22", "999999.5", "0.000123456", "99999.95", "1e100")
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

// value is any value as Jsonnet, seldom one that fails when it is looked at.
func (d dice) value(depth int) string {
	switch n := d.IntN(24); {
	case n < 7:
		return literal(d.word())
	case n < 14:
		return d.number()
	case n == 14:
		return d.of("null", "true", "false")
	case n == 15:
		return d.of("error 'boom'", "(function(x) x)", "std.length", "(1 + error 'deep')", "std.parseInt('x')")
	case n == 16:
		return d.of("{ assert false : 'no' }", "{ a:: 1 }", "{ assert self.a == 2, a: 1 }", "{ local x = error 'unread', a: 1 }", "{ a: error 'inside' }", "[error 'element']")
	case depth <= 0:
		return d.number()
	case n < 20:
		return d.list(depth)
	default:
		return d.object(depth)
	}
}

func (d dice) list(depth int) string {
	var parts []string
	for range d.IntN(5) {
		parts = append(parts, d.value(depth-1))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (d dice) object(depth int) string {
	var parts []string
	for i := range d.IntN(5) {
		parts = append(parts, fmt.Sprintf("%s%s %s", literal(fmt.Sprint(d.of("a", "b", "c", "x y", "é", "main", d.word()), d.of("", fmt.Sprint(i)))), d.of(":", ":", ":", "::"), d.value(depth-1)))
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

// directive is one % code, mostly a right one.
func (d dice) directive(keys bool) string {
	var b strings.Builder
	b.WriteByte('%')
	if keys != d.odds(30) {
		b.WriteString("(" + d.of("a", "b", "c", "x y", "é") + ")")
	}
	for range d.IntN(3) * d.IntN(2) {
		b.WriteString(d.of("#", "0", "-", " ", "+"))
	}
	if d.odds(3) {
		b.WriteString(d.of("1", "2", "5", "8", "12", "20", "399", "401", "*"))
	}
	if d.odds(3) {
		b.WriteString("." + d.of("", "0", "1", "3", "8", "20", "21", "*"))
	}
	if d.odds(8) {
		b.WriteString(d.of("h", "l", "L", "ll"))
	}
	if !d.odds(60) {
		b.WriteString(d.of("d", "i", "u", "o", "x", "X", "e", "E", "f", "F", "g", "G", "c", "s", "s", "s", "s", "%", "%", "r", "(", "日"))
	}
	return b.String()
}

func (d dice) format() (string, []string) {
	var b strings.Builder
	keys := d.odds(3)
	n := d.IntN(4)
	var vals []string
	for range n {
		b.WriteString(strings.ReplaceAll(d.word(), "%", ""))
		c := d.directive(keys)
		b.WriteString(c)
		switch {
		case d.odds(6):
			vals = append(vals, d.value(2))
		case strings.ContainsAny(c[len(c)-1:], "diuoxXeEfFgG"):
			vals = append(vals, d.number())
		case strings.HasSuffix(c, "c"):
			vals = append(vals, d.of(`"x"`, `"é"`, "65", "8364", "-1", "2e6", `"xy"`))
		case strings.HasSuffix(c, "%") && !d.odds(20):
		default:
			vals = append(vals, d.value(2))
		}
		for range strings.Count(c, "*") {
			vals = append(vals, fmt.Sprint(d.IntN(9)))
		}
	}
	b.WriteString(strings.ReplaceAll(d.word(), "%", d.of("", "%%")))
	if d.odds(15) {
		vals = append(vals, d.value(1))
	}
	if d.odds(15) && len(vals) > 0 {
		vals = vals[1:]
	}
	if keys && !d.odds(10) {
		names := []string{"a", "b", "c", `"x y"`, `"é"`}
		d.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		var fields []string
		for i, name := range names[:d.IntN(3)+3] {
			v := d.value(2)
			if i < len(vals) {
				v = vals[i]
			}
			fields = append(fields, name+d.of(": ", ":: ")+v)
		}
		return b.String(), []string{"{" + strings.Join(fields, ", ") + "}"}
	}
	if len(vals) == 1 && d.odds(2) {
		return b.String(), vals
	}
	return b.String(), []string{"[" + strings.Join(vals, ", ") + "]"}
}

func (d dice) formatCall() string {
	f, vals := d.format()
	text := literal(f)
	if d.odds(50) {
		text = d.value(1)
	}
	if d.odds(4) {
		return fmt.Sprintf("std.format(%s, %s)", text, vals[0])
	}
	return fmt.Sprintf("%s %% %s", text, vals[0])
}

// compareAll asks both sides for many calls.
func compareAll(t *testing.T, calls int, call func(d dice) string) {
	p := startPlain(t)
	failing, bad := 0, 0
	d := newDice(uint64(calls))
	for range calls {
		q := question{Code: call(d)}
		want := p.ask(t, q)
		if want.Err != "" {
			failing++
		}
		if !same(t, q, fast(q), want) || !same(t, q, careful(q), want) {
			if bad++; bad > 20 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d calls, %d of which fail as they should", calls, failing)
	if calls > 100 && (failing == 0 || failing == calls) {
		t.Error("the calls are of one kind")
	}
}

func TestFormatCallsGiveWhatTheyGave(t *testing.T) {
	compareAll(t, 10*size(t, 200), dice.formatCall)
}

// strings is a list of texts, seldom one of something else.
func (d dice) strings() string {
	if d.odds(12) {
		return d.value(2)
	}
	var parts []string
	for range d.IntN(6) {
		if d.odds(25) {
			parts = append(parts, d.value(1))
		} else {
			parts = append(parts, literal(d.word()))
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (d dice) text() string {
	if d.odds(12) {
		return d.value(1)
	}
	return literal(d.word() + d.word())
}

func (d dice) whole() string {
	if d.odds(15) {
		return d.of("'x'", "[]", "true", "error 'index'") // with a tiny step the old body has no end
	}
	return d.of("null", "null", "0", "1", "2", "3", "7", "-1", "-2", "-9", "1.5", "1e10")
}

// jsonml is a list that begins with a name, mostly.
func (d dice) jsonml(depth int) string {
	if depth == 0 || d.odds(4) {
		return d.text()
	}
	parts := []string{literal(d.of("a", "b", "c-d"))}
	if d.odds(10) {
		parts = nil
	}
	if d.odds(2) {
		parts = append(parts, d.object(1))
	}
	for range d.IntN(3) {
		parts = append(parts, d.jsonml(depth-1))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (d dice) ini() string {
	var sections []string
	for _, s := range []string{"a", "b c", "[x]", "é"}[:d.IntN(5)] {
		sections = append(sections, literal(s)+": "+d.object(2))
	}
	fields := []string{"sections: {" + strings.Join(sections, ", ") + "}"}
	if d.odds(15) {
		fields[0] = "sections: " + d.value(2)
	}
	if d.odds(15) {
		fields = nil
	}
	if d.odds(2) {
		fields = append(fields, d.of("main: ", "main: ", "main: ", "main:: ")+d.of(d.object(2), d.object(2), d.object(2), d.value(1)))
	}
	if d.odds(10) {
		fields = append(fields, "more: error 'unread'")
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// read looks at a list as a program does: in parts, so that it shows what stays unread.
func (d dice) read(list string) string {
	switch d.IntN(4) {
	case 0:
		return "std.length(" + list + ")"
	case 1:
		return fmt.Sprintf("(%s)[%d]", list, d.IntN(3))
	}
	return list
}

// keyed is a list of keys, mostly of one kind; set is one in order, mostly.
func (d dice) keyed() string {
	switch d.IntN(6) {
	case 0, 1:
		return d.strings()
	case 2:
		return "[" + strings.Join([]string{d.number(), d.number(), d.number(), "1", "2", "2", "1"}[d.IntN(7):], ", ") + "]"
	case 3:
		return `["b", "a", "é", "b", "ab", "日本", "😀", "\uffff"]`
	case 4:
		return d.of("[]", `["a", error "late"]`, `["a", 1]`, `[{ k: 2, v: error "unread" }, { k: 1 }]`, "[[1, 2], [1]]", "'abc'")
	}
	return d.list(1)
}

func (d dice) set() string {
	if d.odds(5) {
		return d.keyed()
	}
	return "std.sort(" + d.keyed() + ")"
}

// sets are two, of which one at most fails when it is read: of two that fail the
// interpreter tells now one, now the other.
func (d dice) sets() string {
	if d.odds(2) {
		return d.set() + ", " + d.proper()
	}
	return d.proper() + ", " + d.set()
}

// proper is a set of texts or numbers.
func (d dice) proper() string {
	return d.of("[]", "[1, 2, 3]", "[2, 4, 7, 50]", `["a", "b", "日本"]`, `["", "B", "a", "true", "é"]`)
}

func (d dice) key() string {
	return d.of("", "", "", ", function(x) std.length(x)", ", function(x) -x", ", keyF=function(x) 1", ", std.toString", ", function(x) std.get(x, 'k', 0)")
}

func (d dice) digits() string {
	if d.odds(6) {
		return d.value(1)
	}
	var b strings.Builder
	for range d.IntN(12) {
		b.WriteString(d.of("0", "1", "7", "5", "2", "4", "3", "6", "9", "a", "F", "f", "c", d.of("g", "-", "@", "`", " ", "é", "8")))
	}
	if d.odds(10) {
		return literal(strings.Repeat(b.String(), 60)) // more than a number holds
	}
	return literal(b.String())
}

// calls makes a call of each function that has a new body.
var calls = map[string]func(d dice) string{
	"mod":            func(d dice) string { return d.value(1) + " % " + d.value(1) },
	"format":         dice.formatCall,
	"manifestIni":    func(d dice) string { return "std.manifestIni(" + d.of(d.ini(), d.ini(), d.ini(), d.value(2)) + ")" },
	"manifestPython": func(d dice) string { return "std.manifestPython(" + d.value(3) + ")" },
	"manifestPythonVars": func(d dice) string {
		return "std.manifestPythonVars(" + d.of(d.object(2), d.object(2), d.value(2)) + ")"
	},
	"manifestXmlJsonml": func(d dice) string {
		return "std.manifestXmlJsonml(" + d.of(d.jsonml(3), d.jsonml(3), d.value(2)) + ")"
	},
	"deepJoin": func(d dice) string {
		return "std.deepJoin([" + d.strings() + ", " + d.text() + ", " + d.strings() + "])"
	},
	"escapeStringXML": func(d dice) string { return "std.escapeStringXML(" + d.of(d.text(), d.value(2)) + ")" },
	"asciiUpper":      func(d dice) string { return "std.asciiUpper(" + d.of(d.text(), d.text(), d.strings()) + ")" },
	"asciiLower":      func(d dice) string { return "std.asciiLower(" + d.of(d.text(), d.text(), d.strings()) + ")" },
	"slice": func(d dice) string {
		what := d.of(d.text(), d.list(1), d.strings())
		if d.odds(2) {
			part := func() string { return strings.ReplaceAll(d.whole(), "null", "") }
			return d.read("(" + what + ")[" + part() + ":" + part() + d.of("", ":"+part()) + "]")
		}
		return d.read(fmt.Sprintf("std.slice(%s, %s, %s, %s)", what, d.whole(), d.whole(), d.whole()))
	},
	"findSubstr": func(d dice) string {
		return fmt.Sprintf("std.findSubstr(%s, %s)", d.of(d.text(), `"a"`, `"é"`, `"aa"`, `""`), d.of(d.text(), `"aaa"`, `"éaéa日"`))
	},
	"flattenArrays": func(d dice) string {
		return d.read("std.flattenArrays([" + d.list(1) + ", " + d.of(d.list(1), d.list(1), d.list(1), d.value(1)) + ", " + d.list(1) + "])")
	},
	"uniq": func(d dice) string {
		return d.read("std.uniq(" + d.of("std.sort("+d.strings()+")", d.list(1), d.value(1), "[1, 1, 2, 2, 2, 3, 1, 1]", "[[1], [1], [2]]") + d.of("", "", ", function(x) std.length(x)", ", function(x) x", ", keyF=function(x) 1", ", std.type") + ")")
	},
	"set":        func(d dice) string { return d.read("std.set(" + d.keyed() + d.key() + ")") },
	"setUnion":   func(d dice) string { return d.read("std.setUnion(" + d.sets() + d.key() + ")") },
	"setInter":   func(d dice) string { return d.read("std.setInter(" + d.sets() + d.key() + ")") },
	"setDiff":    func(d dice) string { return d.read("std.setDiff(" + d.sets() + d.key() + ")") },
	"parseHex":   func(d dice) string { return "std.parseHex(" + d.digits() + ")" },
	"parseOctal": func(d dice) string { return "std.parseOctal(" + d.digits() + ")" },
	"mergePatch": func(d dice) string {
		return d.of("std.mergePatch(%s, %s)", "std.objectFields(std.mergePatch(%s, %s))", "std.get(std.mergePatch(%s, %s), 'a')")
	},
	"prune": func(d dice) string {
		return d.of("std.prune(%s)", "std.length(std.prune(%s))", "std.prune({ a: null, b: [null, [], {}, [{}]], c: { d: null, e: [[null]] }, f: 0, g:: 1, h: '', i: %s })")
	},
}

func init() {
	for _, name := range []string{"mergePatch", "prune"} {
		call := calls[name]
		calls[name] = func(d dice) string {
			text := call(d)
			for strings.Contains(text, "%s") {
				text = strings.Replace(text, "%s", d.of(d.object(3), d.object(3), d.value(3)), 1)
			}
			return text
		}
	}
}

func TestCallsGiveWhatTheyGave(t *testing.T) {
	for _, name := range native.Names() {
		t.Run(name, func(t *testing.T) {
			call := calls[name]
			if call == nil {
				t.Fatal("it has a new body, and no calls to compare")
			}
			compareAll(t, size(t, 200), call)
		})
	}
}

// FuzzCalls compares calls of all functions that have a new body.
func FuzzCalls(f *testing.F) {
	d := newDice(1)
	for _, name := range native.Names() {
		for range 20 {
			f.Add(calls[name](d))
		}
	}
	p := startPlain(f)
	f.Fuzz(func(t *testing.T, code string) {
		if len(code) > 400 || !utf8.ValidString(code) { // questions travel as JSON
			t.Skip()
		}
		q := question{Code: code}
		want := p.ask(t, q)
		same(t, q, fast(q), want)
		same(t, q, careful(q), want)
	})
}

// FuzzFormat compares formats and values that nobody thought of.
func FuzzFormat(f *testing.F) {
	d := newDice(1)
	for range 200 {
		text, vals := d.format()
		f.Add(text, vals[0])
	}
	p := startPlain(f)
	f.Fuzz(func(t *testing.T, text, vals string) {
		if len(text) > 200 || len(vals) > 200 || !utf8.ValidString(text+vals) {
			t.Skip()
		}
		q := question{Code: "std.format(" + literal(text) + ", " + vals + ")"}
		want := p.ask(t, q)
		same(t, q, fast(q), want)
		same(t, q, careful(q), want)
	})
}
