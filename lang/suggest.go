package lang

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lib"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/formatter"
	"github.com/google/go-jsonnet/toolutils"
)

// hintRules see only the message of an error. For a misspelt name the source
// around the error shows what was probably meant: which library the name was
// looked up in, and which names there are.

var (
	missingFieldRE    = regexp.MustCompile(`^field does not exist: (.+)$`)
	unknownVariableRE = regexp.MustCompile(`^unknown variable: (\S+)$`)
	missingArgumentRE = regexp.MustCompile(`^missing argument: (\S+)$`)
)

// notAFunction is go-jsonnet's message for the call of an unknown native function.
const notAFunction = "unexpected type null, expected function"

// addSourceHint replaces the hint of an error if the source of the file that the
// error is in shows a better one.
func addSourceHint(e *diag.Error, source string) {
	if !e.Pos.Known() {
		return
	}
	missing, unknown, argument := missingFieldRE.FindStringSubmatch(e.Msg), unknownVariableRE.FindStringSubmatch(e.Msg), missingArgumentRE.FindStringSubmatch(e.Msg)
	if missing == nil && unknown == nil && argument == nil && e.Msg != notAFunction {
		return
	}
	root, _, err := formatter.SnippetToRawAST(e.Pos.File, source)
	if err != nil {
		return
	}
	s := &sourceFile{imports: map[string]string{}}
	s.walk(root)
	hint := ""
	switch {
	case missing != nil:
		hint = s.fieldHint(e.Pos, missing[1])
	case unknown != nil:
		hint = diag.Suggest(unknown[1], append(s.variables, "std"))
	case argument != nil:
		hint = s.argumentHint(e.Pos)
	default:
		hint = s.nativeHint()
	}
	if hint != "" {
		e.Hint = hint
	}
}

// sourceFile is what addSourceHint collects of a file.
type sourceFile struct {
	variables  []string          // names of locals and parameters
	parameters []string          // of them, the parameters
	imports    map[string]string // local → the path that it imports
	fields     []string          // literal names of fields
	reads      []*ast.Index
	calls      []*ast.Apply
}

// walk collects a node and all nodes below it.
func (s *sourceFile) walk(n ast.Node) {
	if n == nil {
		return
	}
	bind := func(b ast.LocalBind) {
		s.variables = append(s.variables, string(b.Variable))
		if imp, ok := b.Body.(*ast.Import); ok {
			s.imports[string(b.Variable)] = imp.File.Value
		}
		if b.Fun != nil {
			s.declare(b.Fun.Parameters)
		}
	}
	switch n := n.(type) {
	case *ast.Local:
		for _, b := range n.Binds {
			bind(b)
		}
	case *ast.Function:
		s.declare(n.Parameters)
	case *ast.Object:
		s.object(n.Fields)
	case *ast.ObjectComp:
		s.object(n.Fields)
		s.loop(&n.Spec)
	case *ast.ArrayComp:
		s.loop(&n.Spec)
	case *ast.Index:
		s.reads = append(s.reads, n)
		if n.Id != nil { // Children has nothing for these
			s.walk(n.Target)
		}
	case *ast.Apply:
		s.calls = append(s.calls, n)
	}
	for _, child := range toolutils.Children(n) {
		s.walk(child)
	}
}

// declare collects the parameters of a function.
func (s *sourceFile) declare(parameters []ast.Parameter) {
	for _, p := range parameters {
		s.variables, s.parameters = append(s.variables, string(p.Name)), append(s.parameters, string(p.Name))
	}
}

// object collects the fields and locals of an object.
func (s *sourceFile) object(fields ast.ObjectFields) {
	for _, f := range fields {
		switch {
		case f.Kind == ast.ObjectLocal && f.Id != nil:
			s.variables = append(s.variables, string(*f.Id))
			if imp, ok := f.Expr2.(*ast.Import); ok {
				s.imports[string(*f.Id)] = imp.File.Value
			}
		case f.Kind == ast.ObjectFieldID && f.Id != nil:
			s.fields = append(s.fields, string(*f.Id))
		case f.Kind == ast.ObjectFieldStr:
			if name, ok := f.Expr1.(*ast.LiteralString); ok {
				s.fields = append(s.fields, name.Value)
			}
		}
		if f.Method != nil {
			s.declare(f.Method.Parameters)
		}
	}
}

// loop collects the variables of a comprehension.
func (s *sourceFile) loop(spec *ast.ForSpec) {
	for ; spec != nil; spec = spec.Outer {
		s.variables = append(s.variables, string(spec.VarName))
	}
}

// readName returns the name that an expression such as a.name or a['name'] reads.
func readName(n *ast.Index) string {
	if n.Id != nil {
		return string(*n.Id)
	}
	if lit, ok := n.Index.(*ast.LiteralString); ok {
		return lit.Value
	}
	return ""
}

