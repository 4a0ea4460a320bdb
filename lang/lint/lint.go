// Package lint finds in the source of Jsonnet files what is legal and wrong:
// tokens that are compared, measured or cut, though nobody knows their text yet.
//
// It knows syntax trees, and follows values through local names, fields, functions and the
// parameters of .each and .join. It refuses to evaluate: what reaches a token
// by other ways is not seen. Invariant: a finding names a place in the file it
// was given.
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

// Levels of findings.
const (
	Error   = "error"   // it cannot do what it seems to
	Warning = "warning" // it does, but somebody will be sorry
)

// UnusedOverride is the rule of overrides that change nothing.
const UnusedOverride = "idle-override"

// Finding is one thing that is legal and wrong.
type Finding struct {
	Rule     string        `json:"rule"`
	Level    string        `json:"level"`
	Position diag.Position `json:"position"`
	Subject  string        `json:"subject,omitempty"` // lib/name, if it is about one
	Path     []string      `json:"path,omitempty"`    // the way to the value inside the entry's value, if known
	Message  string        `json:"message"`
	Hint     string        `json:"hint,omitempty"`
}

// Sort orders by position, rule and message, and drops repetitions.
func Sort(l []Finding) []Finding {
	slices.SortStableFunc(l, func(a, b Finding) int {
		p, q := a.Position, b.Position
		return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Col, q.Col),
			cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(l, func(a, b Finding) bool {
		return a.Rule == b.Rule && a.Position == b.Position && a.Message == b.Message
	})
}

// IsSilenced tells whether the line before a finding's says "defx-lint: ignore"
// with its rule, or without any.
func IsSilenced(src string, f Finding) bool {
	lines := strings.Split(src, "\n")
	if f.Position.Line < 2 || f.Position.Line-2 >= len(lines) {
		return false
	}
	for _, mark := range []string{"//", "#"} {
		_, comment, ok := strings.Cut(lines[f.Position.Line-2], mark)
		rules, asks := strings.CutPrefix(strings.TrimSpace(comment), "defx-lint: ignore")
		if !ok || !asks {
			continue
		}
		words := strings.FieldsFunc(rules, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\r' })
		if len(words) == 0 || slices.Contains(words, f.Rule) {
			return true
		}
	}
	return false
}

// Tokens looks for tokens that are compared, measured or cut. A file that does
// not parse has no findings: evaluation tells what is wrong with it.
func Tokens(file, src string) []Finding {
	node, _, err := formatter.SnippetToRawAST(file, src)
	if err != nil {
		return nil
	}
	w := &walker{file: file}
	w.walk(node, nil)
	return w.found
}

// IsConstant tells whether the field that begins at a position says the same
// whatever the environment is: its value reads no name.
func IsConstant(src string, p diag.Position) bool {
	node, _, err := formatter.SnippetToRawAST(p.File, src)
	if err != nil {
		return false
	}
	w := &walker{}
	w.at = p
	w.walk(node, nil)
	return w.constant
}

// kind is what is known of an expression's value.
type kind int

const (
	other   kind = iota
	library      // the embedded library
	reader       // what fields of another functionality are read from: dep(…), me, peers
	toRead       // a function that gives one
	word         // a text that holds a token
	toWord       // a function that gives one
	each         // .each and .join: functions whose argument is a function of a reader
)

// scope is what local names stand for, the innermost first: a kind, or else an
// expression or function that is looked at where it is used.
type scope struct {
	name ast.Identifier
	kind kind
	body ast.Node      // nil: a parameter
	fun  *ast.Function // nil: no function
	in   *scope        // what body and fun see
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
	found []Finding

	depth int // names that a value was followed through
	steps int // looks at expressions: functions that call each other would need no end of them

	at       diag.Position // the field that Constant asks for
	constant bool
}

var libraryFields = map[string]kind{
	"dep": toRead, "ref": toRead, "all": toRead, "me": reader, "peers": reader,
	"secret": toWord, "lookup": toWord, "artifact": toWord,
}

var readerFields = map[string]kind{
	"host": word, "machine": word, "name": word, "index": word, "here": reader,
	"port": toWord, "output": toWord, "label": toWord, "dir": toWord, "each": each, "join": each,
}

// kind tells what an expression gives, as far as its text and local names tell.
func (w *walker) kind(n ast.Node, s *scope) kind {
	if w.steps++; w.steps > maxSteps {
		return other
	}
	switch n := n.(type) {
	case *ast.Import:
		if strings.HasPrefix(n.File.Value, "defx/") {
			return library
		}
	case *ast.Var:
		if b := s.find(n.Id); b != nil && b.body != nil {
			return w.inner(b.body, b.in)
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
		if v, in := w.field(n, s); v != nil {
			return w.inner(v, in)
		}
	case *ast.Apply:
		switch w.kind(n.Target, s) {
		case toRead:
			return reader
		case toWord:
			return word
		case each:
			if i, ok := n.Target.(*ast.Index); ok && fieldName(i) == "join" {
				return word
			}
		}
		if v, ok := n.Target.(*ast.Var); ok {
			if b := s.find(v.Id); b != nil && b.fun != nil {
				in := b.in
				for i, p := range b.fun.Parameters {
					k := other
					if i < len(n.Arguments.Positional) {
						k = w.kind(n.Arguments.Positional[i].Expr, s)
					}
					in = &scope{name: p.Name, kind: k, up: in}
				}
				return w.inner(b.fun.Body, in)
			}
		}
		if name := stdName(n.Target, s); carries[name] {
			for _, a := range n.Arguments.Positional {
				if w.holds(a.Expr, s) {
					return word
				}
			}
		}
	case *ast.Binary:
		if (n.Op == ast.BopPlus || n.Op == ast.BopPercent) && (w.kind(n.Left, s) == word || w.holds(n.Right, s)) {
			return word
		}
	case *ast.Conditional:
		if w.kind(n.BranchTrue, s) == word || n.BranchFalse != nil && w.kind(n.BranchFalse, s) == word {
			return word
		}
	case *ast.Local:
		return w.kind(n.Body, w.bind(n.Binds, s))
	}
	return other
}

// holds tells whether a value is a token's text or a list with one.
func (w *walker) holds(n ast.Node, s *scope) bool {
	if l, ok := n.(*ast.Array); ok {
		for _, e := range l.Elements {
			if w.kind(e.Expr, s) == word {
				return true
			}
		}
		return false
	}
	return w.kind(n, s) == word
}

// carries are the functions of std whose result holds the tokens of their arguments.
var carries = map[string]bool{"format": true, "join": true, "toString": true, "asciiUpper": true, "asciiLower": true, "lines": true}

// measures are the functions of std that look into a text. The value says what they do with it.
var measures = map[string]string{
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

// stdName is NAME of std.NAME; empty if it is something else.
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

// maxSteps bounds the looks at one file's expressions.
const maxSteps = 1 << 20

// inner is the kind of an expression that is looked at where it is used. One
// that leads to itself has none.
func (w *walker) inner(n ast.Node, s *scope) kind {
	if w.depth++; w.depth > maxDepth {
		w.depth--
		return other
	}
	defer func() { w.depth-- }()
	return w.kind(n, s)
}

// maxDepth is how far values are followed through names.
const maxDepth = 20

// object finds the object that an expression or name is written as.
func (w *walker) object(n ast.Node, s *scope) (*ast.Object, *scope) {
	for range maxDepth {
		switch o := n.(type) {
		case *ast.Object:
			return o, w.inside(o.Fields, s)
		case *ast.Parens:
			n = o.Inner
			continue
		case *ast.Var:
			if b := s.find(o.Id); b != nil && b.body != nil {
				n, s = b.body, b.in
				continue
			}
		case *ast.Index:
			if v, in := w.field(o, s); v != nil {
				n, s = v, in
				continue
			}
		}
		break
	}
	return nil, nil
}

// field finds the value that o.name is written as.
func (w *walker) field(n *ast.Index, s *scope) (ast.Node, *scope) {
	if w.depth++; w.depth > maxDepth {
		w.depth--
		return nil, nil
	}
	defer func() { w.depth-- }()
	o, in := w.object(n.Target, s)
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

// bind adds local names. They see each other.
func (w *walker) bind(binds ast.LocalBinds, s *scope) *scope {
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

// inside is what the values of an object see: its locals.
func (w *walker) inside(fields ast.ObjectFields, s *scope) *scope {
	var locals ast.LocalBinds
	for _, f := range fields {
		if f.Kind == ast.ObjectLocal && f.Id != nil {
			locals = append(locals, ast.LocalBind{Variable: *f.Id, Body: f.Expr2, Fun: f.Method})
		}
	}
	return w.bind(locals, s)
}

// params hides names of the scope that a function's parameters take, or gives the first a kind.
func params(f *ast.Function, first kind, s *scope) *scope {
	for i, p := range f.Parameters {
		k := other
		if i == 0 {
			k = first
		}
		s = &scope{name: p.Name, kind: k, up: s}
	}
	return s
}

func (w *walker) report(n ast.Node, rule, what, hint string) {
	p := diag.Position{File: w.file}
	if loc := n.Loc(); loc != nil {
		p.Line, p.Col = loc.Begin.Line, loc.Begin.Column
	}
	w.found = append(w.found, Finding{Rule: rule, Level: Error, Position: p, Message: "a value that is only known later is " + what, Hint: hint})
}

const (
	compareHint = "its text is not there yet, so the answer says nothing: compare what it was made of, or let the service decide"
	measureHint = "a token may be joined with + and %, and nothing else"
)

func (w *walker) walk(n ast.Node, s *scope) {
	switch n := n.(type) {
	case *ast.Binary:
		left, right := w.kind(n.Left, s) == word, w.kind(n.Right, s) == word
		switch n.Op {
		case ast.BopManifestEqual, ast.BopManifestUnequal, ast.BopLess, ast.BopLessEq, ast.BopGreater, ast.BopGreaterEq:
			if left || right {
				w.report(n, "token-compared", "compared", compareHint)
			}
		case ast.BopPlus:
			if left && number(n.Right) || right && number(n.Left) {
				w.report(n, "token-measured", "added to a number", "+ joins texts here: 80 + 1 would be 801; give the sum a port of its own")
			}
		}
		w.walk(n.Left, s)
		w.walk(n.Right, s)
	case *ast.Apply:
		name := stdName(n.Target, s)
		for _, a := range n.Arguments.Positional {
			if what := measures[name]; what != "" && w.kind(a.Expr, s) == word {
				rule, hint := "token-measured", measureHint
				if what == "compared" {
					rule, hint = "token-compared", compareHint
				}
				w.report(n, rule, fmt.Sprintf("%s by std.%s", what, name), hint)
			}
			if f, ok := a.Expr.(*ast.Function); ok && w.kind(n.Target, s) == each {
				w.function(f, reader, s)
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
			if w.kind(n.Target, s) == word {
				w.report(n, "token-measured", "cut", measureHint)
			}
			w.walk(n.Index, s)
		}
		w.walk(n.Target, s)
	case *ast.Slice:
		if w.kind(n.Target, s) == word {
			w.report(n, "token-measured", "cut", measureHint)
		}
		for _, c := range []ast.Node{n.Target, n.BeginIndex, n.EndIndex, n.Step} {
			w.walk(c, s)
		}
	case *ast.Local:
		inner := w.bind(n.Binds, s)
		for _, b := range n.Binds {
			if b.Fun != nil {
				w.function(b.Fun, other, inner)
			} else {
				w.walk(b.Body, inner)
			}
		}
		w.walk(n.Body, inner)
	case *ast.Function:
		w.function(n, other, s)
	case *ast.Object:
		w.fields(n.Fields, s, s)
	case *ast.ObjectComp:
		inner := w.comprehension(&n.Spec, s)
		w.fields(n.Fields, inner, inner)
	case *ast.ArrayComp:
		w.walk(n.Body, w.comprehension(&n.Spec, s))
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

// literal tells whether a value is written out.
func literal(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.LiteralString, *ast.LiteralNumber, *ast.LiteralBoolean, *ast.LiteralNull:
		return true
	case *ast.Parens:
		return literal(n.Inner)
	case *ast.Unary:
		return literal(n.Expr)
	case *ast.Array:
		for _, e := range n.Elements {
			if !literal(e.Expr) {
				return false
			}
		}
		return true
	case *ast.Object:
		for _, f := range n.Fields {
			if f.Method != nil || f.Expr1 != nil && !literal(f.Expr1) || f.Expr2 == nil || !literal(f.Expr2) {
				return false
			}
		}
		return true
	}
	return false
}

func number(n ast.Node) bool {
	_, ok := n.(*ast.LiteralNumber)
	return ok
}

func (w *walker) function(f *ast.Function, first kind, s *scope) {
	inner := params(f, first, s)
	for _, p := range f.Parameters {
		w.walk(p.DefaultArg, inner)
	}
	w.walk(f.Body, inner)
}

// fields walks an object: its locals are seen by all its values.
func (w *walker) fields(fields ast.ObjectFields, outside, s *scope) {
	inner := w.inside(fields, s)
	for _, f := range fields {
		if b := f.LocRange.Begin; w.at.Line == b.Line && w.at.Col == b.Column && w.at.Known() {
			w.constant = f.Expr2 != nil && literal(f.Expr2)
		}
		w.walk(f.Expr1, outside)
		if f.Method != nil {
			w.function(f.Method, other, inner)
			continue
		}
		w.walk(f.Expr2, inner)
		w.walk(f.Expr3, inner)
	}
}

// comprehension walks for and if, and gives the scope of what they repeat.
func (w *walker) comprehension(spec *ast.ForSpec, s *scope) *scope {
	if spec.Outer != nil {
		s = w.comprehension(spec.Outer, s)
	}
	w.walk(spec.Expr, s)
	inner := &scope{name: spec.VarName, up: s}
	for _, c := range spec.Conditions {
		w.walk(c.Expr, inner)
	}
	return inner
}
