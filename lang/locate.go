package lang

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/toolutils"
)

// Where a value is written is found only when somebody asks: the bodies of all
// fields of its name are replaced by errors that each bear a number, the value
// is evaluated, and the number that comes out tells which field it was. So
// overlays, functions and comprehensions need no rule of their own: evaluation
// itself decides.

// Locate finds where paths into the entry's value are written, overrides
// applied. What does not exist is placed at the nearest field around it, at
// last at the beginning of the entry file.
func Locate(ctx context.Context, c Config, paths [][]string) ([]diag.Position, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	found, err := find(ctx, c, locateRequest{Paths: paths})
	if _, died := errors.AsType[*dead](err); died { // some import kills whoever reads it: stay in the entry file
		found, err = find(ctx, c, locateRequest{Paths: paths, Shallow: true})
	}
	if _, died := errors.AsType[*dead](err); died {
		return beginnings(c, paths), nil
	}
	return found, err
}

func find(ctx context.Context, c Config, r locateRequest) ([]diag.Position, error) {
	a, err := spawn(ctx, request{Config: c, Locate: &r})
	if err != nil {
		return nil, err
	}
	return a.Positions, nil
}

func beginnings(c Config, paths [][]string) []diag.Position {
	out := make([]diag.Position, len(paths))
	for i := range out {
		out[i] = diag.Position{File: c.Entry, Line: 1, Col: 1}
	}
	return out
}

func locate(c Config, r locateRequest) []diag.Position {
	paths := r.Paths
	out := beginnings(c, paths)
	imp, err := newImporter(c.Root, c.JPath)
	if err != nil {
		return out
	}
	e, bad := newEvaluator(c, imp, false)
	if bad != nil {
		return out
	}
	l := &locator{e: e, fields: map[string][]*field{}, shallow: r.Shallow}
	l.collect("", c.Entry, map[string]bool{})
	// Each round asks for the paths left, grouped by their last name, and shortens what was not found.
	left := map[int][]string{}
	for i, p := range paths {
		if l.shallow {
			p = p[:min(len(p), 2)] // what lies deeper would read the library
		}
		left[i] = p
	}
	for len(left) > 0 {
		groups := map[string][]int{}
		for i, p := range left {
			if len(p) == 0 {
				delete(left, i)
				continue
			}
			groups[p[len(p)-1]] = append(groups[p[len(p)-1]], i)
		}
		for _, name := range sortedKeys(groups) {
			l.place(groups[name], left, l.fields[name], paths, out)
		}
		rest := make([]int, 0, len(left))
		for i := range left {
			rest = append(rest, i)
		}
		l.place(rest, left, l.computed, paths, out)
		for i, p := range left {
			left[i] = p[:len(p)-1]
		}
	}
	return out
}

// maxRounds bounds how often a group of paths is asked for: what is not found by
// then is placed at the field around it.
const maxRounds = 12

// place finds paths among marks and takes them off left. Paths of one shape are
// found together: the first shows which marks stand on its way, the others are
// asked for at once without these.
func (l *locator) place(group []int, left map[int][]string, marks []*field, paths [][]string, out []diag.Position) {
	slices.Sort(group)
	for round := 0; len(group) > 0 && len(marks) > 0 && round < maxRounds; round++ {
		first := group[0]
		f, onTheWay, ok := l.find(left[first], marks)
		if ok {
			out[first] = f.element(paths[first][len(left[first]):])
			delete(left, first)
		}
		group = l.together(group[1:], left, marks, onTheWay, paths, out)
	}
}

func sortedKeys(m map[string][]int) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// field is one field of an object in some file.
type field struct {
	at   *ast.DesugaredObjectField
	body ast.Node
	pos  diag.Position
}

// element is the position of an element below a field, as far as its list is
// written out; else that of the field.
func (f *field) element(rest []string) diag.Position {
	node := f.body
	pos := f.pos
	for _, k := range rest {
		i, err := strconv.Atoi(k)
		if err != nil {
			break
		}
		if node = nth(node, i); node == nil || node.Loc() == nil {
			break
		}
		if p := position(*node.Loc()); p.Known() && user(p.File) {
			pos = p
		}
	}
	return pos
}

// nth finds an element of a list that is written out, or joined of such.
func nth(n ast.Node, i int) ast.Node {
	switch n := n.(type) {
	case *ast.Local:
		return nth(n.Body, i)
	case *ast.Parens:
		return nth(n.Inner, i)
	case *ast.Array:
		if i < len(n.Elements) {
			return n.Elements[i].Expr
		}
	case *ast.Binary:
		left, ok := n.Left.(*ast.Array)
		switch {
		case n.Op != ast.BopPlus || !ok:
		case i < len(left.Elements):
			return left.Elements[i].Expr
		default:
			return nth(n.Right, i-len(left.Elements))
		}
	}
	return nil
}

type locator struct {
	e        *evaluator
	fields   map[string][]*field
	computed []*field
	shallow  bool
}

// collect finds the fields of a file and of all that it imports.
func (l *locator) collect(from, file string, seen map[string]bool) {
	node, place, err := l.e.vm.ImportAST(from, file)
	if err != nil || seen[place] || !user(place) {
		return
	}
	seen[place] = true
	var walk func(ast.Node)
	walk = func(n ast.Node) {
		switch n := n.(type) {
		case nil:
			return
		case *ast.Import:
			if l.shallow {
				return
			}
			l.collect(place, n.File.Value, seen)
		case *ast.DesugaredObject:
			for i := range n.Fields {
				l.add(&n.Fields[i])
			}
		}
		for _, child := range toolutils.Children(n) {
			walk(child)
		}
	}
	walk(node)
}

