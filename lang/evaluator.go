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
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// evaluator is one VM with the deployment's entry in reach. The VM keeps parsed
// and evaluated imports, so that asking for a second library costs only that.
type evaluator struct {
	vm      *jsonnet.VM
	careful *jsonnet.VM // asked for the words of what failed in an eager vm; nil until then
	eager   bool
	i       *recorder
	base    map[string]ReadRecord // what was read before the first question
	text    map[string]string     // external variables of all VMs, as strings
	code    map[string]string     // and as code
	env     string                // the environment's name
}

// headFile is what all questions read: a file of ours, which is parsed once.
const headFile = "<head>"

// head is what every question begins with.
const head = "local h = import '" + headFile + "', d = h.d, o = h.o, lib = h.lib, pack = h.pack, f = h.f;\n"

// newEvaluator parses the entry and binds its arguments. An eager one is faster;
// one that looks for errors does better without.
func newEvaluator(c Config, i *importer, eager bool) (*evaluator, *diag.Error) {
	rec := &recorder{importer: i, used: map[string]ReadRecord{}}
	for _, r := range i.roads {
		rec.used[r.Path] = r
	}
	e := &evaluator{vm: newVM(rec, eager), eager: eager, i: rec, text: map[string]string{}, code: map[string]string{}, env: c.Env}
	node, _, err := e.vm.ImportAST("", c.Entry)
	if err != nil {
		return nil, explain(err)
	}
	f := function(e.vm, c.Entry, node, 0)
	var args []string
	declared := map[string]bool{}
	if f != nil {
		for _, p := range f.Parameters {
			declared[string(p.Name)] = true
			if lit, ok := p.DefaultArg.(*ast.LiteralString); ok && p.Name == "env" && e.env == "" {
				e.env = lit.Value
			}
		}
	}
	if e.env == "" {
		e.env = "default"
	}
	if c.Env != "" && declared["env"] {
		args = append(args, "env="+quote(c.Env))
	}
	for _, name := range slices.Sorted(maps.Keys(c.TLAStr)) {
		args = append(args, name+"="+quote(c.TLAStr[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.TLACode)) {
		e.code["defx-tla:"+name] = c.TLACode[name]
		e.vm.ExtCode("defx-tla:"+name, c.TLACode[name])
		args = append(args, name+"=std.extVar("+quote("defx-tla:"+name)+")")
	}
	for _, name := range slices.Sorted(maps.Keys(merge(c.TLAStr, c.TLACode))) {
		if !declared[name] {
			var known []string
			for k := range declared {
				known = append(known, k)
			}
			slices.Sort(known)
			hint := diag.Suggest(name, known)
			if hint == "" {
				hint = "it declares " + strings.Join(known, ", ")
			}
			if f == nil {
				hint = "the entry file is no function"
			}
			return nil, diag.Errorf("", "the entry file declares no parameter %q", name).In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("%s", hint)
		}
	}
	call := ""
	if f != nil {
		call = "(" + strings.Join(args, ", ") + ")"
	}
	i.head.CompareAndSwap(nil, &imported{contents: jsonnet.MakeContents("local d = (import " + quote(c.Entry) + ")" + call + ";\n" +
		"local o = if std.objectHasAll(d, 'overrides') then d.overrides else {};\n" +
		"local lib(l) = local x = d.libs[l]; if std.isFunction(x) then x() else x;\n" +
		// A functionality with patched replicas is given with the value of each: patches are applied here, with +.
		"local reps(x) = if std.isObject(x) && std.objectHas(x, 'place') && std.isObject(x.place) && std.objectHas(x.place, 'replicas') && std.isObject(x.place.replicas) then x.place.replicas else null;\n" +
		"local live(r) = [k for k in std.objectFields(r) if !std.startsWith(k, '#') && r[k] != null];\n" +
		"local pack(x) = local r = reps(x); if r == null then x else { '$value': x { place+: { replicas: { [k]: {} for k in live(r) } } }, '$replicas': { [k]: x + r[k] + { place+: { replicas: {} } } for k in live(r) } };\n" +
		"local f(l, n) = local k = l + '/' + n; if !std.objectHas(o, k) then lib(l)[n] else if o[k] == null then null else lib(l)[n] + o[k];\n" +
		"{ d: d, o: o, lib: lib, pack: pack, f: f }")})
	e.base = maps.Clone(rec.used)
	return e, nil
}

// alone runs questions that know of no others: nothing but parsed files is left
// of these. It gives what the answers are made of.
func (e *evaluator) alone(questions func()) []ReadRecord {
	e.vm.ExtCode("defx-flush", "null")
	if e.careful != nil {
		e.careful.ExtCode("defx-flush", "null")
	}
	e.i.used = maps.Clone(e.base)
	questions()
	return sortedReads(e.i.used)
}

// bind sets an external variable of all VMs.
func (e *evaluator) bind(name, text string) {
	e.text[name] = text
	e.vm.ExtVar(name, text)
	if e.careful != nil {
		e.careful.ExtVar(name, text)
	}
}

// field is where the entry writes one of its own fields, if it is written out there.
func (e *evaluator) field(entry, name string) (diag.Position, bool) {
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

func merge(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, b)
	return out
}

// function finds the function that a file is, through locals and imports.
func function(vm *jsonnet.VM, file string, node ast.Node, depth int) *ast.Function {
	switch n := node.(type) {
	case *ast.Function:
		return n
	case *ast.Local:
		return function(vm, file, n.Body, depth)
	case *ast.Import:
		if depth < 20 {
			if next, place, err := vm.ImportAST(file, n.File.Value); err == nil {
				return function(vm, place, next, depth+1)
			}
		}
	}
	return nil
}

func quote(s string) string {
	b, _ := json.Marshal(s) // a string always encodes; Jsonnet reads JSON strings
	return string(b)
}

// ask evaluates an expression behind the head and gives its JSON.
func (e *evaluator) ask(expr string) (json.RawMessage, *diag.Error) {
	node, err := jsonnet.SnippetToAST(driver, head+expr)
	if err != nil {
		return nil, explain(err)
	}
	out, err := e.vm.Evaluate(node)
	if err != nil && e.eager {
		if e.careful == nil {
			e.careful = newVM(e.i, false)
			for k, v := range e.code {
				e.careful.ExtCode(k, v)
			}
			for k, v := range e.text {
				e.careful.ExtVar(k, v)
			}
		}
		out, err = e.careful.Evaluate(node)
	}
	if err != nil {
		return nil, explain(err)
	}
	raw, err := compact(out)
	if err != nil {
		return nil, diag.Errorf("", "evaluation gave no JSON: %v", err)
	}
	return raw, nil
}

func (e *evaluator) askInto(expr string, v any) *diag.Error {
	raw, bad := e.ask(expr)
	if bad != nil {
		return bad
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return diag.Errorf("", "evaluation gave an unexpected form: %v", err)
	}
	return nil
}

// whole answers a wholeRequest. Of several libraries each goes to told as soon as
// it is there; nil = all are in the answer.
func whole(c Config, r wholeRequest, a *answer, told func(n int, l *Library)) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		a.Errors = diag.List{diag.Errorf("", "%v", err)}
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
	case r.OnlyFunc != "":
		a.Result = &Result{Libraries: []Library{{Name: r.Only, Functionalities: []Functionality{e.functionality(r.Only, r.OnlyFunc)}}}}
	case r.Only != "":
		a.Result = &Result{Libraries: []Library{e.library(r.Only)}}
	case len(r.Some) > 0:
		a.Result = &Result{Libraries: libraries(c, i, e, r.Some, told)}
	default:
		a.Result = &Result{}
		reads := e.alone(func() { a.Names, a.Errors = e.entry(c, a.Result) })
		if len(a.Errors) > 0 {
			return
		}
		a.Result.EntryReads = reads
		if r.All {
			a.Result.Libraries = libraries(c, i, e, a.Names[:min(batch, len(a.Names))], told)
		}
	}
	a.Result.Reads = i.list()
}

