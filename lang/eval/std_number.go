package eval

import (
	"fmt"
	"math"
)

func init() {
	for name, f := range map[string]func(float64) float64{
		"sqrt": math.Sqrt, "ceil": math.Ceil, "floor": math.Floor,
		"sin": math.Sin, "cos": math.Cos, "tan": math.Tan,
		"asin": math.Asin, "acos": math.Acos, "atan": math.Atan,
		"log": math.Log, "exp": exp, "round": math.Round,
		"mantissa": func(x float64) float64 { f, _ := math.Frexp(x); return f },
		"exponent": func(x float64) float64 { _, e := math.Frexp(x); return float64(e) },
	} {
		basic(name, func(m *machine, a []value, at *site) value {
			return m.finite(f(m.wantNumber(a[0], at)), at)
		}, "x")
	}
	for name, f := range map[string]func(x, y float64) float64{"hypot": math.Hypot, "pow": math.Pow, "atan2": math.Atan2} {
		params := map[string][]string{"hypot": {"x", "y"}, "pow": {"x", "n"}, "atan2": {"y", "x"}}[name]
		basic(name, func(m *machine, a []value, at *site) value {
			x := m.wantNumber(a[0], at)
			return m.finite(f(x, m.wantNumber(a[1], at)), at)
		}, params...)
	}
	for name, f := range map[string]func(float64) bool{
		"isEven":    func(x float64) bool { i, _ := math.Modf(x); return math.Mod(i, 2) == 0 },
		"isOdd":     func(x float64) bool { i, _ := math.Modf(x); return math.Mod(i, 2) != 0 },
		"isInteger": func(x float64) bool { _, f := math.Modf(x); return f == 0 },
		"isDecimal": func(x float64) bool { _, f := math.Modf(x); return f != 0 },
	} {
		basic(name, func(m *machine, a []value, at *site) value { return boolean(f(m.wantNumber(a[0], at))) }, "x")
	}
	basic("modulo", func(m *machine, a []value, at *site) value { return m.modulo(a[0], a[1], at) }, "x", "y")
	basic("xor", func(m *machine, a []value, at *site) value {
		return boolean(m.wantBool(a[0], at) != m.wantBool(a[1], at))
	}, "x", "y")
	basic("xnor", func(m *machine, a []value, at *site) value {
		return boolean(m.wantBool(a[0], at) == m.wantBool(a[1], at))
	}, "x", "y")

	for name, f := range map[string]func(float64) float64{
		"abs": math.Abs, // but for -0, below
		"sign": func(x float64) float64 {
			switch {
			case x > 0:
				return 1
			case x < 0:
				return -1
			}
			return 0
		},
		"deg2rad": func(x float64) float64 { return float64(x*math.Pi) / 180 },
		"rad2deg": func(x float64) float64 { return float64(x*180) / math.Pi },
		"log2":    func(x float64) float64 { return math.Log(x) / math.Log(2) },
		"log10":   func(x float64) float64 { return math.Log(x) / math.Log(10) },
	} {
		param := map[string]string{"abs": "n", "sign": "n"}[name]
		if param == "" {
			param = "x"
		}
		extra(name, func(m *machine, a []value, at *site) value {
			x := m.wantNumber(a[0], at)
			if name == "abs" {
				if x > 0 {
					return number(x)
				}
				return number(-x)
			}
			if name == "log2" || name == "log10" {
				m.finite(math.Log(x), at)
			}
			if name == "rad2deg" {
				m.finite(x*180, at)
			}
			return m.finite(f(x), at)
		}, param)
	}
	extra("max", func(m *machine, a []value, at *site) value {
		if x, y := m.wantNumber(a[0], at), m.wantNumber(a[1], at); x > y {
			return a[0]
		}
		return a[1]
	}, "a", "b")
	extra("min", func(m *machine, a []value, at *site) value {
		if x, y := m.wantNumber(a[0], at), m.wantNumber(a[1], at); x < y {
			return a[0]
		}
		return a[1]
	}, "a", "b")
	define(&builtin{name: "clamp", params: []string{"x", "minVal", "maxVal"}, lazy: 4, fn: func(m *machine, a []value, at *site) value {
		if m.compare(a[0], a[1], at) < 0 {
			return a[1]
		}
		if hi := m.get(a[2], at); m.compare(a[0], hi, at) > 0 {
			return hi
		}
		return a[0]
	}})
	define(&builtin{name: "mod", params: []string{"a", "b"}, fn: func(m *machine, a []value, at *site) value {
		if a[0].isNumber() && a[1].isNumber() {
			return m.modulo(a[0], a[1], at)
		}
		if a[0].kind() == kindString {
			return m.format(a[0].text(), a[1], at)
		}
		m.fail(at, fmt.Sprintf("Operator %% cannot be used on types %v and %v.", a[0].kind(), a[1].kind()))
		return value{}
	}})
}

func exp(x float64) float64 {
	r := math.Exp(x)
	if r == 0 && x > 0 {
		return math.Inf(1)
	}
	return r
}

func (m *machine) modulo(a, b value, at *site) value {
	x, y := m.wantNumber(a, at), m.wantNumber(b, at)
	if y == 0 {
		m.fail(at, "Division by zero.")
	}
	return m.finite(math.Mod(x, y), at)
}