func (l *locator) add(at *ast.DesugaredObjectField) {
	f := &field{at: at, body: at.Body, pos: position(at.LocRange)}
	if !f.pos.Known() {
		if loc := at.Body.Loc(); loc != nil {
			f.pos = position(*loc)
		}
	}
	if !f.pos.Known() || !user(f.pos.File) {
		return
	}
	if name, ok := at.Name.(*ast.LiteralString); ok {
		l.fields[name.Value] = append(l.fields[name.Value], f)
	} else {
		l.computed = append(l.computed, f)
	}
}

// together asks for many paths at once: marks are values here, and one
// evaluation gives them all. The paths that it could not place are given back.
func (l *locator) together(group []int, left map[int][]string, marks []*field, without map[int]bool, paths [][]string, out []diag.Position) []int {
	if len(group) == 0 {
		return nil
	}
	for i, f := range marks {
		if without[i] {
			continue
		}
		f.at.Body = &ast.LiteralString{Value: fmt.Sprintf("defx-position-%d", i), NodeBase: ast.NodeBase{LocRange: f.at.LocRange}}
	}
	defer func() {
		for _, f := range marks {
			f.at.Body = f.body
		}
	}()
	l.e.vm.ExtCode("defx-flush", "null")
	var b strings.Builder
	b.WriteString(atFunction + "local s(v) = if std.isString(v) then v else '';\n")
	libs := map[string]bool{}
	for _, i := range group {
		if p := left[i]; len(p) > 1 && p[0] == "libs" && !libs[p[1]] {
			libs[p[1]] = true
			fmt.Fprintf(&b, "local lib%d = lib(%s);\n", len(libs), quote(p[1]))
		}
	}
	number := map[string]int{}
	b.WriteString("[")
	for _, i := range group {
		p := left[i]
		expr, rest := "d", p
		if len(p) > 2 && p[0] == "libs" {
			if number[p[1]] == 0 {
				number[p[1]] = len(number) + 1
			}
			expr = fmt.Sprintf("(local k = %s, x = at(lib%d, %s, 0); if std.objectHas(o, k) then x + o[k] else x)",
				quote(p[1]+"/"+p[2]), number[p[1]], quote(p[2]))
			rest = p[3:]
		}
		b.WriteString("s(" + along(expr, rest) + "),\n")
	}
	b.WriteString("]")
	var found []string
	if l.e.askInto(b.String(), &found) != nil || len(found) != len(group) {
		return group
	}
	var missing []int
	for n, i := range group {
		m := markRE.FindStringSubmatch(found[n])
		if m == nil {
			missing = append(missing, i)
			continue
		}
		k, _ := strconv.Atoi(m[1])
		out[i] = marks[k].element(paths[i][len(left[i]):])
		delete(left, i)
	}
	return missing
}

// markRE finds a mark at the end: a field with +: appends it to what it extends.
var markRE = regexp.MustCompile(`defx-position-(\d+)$`)

const atFunction = "local at(v, k, i) = if std.isArray(v) then (if i < std.length(v) then v[i]) else if std.isObject(v) && std.objectHasAll(v, k) then v[k];\n"

// along writes the way from an expression through fields and elements.
func along(expr string, path []string) string {
	var b strings.Builder
	b.WriteString(strings.Repeat("at(", len(path)))
	b.WriteString(expr)
	for _, k := range path {
		i, err := strconv.Atoi(k)
		if err != nil {
			i = 0
		}
		fmt.Fprintf(&b, ", %s, %d)", quote(k), i)
	}
	return b.String()
}

var firedRE = regexp.MustCompile(`^defx-position-(\d+)$`)

// find evaluates a path with marks in the given fields. A mark that a shorter
// path meets belongs to something on the way, and is taken away.
func (l *locator) find(path []string, marks []*field) (found *field, onTheWay map[int]bool, ok bool) {
	onTheWay = map[int]bool{}
	for i, f := range marks {
		f.at.Body = &ast.Error{Expr: &ast.LiteralString{Value: fmt.Sprintf("defx-position-%d", i)}, NodeBase: ast.NodeBase{LocRange: f.at.LocRange}}
	}
	defer func() {
		for _, f := range marks {
			f.at.Body = f.body
		}
	}()
	for range len(marks) + 1 {
		if n, fired := l.fires(path[:len(path)-1]); fired {
			if onTheWay[n] {
				return nil, onTheWay, false
			}
			onTheWay[n] = true
			marks[n].at.Body = marks[n].body
			continue
		}
		n, fired := l.fires(path)
		if !fired {
			return nil, onTheWay, false
		}
		return marks[n], onTheWay, true
	}
	return nil, onTheWay, false
}

// fires evaluates a path as far as its type, and gives the mark that it met.
func (l *locator) fires(path []string) (int, bool) {
	l.e.vm.ExtCode("defx-flush", "null") // what was evaluated before knows nothing of the marks
	expr := "d"
	switch {
	case len(path) > 2 && path[0] == "libs":
		expr = fmt.Sprintf("f(%s, %s)", quote(path[1]), quote(path[2]))
		path = path[3:]
	case len(path) > 1 && path[0] == "libs":
		expr = "lib(" + quote(path[1]) + ")"
		path = path[2:]
	}
	node, err := jsonnet.SnippetToAST(driver, head+atFunction+"std.type("+along(expr, path)+")")
	if err != nil {
		return 0, false
	}
	_, err = l.e.vm.Evaluate(node)
	if err == nil {
		return 0, false
	}
	runtime, ok := err.(jsonnet.RuntimeError)
	if !ok {
		return 0, false
	}
	m := firedRE.FindStringSubmatch(runtime.Msg)
	if m == nil {
		return 0, false
	}
	n, _ := strconv.Atoi(m[1])
	return n, true
}