// entry evaluates the deployment without its libraries, and names them.
func (e *evaluator) entry(c Config, r *Result) ([]string, diag.List) {
	r.Environment = e.env
	whereIs := func(d *diag.Error) diag.List {
		if !d.Pos.Known() {
			d.Pos = diag.Position{File: c.Entry, Line: 1, Col: 1}
			if len(d.Path) == 1 { // a field of the entry that is of the wrong kind
				if pos, ok := e.field(c.Entry, d.Path[0]); ok {
					d.Pos = pos
				}
			}
		}
		return diag.List{d}
	}
	var kind string
	if bad := e.askInto("std.type(d)", &kind); bad != nil {
		return nil, whereIs(bad)
	}
	if kind != "object" {
		return nil, whereIs(diag.Errorf("", "a deployment is an object or a function that gives one, not a value of type %s", kind))
	}
	var libs, fields []string
	var errs diag.List
	if bad := e.askInto("if !std.objectHas(d, 'libs') then [] else if std.isObject(d.libs) then [l for l in std.objectFields(d.libs) if !std.startsWith(l, '#')] else error 'libs: an object name -> library is needed, not a value of type ' + std.type(d.libs)", &libs); bad != nil {
		errs = append(errs, whereIs(bad.At("libs"))...)
	}
	if bad := e.askInto("if std.isObject(o) then [k for k in std.objectFields(o) if !std.startsWith(k, '#')] else error 'overrides: an object lib/name -> patch is needed, not a value of type ' + std.type(o)", &r.Overrides); bad != nil {
		errs = append(errs, whereIs(bad.At("overrides"))...)
	}
	if bad := e.askInto("if !std.objectHasAll(d, 'transforms') then 0 else if std.isArray(d.transforms) then std.length(d.transforms) else error 'transforms: a list of { each: function } and { all: function } is needed, not a value of type ' + std.type(d.transforms)", &r.Transforms); bad != nil {
		errs = append(errs, whereIs(bad.At("transforms"))...)
	}
	if bad := e.askInto("[k for k in std.objectFields(d) if k != 'libs' && k != 'overrides' && k != 'transforms' && !std.startsWith(k, '#')]", &fields); bad != nil {
		return nil, whereIs(bad)
	}
	all := map[string]json.RawMessage{}
	if raw, bad := e.ask("{ [k]: d[k] for k in std.objectFields(d) if k != 'libs' && k != 'overrides' && k != 'transforms' && !std.startsWith(k, '#') }"); bad == nil {
		r.Deployment = raw
		return libs, errs
	}
	for _, k := range fields { // one by one, to tell all that is wrong
		raw, bad := e.ask("d[" + quote(k) + "]")
		if bad != nil {
			errs = append(errs, whereIs(bad)...)
			continue
		}
		all[k] = raw
	}
	r.Deployment, _ = json.Marshal(all)
	return libs, errs
}

