// Package lint finds mistakes in the source of Jsonnet files that are valid
// Jsonnet: tokens that are compared, measured or cut before their value is known.
//
// It knows syntax trees, and follows values through local names, fields,
// functions and the parameters of .each and .join. It refuses to evaluate, so a
// token that is passed in other ways is not found. Invariant: a finding has a
// position in the file that was checked.
package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/formatter"
)

// UnusedOverride is the code of overrides that change nothing.
const UnusedOverride = "idle-override"

// Sort sorts findings by position, code and message, and drops repetitions. A
// finding that several functionalities share, because they are made by one
// function, is reported once.
func Sort(l diag.List) diag.List {
	slices.SortStableFunc(l, func(a, b *diag.Error) int {
		return cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Msg, b.Msg))
	})
	return slices.CompactFunc(l, func(a, b *diag.Error) bool {
		return a.Code == b.Code && a.Pos == b.Pos && a.Msg == b.Msg
	})
}

// IsSilenced reports whether the line above a finding has the comment
// "defx-lint: ignore", either with the finding's code or without any.
func IsSilenced(src string, f *diag.Error) bool {
	lines := strings.Split(src, "\n")
	if f.Pos.Line < 2 || f.Pos.Line-2 >= len(lines) {
		return false
	}
	for _, mark := range []string{"//", "#"} {
		_, comment, ok := strings.Cut(lines[f.Pos.Line-2], mark)
		list, ignore := strings.CutPrefix(strings.TrimSpace(comment), "defx-lint: ignore")
		if !ok || !ignore {
			continue
		}
		codes := strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\r' })
		if len(codes) == 0 || slices.Contains(codes, f.Code) {
			return true
		}
	}
	return false
}

// Tokens returns findings for tokens that are compared, measured or cut. A file
// that does not parse has no findings: evaluation reports its errors.
func Tokens(file, src string) diag.List {
	node, _, err := formatter.SnippetToRawAST(file, src)
	if err != nil {
		return nil
	}
	w := &walker{file: file}
	w.walk(node, nil)
	return w.found
}

// IsConstant reports whether the field that begins at a position has the same
// value in every environment: its value refers to no variable.
func IsConstant(src string, p diag.Position) bool {
	node, _, err := formatter.SnippetToRawAST(p.File, src)
	if err != nil {
		return false
	}
	w := &walker{}
	w.constantAt = p
	w.walk(node, nil)
	return w.constant
}

// kind is what is known about the value of an expression.
type kind int

const (
	unknown       kind = iota
	library            // the embedded library
	reader             // a reference whose fields are read: dep(…), me, peers
	readerFunc         // a function that returns a reader
	tokenText          // a string that holds a token
	tokenTextFunc      // a function that returns a tokenText
	eachFunc           // .each and .join: functions whose argument is a function of a reader
)

// scope is a chain of local names, innermost first. Each has a kind, or an
// expression or function that is analyzed where the name is used.
type scope struct {
	name ast.Identifier
	kind kind
	body ast.Node      // nil: a parameter
	fun  *ast.Function // nil: not a function
	in   *scope        // the scope of body and fun
	up   *scope
}

func (s *scope) find(name ast.Identifier) *scope {
	for ; s != nil; s = s.up {
		if s.name == name {
			return s
		}
	}
	return nil
}

type walker struct {
	file  string
	found diag.List

	depth int // number of names that a value was followed through
	steps int // number of expressions analyzed: functions that call each other would never end

	constantAt diag.Position // the field that IsConstant asks for
	constant   bool
}

var libraryFields = map[string]kind{
	"dep": readerFunc, "ref": readerFunc, "all": readerFunc, "me": reader, "peers": reader,
	"secret": tokenTextFunc, "lookup": tokenTextFunc, "artifact": tokenTextFunc,
}

var readerFields = map[string]kind{
	"host": tokenText, "machine": tokenText, "name": tokenText, "index": tokenText, "here": reader,
	"port": tokenTextFunc, "output": tokenTextFunc, "label": tokenTextFunc, "dir": tokenTextFunc, "each": eachFunc, "join": eachFunc,
}

