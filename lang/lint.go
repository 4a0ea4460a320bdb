package lang

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang/lint"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/linter"
	"github.com/google/go-jsonnet/toolutils"
)

// lintRequest asks for findings in the source. Upstream asks for those of
// go-jsonnet's own linter, which runs in a separate child process because it may
// take long or crash.
type lintRequest struct{ Upstream bool }

// Lint returns warnings and errors about the deployment's own files, without
// vendor/ and library directories, and about overrides that change nothing. The
// latter have a path and no position. Findings of go-jsonnet's own linter are
// included unless it crashes or exceeds a limit.
func Lint(ctx context.Context, c Config) (diag.List, error) {
	a, err := runChild(ctx, request{Config: c, Lint: &lintRequest{}})
	if d, is := errors.AsType[*childLimitError](err); is {
		return nil, diag.List{diag.Errorf("", "%s", d.summary).In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("%s", d.hint)}
	}
	if err != nil {
		return nil, err
	}
	if len(a.Errors) > 0 {
		return nil, a.Errors.Sort()
	}
	out := a.Findings
	if a, err = runChild(ctx, request{Config: c, Lint: &lintRequest{Upstream: true}}); err == nil {
		out = append(out, a.Findings...)
	} else if _, is := errors.AsType[*childLimitError](err); !is {
		return nil, err
	}
	return lint.Sort(out), nil
}

// answerLint answers a lintRequest.
func answerLint(c Config, r lintRequest, a *response) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		a.Errors = diag.List{diag.From(err)}
		return
	}
	e, bad := newEvaluator(c, i, false)
	if bad != nil {
		a.Errors = diag.List{bad}
		return
	}
	sources, texts := map[string]string{}, map[string]string{}
	e.collectSources("", c.Entry, i, sources, texts)
	if !r.Upstream {
		a.Findings = e.unusedOverrides()
	}
	for _, file := range sets.Keys(sources) {
		if r.Upstream {
			a.Findings = append(a.Findings, e.upstreamFindings(file, sources[file])...)
		} else {
			a.Findings = append(a.Findings, lint.Tokens(file, sources[file])...)
			a.Findings = append(a.Findings, lineEnds(file, sources[file])...)
		}
	}
	for _, file := range sets.Keys(texts) {
		if _, isSource := sources[file]; !isSource && !r.Upstream {
			a.Findings = append(a.Findings, lineEnds(file, texts[file])...)
		}
	}
}

// collectSources adds the sources of a file and of its imports to into, as far
// as they belong to the deployment itself, and the files imported as text to texts.
func (e *evaluator) collectSources(from, file string, i *importer, into, texts map[string]string) {
	node, place, err := e.vm.ImportAST(from, file)
	if _, seen := into[place]; err != nil || seen || !isUserFile(place) {
		return
	}
	foreign := func(place string) bool { // not part of the deployment's own source
		return path.IsAbs(place) || strings.HasPrefix(place, "../") || strings.HasPrefix(place, "vendor/")
	}
	if foreign(place) {
		return
	}
	into[place] = i.files[place].contents.String()
	var walk func(ast.Node)
	walk = func(n ast.Node) {
		if n == nil {
			return
		}
		if imp, ok := n.(*ast.Import); ok {
			e.collectSources(place, imp.File.Value, i, into, texts)
		}
		if imp, ok := n.(*ast.ImportStr); ok {
			if contents, at, err := i.Import(place, imp.File.Value); err == nil {
				if at = strings.TrimPrefix(at, bytesPrefix); isUserFile(at) && !foreign(at) {
					texts[at] = contents.String()
				}
			}
		}
		for _, child := range toolutils.Children(n) {
			walk(child)
		}
	}
	walk(node)
}

// upstreamFindings returns what go-jsonnet's linter reports about a file. It
// checks types more than style. It sometimes panics; then there are no findings.
func (e *evaluator) upstreamFindings(file, src string) diag.List {
	f := &findingCollector{file: file}
	defer func() { recover() }()
	defer func(old jsonnet.ErrorFormatter) { e.vm.ErrorFormatter = old }(e.vm.ErrorFormatter)
	e.vm.ErrorFormatter = f
	linter.LintSnippet(e.vm, io.Discard, []linter.Snippet{{FileName: file, Code: src}})
	return f.found
}

// findingCollector is an ErrorFormatter that collects the errors that go-jsonnet's
// linter formats.
type findingCollector struct {
	file  string
	found diag.List
}

// Format implements jsonnet.ErrorFormatter.
func (g *findingCollector) Format(err error) string {
	static, ok := err.(interface{ Loc() ast.LocationRange })
	if !ok {
		return ""
	}
	loc := static.Loc()
	p := position(loc)
	if p.File != g.file || !p.Known() {
		return ""
	}
	msg := strings.TrimSpace(strings.TrimPrefix(err.Error(), loc.String()))
	f := diag.Warningf("jsonnet", "", "%s", msg).WithHint("reported by go-jsonnet's own linter")
	if name, is := strings.CutPrefix(msg, "Unused variable: "); is {
		f = diag.Warningf("unused-variable", "", "the local %q is never used", name).WithHint("remove it")
	}
	g.found = append(g.found, f.In(p))
	return ""
}

func (*findingCollector) SetMaxStackTraceSize(int)                 {}
func (*findingCollector) SetColorFormatter(jsonnet.ColorFormatter) {}

// unusedFields is a Jsonnet function that returns the paths of the fields of a
// patch that have the same value in the base. Fields added with +: are compared
// recursively; a probe field distinguishes them from fields that replace.
const unusedFields = `local unused(base, full, patch) = std.flatMap(function(f)
  if std.startsWith(f, '#') || !std.objectHas(base, f) || !std.objectHas(full, f) then []
  else if base[f] == full[f] then [[f]]
  else if std.isObject(base[f]) && std.isObject(full[f]) && std.objectHasAll(({ [f]: { 'defx-probe': 1 } } + patch)[f], 'defx-probe')
  then [[f] + p for p in unused(base[f], full[f], patch[f])]
  else [], std.objectFields(patch));
`

// unusedOverrides returns findings for overrides, or fields of them, without
// effect. An override that reads what it overrides cannot be taken apart and is
// skipped.
func (e *evaluator) unusedOverrides() diag.List {
	var out diag.List
	var names []string
	e.evalInto("[k for k in std.objectFields(o) if o[k] != null]", &names)
	for _, name := range names {
		l, n, _ := strings.Cut(name, "/")
		var paths [][]string
		if e.evalInto(fmt.Sprintf("%slocal base = lib(%s)[%s]; unused(base, f(%s, %s), o[%s])", unusedFields, quoteJSON(l), quoteJSON(n), quoteJSON(l), quoteJSON(n), quoteJSON(name)), &paths) != nil {
			continue
		}
		for _, p := range paths {
			out = append(out, diag.Warningf(lint.UnusedOverride, name, "the override of %s changes nothing: the library has the same value", strings.Join(p, ".")).
				At(append([]string{"overrides", name}, p...)...).WithHint("remove it"))
		}
	}
	return out
}