func (e *evaluator) functionalities(l string) ([]string, *diag.Error) {
	var names []string
	bad := e.askInto("local x = lib("+quote(l)+"); if std.isObject(x) then [k for k in std.objectFields(x) if !std.startsWith(k, '#')] else error 'a library is an object name -> functionality, not a value of type ' + std.type(x)", &names)
	if bad != nil {
		bad.Subject = "library " + l
		bad.At("libs", l)
	}
	return names, bad
}

func (e *evaluator) functionality(l, n string) Functionality {
	f := Functionality{Name: n}
	var bad *diag.Error
	if f.Value, bad = e.ask(fmt.Sprintf("pack(f(%s, %s))", quote(l), quote(n))); bad != nil {
		f.Err = bad.At("libs", l, n)
		f.Err.Subject = l + "/" + n
	}
	return f
}

// library evaluates a library at once and, if that fails, each functionality by itself.
func (e *evaluator) library(l string) Library {
	out := Library{Name: l}
	q := quote(l)
	var overridden []string
	// The library is bound once: asked by name for each functionality, it would be evaluated as often.
	raw, bad := e.ask("local x = lib(" + q + "), p = " + quote(l+"/") + `;
assert std.isObject(x);
{
  overridden: [k for k in std.objectFields(o) if std.startsWith(k, p)],
  values: { [k]: if !std.objectHas(o, p + k) then pack(x[k]) else if o[p + k] == null then null else pack(x[k] + o[p + k]) for k in std.objectFields(x) if !std.startsWith(k, '#') },
}`)
	if bad == nil {
		both, err := members(raw)
		var values []member
		if err == nil && len(both) == 2 {
			if err = json.Unmarshal(both[0].value, &overridden); err == nil {
				values, err = members(both[1].value)
			}
		}
		if err != nil {
			bad = diag.Errorf("", "evaluation gave an unexpected form: %v", err)
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
		e.askInto("[k for k in std.objectFields(o)]", &overridden)
	}
	for i, f := range out.Functionalities {
		if f.Err == nil && slices.Contains(overridden, l+"/"+f.Name) {
			// A base that fails alone may be right with its override: then there is nothing to compare.
			out.Functionalities[i].Base, _ = e.ask(fmt.Sprintf("pack(lib(%s)[%s])", q, quote(f.Name)))
		}
	}
	return out
}

// libraries evaluates all libraries on all cores, each worker with a VM of its own.
func libraries(c Config, i *importer, first *evaluator, names []string, told func(n int, l *Library)) []Library {
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
			reads := e.alone(func() { out[n] = e.library(names[n]) })
			if out[n].Reads = reads; told != nil {
				told(n, &out[n])
			}
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