// readVariable returns the variable at the beginning of a chain of reads and
// calls, and the number of reads in it.
func readVariable(n ast.Node) (name string, depth int) {
	for {
		switch x := n.(type) {
		case *ast.Var:
			return string(x.Id), depth
		case *ast.Index:
			n = x.Target
			depth++
		case *ast.Apply:
			n = x.Target
		case *ast.Parens:
			n = x.Inner
		default:
			return "", depth
		}
	}
}

// fieldHint returns the hint for a field that does not exist.
func (s *sourceFile) fieldHint(pos diag.Position, name string) string {
	var read *ast.Index
	for _, r := range s.reads {
		if readName(r) == name && (read == nil || position(*r.Loc()) == diag.Position{File: pos.File, Line: pos.Line, Col: pos.Col}) {
			read = r
		}
	}
	if read == nil {
		return ""
	}
	known := libraryNames()
	variable, depth := readVariable(read.Target)
	suggest := func(what string, names []string) string {
		if hint := diag.Suggest(name, names); hint != "" {
			return hint
		}
		if len(names) > 40 {
			return what + " has no such field"
		}
		return what + " has " + strings.Join(names, ", ")
	}
	switch isLibrary := strings.HasPrefix(s.imports[variable], lib.Prefix); {
	case variable == "std" && depth == 0:
		return suggest("std", known.std)
	case isLibrary && depth == 0:
		return suggest(variable, known.library)
	case isLibrary:
		return suggest("a reference", known.reference)
	case slices.Contains(s.parameters, variable) && depth == 0:
		if hint := diag.Suggest(name, known.reference); hint != "" {
			return hint
		}
	}
	if len(name) < 3 {
		return "" // nearly every short name is similar
	}
	return diag.Suggest(name, s.fields)
}

// argumentForms are examples of the calls of the library's functions.
var argumentForms = map[string]string{
	"port": "port takes the name of a port: .port('sql')", "label": "label takes the name of a label: .label('team')",
	"dir": "dir takes the kind of a directory: .dir('state')", "output": "output takes the name of an output: .output('address')",
	"each": "each takes a function of a replica: .each(function(r) r.host)", "join": "join takes a separator and a function of a replica: .join(',', function(r) r.host)",
	"dep": "dep takes a name in requires or connects: defx.dep('db')", "ref": "ref takes the name of a functionality: defx.ref('lib/name')",
	"all":    "all takes a selection: defx.all({ port: 'metrics' })",
	"secret": "secret takes the name of a secret: defx.secret('name')", "lookup": "lookup takes a key: defx.lookup('key')",
	"artifact": "artifact takes a path or a URL: defx.artifact('./dist')", "group": "group takes an object name -> member: defx.group({ web: … })",
}

// argumentHint returns the hint for a call without one of its arguments.
func (s *sourceFile) argumentHint(pos diag.Position) string {
	for _, c := range s.calls {
		read, ok := c.Target.(*ast.Index)
		if !ok || position(*c.Loc()) != pos {
			continue
		}
		variable, depth := readVariable(read.Target)
		isReplica := slices.Contains(s.parameters, variable) && depth == 0 && slices.Contains(libraryNames().reference, readName(read))
		if strings.HasPrefix(s.imports[variable], lib.Prefix) || isReplica {
			return argumentForms[readName(read)]
		}
	}
	return ""
}

// nativeHint returns the hint for the call of an unknown native function, if the
// file has one.
func (s *sourceFile) nativeHint() string {
	for _, c := range s.calls {
		read, ok := c.Target.(*ast.Index)
		if !ok || readName(read) != "native" || len(c.Arguments.Positional) != 1 {
			continue
		}
		if variable, _ := readVariable(read.Target); variable != "std" {
			continue
		}
		hint := "there are no native functions here"
		if name, ok := c.Arguments.Positional[0].Expr.(*ast.LiteralString); ok {
			for _, n := range libraryNames().std {
				if strings.EqualFold(n, name.Value) {
					hint += "; use std." + n
				}
			}
		}
		return hint
	}
	return ""
}

// fieldNames are the names of the fields of what every program can read.
type fieldNames struct{ std, library, reference []string }

// libraryNames evaluates the names once.
var libraryNames = sync.OnceValue(func() (out fieldNames) {
	vm := newVM(newFreeImporter(nil), false)
	raw, err := vm.EvaluateAnonymousSnippet(driver, "local d = import '"+lib.Prefix+"v1.libsonnet', names(o) = [n for n in std.objectFieldsAll(o) if !std.startsWith(n, '$') && !std.startsWith(n, '#')];\n"+
		"[[n for n in names(std) if !std.startsWith(n, '_')], names(d), [n for n in names(d.dep('x')) if n != 'reference']]")
	var all [][]string
	if err != nil || json.Unmarshal([]byte(raw), &all) != nil || len(all) != 3 {
		return out // there are no suggestions then
	}
	return fieldNames{all[0], all[1], all[2]}
})
