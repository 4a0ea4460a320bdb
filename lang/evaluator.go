package lang

import (
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// evaluator is one VM that can query the deployment's entry. The VM keeps parsed
// and evaluated imports, so that querying a second library costs only that library.
type evaluator struct {
	vm         *jsonnet.VM
	strict     *jsonnet.VM // repeats what failed in a fast vm, for its error; nil until needed
	fast       bool
	imports    *recorder
	entryReads map[string]ReadRecord // what was read before the first query
	extVars    map[string]string     // external variables of both VMs, as strings
	extCode    map[string]string     // external variables of both VMs, as code
	env        string                // the environment's name
}

// preludeFile is the path of a generated file that every query imports, so that
// it is parsed once.
const preludeFile = "<prelude>"

// prelude is the beginning of every query.
const prelude = "local h = import '" + preludeFile + "', d = h.d, o = h.o, lib = h.lib, withReplicas = h.withReplicas, f = h.f;\n"

// entryCall is how the entry is called.
type entryCall struct {
	isFunction  bool
	declaresEnv bool     // it has the parameter env
	envDefault  string   // the literal default of env; "" if there is none
	args        []string // NAME=EXPRESSION, without env
}

// call returns the call of the entry with an expression for env.
func (c *entryCall) call(env string) string {
	if !c.isFunction {
		return ""
	}
	args := c.args
	if c.declaresEnv {
		args = append([]string{"env=" + env}, args...)
	}
	return "(" + strings.Join(args, ", ") + ")"
}

// newEvaluator parses the entry, chooses the environment and binds the entry's
// arguments. A fast evaluator tries a fast VM first; one whose queries are
// expected to fail should not be fast.
func newEvaluator(c Config, i *importer, fast bool) (*evaluator, *diag.Error) {
	e, entry, bad := parseEntry(c, i, fast)
	if bad != nil {
		return nil, bad
	}
	envs := i.environments.Load()
	if envs == nil { // evaluators that share an importer share the environments
		if envs, bad = e.environments(c, entry); bad != nil {
			return nil, bad
		}
		i.environments.Store(envs)
	}
	if e.env, bad = envs.Choose(c.Env); bad != nil {
		pos, ok := e.fieldPosition(c.Entry, environmentsField)
		if !ok {
			pos = diag.Position{File: c.Entry, Line: 1, Col: 1}
		}
		return nil, bad.In(pos)
	}
	i.prelude.CompareAndSwap(nil, &importedFile{contents: jsonnet.MakeContents("local d = (import " + quoteJSON(c.Entry) + ")" + entry.call(quoteJSON(e.env)) + ";\n" +
		"local o = if std.objectHasAll(d, 'overrides') then d.overrides else {};\n" +
		"local lib(l) = local x = d.libs[l]; if std.isFunction(x) then x() else x;\n" +
		// A functionality with patched replicas becomes a replicatedValue: patches are applied here, with +.
		"local replicasOf(x) = if std.isObject(x) && std.objectHas(x, 'place') && std.isObject(x.place) && std.objectHas(x.place, 'replicas') && std.isObject(x.place.replicas) then x.place.replicas else null;\n" +
		"local replicaNames(r) = [k for k in std.objectFields(r) if !std.startsWith(k, '#') && r[k] != null];\n" +
		"local withReplicas(x) = local r = replicasOf(x); if r == null then x else { '$value': x { place+: { replicas: { [k]: {} for k in replicaNames(r) } } }, '$replicas': { [k]: x + r[k] + { place+: { replicas: {} } } for k in replicaNames(r) } };\n" +
		"local f(l, n) = local k = l + '/' + n; if !std.objectHas(o, k) then lib(l)[n] else if o[k] == null then null else lib(l)[n] + o[k];\n" +
		"{ d: d, o: o, lib: lib, withReplicas: withReplicas, f: f }")})
	e.entryReads = maps.Clone(e.imports.used)
	return e, nil
}

// parseEntry returns an evaluator that cannot be queried yet, and how the entry
// is called.
func parseEntry(c Config, i *importer, fast bool) (*evaluator, *entryCall, *diag.Error) {
	rec := &recorder{importer: i, used: map[string]ReadRecord{}}
	for _, r := range i.searchPath {
		rec.used[r.Path] = r
	}
	e := &evaluator{vm: newVM(rec, fast), fast: fast, imports: rec, extVars: map[string]string{}, extCode: map[string]string{}}
	node, _, err := e.vm.ImportAST("", c.Entry)
	if err != nil {
		return nil, nil, e.convertError(err)
	}
	f := entryFunction(e.vm, c.Entry, node, 0)
	entry := &entryCall{isFunction: f != nil}
	var declared []string
	if f != nil {
		for _, p := range f.Parameters {
			declared = append(declared, string(p.Name))
			if p.Name == "env" {
				entry.declaresEnv = true
				if lit, ok := p.DefaultArg.(*ast.LiteralString); ok {
					entry.envDefault = lit.Value
				}
			}
		}
	}
	for _, name := range sets.Keys(c.TLAStr) {
		entry.args = append(entry.args, name+"="+quoteJSON(c.TLAStr[name]))
	}
	for _, name := range sets.Keys(c.TLACode) {
		e.extCode["defx-tla:"+name] = c.TLACode[name]
		e.vm.ExtCode("defx-tla:"+name, c.TLACode[name])
		entry.args = append(entry.args, name+"=std.extVar("+quoteJSON("defx-tla:"+name)+")")
	}
	for _, name := range sets.Keys(mergeMaps(c.TLAStr, c.TLACode)) {
		if slices.Contains(declared, name) {
			continue
		}
		slices.Sort(declared)
		hint := diag.Suggest(name, declared)
		if hint == "" {
			hint = "its parameters are " + strings.Join(declared, ", ")
		}
		if f == nil {
			hint = "the entry file is not a function"
		}
		return nil, nil, diag.Errorf("", "the entry file has no parameter %q", name).In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("%s", hint)
	}
	return e, entry, nil
}

// isolated runs queries that share nothing with earlier ones but parsed files,
// and returns what the results depend on.
func (e *evaluator) isolated(queries func()) []ReadRecord {
	e.vm.ExtCode("defx-flush", "null")
	if e.strict != nil {
		e.strict.ExtCode("defx-flush", "null")
	}
	e.imports.used = maps.Clone(e.entryReads)
	queries()
	return sortedReads(e.imports.used)
}

// bind sets an external variable of both VMs.
func (e *evaluator) bind(name, text string) {
	e.extVars[name] = text
	e.vm.ExtVar(name, text)
	if e.strict != nil {
		e.strict.ExtVar(name, text)
	}
}

// fieldPosition returns where the entry defines one of its fields, if the field
// is a literal there.
func (e *evaluator) fieldPosition(entry, name string) (diag.Position, bool) {
	node, _, err := e.vm.ImportAST("", entry)
	for err == nil && node != nil {
		switch n := node.(type) {
		case *ast.Function:
			node = n.Body
		case *ast.Local:
			node = n.Body
		case *ast.DesugaredObject:
			for i := range n.Fields {
				if lit, ok := n.Fields[i].Name.(*ast.LiteralString); ok && lit.Value == name {
					return position(n.Fields[i].LocRange), true
				}
			}
			return diag.Position{}, false
		default:
			return diag.Position{}, false
		}
	}
	return diag.Position{}, false
}

// mergeMaps returns the entries of a and b; b wins.
func mergeMaps(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, b)
	return out
}

