package eval

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator writes random programs. Expressions have a type that they are
// likely to evaluate to, so that most programs come to an end without an error;
// some parts are of a wrong type on purpose.
type generator struct {
	*rand.Rand
	scope []binding // variables, innermost last
	self  int       // objects around
	super bool
	files map[string]string
	left  int // how much more to write
}

type binding struct {
	name string
	typ  typ
}

type typ int

const (
	tNumber typ = iota
	tString
	tBool
	tArray  // of numbers
	tObject // with fields a, b, c
	tFunc   // of a number to a number
	tAny
)

func randomProgram(seed uint64) *testCase {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), files: map[string]string{}, left: 60}
	for i := range g.IntN(3) {
		sub := &generator{Rand: g.Rand, left: 15, files: g.files}
		g.files[fmt.Sprintf("lib%d.libsonnet", i)] = sub.object(2)
	}
	g.files["text.txt"] = "line one\nzwei ü €\n\x00\xff end"
	return &testCase{name: "main.jsonnet", code: g.expr(tAny, 5), files: g.files, limits: Limits{MaxSteps: 1_000_000, MaxString: 1_000_000}}
}

func (g *generator) pick(options ...string) string { return options[g.IntN(len(options))] }

func (g *generator) expr(t typ, depth int) string {
	g.left--
	if g.IntN(150) == 0 {
		t = typ(g.IntN(int(tAny)))
	}
	if t == tAny {
		t = []typ{tNumber, tString, tBool, tArray, tObject, tObject, tArray}[g.IntN(7)]
	}
	if depth <= 0 || g.left <= 0 {
		return g.leaf(t)
	}
	switch g.IntN(16) {
	case 0:
		return g.local(t, depth)
	case 1:
		return "(if " + g.expr(tBool, depth-1) + " then " + g.expr(t, depth-1) + " else " + g.expr(t, depth-1) + ")"
	case 2:
		return g.call(t, depth)
	case 3:
		return "(" + g.object(depth-1) + ")." + fieldOf(t)
	case 4:
		return g.leaf(t)
	case 5:
		return g.pick("std.id("+g.expr(t, depth-1)+")", "(assert "+g.expr(tBool, depth-2)+"; "+g.expr(t, depth-1)+")",
			"["+g.expr(t, depth-1)+","+g.expr(tAny, depth-2)+"][0]")
	}
	switch t {
	case tNumber:
		return g.number(depth)
	case tString:
		return g.str(depth)
	case tBool:
		return g.boolean(depth)
	case tArray:
		return g.array(depth)
	case tObject:
		return g.objects(depth)
	}
	return g.function(depth)
}

func fieldOf(t typ) string {
	return [...]string{"a", "s", "t", "l", "o", "f", "a"}[t]
}

func (g *generator) leaf(t typ) string {
	var vars []string
	for _, b := range g.scope {
		if b.typ == t {
			vars = append(vars, b.name)
		}
	}
	if len(vars) > 0 && g.IntN(3) > 0 {
		return g.pick(vars...)
	}
	if g.self > 0 && g.IntN(4) == 0 {
		base := g.pick("self", "$")
		if g.super && g.IntN(3) == 0 {
			base = "super"
		}
		return base + "." + fieldOf(t)
	}
	switch t {
	case tNumber:
		return g.pick("0", "1", "2", "3", "7", "-1", "0.5", "100", "1e3", "3.25", "-2.5", "12345678901234567890", "1e-7")
	case tString:
		return g.pick(`""`, `"a"`, `"abc"`, `'x y'`, `"ü€"`, `"%s"`, `"%d"`, `"line\nend\n"`, `"A-b_C"`, `"12"`, `"true"`, "|||\n  block\n   text\n|||", `@"raw\n"`, `"\u0007\u0085q\""`, `"😀z"`, "(importstr 'text.txt')")
	case tBool:
		return g.pick("true", "false")
	case tArray:
		return g.pick("[]", "[1]", "[3, 1, 2]", "[1, 1, 2]", "std.range(1, 4)", "[-1, 0.5]")
	case tObject:
		if len(g.files) > 1 && g.IntN(3) == 0 {
			return "(import 'lib0.libsonnet')"
		}
		return g.pick("{}", "{a: 1}", "{a: 1, s: 'q', t: true, l: [1], o: {a: 2}, f(x): x}", "{a:: 5, s: 'h'}", "{a: 1, assert self.a > 0}", "{['a' + 'b']: 2, a: 3}")
	case tFunc:
		return g.pick("(function(x) x)", "(function(x) x + 1)", "(function(x, y=2) x * y)", "std.abs", "std.floor", "(function(x=1) x)")
	}
	return "null"
}

