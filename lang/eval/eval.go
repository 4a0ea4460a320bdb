package eval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// Mode says what becomes of the value of a program.
type Mode int

const (
	JSON   Mode = iota // one JSON document
	String             // a string, as it is
	Multi              // an object whose fields are files
	Stream             // an array whose elements are documents
)

// Arg is an external variable or a top-level argument.
type Arg struct {
	Value string
	Code  bool // Value is Jsonnet code, not a string
}

// Options configure a VM.
type Options struct {
	Importer Importer
	Limits   Limits
	Trace    io.Writer // where std.trace writes; nowhere if nil
	Natives  map[string]*NativeFunction
	ExtVars  map[string]Arg
	TLAs     map[string]Arg
	Mode     Mode
	// StringFiles makes Multi expect strings, and write them as they are.
	StringFiles bool
	// KeepImports makes evaluations of one VM share the values of imported
	// files, as those of a go-jsonnet VM do. The importer has to return the same
	// contents throughout, and external variables stay as they are. What an
	// evaluation costs then depends on those before it.
	KeepImports bool
	// NoNewline leaves out the newline at the end of an output.
	NoNewline bool
}

// File is an output of Multi.
type File struct {
	Name    string
	Content []byte
}

// Stats says what an evaluation did.
type Stats struct {
	Steps     int64
	Allocated int64           // bytes, by this package's account
	Files     map[string]bool // what was imported
}

// Result is the outcome of an evaluation.
type Result struct {
	Output []byte   // of JSON and String
	Files  []File   // of Multi, sorted by name
	Docs   [][]byte // of Stream
	Stats  Stats
}

// Kind classifies an Error.
type Kind int

const (
	Runtime   Kind = iota // the program failed
	Static                // a file does not parse
	Bound                 // a limit was reached
	Cancelled             // the context was cancelled
	Internal              // a defect of this package
)

// Frame is an entry of a stack trace.
type Frame = jsonnet.TraceFrame

// Error is the error of an evaluation.
type Error struct {
	Kind   Kind
	Msg    string
	Frames []Frame // the outermost first
	Err    error   // of the parser or the context
}