// kind returns the kind of an expression, as far as the source and local names show.
func (w *walker) kind(n ast.Node, s *scope) kind {
	if w.steps++; w.steps > maxSteps {
		return unknown
	}
	switch n := n.(type) {
	case *ast.Import:
		if strings.HasPrefix(n.File.Value, "defx/") {
			return library
		}
	case *ast.Var:
		if b := s.find(n.Id); b != nil && b.body != nil {
			return w.follow(b.body, b.in)
		} else if b != nil {
			return b.kind
		}
	case *ast.Parens:
		return w.kind(n.Inner, s)
	case *ast.Index:
		name := fieldName(n)
		switch w.kind(n.Target, s) {
		case library:
			return libraryFields[name]
		case reader:
			return readerFields[name]
		}
		if v, in := w.findField(n, s); v != nil {
			return w.follow(v, in)
		}
	case *ast.Apply:
		switch w.kind(n.Target, s) {
		case readerFunc:
			return reader
		case tokenTextFunc:
			return tokenText
		case eachFunc:
			if i, ok := n.Target.(*ast.Index); ok && fieldName(i) == "join" {
				return tokenText
			}
		}
		if v, ok := n.Target.(*ast.Var); ok {
			if b := s.find(v.Id); b != nil && b.fun != nil {
				in := b.in
				for i, p := range b.fun.Parameters {
					k := unknown
					if i < len(n.Arguments.Positional) {
						k = w.kind(n.Arguments.Positional[i].Expr, s)
					}
					in = &scope{name: p.Name, kind: k, up: in}
				}
				return w.follow(b.fun.Body, in)
			}
		}
		if name := stdName(n.Target, s); tokenPreserving[name] {
			for _, a := range n.Arguments.Positional {
				if w.containsToken(a.Expr, s) {
					return tokenText
				}
			}
		}
	case *ast.Binary:
		if (n.Op == ast.BopPlus || n.Op == ast.BopPercent) && (w.kind(n.Left, s) == tokenText || w.containsToken(n.Right, s)) {
			return tokenText
		}
	case *ast.Conditional:
		if w.kind(n.BranchTrue, s) == tokenText || n.BranchFalse != nil && w.kind(n.BranchFalse, s) == tokenText {
			return tokenText
		}
	case *ast.Local:
		return w.kind(n.Body, w.localScope(n.Binds, s))
	}
	return unknown
}

// containsToken reports whether a value is a string with a token, or a list with one.
func (w *walker) containsToken(n ast.Node, s *scope) bool {
	if l, ok := n.(*ast.Array); ok {
		for _, e := range l.Elements {
			if w.kind(e.Expr, s) == tokenText {
				return true
			}
		}
		return false
	}
	return w.kind(n, s) == tokenText
}

// tokenPreserving are the functions of std whose result contains the tokens of
// their arguments.
var tokenPreserving = map[string]bool{"format": true, "join": true, "toString": true, "asciiUpper": true, "asciiLower": true, "lines": true}

// inspectingFuncs are the functions of std that inspect a string, with the verb
// for messages.
var inspectingFuncs = map[string]string{
	"length": "measured", "md5": "hashed", "sha1": "hashed", "sha256": "hashed", "sha512": "hashed", "sha3": "hashed",
	"substr": "cut", "parseInt": "read as a number", "parseOctal": "read as a number", "parseHex": "read as a number",
	"parseJson": "parsed", "parseYaml": "parsed", "startsWith": "compared", "endsWith": "compared", "equals": "compared",
	"equalsIgnoreCase": "compared", "primitiveEquals": "compared", "isEmpty": "measured", "stringChars": "cut", "codepoint": "measured", "findSubstr": "searched", "base64": "encoded",
	"encodeUTF8": "encoded", "base64Decode": "decoded", "trim": "cut", "stripChars": "cut", "lstripChars": "cut", "rstripChars": "cut", "reverse": "cut",
	"escapeStringJson": "encoded", "escapeStringBash": "encoded", "escapeStringDollars": "encoded", "escapeStringXML": "encoded",
}

func fieldName(n *ast.Index) string {
	if n.Id != nil {
		return string(*n.Id)
	}
	if l, ok := n.Index.(*ast.LiteralString); ok {
		return l.Value
	}
	return ""
}

// stdName returns NAME for the expression std.NAME, or else "".
func stdName(n ast.Node, s *scope) string {
	i, ok := n.(*ast.Index)
	if !ok {
		return ""
	}
	if v, ok := i.Target.(*ast.Var); ok && v.Id == "std" {
		for ; s != nil; s = s.up {
			if s.name == "std" {
				return ""
			}
		}
		return fieldName(i)
	}
	return ""
}

// maxSteps limits the number of expressions analyzed per file.
const maxSteps = 1 << 20

// follow returns the kind of an expression that a name or function refers to; an
// expression that refers to itself has none.
func (w *walker) follow(n ast.Node, s *scope) kind {
	if w.depth++; w.depth > maxDepth {
		w.depth--
		return unknown
	}
	defer func() { w.depth-- }()
	return w.kind(n, s)
}