func (g *generator) bind(name string, t typ, f func() string) string {
	g.scope = append(g.scope, binding{name, t})
	s := f()
	g.scope = g.scope[:len(g.scope)-1]
	return s
}

func (g *generator) name() string { return g.pick("x", "y", "z", "v", "w") }

func (g *generator) local(t typ, depth int) string {
	b := typ(g.IntN(int(tAny)))
	name := g.name()
	value := g.expr(b, depth-1)
	if g.IntN(6) == 0 {
		// A function with parameters, named arguments and a default.
		p := g.name()
		return "(local " + name + "(" + p + ", k=" + g.expr(tNumber, depth-2) + ") = " +
			g.bind(p, tNumber, func() string { return g.expr(t, depth-1) }) + "; " +
			name + "(" + g.pick(g.expr(tNumber, depth-1), p+"="+g.expr(tNumber, depth-1), g.expr(tNumber, depth-2)+", k="+g.expr(tNumber, depth-2), "k=1, "+p+"=2") + ")" + g.pick("", "", " tailstrict") + ")"
	}
	if g.IntN(5) == 0 {
		other := g.name() + "2"
		return "(local " + name + " = " + value + ", " + other + " = " + name + "; " + g.bind(name, b, func() string {
			return g.bind(other, b, func() string { return g.expr(t, depth-1) })
		}) + ")"
	}
	return "(local " + name + " = " + value + "; " + g.bind(name, b, func() string { return g.expr(t, depth-1) }) + ")"
}

func (g *generator) call(t typ, depth int) string {
	if t == tNumber && g.IntN(2) == 0 {
		return g.expr(tFunc, depth-1) + "(" + g.expr(tNumber, depth-1) + ")"
	}
	p := g.name()
	return "(function(" + p + ") " + g.bind(p, tNumber, func() string { return g.expr(t, depth-1) }) + ")(" + g.expr(tNumber, depth-1) + ")" + g.pick("", "", "", " tailstrict")
}

func (g *generator) function(depth int) string {
	p := g.name()
	return "(function(" + p + g.pick("", ", q=1") + ") " + g.bind(p, tNumber, func() string { return g.expr(tNumber, depth-1) }) + ")"
}

// args writes a call of a function of std.
func (g *generator) args(name string, depth int, ts ...typ) string {
	parts := make([]string, len(ts))
	for i, t := range ts {
		parts[i] = g.expr(t, depth-1)
	}
	return "std." + name + "(" + strings.Join(parts, ", ") + ")"
}

func (g *generator) number(depth int) string {
	d := depth - 1
	switch g.IntN(12) {
	case 0, 1, 2:
		return "(" + g.expr(tNumber, d) + g.pick(" + ", " - ", " * ", " / ", " % ") + g.expr(tNumber, d) + ")"
	case 3:
		return "(" + g.expr(tNumber, d) + g.pick(" & ", " | ", " ^ ", " << ", " >> ") + g.expr(tNumber, d) + ")"
	case 4:
		return g.pick("-", "~", "+") + g.expr(tNumber, d)
	case 5:
		return "std.length(" + g.expr(g.of(tArray, tString, tObject, tFunc), d) + ")"
	case 6:
		return g.args(g.pick("max", "min", "pow", "modulo", "atan2", "hypot", "mod"), depth, tNumber, tNumber)
	case 7:
		return g.args(g.pick("floor", "ceil", "abs", "sign", "sqrt", "sin", "exp", "log", "round", "exponent", "mantissa", "log2", "deg2rad", "rad2deg", "log10"), depth, tNumber)
	case 8:
		return g.expr(tArray, d) + "[" + g.pick("0", "1", g.expr(tNumber, d-1)) + "]"
	case 9:
		f := g.name()
		return "std." + g.pick("foldl", "foldr") + "(function(" + f + ", e) " + g.bind(f, tNumber, func() string { return g.bind("e", tNumber, func() string { return g.expr(tNumber, d) }) }) + ", " + g.expr(tArray, d) + ", " + g.expr(tNumber, d) + ")"
	case 10:
		return g.pick(g.args("codepoint", depth, tString), g.args("parseInt", depth, tString), g.args("parseHex", depth, tString), g.args("parseOctal", depth, tString),
			g.args("sum", depth, tArray), g.args("avg", depth, tArray), g.args("count", depth, tArray, tNumber),
			g.args("minArray", depth, tArray), g.args("maxArray", depth, tArray, tFunc), g.args("clamp", depth, tNumber, tNumber, tNumber), g.args("get", depth, tObject, tString, tNumber))
	}
	return g.expr(tObject, d) + ".a"
}

