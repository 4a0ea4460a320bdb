package native_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
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
	if d.odds(100) {
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
		if !same(t, q, fast(q), want) {
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
	compareAll(t, size(t, 3000), dice.formatCall)
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
		if len(text) > 200 || len(vals) > 200 || !utf8.ValidString(text+vals) { // questions travel as JSON
			t.Skip()
		}
		q := question{Code: "std.format(" + literal(text) + ", " + vals + ")"}
		same(t, q, fast(q), p.ask(t, q))
	})
}