// maxDepth is how many names a value is followed through.
const maxDepth = 20

// findObject returns the object literal that an expression refers to, and its scope.
func (w *walker) findObject(n ast.Node, s *scope) (*ast.Object, *scope) {
	for range maxDepth {
		switch o := n.(type) {
		case *ast.Object:
			return o, w.objectScope(o.Fields, s)
		case *ast.Parens:
			n = o.Inner
			continue
		case *ast.Var:
			if b := s.find(o.Id); b != nil && b.body != nil {
				n, s = b.body, b.in
				continue
			}
		case *ast.Index:
			if v, in := w.findField(o, s); v != nil {
				n, s = v, in
				continue
			}
		}
		break
	}
	return nil, nil
}

// findField returns the expression that defines the field o.name, and its scope.
func (w *walker) findField(n *ast.Index, s *scope) (ast.Node, *scope) {
	if w.depth++; w.depth > maxDepth {
		w.depth--
		return nil, nil
	}
	defer func() { w.depth-- }()
	o, in := w.findObject(n.Target, s)
	if o == nil {
		return nil, nil
	}
	for _, f := range o.Fields {
		if f.Id != nil && string(*f.Id) == fieldName(n) && f.Kind != ast.ObjectLocal && f.Method == nil {
			return f.Expr2, in
		}
	}
	return nil, nil
}

// localScope adds local names, which can refer to each other.
func (w *walker) localScope(binds ast.LocalBinds, s *scope) *scope {
	var added []*scope
	for _, b := range binds {
		s = &scope{name: b.Variable, body: b.Body, fun: b.Fun, up: s}
		if b.Fun != nil {
			s.body = nil
		} else if f, ok := b.Body.(*ast.Function); ok {
			s.body, s.fun = nil, f
		}
		added = append(added, s)
	}
	for _, a := range added {
		a.in = s
	}
	return s
}

// objectScope adds the locals of an object, which its values can refer to.
func (w *walker) objectScope(fields ast.ObjectFields, s *scope) *scope {
	var locals ast.LocalBinds
	for _, f := range fields {
		if f.Kind == ast.ObjectLocal && f.Id != nil {
			locals = append(locals, ast.LocalBind{Variable: *f.Id, Body: f.Expr2, Fun: f.Method})
		}
	}
	return w.localScope(locals, s)
}

// paramScope adds a function's parameters, the first with a kind.
func paramScope(f *ast.Function, first kind, s *scope) *scope {
	for i, p := range f.Parameters {
		k := unknown
		if i == 0 {
			k = first
		}
		s = &scope{name: p.Name, kind: k, up: s}
	}
	return s
}

// report adds a finding about a token, with a verb for what is done to it.
func (w *walker) report(n ast.Node, code, verb, hint string) {
	p := diag.Position{File: w.file}
	if loc := n.Loc(); loc != nil {
		p.Line, p.Col = loc.Begin.Line, loc.Begin.Column
	}
	w.found = append(w.found, diag.Errorf("", "a value that is only known later is %s", verb).WithCode(code).In(p).WithHint("%s", hint))
}

const (
	compareHint = "its value is not known yet, so the result is meaningless: compare what it is made from, or let the service decide"
	measureHint = "a token may only be concatenated with + or formatted with %"
)

