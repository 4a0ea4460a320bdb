package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// moduleDir returns the directory of go-jsonnet's source.
func moduleDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-jsonnet").Output()
	if err != nil {
		t.Skip("no module directory: ", err)
	}
	return strings.TrimSpace(string(out))
}

// outcome is what an evaluation shows its user.
type outcome struct {
	out    string
	failed bool
	line   string   // the first line of the error
	frames []string // at the user's code
	trace  string
	bound  bool // a limit was reached
}

var natives = map[string]*NativeFunction{
	"jsonToString": {Name: "jsonToString", Params: []string{"x"}, Func: func(x []any) (any, error) {
		b, err := json.Marshal(x[0])
		return string(b), err
	}},
	"nativeError": {Name: "nativeError", Func: func([]any) (any, error) { return nil, errors.New("native function error") }},
	"nativePanic": {Name: "nativePanic", Func: func([]any) (any, error) { panic("native function panic") }},
}

type testCase struct {
	name    string
	code    string
	ext     map[string]Arg
	files   map[string]string // imports, if not from the file system
	str     bool
	natives bool
	limits  Limits
}

type memoryImporter map[string]string

func (m memoryImporter) Import(_, path string) ([]byte, string, error) {
	if s, ok := m[path]; ok {
		return []byte(s), path, nil
	}
	return nil, "", errors.New("import not available " + path)
}

func (c *testCase) options() Options {
	o := Options{ExtVars: c.ext, Importer: &FileImporter{}, Limits: c.limits}
	if c.files != nil {
		o.Importer = memoryImporter(c.files)
	}
	if c.str {
		o.Mode = String
	}
	if c.natives {
		o.Natives = natives
	}
	return o
}

func evalWith(c *testCase) (r outcome) {
	o := c.options()
	var trace bytes.Buffer
	o.Trace = &trace
	res, err := New(o).EvaluateSnippet(context.Background(), c.name, c.code)
	r.trace = trace.String()
	if err == nil {
		r.out = string(res.Output)
		return r
	}
	r.failed = true
	r.line = firstLine(err.Error())
	var e *Error
	if errors.As(err, &e) {
		r.frames = userFrames(e.Frames)
		r.bound = e.Kind == Bound
	}
	return r
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// userFrames lists the frames that are in files, not in std or of the machine.
func userFrames(frames []jsonnet.TraceFrame) (out []string) {
	for i := len(frames) - 1; i >= 0; i-- {
		f := frames[i]
		if f.Loc.File == nil || f.Loc.Begin.Line == 0 || f.Loc.File.DiagnosticFileName == "<std>" {
			continue
		}
		out = append(out, f.Loc.String()+" "+f.Name)
	}
	return out
}

// keeper keeps an error instead of formatting it.
type keeper struct{ err error }

func (k *keeper) Format(err error) string                        { k.err = err; return "" }
func (k *keeper) SetMaxStackTraceSize(int)                       {}
func (k *keeper) SetColorFormatter(color jsonnet.ColorFormatter) {}

func goJsonnet(c *testCase) (r outcome) {
	vm := jsonnet.MakeVM()
	if c.files != nil {
		data := map[string]jsonnet.Contents{}
		for n, s := range c.files {
			data[n] = jsonnet.MakeContents(s)
		}
		vm.Importer(&jsonnet.MemoryImporter{Data: data})
	}
	var trace bytes.Buffer
	vm.SetTraceOut(&trace)
	vm.StringOutput = c.str
	for n, a := range c.ext {
		if a.Code {
			vm.ExtCode(n, a.Value)
		} else {
			vm.ExtVar(n, a.Value)
		}
	}
	if c.natives {
		for _, n := range natives {
			f := &jsonnet.NativeFunction{Name: n.Name, Func: n.Func}
			for _, p := range n.Params {
				f.Params = append(f.Params, ast.Identifier(p))
			}
			vm.NativeFunction(f)
		}
	}
	k := &keeper{}
	vm.ErrorFormatter = k
	//lint:ignore SA1019 imports of the snippet are relative to its name, as in the evaluator
	out, err := vm.EvaluateSnippet(c.name, c.code)
	r.trace = trace.String()
	if err == nil {
		r.out = out
		return r
	}
	r.failed = true
	r.line = firstLine(k.err.Error())
	var rt jsonnet.RuntimeError
	if errors.As(k.err, &rt) {
		r.frames = userFrames(rt.StackTrace)
	}
	return r
}

// differ describes the first difference between two outcomes, or is "".
func differ(got, want outcome) string {
	switch {
	case got.failed != want.failed && got.failed:
		return "fails: " + got.line + "; want output " + clip(want.out)
	case got.failed != want.failed:
		return "succeeds: " + clip(got.out) + "; want " + want.line
	case got.line != want.line:
		return "error\n  " + got.line + "; want\n  " + want.line
	case got.out != want.out:
		return "output\n" + clip(got.out) + "; want\n" + clip(want.out)
	case !strings.Contains(want.line, "max stack frames") && strings.Join(got.frames, "\n") != strings.Join(want.frames, "\n"):
		return "frames\n  " + strings.Join(got.frames, "\n  ") + "; want\n  " + strings.Join(want.frames, "\n  ")
	}
	return ""
}

func clip(s string) string {
	if len(s) > 2000 {
		return s[:2000] + "…"
	}
	return s
}

var suiteExt = map[string]Arg{
	"stringVar":             {Value: "2 + 2"},
	"codeVar":               {Value: "3 + 3", Code: true},
	"errorVar":              {Value: "error 'xxx'", Code: true},
	"staticErrorVar":        {Value: ")", Code: true},
	"UndeclaredX":           {Value: "x", Code: true},
	"selfRecursiveVar":      {Value: `[42, std.extVar("selfRecursiveVar")[0] + 1]`, Code: true},
	"mutuallyRecursiveVar1": {Value: `[42, std.extVar("mutuallyRecursiveVar2")[0] + 1]`, Code: true},
	"mutuallyRecursiveVar2": {Value: `[42, std.extVar("mutuallyRecursiveVar1")[0] + 1]`, Code: true},
}

func TestConformance_SuiteOfGoJsonnet(t *testing.T) {
	t.Chdir(moduleDir(t))
	files, err := filepath.Glob("testdata/*.jsonnet")
	if err != nil || len(files) < 500 {
		t.Fatal("no test suite: ", err)
	}
	bad := 0
	for _, file := range files {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(file, ".jsonnet")
		c := &testCase{name: name, code: string(code), natives: true}
		if strings.HasPrefix(name, "testdata/extvar_") {
			c.ext = suiteExt
		}
		c.str = strings.HasSuffix(name, "_string_output")
		if d := differ(evalWith(c), goJsonnet(c)); d != "" {
			bad++
			t.Errorf("%s: %s", file, d)
		}
	}
	t.Logf("%d programs, %d differ", len(files), bad)
}