// entryFunction returns the function that a file evaluates to, following locals
// and imports; nil if it is not a function.
func entryFunction(vm *jsonnet.VM, file string, node ast.Node, depth int) *ast.Function {
	switch n := node.(type) {
	case *ast.Function:
		return n
	case *ast.Local:
		return entryFunction(vm, file, n.Body, depth)
	case *ast.Import:
		if depth < 20 {
			if next, place, err := vm.ImportAST(file, n.File.Value); err == nil {
				return entryFunction(vm, place, next, depth+1)
			}
		}
	}
	return nil
}

// quoteJSON returns s as a Jsonnet string literal.
func quoteJSON(s string) string {
	b, _ := json.Marshal(s) // a string always encodes; Jsonnet reads JSON strings
	return string(b)
}

// eval evaluates an expression after the prelude and returns its JSON.
func (e *evaluator) eval(expr string) (json.RawMessage, *diag.Error) {
	node, err := jsonnet.SnippetToAST(driver, prelude+expr)
	if err != nil {
		return nil, convertError(err)
	}
	return e.evalNode(node)
}

// evalNode evaluates a parsed query and returns its JSON.
func (e *evaluator) evalNode(node ast.Node) (json.RawMessage, *diag.Error) {
	out, err := e.vm.Evaluate(node)
	if err != nil && e.fast {
		if e.strict == nil {
			e.strict = newVM(e.imports, false)
			for k, v := range e.extCode {
				e.strict.ExtCode(k, v)
			}
			for k, v := range e.extVars {
				e.strict.ExtVar(k, v)
			}
		}
		out, err = e.strict.Evaluate(node)
	}
	if err != nil {
		return nil, e.convertError(err)
	}
	raw, err := compact(out)
	if err != nil {
		return nil, diag.Errorf("", "evaluation did not produce JSON: %v", err)
	}
	return raw, nil
}