func (g *generator) of(ts ...typ) typ { return ts[g.IntN(len(ts))] }

func (g *generator) str(depth int) string {
	d := depth - 1
	switch g.IntN(12) {
	case 0, 1:
		return "(" + g.expr(tString, d) + " + " + g.expr(g.of(tString, tNumber, tArray, tObject, tBool), d) + ")"
	case 2:
		return "(" + g.expr(g.of(tNumber, tObject, tArray), d) + " + " + g.expr(tString, d) + ")"
	case 3:
		return g.format(d)
	case 4:
		return g.pick(g.args("toString", depth, tAny), g.args("type", depth, tAny), g.args("manifestJson", depth, tAny), g.args("manifestJsonMinified", depth, tAny), g.args("manifestPython", depth, tAny),
			"std.manifestYamlDoc("+g.expr(tAny, d)+", "+g.expr(tBool, 0)+", quote_keys="+g.expr(tBool, 0)+")",
			"std.manifestJsonEx("+g.expr(tAny, d)+", "+g.expr(tString, 0)+")",
			"std.manifestYamlStream(["+g.expr(tAny, d)+"])",
			g.args("manifestToml", depth, tObject), "std.manifestTomlEx("+g.expr(tObject, d)+", ' ')",
			"std.manifestIni({main: "+g.expr(tObject, d)+", sections: {s: "+g.expr(tObject, d)+"}})",
			g.args("manifestPythonVars", depth, tObject), "std.manifestXmlJsonml(['p', "+g.expr(tObject, d)+", "+g.expr(tString, d)+"])")
	case 5:
		return g.args(g.pick("asciiUpper", "asciiLower", "escapeStringJson", "escapeStringBash", "escapeStringDollars", "escapeStringXML", "escapeStringPython", "trim", "md5", "base64", "sha1", "base64Decode"), depth, tString)
	case 6:
		return g.args("substr", depth, tString, tNumber, tNumber)
	case 7:
		return g.expr(tString, d) + "[" + g.slice(d) + "]"
	case 8:
		return g.pick(g.args("join", depth, tString, tArray), "std.join("+g.expr(tString, d)+", ["+g.expr(tString, d)+", "+g.expr(tString, d)+", null])",
			"std.lines(["+g.expr(tString, d)+"])", "std.deepJoin([["+g.expr(tString, d)+"], "+g.expr(tString, d)+"])")
	case 9:
		return g.pick(g.args("strReplace", depth, tString, tString, tString), g.args("stripChars", depth, tString, tString), g.args("lstripChars", depth, tString, tString), g.args("rstripChars", depth, tString, tString),
			g.args("repeat", depth, tString, tNumber), g.args("resolvePath", depth, tString, tString), g.args("char", depth, tNumber))
	case 10:
		return "std.flatMap(function(c) c + " + g.expr(tString, d-1) + ", " + g.expr(tString, d) + ")"
	}
	return "std.join(',', std.map(function(c) c, " + g.pick("std.stringChars", "std.id", "std.reverse") + "(" + g.expr(tString, d) + ")))"
}

func (g *generator) slice(d int) string {
	part := func() string { return g.pick("", "0", "1", "2", "-1", "5", g.expr(tNumber, d-1)) }
	return part() + ":" + part() + g.pick("", ":", ":1", ":2", ":3", ":0", ":-1")
}

