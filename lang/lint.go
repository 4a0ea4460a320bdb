package lang

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang/lint"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/linter"
	"github.com/google/go-jsonnet/toolutils"
)

// lintRequest asks for what is legal and wrong in the source. Theirs asks
// go-jsonnet's own linter, in a child of its own: it may take long or die.
type lintRequest struct{ Theirs bool }

// Lint looks at the files of a deployment, vendor/ and library folders apart,
// and for overrides that change nothing. What it finds of the latter has a
// path and no position. go-jsonnet's own linter is heard if it lives through it.
func Lint(ctx context.Context, c Config) ([]lint.Finding, error) {
	a, err := spawn(ctx, request{Config: c, Lint: &lintRequest{}})
	if d, is := errors.AsType[*dead](err); is {
		return nil, diag.List{diag.Errorf("", "%s", d.why).In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("%s", d.hint)}
	}
	if err != nil {
		return nil, err
	}
	if len(a.Errors) > 0 {
		return nil, a.Errors.Sort()
	}
	out := a.Findings
	if a, err = spawn(ctx, request{Config: c, Lint: &lintRequest{Theirs: true}}); err == nil {
		out = append(out, a.Findings...)
	} else if _, is := errors.AsType[*dead](err); !is {
		return nil, err
	}
	return lint.Sort(out), nil
}

func lintAll(c Config, r lintRequest, a *answer) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		a.Errors = diag.List{diag.Errorf("", "%v", err)}
		return
	}
	e, bad := newEvaluator(c, i, false)
	if bad != nil {
		a.Errors = diag.List{bad}
		return
	}
	sources := map[string]string{}
	e.sources("", c.Entry, i, sources)
	if !r.Theirs {
		a.Findings = e.idleOverrides()
	}
	for _, file := range slices.Sorted(maps.Keys(sources)) {
		if r.Theirs {
			a.Findings = append(a.Findings, e.theirs(file, sources[file])...)
		} else {
			a.Findings = append(a.Findings, lint.Tokens(file, sources[file])...)
		}
	}
}

// sources collects a file and what it imports, as far as it is the deployment's own.
func (e *evaluator) sources(from, file string, i *importer, into map[string]string) {
	node, place, err := e.vm.ImportAST(from, file)
	if _, seen := into[place]; err != nil || seen || !user(place) {
		return
	}
	if path.IsAbs(place) || strings.HasPrefix(place, "../") || strings.HasPrefix(place, "vendor/") {
		return // somebody else's
	}
	into[place] = i.seen[place].contents.String()
	var walk func(ast.Node)
	walk = func(n ast.Node) {
		if n == nil {
			return
		}
		if imp, ok := n.(*ast.Import); ok {
			e.sources(place, imp.File.Value, i, into)
		}
		for _, child := range toolutils.Children(n) {
			walk(child)
		}
	}
	walk(node)
}

// theirs is what go-jsonnet's linter says of a file. It knows more of types than
// of what people write, and now and then it panics: then it has said nothing.
func (e *evaluator) theirs(file, src string) []lint.Finding {
	f := &gatherer{file: file}
	defer func() { recover() }()
	defer func(old jsonnet.ErrorFormatter) { e.vm.ErrorFormatter = old }(e.vm.ErrorFormatter)
	e.vm.ErrorFormatter = f
	linter.LintSnippet(e.vm, io.Discard, []linter.Snippet{{FileName: file, Code: src}})
	return f.found
}

// gatherer takes the errors that go-jsonnet's linter means to print.
type gatherer struct {
	file  string
	found []lint.Finding
}

func (g *gatherer) Format(err error) string {
	static, ok := err.(interface{ Loc() ast.LocationRange })
	if !ok {
		return ""
	}
	loc := static.Loc()
	p := position(loc)
	if p.File != g.file || !p.Known() {
		return ""
	}
	f := lint.Finding{Rule: "jsonnet", Level: lint.Warning, Position: p, Message: strings.TrimSpace(strings.TrimPrefix(err.Error(), loc.String())),
		Hint: "go-jsonnet's own linter says so"}
	if name, is := strings.CutPrefix(f.Message, "Unused variable: "); is {
		f.Rule, f.Message, f.Hint = "unused-variable", fmt.Sprintf("the local %q is read nowhere", name), "remove it"
	}
	g.found = append(g.found, f)
	return ""
}

func (*gatherer) SetMaxStackTraceSize(int)                 {}
func (*gatherer) SetColorFormatter(jsonnet.ColorFormatter) {}

// idle lists the fields of a patch that give what the base has already. What is
// added to (+:) is looked into; a probe tells it from what is put in its place.
const idle = `local idle(base, full, patch) = std.flatMap(function(f)
  if std.startsWith(f, '#') || !std.objectHas(base, f) || !std.objectHas(full, f) then []
  else if base[f] == full[f] then [[f]]
  else if std.isObject(base[f]) && std.isObject(full[f]) && std.objectHasAll(({ [f]: { 'defx-probe': 1 } } + patch)[f], 'defx-probe')
  then [[f] + p for p in idle(base[f], full[f], patch[f])]
  else [], std.objectFields(patch));
`

// idleOverrides finds overrides, or fields of them, without effect. One that
// reads what it overrides cannot be taken apart and is left alone.
func (e *evaluator) idleOverrides() []lint.Finding {
	var out []lint.Finding
	var names []string
	e.askInto("[k for k in std.objectFields(o) if o[k] != null]", &names)
	for _, name := range names {
		l, n, _ := strings.Cut(name, "/")
		var paths [][]string
		if e.askInto(fmt.Sprintf("%slocal base = lib(%s)[%s]; idle(base, f(%s, %s), o[%s])", idle, quote(l), quote(n), quote(l), quote(n), quote(name)), &paths) != nil {
			continue
		}
		for _, p := range paths {
			out = append(out, lint.Finding{Rule: lint.UnusedOverride, Level: lint.Warning, Subject: name, Path: append([]string{"overrides", name}, p...),
				Message: fmt.Sprintf("the override of %s changes nothing: the library says the same", strings.Join(p, ".")), Hint: "remove it"})
		}
	}
	return out
}