// convertError converts an error of go-jsonnet, with a hint from the source.
func (e *evaluator) convertError(err error) *diag.Error {
	out := convertError(err)
	if source, ok := e.imports.source(out.Pos.File); ok {
		addSourceHint(out, source)
	}
	return out
}

// evalInto is like eval and decodes the value into v.
func (e *evaluator) evalInto(expr string, v any) *diag.Error {
	raw, bad := e.eval(expr)
	if bad != nil {
		return bad
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return diag.Errorf("", "evaluation produced an unexpected form: %v", err)
	}
	return nil
}

// answerEvaluation answers an evaluationRequest. Each part of the answer is passed
// to send as soon as it is evaluated: the entry, if all libraries are requested,
// each library, and each of the requested functionalities. If send is nil, all are
// stored in the response.
func answerEvaluation(c Config, r evaluationRequest, a *response, send func(*response)) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		a.Errors = diag.List{diag.From(err)}
		return
	}
	e, bad := newEvaluator(c, i, true)
	if bad != nil {
		a.Errors = diag.List{bad}
		return
	}
	switch {
	case r.Only != "" && r.Names:
		a.Names, bad = e.functionalities(r.Only)
		if bad != nil {
			a.Errors = diag.List{bad}
		}
		return
	case len(r.Funcs) > 0:
		a.Result = &Result{Libraries: make([]Library, len(r.Funcs))}
		for n, name := range r.Funcs {
			a.Result.Libraries[n] = Library{Name: r.Only, Functionalities: []Functionality{e.functionality(r.Only, name)}}
			sendLibrary(send, n, &a.Result.Libraries[n])
		}
	case r.Only != "":
		a.Result = &Result{Libraries: []Library{e.library(r.Only)}}
	case len(r.Some) > 0:
		a.Result = &Result{Libraries: evaluateLibraries(c, i, e, r.Some, send)}
	default:
		a.Result = &Result{}
		reads := e.isolated(func() { a.Names, a.Errors = e.entry(c, a.Result) })
		if len(a.Errors) > 0 {
			return
		}
		a.Result.EntryReads = reads
		if r.All {
			if send != nil {
				send(&response{Entry: true, Names: a.Names, Result: a.Result})
			}
			a.Result.Libraries = evaluateLibraries(c, i, e, a.Names[:min(batchSize, len(a.Names))], send)
		}
	}
	a.Result.Reads = i.readRecords()
}