func (g *generator) format(d int) string {
	code := func() string {
		return "%" + g.pick("", "", "-", "0", "+", " ", "#", "-+") + g.pick("", "", "5", "12", "*") + g.pick("", "", ".2", ".0", ".7", ".*") + g.pick("d", "s", "f", "e", "g", "x", "o", "c", "i", "u", "X", "G", "E", "%", "q")
	}
	if g.IntN(4) == 0 {
		return "('%(a)" + g.pick("d", "s", "5.2f", "-6g", "x") + " %(s)" + g.pick("s", "10s", "-4s") + "' % " + g.expr(tObject, d) + ")"
	}
	if g.IntN(3) == 0 {
		return "('" + g.pick("<", "") + code() + "' % " + g.expr(g.of(tNumber, tNumber, tString, tArray), d) + ")"
	}
	return "('" + code() + "|" + code() + "' % [" + g.expr(tNumber, d) + ", " + g.expr(g.of(tNumber, tNumber, tString), d) + g.pick("", "", ", "+g.expr(tNumber, d)) + "])"
}

func (g *generator) boolean(depth int) string {
	d := depth - 1
	switch g.IntN(10) {
	case 0, 1:
		t := g.of(tNumber, tString, tArray)
		return "(" + g.expr(t, d) + g.pick(" < ", " <= ", " > ", " >= ") + g.expr(t, d) + ")"
	case 2, 3:
		t := g.of(tNumber, tString, tArray, tObject, tBool)
		return "(" + g.expr(t, d) + g.pick(" == ", " != ") + g.expr(g.of(t, t, tAny), d) + ")"
	case 4:
		return "(" + g.expr(tBool, d) + g.pick(" && ", " || ") + g.expr(tBool, d) + ")"
	case 5:
		return "!" + g.expr(tBool, d)
	case 6:
		return "(" + g.pick("'a'", "'s'", g.expr(tString, d)) + " in " + g.expr(tObject, d) + ")"
	case 7:
		return g.pick(g.args("startsWith", depth, tString, tString), g.args("endsWith", depth, tString, tString), g.args("member", depth, tString, tString), g.args("member", depth, tArray, tNumber),
			g.args("isString", depth, tAny), g.args("isNumber", depth, tAny), g.args("isEven", depth, tNumber), g.args("isDecimal", depth, tNumber), g.args("isEmpty", depth, tString), g.args("contains", depth, tArray, tNumber),
			g.args("equalsIgnoreCase", depth, tString, tString), g.args("xor", depth, tBool, tBool), g.args("setMember", depth, tNumber, tArray), g.args("assertEqual", depth, tNumber, tNumber), g.args("objectHas", depth, tObject, tString), g.args("objectHasAll", depth, tObject, tString))
	case 8:
		return "std." + g.pick("all", "any") + "([" + g.expr(tBool, d) + ", " + g.expr(tBool, d) + "])"
	}
	if g.super {
		return "('" + g.pick("a", "s", "zz") + "' in super)"
	}
	return g.leaf(tBool)
}

func (g *generator) array(depth int) string {
	d := depth - 1
	switch g.IntN(13) {
	case 0, 1, 2:
		v := g.name()
		list := g.expr(tArray, d)
		return g.bind(v, tNumber, func() string {
			s := "[" + g.expr(tNumber, d) + " for " + v + " in " + list
			if g.IntN(3) == 0 {
				s += " for " + v + "3 in " + g.expr(tArray, d-1)
			}
			if g.IntN(2) == 0 {
				s += " if " + g.expr(tBool, d-1)
			}
			return s + "]"
		})
	case 3:
		return "(" + g.expr(tArray, d) + " + " + g.expr(tArray, d) + ")"
	case 4:
		return "[" + g.expr(tNumber, d) + ", " + g.expr(tNumber, d) + "]"
	case 5:
		return g.pick(g.args("map", depth, tFunc, tArray), "std.filter(function(x) "+g.bind("x", tNumber, func() string { return g.expr(tBool, d) })+", "+g.expr(tArray, d)+")",
			"std.mapWithIndex(function(i, x) i + x, "+g.expr(tArray, d)+")", "std.makeArray("+g.pick("3", g.expr(tNumber, 0))+", "+g.expr(tFunc, d)+")", "std.filterMap(function(x) x > 0, "+g.expr(tFunc, d)+", "+g.expr(tArray, d)+")",
			"std.flatMap(function(x) [x, "+g.expr(tNumber, d)+"], "+g.expr(tArray, d)+")")
	case 6:
		return g.args(g.pick("sort", "set", "uniq"), depth, g.of(tArray, tArray, tString)) + g.pick("", "[0:2]")
	case 7:
		return g.pick(g.args("sort", depth, tArray, tFunc), g.args("set", depth, tArray, tFunc), g.args("uniq", depth, tArray, tFunc), "std.sort("+g.expr(tArray, d)+", keyF=function(x) -x)")
	case 8:
		return g.args(g.pick("setUnion", "setInter", "setDiff"), depth, tArray, tArray)
	case 9:
		return g.expr(tArray, d) + "[" + g.slice(d) + "]"
	case 10:
		return g.pick(g.args("reverse", depth, tArray), "std.flattenArrays(["+g.expr(tArray, d)+", "+g.expr(tArray, d)+"])", "std.flattenDeepArray([1, ["+g.expr(tArray, d)+"]])", g.args("remove", depth, tArray, tNumber), "std.prune(["+g.expr(tNumber, d)+", null, {}, []])",
			g.args("encodeUTF8", depth, tString), g.args("base64DecodeBytes", depth, tString), g.args("findSubstr", depth, tString, tString), g.args("find", depth, tNumber, tArray), "std.decodeUTF8("+g.expr(tArray, d)+")")
	case 11:
		return "std.join(" + g.expr(tArray, d) + ", [" + g.expr(tArray, d) + ", " + g.expr(tArray, d) + "])"
	}
	return g.pick("std.objectValues(", "std.objectKeysValues(", "std.objectFields(", "std.objectFieldsAll(", "std.objectValuesAll(") + g.expr(tObject, d) + ")" + g.pick("", "[0:1]")
}

