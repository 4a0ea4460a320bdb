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
	"github.com/defx-dev/defx/internal/sets"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/toolutils"
)

// The position of a value is found on demand, by evaluation: the body of every
// field with the value's name is replaced by a mark, an error with a number. The
// value is evaluated, and the number in the resulting error identifies the field
// that defines it. So overlays, functions and comprehensions need no rules of
// their own.

// Locate returns the positions where the values at paths into the entry's value
// are defined, overrides applied. For a path that does not exist it returns the
// position of the nearest enclosing field, or else the start of the entry file.
func Locate(ctx context.Context, c Config, paths [][]string) ([]diag.Position, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	found, err := locateInChild(ctx, c, locateRequest{Paths: paths})
	if _, died := errors.AsType[*childLimitError](err); died { // an imported file exhausts the limits: look in the entry file only
		found, err = locateInChild(ctx, c, locateRequest{Paths: paths, Shallow: true})
	}
	if _, died := errors.AsType[*childLimitError](err); died {
		return startOfEntry(c, paths), nil
	}
	return found, err
}

// locateInChild locates paths in a child process.
func locateInChild(ctx context.Context, c Config, r locateRequest) ([]diag.Position, error) {
	a, err := runChild(ctx, request{Config: c, Locate: &r})
	if err != nil {
		return nil, err
	}
	return a.Positions, nil
}

// startOfEntry returns the first position of the entry file for each path.
func startOfEntry(c Config, paths [][]string) []diag.Position {
	out := make([]diag.Position, len(paths))
	for i := range out {
		out[i] = diag.Position{File: c.Entry, Line: 1, Col: 1}
	}
	return out
}

// answerLocate locates paths in this process.
func answerLocate(c Config, r locateRequest) []diag.Position {
	paths := r.Paths
	out := startOfEntry(c, paths)
	imp, err := newImporter(c.Root, c.JPath)
	if err != nil {
		return out
	}
	e, bad := newEvaluator(c, imp, false)
	if bad != nil {
		return out
	}
	l := &locator{e: e, fields: map[string][]*fieldSite{}, shallow: r.Shallow}
	l.collect("", c.Entry, map[string]bool{})
	// Each pass looks for the remaining paths, grouped by their last name, and
	// shortens those it did not find by one name.
	left := map[int][]string{}
	for i, p := range paths {
		if l.shallow {
			p = p[:min(len(p), 2)] // deeper paths would read the library
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
		for _, name := range sets.Keys(groups) {
			l.locateGroup(groups[name], left, l.fields[name], paths, out)
		}
		rest := make([]int, 0, len(left))
		for i := range left {
			rest = append(rest, i)
		}
		l.locateGroup(rest, left, l.computed, paths, out)
		for i, p := range left {
			left[i] = p[:len(p)-1]
		}
	}
	return out
}

// maxPasses limits how often a group of paths is searched. A path not found by
// then gets the position of the field around it.
const maxPasses = 12

// locateGroup looks for a group of paths among marks and deletes those it found
// from left. Paths of the same form are found together: the first path shows
// which marks belong to enclosing fields, and the others are then evaluated in
// one batch without these marks.
func (l *locator) locateGroup(group []int, left map[int][]string, marks []*fieldSite, paths [][]string, out []diag.Position) {
	slices.Sort(group)
	for pass := 0; len(group) > 0 && len(marks) > 0 && pass < maxPasses; pass++ {
		first := group[0]
		f, enclosing, ok := l.findField(left[first], marks)
		if ok {
			out[first] = f.element(paths[first][len(left[first]):])
			delete(left, first)
		}
		group = l.locateBatch(group[1:], left, marks, enclosing, paths, out)
	}
}

// fieldSite is one field of an object literal in a source file.
type fieldSite struct {
	node *ast.DesugaredObjectField
	body ast.Node
	pos  diag.Position
}

// element returns the position of an element below the field as far as its list
// is a literal, else the position of the field.
func (f *fieldSite) element(rest []string) diag.Position {
	node := f.body
	pos := f.pos
	for _, k := range rest {
		i, err := strconv.Atoi(k)
		if err != nil {
			break
		}
		if node = nthElement(node, i); node == nil || node.Loc() == nil {
			break
		}
		if p := position(*node.Loc()); p.Known() && isUserFile(p.File) {
			pos = p
		}
	}
	return pos
}

// nthElement returns element i of a list literal, or of lists joined with +; nil
// if there is none.
func nthElement(n ast.Node, i int) ast.Node {
	switch n := n.(type) {
	case *ast.Local:
		return nthElement(n.Body, i)
	case *ast.Parens:
		return nthElement(n.Inner, i)
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
			return nthElement(n.Right, i-len(left.Elements))
		}
	}
	return nil
}

// locator finds the fields that define values.
type locator struct {
	e        *evaluator
	fields   map[string][]*fieldSite
	computed []*fieldSite
	shallow  bool
}

// collect records the fields of a file and of all files that it imports.
func (l *locator) collect(from, file string, seen map[string]bool) {
	node, place, err := l.e.vm.ImportAST(from, file)
	if err != nil || seen[place] || !isUserFile(place) {
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
				l.addField(&n.Fields[i])
			}
		}
		for _, child := range toolutils.Children(n) {
			walk(child)
		}
	}
	walk(node)
}