// sendLibrary passes a library to send, unless that is nil, and removes it.
func sendLibrary(send func(*response), n int, l *Library) {
	if send != nil {
		send(&response{At: n, Result: &Result{Libraries: []Library{*l}}})
		*l = Library{}
	}
}

// entry evaluates the deployment without its libraries into r, and returns the
// names of the libraries.
func (e *evaluator) entry(c Config, r *Result) ([]string, diag.List) {
	r.Environment = e.env
	withPosition := func(d *diag.Error) diag.List {
		if !d.Pos.Known() {
			d.Pos = diag.Position{File: c.Entry, Line: 1, Col: 1}
			if len(d.Path) == 1 { // a field of the entry that has the wrong type
				if pos, ok := e.fieldPosition(c.Entry, d.Path[0]); ok {
					d.Pos = pos
				}
			}
		}
		return diag.List{d}
	}
	var kind string
	if bad := e.evalInto("std.type(d)", &kind); bad != nil {
		return nil, withPosition(bad)
	}
	if kind != "object" {
		return nil, withPosition(diag.Errorf("", "a deployment must be an object or a function that returns one, not a value of type %s", kind).
			WithHint("{ name: 'shop', libs: { … }, machines: { … } }"))
	}
	var libs, fields []string
	var errs diag.List
	if bad := e.evalInto("if !std.objectHas(d, 'libs') then [] else if std.isObject(d.libs) then [l for l in std.objectFields(d.libs) if !std.startsWith(l, '#')] else "+
		jsonnetError("'libs: must be an object name -> library, not a value of type ' + std.type(d.libs)", "libs: { name: import 'library.libsonnet' }"), &libs); bad != nil {
		errs = append(errs, withPosition(bad.At("libs"))...)
	}
	if bad := e.evalInto("if std.isObject(o) then [k for k in std.objectFields(o) if !std.startsWith(k, '#')] else "+
		jsonnetError("'overrides: must be an object lib/name -> patch, not a value of type ' + std.type(o)", "overrides: { 'lib/name': { service+: { env+: { NAME: 'value' } } } }"), &r.Overrides); bad != nil {
		errs = append(errs, withPosition(bad.At("overrides"))...)
	}
	if bad := e.evalInto("if !std.objectHasAll(d, 'transforms') then 0 else if std.isArray(d.transforms) then std.length(d.transforms) else "+
		jsonnetError("'transforms: must be a list of { each: function } and { all: function }, not a value of type ' + std.type(d.transforms)", "transforms: [{ each: function(f) f }]"), &r.Transforms); bad != nil {
		errs = append(errs, withPosition(bad.At("transforms"))...)
	}
	if bad := e.evalInto("[k for k in std.objectFields(d) if k != 'libs' && k != 'overrides' && k != 'transforms' && !std.startsWith(k, '#')]", &fields); bad != nil {
		return nil, withPosition(bad)
	}
	all := map[string]json.RawMessage{}
	if raw, bad := e.eval("{ [k]: d[k] for k in std.objectFields(d) if k != 'libs' && k != 'overrides' && k != 'transforms' && !std.startsWith(k, '#') }"); bad == nil {
		r.Deployment = raw
		return libs, errs
	}
	for _, k := range fields { // one by one, to report all errors
		raw, bad := e.eval("d[" + quoteJSON(k) + "]")
		if bad != nil {
			errs = append(errs, withPosition(bad)...)
			continue
		}
		all[k] = raw
	}
	r.Deployment, _ = json.Marshal(all)
	return libs, errs
}