func (w *walker) walk(n ast.Node, s *scope) {
	switch n := n.(type) {
	case *ast.Binary:
		left, right := w.kind(n.Left, s) == tokenText, w.kind(n.Right, s) == tokenText
		switch n.Op {
		case ast.BopManifestEqual, ast.BopManifestUnequal, ast.BopLess, ast.BopLessEq, ast.BopGreater, ast.BopGreaterEq:
			if left || right {
				w.report(n, "token-compared", "compared", compareHint)
			}
		case ast.BopPlus:
			if left && isNumber(n.Right) || right && isNumber(n.Left) {
				w.report(n, "token-measured", "added to a number", "+ concatenates strings here: 80 + 1 would be 801; define another port instead")
			}
		}
		w.walk(n.Left, s)
		w.walk(n.Right, s)
	case *ast.Apply:
		name := stdName(n.Target, s)
		for _, a := range n.Arguments.Positional {
			if what := inspectingFuncs[name]; what != "" && w.kind(a.Expr, s) == tokenText {
				code, hint := "token-measured", measureHint
				if what == "compared" {
					code, hint = "token-compared", compareHint
				}
				w.report(n, code, fmt.Sprintf("%s by std.%s", what, name), hint)
			}
			if f, ok := a.Expr.(*ast.Function); ok && w.kind(n.Target, s) == eachFunc {
				w.walkFunction(f, reader, s)
				continue
			}
			w.walk(a.Expr, s)
		}
		for _, a := range n.Arguments.Named {
			w.walk(a.Arg, s)
		}
		w.walk(n.Target, s)
	case *ast.Index:
		if n.Id == nil {
			if w.kind(n.Target, s) == tokenText {
				w.report(n, "token-measured", "cut", measureHint)
			}
			w.walk(n.Index, s)
		}
		w.walk(n.Target, s)
	case *ast.Slice:
		if w.kind(n.Target, s) == tokenText {
			w.report(n, "token-measured", "cut", measureHint)
		}
		for _, c := range []ast.Node{n.Target, n.BeginIndex, n.EndIndex, n.Step} {
			w.walk(c, s)
		}
	case *ast.Local:
		inner := w.localScope(n.Binds, s)
		for _, b := range n.Binds {
			if b.Fun != nil {
				w.walkFunction(b.Fun, unknown, inner)
			} else {
				w.walk(b.Body, inner)
			}
		}
		w.walk(n.Body, inner)
	case *ast.Function:
		w.walkFunction(n, unknown, s)
	case *ast.Object:
		w.walkFields(n.Fields, s, s)
	case *ast.ObjectComp:
		inner := w.walkComprehension(&n.Spec, s)
		w.walkFields(n.Fields, inner, inner)
	case *ast.ArrayComp:
		w.walk(n.Body, w.walkComprehension(&n.Spec, s))
	case *ast.Array:
		for _, e := range n.Elements {
			w.walk(e.Expr, s)
		}
	case *ast.ApplyBrace:
		w.walk(n.Left, s)
		w.walk(n.Right, s)
	case *ast.Assert:
		w.walk(n.Cond, s)
		w.walk(n.Message, s)
		w.walk(n.Rest, s)
	case *ast.Conditional:
		w.walk(n.Cond, s)
		w.walk(n.BranchTrue, s)
		w.walk(n.BranchFalse, s)
	case *ast.Error:
		w.walk(n.Expr, s)
	case *ast.Parens:
		w.walk(n.Inner, s)
	case *ast.Unary:
		w.walk(n.Expr, s)
	case *ast.SuperIndex:
		w.walk(n.Index, s)
	case *ast.InSuper:
		w.walk(n.Index, s)
	}
}

// isLiteral reports whether an expression is a literal.
func isLiteral(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.LiteralString, *ast.LiteralNumber, *ast.LiteralBoolean, *ast.LiteralNull:
		return true
	case *ast.Parens:
		return isLiteral(n.Inner)
	case *ast.Unary:
		return isLiteral(n.Expr)
	case *ast.Array:
		for _, e := range n.Elements {
			if !isLiteral(e.Expr) {
				return false
			}
		}
		return true
	case *ast.Object:
		for _, f := range n.Fields {
			if f.Method != nil || f.Expr1 != nil && !isLiteral(f.Expr1) || f.Expr2 == nil || !isLiteral(f.Expr2) {
				return false
			}
		}
		return true
	}
	return false
}

func isNumber(n ast.Node) bool {
	_, ok := n.(*ast.LiteralNumber)
	return ok
}

func (w *walker) walkFunction(f *ast.Function, first kind, s *scope) {
	inner := paramScope(f, first, s)
	for _, p := range f.Parameters {
		w.walk(p.DefaultArg, inner)
	}
	w.walk(f.Body, inner)
}

// walkFields walks the fields of an object; all of its values see its locals.
func (w *walker) walkFields(fields ast.ObjectFields, outside, s *scope) {
	inner := w.objectScope(fields, s)
	for _, f := range fields {
		if b := f.LocRange.Begin; w.constantAt.Line == b.Line && w.constantAt.Col == b.Column && w.constantAt.Known() {
			w.constant = f.Expr2 != nil && isLiteral(f.Expr2)
		}
		w.walk(f.Expr1, outside)
		if f.Method != nil {
			w.walkFunction(f.Method, unknown, inner)
			continue
		}
		w.walk(f.Expr2, inner)
		w.walk(f.Expr3, inner)
	}
}

// walkComprehension walks for and if clauses, and returns the scope of the body.
func (w *walker) walkComprehension(spec *ast.ForSpec, s *scope) *scope {
	if spec.Outer != nil {
		s = w.walkComprehension(spec.Outer, s)
	}
	w.walk(spec.Expr, s)
	inner := &scope{name: spec.VarName, up: s}
	for _, c := range spec.Conditions {
		w.walk(c.Expr, inner)
	}
	return inner
}
