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

// The plain side of every comparison is this test program again, which then
// never calls Install: the tree of the standard library belongs to a process.
const plainVerb = "__plain"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == plainVerb {
		serve(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// question is a program to run; answer what came of it.
type question struct {
	File string `json:",omitempty"` // else Code
	Code string `json:",omitempty"`
	Ext  bool   // with the variables and functions of upstream's tests
}

type answer struct {
	Out    string
	Err    string   // the message alone
	Frames []string // the user's, innermost last
	Deep   bool     // failed for the depth of the stack
}

func serve(in io.Reader, out io.Writer) {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q question
		if dec.Decode(&q) != nil {
			return
		}
		enc.Encode(run(jsonnet.MakeVM(), q))
	}
}

func run(vm *jsonnet.VM, q question) answer {
	vm.SetTraceOut(io.Discard)
	name, code := "case.jsonnet", q.Code
	if q.File != "" {
		raw, err := os.ReadFile(q.File)
		if err != nil {
			return answer{Err: err.Error()}
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
		return answer{Err: strings.ToValidUTF8(err.Error(), "?")} // it may cut a letter in two
	}
	out, err := vm.Evaluate(node)
	a := answer{Out: out}
	switch err := err.(type) {
	case nil:
	case jsonnet.RuntimeError:
		a.Err = err.Msg
		a.Deep = strings.Contains(a.Err, "max stack frames exceeded")
		for _, f := range err.StackTrace {
			// Places without a file are the interpreter's words for what it manifests.
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

// plain is a running program without new bodies.
type plain struct {
	in  *json.Encoder
	out *json.Decoder
}

func startPlain(t testing.TB) *plain {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, plainVerb)
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
	return &plain{json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))}
}

func (p *plain) ask(t testing.TB, q question) (a answer) {
	t.Helper()
	if err := p.in.Encode(q); err != nil {
		t.Fatal(err)
	}
	if err := p.out.Decode(&a); err != nil {
		t.Fatalf("the plain side died of %+v: %v", q, err)
	}
	return a
}

// fast asks an eager VM, and a careful one for the words of a failure.
func fast(q question) answer {
	vm := jsonnet.MakeVM()
	native.Install(vm, true)
	if a := run(vm, q); a.Err == "" {
		return a
	}
	return careful(q)
}

func careful(q question) answer {
	vm := jsonnet.MakeVM()
	native.Install(vm, false)
	return run(vm, q)
}

// same holds an answer against that of the plain side.
func same(t testing.TB, q question, got, want answer) bool {
	t.Helper()
	if want.Deep && !got.Deep {
		return true // what fails for the depth of the stack alone may succeed, or come to another error
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

// All programs of go-jsonnet's own suite give what they give without new bodies.
func TestUpstreamSuite(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goJsonnet(t), "testdata", "*.jsonnet"))
	if err != nil || len(files) < 500 {
		t.Fatalf("%d programs: %v", len(files), err)
	}
	p := startPlain(t)
	failed := 0
	for _, f := range files {
		q := question{File: f, Ext: true}
		want := p.ask(t, q)
		if want.Err != "" {
			failed++
		}
		same(t, q, fast(q), want)
		same(t, q, careful(q), want)
	}
	t.Logf("%d programs, %d of which fail as they should", len(files), failed)
}