// functionalities returns the names of a library's functionalities.
func (e *evaluator) functionalities(l string) ([]string, *diag.Error) {
	var names []string
	bad := e.evalInto("local x = lib("+quoteJSON(l)+"); if std.isObject(x) then [k for k in std.objectFields(x) if !std.startsWith(k, '#')] else "+
		jsonnetError("'a library must be an object name -> functionality, not a value of type ' + std.type(x)", "{ name: { service: { command: ['/usr/bin/program'] } } }"), &names)
	if bad != nil {
		bad.Subject = "library " + l
		bad.At("libs", l)
	}
	return names, bad
}

// functionality evaluates one functionality.
func (e *evaluator) functionality(l, n string) Functionality {
	f := Functionality{Name: n}
	var bad *diag.Error
	if f.Value, bad = e.eval(fmt.Sprintf("withReplicas(f(%s, %s))", quoteJSON(l), quoteJSON(n))); bad != nil {
		f.Err = bad.At("libs", l, n)
		f.Err.Subject = l + "/" + n
	}
	return f
}

// library evaluates a library in one query and, if that fails, each
// functionality by itself.
func (e *evaluator) library(l string) Library {
	out := Library{Name: l}
	q := quoteJSON(l)
	var overridden []string
	// The library is bound to a local: otherwise it would be evaluated for each functionality.
	raw, bad := e.eval("local x = lib(" + q + "), p = " + quoteJSON(l+"/") + `;
assert std.isObject(x);
{
  overridden: [k for k in std.objectFields(o) if std.startsWith(k, p)],
  values: { [k]: if !std.objectHas(o, p + k) then withReplicas(x[k]) else if o[p + k] == null then null else withReplicas(x[k] + o[p + k]) for k in std.objectFields(x) if !std.startsWith(k, '#') },
}`)
	if bad == nil {
		fields, err := splitObject(raw)
		var values []member
		if err == nil && len(fields) == 2 {
			if err = json.Unmarshal(fields[0].value, &overridden); err == nil {
				values, err = splitObject(fields[1].value)
			}
		}
		if err != nil {
			bad = diag.Errorf("", "evaluation produced an unexpected form: %v", err)
		}
		for _, m := range values {
			out.Functionalities = append(out.Functionalities, Functionality{Name: m.name, Value: m.value})
		}
		slices.SortFunc(out.Functionalities, func(a, b Functionality) int { return strings.Compare(a.Name, b.Name) })
	}
	if bad != nil {
		names, bad := e.functionalities(l)
		if bad != nil {
			out.Err = bad
			return out
		}
		for _, n := range names {
			out.Functionalities = append(out.Functionalities, e.functionality(l, n))
		}
		e.evalInto("[k for k in std.objectFields(o)]", &overridden)
	}
	for i, f := range out.Functionalities {
		if f.Err == nil && slices.Contains(overridden, l+"/"+f.Name) {
			// A base that fails by itself may be valid with its override: then there is nothing to compare.
			out.Functionalities[i].Base, _ = e.eval(fmt.Sprintf("withReplicas(lib(%s)[%s])", q, quoteJSON(f.Name)))
		}
	}
	return out
}

// evaluateLibraries evaluates libraries on all cores, each worker with its own
// VM. Each library is passed to send, unless send is nil.
func evaluateLibraries(c Config, i *importer, first *evaluator, names []string, send func(*response)) []Library {
	out := make([]Library, len(names))
	jobs := make(chan int)
	var wg sync.WaitGroup
	work := func(e *evaluator) {
		for n := range jobs {
			if e == nil {
				var bad *diag.Error
				if e, bad = newEvaluator(c, i, true); bad != nil {
					out[n] = Library{Name: names[n], Err: bad}
					continue
				}
			}
			reads := e.isolated(func() { out[n] = e.library(names[n]) })
			out[n].Reads = reads
			sendLibrary(send, n, &out[n])
		}
	}
	for w := range min(runtime.GOMAXPROCS(0), max(len(names), 1)) {
		e := first
		if w > 0 {
			e = nil
		}
		wg.Go(func() { work(e) })
	}
	for n := range names {
		jobs <- n
	}
	close(jobs)
	wg.Wait()
	return out
}