// Error returns the first line of what go-jsonnet prints.
func (e *Error) Error() string {
	switch e.Kind {
	case Static, Cancelled:
		return e.Err.Error()
	case Internal:
		return "INTERNAL ERROR: " + e.Msg
	}
	return "RUNTIME ERROR: " + e.Msg
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// Jsonnet returns the error in the form that go-jsonnet's error formatters know.
func (e *Error) Jsonnet() error {
	if e.Kind == Static || e.Kind == Cancelled {
		return e.Err
	}
	return jsonnet.RuntimeError{Msg: e.Msg, StackTrace: e.Frames}
}

// VM evaluates programs. It is not for concurrent use; what it compiles is
// shared with other VMs.
type VM struct {
	opts Options
	kept *machine // of the last evaluation, if imports are kept
}

// New returns a VM.
func New(opts Options) *VM { return &VM{opts: opts} }

// Evaluate evaluates a file that the importer finds.
func (vm *VM) Evaluate(ctx context.Context, filename string) (*Result, error) {
	if vm.opts.Importer == nil {
		return nil, errors.New("eval: no importer")
	}
	contents, foundAt, err := vm.opts.Importer.Import("", filename)
	if err != nil {
		return nil, &Error{Msg: err.Error(), Err: err}
	}
	return vm.EvaluateSnippet(ctx, foundAt, string(contents))
}

// EvaluateSnippet evaluates code; errors call it filename, and its imports are
// relative to it.
func (vm *VM) EvaluateSnippet(ctx context.Context, filename, code string) (*Result, error) {
	return vm.run(ctx, filename, code, func(m *machine, p *program, r *Result) { m.output(r, m.top(p)) })
}

// run evaluates with run, and again in precise mode if that fails.
func (vm *VM) run(ctx context.Context, filename, code string, run runFunc) (*Result, error) {
	r, f := vm.attempt(ctx, filename, code, false, run)
	if f == nil {
		return r, nil
	}
	if !f.bound && f.cancel == nil && f.static == nil && !f.internal {
		// Ask again, in go-jsonnet's way, for its words and frames.
		if _, again := vm.attempt(ctx, filename, code, true, run); again != nil && !again.internal && (!again.bound || again.stack) {
			f = again
		}
	}
	return r, f.error()
}

func (f *failure) error() error {
	switch {
	case f.cancel != nil:
		return &Error{Kind: Cancelled, Err: f.cancel}
	case f.static != nil:
		return &Error{Kind: Static, Err: f.static}
	case f.internal:
		return &Error{Kind: Internal, Msg: f.msg}
	case f.bound:
		return &Error{Kind: Bound, Msg: f.msg, Frames: f.frames}
	}
	return &Error{Kind: Runtime, Msg: f.msg, Frames: f.frames}
}

// runFunc evaluates a program to a result.
type runFunc func(m *machine, p *program, r *Result)

// attempt evaluates once.
func (vm *VM) attempt(ctx context.Context, filename, code string, precise bool, run runFunc) (r *Result, f *failure) {
	m := vm.machine(ctx, precise)
	allocated := m.alloc
	r = &Result{}
	defer func() {
		m.stats.Steps, m.stats.Allocated = m.steps, m.alloc-allocated
		r.Stats = m.stats
		switch p := recover().(type) {
		case nil:
		case *failure:
			f = p
		default:
			f = &failure{internal: true, msg: fmt.Sprintf("%v\n%s", p, debug.Stack())}
		}
	}()
	p := m.load(nil, filename, filename, []byte(code))
	if p.err != nil {
		return r, &failure{static: p.err}
	}
	if m.extVars == nil {
		m.extVars = m.arguments(vm.opts.ExtVars, "extvar")
	}
	run(m, p, r)
	if vm.opts.KeepImports && !precise {
		vm.kept = m
	}
	return r, nil
}

// machine returns the machine for an evaluation.
func (vm *VM) machine(ctx context.Context, precise bool) *machine {
	m := vm.kept
	vm.kept = nil // a machine that failed is not used again
	if m == nil || precise {
		m = &machine{
			opts: &vm.opts, limits: vm.opts.Limits.withDefaults(), precise: precise,
			files: map[string]value{}, texts: map[string]value{},
		}
		m.start()
	}
	m.ctx, m.done = ctx, ctx.Done()
	m.steps, m.stepStop = 0, stepBatch
	m.sp, m.trim, m.host = 0, 0, 0
	clear(m.keep[:cap(m.keep)])
	clear(m.args[:cap(m.args)])
	m.keep, m.args, m.tail = m.keep[:0], m.args[:0], tailCall{}
	m.stats = Stats{Files: map[string]bool{}}
	if !precise {
		m.trace = vm.opts.Trace
	}
	return m
}

var (
	topSite     = messageSite("During evaluation")
	callSiteTop = messageSite("Top-level function call")
	printSite   = messageSite("During manifestation")
)

// arguments returns external variables or top-level arguments, delayed.
func (m *machine) arguments(args map[string]Arg, what string) map[string]value {
	out := make(map[string]value, len(args))
	for name, a := range args {
		if !a.Code {
			out[name] = m.foreignText(a.Value)
			continue
		}
		file := "<" + what + ":" + name + ">"
		p := m.load(topSite, file, "", []byte(a.Value))
		if p.err != nil {
			out[name] = m.delay(nativeUnit(func(*machine, *frame) value { panic(&failure{static: p.err}) }), nil)
			continue
		}
		out[name] = m.delay(m.root(p), nil)
	}
	return out
}

// top evaluates a program, and calls it if it is a function.
func (m *machine) top(p *program) value {
	m.push(topSite, nil)
	v := m.run(m.root(p), nil, topSite)
	m.sp = 0
	if v.kind() != kindFunction {
		return v
	}
	args := m.arguments(m.opts.TLAs, "top-level-arg")
	names := make([]string, 0, len(args))
	for n := range args {
		names = append(names, n)
	}
	slices.Sort(names)
	var named []namedArg
	for _, n := range names {
		named = append(named, namedArg{ast.Identifier(n), args[n]})
	}
	fn := v.function()
	if fn.builtin != nil {
		return fn.builtin.fn(m, m.bindBuiltin(fn.builtin, nil, named, callSiteTop), callSiteTop)
	}
	v = m.enter(fn.proto, m.bind(fn, nil, named, callSiteTop), callSiteTop)
	m.sp = 0
	return v
}

// output writes the value of a program.
func (m *machine) output(r *Result, v value) {
	end := "\n"
	if m.opts.NoNewline {
		end = ""
	}
	m.hold(v)
	switch m.opts.Mode {
	case JSON:
		r.Output = append(m.document(v, printSite), end...)
	case String:
		if v.kind() != kindString {
			m.fail(printSite, "expected string result, got: "+v.kind().String())
		}
		r.Output = append([]byte(v.text().string(m)), end...)
	case Multi:
		m.multi(r, v, end)
	case Stream:
		m.stream(r, v)
	}
}

// document returns v as a JSON document.
func (m *machine) document(v value, at *site) []byte {
	p := printer{m: m, multiline: true, limit: m.limits.MaxOutput}
	p.print(v, at)
	return p.bytes()
}

func (m *machine) multi(r *Result, v value, end string) {
	if v.kind() != kindObject {
		m.document(v, printSite)
		m.fail(printSite, "multi mode: top-level object was a "+v.kind().String()+", "+
			"should be an object whose keys are filenames and values hold the JSON for that file.")
	}
	m.push(printSite, nil)
	o := v.object()
	m.checkAsserts(o, assertSite)
	for _, name := range m.names(o, false) {
		at := fieldSite
		if m.precise {
			at = messageSite(fmt.Sprintf("Field %#v", name))
		}
		e := m.index(o, name, at)
		f := File{Name: name}
		if m.opts.StringFiles {
			if e.kind() != kindString {
				m.document(e, at)
				m.sp--
				m.failf(printSite, "multi mode: top-level object's key %s has a value of type %s, should be a string", name, jsonTypes[e.kind()])
			}
			f.Content = []byte(e.text().string(m))
		} else {
			f.Content = m.document(e, at)
		}
		f.Content = append(f.Content, end...)
		r.Files = append(r.Files, f)
	}
	m.sp--
}

// jsonTypes are the Go types of JSON values, which one of go-jsonnet's messages shows.
var jsonTypes = [...]string{kindNull: "<nil>", kindBool: "bool", kindNumber: "float64", kindArray: "[]interface {}", kindObject: "map[string]interface {}"}

func (m *machine) stream(r *Result, v value) {
	if v.kind() != kindArray {
		m.document(v, printSite)
		m.fail(printSite, "stream mode: top-level object was a "+v.kind().String()+", "+
			"should be an array whose elements hold the JSON for each document in the stream.")
	}
	m.push(printSite, nil)
	a := v.array()
	for i := range a.elems {
		at := elementSite
		if m.precise {
			at = messageSite(fmt.Sprintf("Array element %d", i))
		}
		r.Docs = append(r.Docs, append(m.document(m.elem(a, i, at), at), '\n'))
	}
	m.sp--
}

// FormatError returns an error with its stack trace, as the jsonnet command
// prints it.
func FormatError(err error) string {
	var e *Error
	if !errors.As(err, &e) || e.Kind == Cancelled {
		return err.Error()
	}
	f := jsonnet.MakeVM().ErrorFormatter
	return strings.TrimRight(f.Format(e.Jsonnet()), "\n")
}