func (g *generator) objects(depth int) string {
	d := depth - 1
	switch g.IntN(10) {
	case 0, 1, 2:
		sep := g.pick(" + ", " ", " + ")
		left := g.expr(tObject, d)
		save := g.super
		g.super = true
		right := g.object(d)
		g.super = save
		return "(" + left + sep + right + ")"
	case 3:
		v := g.name()
		list := g.expr(tArray, d)
		return g.bind(v, tNumber, func() string {
			inner := g.self
			g.self++
			s := "{['" + g.pick("a", "s", "k") + "' + " + v + "]: " + g.expr(tAny, d) + " for " + v + " in " + list + "}"
			g.self = inner
			return s
		})
	case 4:
		return g.pick(g.args("mergePatch", depth, tObject, tObject), "std.mapWithKey(function(k, v) [k, v], "+g.expr(tObject, d)+")", g.args("prune", depth, tObject), "std.objectRemoveKey("+g.expr(tObject, d)+", '"+g.pick("a", "s", "o")+"')",
			"std.parseJson(std.manifestJson("+g.expr(tObject, d)+"))", "std.parseYaml(std.manifestYamlDoc("+g.expr(tObject, d)+"))")
	case 5:
		return g.expr(tObject, d) + ".o"
	}
	return g.object(d)
}

// object writes a literal that has most of the usual fields.
func (g *generator) object(depth int) string {
	var b strings.Builder
	b.WriteString("{")
	g.self++
	saved := len(g.scope)
	if g.IntN(3) == 0 {
		t := typ(g.IntN(int(tAny)))
		name := g.name() + "l"
		b.WriteString("local " + name + " = " + g.expr(t, depth-1) + ", ")
		g.scope = append(g.scope, binding{name, t})
	}
	if g.IntN(8) == 0 {
		b.WriteString("assert " + g.pick("self.a == self.a", "true", g.expr(tBool, depth-1)) + g.pick("", " : 'message'", " : "+g.expr(tString, depth-2)) + ", ")
	}
	for t := tNumber; t <= tFunc; t++ {
		if g.IntN(5) == 0 || depth <= 0 && g.IntN(3) == 0 {
			continue
		}
		name := fieldOf(t)
		if g.IntN(10) == 0 {
			name = "['" + name + "']"
		}
		plus := ""
		if t != tFunc && t != tBool && g.IntN(6) == 0 {
			plus = "+"
		}
		b.WriteString(name + plus + g.pick(":", ":", ":", "::", ":::"))
		if t == tFunc && g.IntN(3) > 0 {
			b.WriteString(":")
			s := b.String()
			b.Reset()
			b.WriteString(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(s, ":"), ":"), ":"))
			if !strings.HasSuffix(b.String(), ":") {
				b.WriteString(":")
			}
			b.WriteString(":")
		}
		b.WriteString(" " + g.expr(t, depth-1) + ", ")
	}
	g.self--
	g.scope = g.scope[:saved]
	b.WriteString("}")
	return b.String()
}
