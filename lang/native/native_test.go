package native_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/lang/native"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// The reference side of every comparison is another process of this test program
// that never calls Install: the syntax tree of the standard library is shared by
// a process.
const referenceVerb = "__reference"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == referenceVerb {
		serve(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// query is a program to run.
type query struct {
	File string `json:",omitempty"` // or Code
	Code string `json:",omitempty"`
	Ext  bool   // with the variables and functions of go-jsonnet's tests
}

// result is the outcome of a query.
type result struct {
	Out    string
	Err    string   // the message without its trace
	Frames []string // positions in the user's file, innermost last
	Deep   bool     // the stack depth was exceeded
}

func serve(in io.Reader, out io.Writer) {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q query
		if dec.Decode(&q) != nil {
			return
		}
		enc.Encode(run(jsonnet.MakeVM(), q))
	}
}

func run(vm *jsonnet.VM, q query) result {
	vm.SetTraceOut(io.Discard)
	name, code := "case.jsonnet", q.Code
	if q.File != "" {
		raw, err := os.ReadFile(q.File)
		if err != nil {
			return result{Err: err.Error()}
		}
		name, code = q.File, string(raw)
	}
	if q.Ext {
		vm.ExtVar("stringVar", "2 + 2")
		for k, v := range map[string]string{"codeVar": "3 + 3", "errorVar": "error 'xxx'", "staticErrorVar": ")", "UndeclaredX": "x",
			"selfRecursiveVar":      `[42, std.extVar("selfRecursiveVar")[0] + 1]`,
			"mutuallyRecursiveVar1": `[42, std.extVar("mutuallyRecursiveVar2")[0] + 1]`,
			"mutuallyRecursiveVar2": `[42, std.extVar("mutuallyRecursiveVar1")[0] + 1]`} {
			vm.ExtCode(k, v)
		}
		vm.NativeFunction(&jsonnet.NativeFunction{Name: "jsonToString", Params: ast.Identifiers{"x"}, Func: func(x []any) (any, error) {
			raw, err := json.Marshal(x[0])
			return string(raw), err
		}})
		vm.NativeFunction(&jsonnet.NativeFunction{Name: "nativeError", Func: func([]any) (any, error) { return nil, fmt.Errorf("native function error") }})
		vm.NativeFunction(&jsonnet.NativeFunction{Name: "nativePanic", Func: func([]any) (any, error) { panic("native function panic") }})
	}
	node, err := jsonnet.SnippetToAST(name, code)
	if err != nil {
		return result{Err: strings.ToValidUTF8(err.Error(), "?")} // it may cut a character in two
	}
	out, err := vm.Evaluate(node)
	a := result{Out: out}
	switch err := err.(type) {
	case nil:
	case jsonnet.RuntimeError:
		a.Err = err.Msg
		a.Deep = strings.Contains(a.Err, "max stack frames exceeded")
		for _, f := range err.StackTrace {
			// Frames without a file describe what the interpreter manifests.
			if file := f.Loc.File; file != nil && file.DiagnosticFileName != "<std>" && f.Loc.Begin.Line > 0 {
				if s := f.Loc.String(); len(a.Frames) == 0 || a.Frames[len(a.Frames)-1] != s {
					a.Frames = append(a.Frames, s)
				}
			}
		}
	default:
		a.Err = err.Error()
	}
	return a
}

// reference is a running process without new bodies.
type reference struct {
	in  *json.Encoder
	out *json.Decoder
}

func startReference(t testing.TB) *reference {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, referenceVerb)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &reference{json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))}
}

func (p *reference) run(t testing.TB, q query) (a result) {
	t.Helper()
	if err := p.in.Encode(q); err != nil {
		t.Fatal(err)
	}
	if err := p.out.Decode(&a); err != nil {
		t.Fatalf("the reference process failed for %+v: %v", q, err)
	}
	return a
}

// runFast runs a query in a fast VM and, if it fails, in a strict one.
func runFast(q query) result {
	vm := jsonnet.MakeVM()
	native.Install(vm, true)
	if a := run(vm, q); a.Err == "" {
		return a
	}
	return runStrict(q)
}

// runStrict runs a query in a strict VM.
func runStrict(q query) result {
	vm := jsonnet.MakeVM()
	native.Install(vm, false)
	return run(vm, q)
}

// compare reports an error unless a result equals that of the reference.
func compare(t testing.TB, q query, got, want result) bool {
	t.Helper()
	if want.Deep && !got.Deep {
		return true // a program that exceeds the stack depth may succeed, or fail otherwise
	}
	if got.Out == want.Out && got.Err == want.Err && strings.Join(got.Frames, "\n") == strings.Join(want.Frames, "\n") {
		return true
	}
	t.Errorf("%s%s\n got %q %q %q\nwant %q %q %q", q.File, q.Code, got.Out, got.Err, got.Frames, want.Out, want.Err, want.Frames)
	return false
}

func goJsonnet(t testing.TB) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-jsonnet").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// All programs of go-jsonnet's own test suite have the same result with new bodies.
func TestInstall_UpstreamSuite(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goJsonnet(t), "testdata", "*.jsonnet"))
	if err != nil || len(files) < 500 {
		t.Fatalf("%d programs: %v", len(files), err)
	}
	p := startReference(t)
	failed := 0
	for _, f := range files {
		q := query{File: f, Ext: true}
		want := p.run(t, q)
		if want.Err != "" {
			failed++
		}
		compare(t, q, runFast(q), want)
		compare(t, q, runStrict(q), want)
	}
	t.Logf("%d programs, of which %d are expected to fail", len(files), failed)
}