// addField records a field by its name, or as computed if the name is not a literal.
func (l *locator) addField(at *ast.DesugaredObjectField) {
	f := &fieldSite{node: at, body: at.Body, pos: position(at.LocRange)}
	if !f.pos.Known() {
		if loc := at.Body.Loc(); loc != nil {
			f.pos = position(*loc)
		}
	}
	if !f.pos.Known() || !isUserFile(f.pos.File) {
		return
	}
	if name, ok := at.Name.(*ast.LiteralString); ok {
		l.fields[name.Value] = append(l.fields[name.Value], f)
	} else {
		l.computed = append(l.computed, f)
	}
}

// locateBatch locates many paths in one evaluation, in which marks are strings
// instead of errors. It returns the paths that it could not locate.
func (l *locator) locateBatch(group []int, left map[int][]string, marks []*fieldSite, without map[int]bool, paths [][]string, out []diag.Position) []int {
	if len(group) == 0 {
		return nil
	}
	for i, f := range marks {
		if without[i] {
			continue
		}
		f.node.Body = &ast.LiteralString{Value: fmt.Sprintf("defx-position-%d", i), NodeBase: ast.NodeBase{LocRange: f.node.LocRange}}
	}
	defer func() {
		for _, f := range marks {
			f.node.Body = f.body
		}
	}()
	l.e.vm.ExtCode("defx-flush", "null")
	var b strings.Builder
	b.WriteString(atFunction + "local s(v) = if std.isString(v) then v else '';\n")
	libs := map[string]bool{}
	for _, i := range group {
		if p := left[i]; len(p) > 1 && p[0] == "libs" && !libs[p[1]] {
			libs[p[1]] = true
			fmt.Fprintf(&b, "local lib%d = lib(%s);\n", len(libs), quoteJSON(p[1]))
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
				quoteJSON(p[1]+"/"+p[2]), number[p[1]], quoteJSON(p[2]))
			rest = p[3:]
		}
		b.WriteString("s(" + accessExpression(expr, rest) + "),\n")
	}
	b.WriteString("]")
	var found []string
	if l.e.evalInto(b.String(), &found) != nil || len(found) != len(group) {
		return group
	}
	var missing []int
	for n, i := range group {
		m := trailingMarkRE.FindStringSubmatch(found[n])
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

// trailingMarkRE matches a mark at the end of a string: a field with +: appends
// its mark to the string it extends.
var trailingMarkRE = regexp.MustCompile(`defx-position-(\d+)$`)

// atFunction is a Jsonnet function that returns field k of an object, element i
// of a list, or null.
const atFunction = "local at(v, k, i) = if std.isArray(v) then (if i < std.length(v) then v[i]) else if std.isObject(v) && std.objectHasAll(v, k) then v[k];\n"

// accessExpression returns a Jsonnet expression that follows path from expr.
func accessExpression(expr string, path []string) string {
	var b strings.Builder
	b.WriteString(strings.Repeat("at(", len(path)))
	b.WriteString(expr)
	for _, k := range path {
		i, err := strconv.Atoi(k)
		if err != nil {
			i = 0
		}
		fmt.Fprintf(&b, ", %s, %d)", quoteJSON(k), i)
	}
	return b.String()
}

// firedMarkRE matches the message of a mark that was evaluated.
var firedMarkRE = regexp.MustCompile(`^defx-position-(\d+)$`)

// findField returns the mark that defines the value at path. A mark that is hit
// by the path without its last name belongs to an enclosing field; it is removed
// and returned in enclosing.
func (l *locator) findField(path []string, marks []*fieldSite) (found *fieldSite, enclosing map[int]bool, ok bool) {
	enclosing = map[int]bool{}
	for i, f := range marks {
		f.node.Body = &ast.Error{Expr: &ast.LiteralString{Value: fmt.Sprintf("defx-position-%d", i)}, NodeBase: ast.NodeBase{LocRange: f.node.LocRange}}
	}
	defer func() {
		for _, f := range marks {
			f.node.Body = f.body
		}
	}()
	for range len(marks) + 1 {
		if n, fired := l.firedMark(path[:len(path)-1]); fired {
			if enclosing[n] {
				return nil, enclosing, false
			}
			enclosing[n] = true
			marks[n].node.Body = marks[n].body
			continue
		}
		n, fired := l.firedMark(path)
		if !fired {
			return nil, enclosing, false
		}
		return marks[n], enclosing, true
	}
	return nil, enclosing, false
}

// firedMark evaluates the type of the value at path and returns the number of
// the mark that it hit.
func (l *locator) firedMark(path []string) (int, bool) {
	l.e.vm.ExtCode("defx-flush", "null") // discards values that were evaluated without the marks
	expr := "d"
	switch {
	case len(path) > 2 && path[0] == "libs":
		expr = fmt.Sprintf("f(%s, %s)", quoteJSON(path[1]), quoteJSON(path[2]))
		path = path[3:]
	case len(path) > 1 && path[0] == "libs":
		expr = "lib(" + quoteJSON(path[1]) + ")"
		path = path[2:]
	}
	node, err := jsonnet.SnippetToAST(driver, prelude+atFunction+"std.type("+accessExpression(expr, path)+")")
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
	m := firedMarkRE.FindStringSubmatch(runtime.Msg)
	if m == nil {
		return 0, false
	}
	n, _ := strconv.Atoi(m[1])
	return n, true
}
