package lang

import (
	"context"
	"errors"
	"os"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lib"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/formatter"
)

// EvalConfig says what EvalFile evaluates.
type EvalConfig struct {
	File            string
	JPath           []string // the right-most wins
	ExtStr, ExtCode map[string]string
	TLAStr, TLACode map[string]string
	StringOutput    bool
	Limits          Limits
	Command         []string `json:"-"` // as in Config
}

// EvalFile gives what go-jsonnet's own command prints for a file. Its imports
// are the user's own and may lie anywhere; time, memory and stack are bounded
// as ever.
func EvalFile(ctx context.Context, c EvalConfig) (string, error) {
	a, err := spawn(ctx, request{Config: Config{Limits: c.Limits, Command: c.Command}, File: &c})
	if d, is := errors.AsType[*dead](err); is {
		return "", diag.Errorf("", "%s", d.why).In(diag.Position{File: c.File, Line: 1, Col: 1}).WithHint("%s", d.hint)
	}
	if err != nil {
		return "", err
	}
	return a.Output, a.Errors.Err()
}

func evalFile(c EvalConfig) (string, diag.List) {
	raw, err := os.ReadFile(c.File)
	if err != nil {
		return "", diag.List{diag.Errorf("", "%v", err)}
	}
	if bad := scan(c.File, string(raw)); bad != nil && bad.Hint == nestingHint { // private characters and strange bytes are the user's own here
		return "", diag.List{bad}
	}
	i := &freeImporter{FileImporter: jsonnet.FileImporter{JPaths: c.JPath}}
	out, err := evaluateFile(newVM(i, true), c)
	if err != nil {
		out, err = evaluateFile(newVM(i, false), c)
	}
	if err != nil {
		return "", diag.List{explain(err)}
	}
	return out, nil
}

func evaluateFile(vm *jsonnet.VM, c EvalConfig) (string, error) {
	vm.StringOutput = c.StringOutput
	for k, v := range c.ExtStr {
		vm.ExtVar(k, v)
	}
	for k, v := range c.ExtCode {
		vm.ExtCode(k, v)
	}
	for k, v := range c.TLAStr {
		vm.TLAVar(k, v)
	}
	for k, v := range c.TLACode {
		vm.TLACode(k, v)
	}
	node, _, err := vm.ImportAST("", c.File)
	if err != nil {
		return "", err
	}
	return vm.Evaluate(node)
}

// freeImporter reads anywhere, as go-jsonnet's command does, and knows the embedded library.
type freeImporter struct {
	jsonnet.FileImporter
	own map[string]jsonnet.Contents
}

func (i *freeImporter) Import(from, path string) (jsonnet.Contents, string, error) {
	contents, at, err := i.FileImporter.Import(from, path)
	if raw, ok := lib.Read(path); err != nil && ok {
		if i.own == nil {
			i.own = map[string]jsonnet.Contents{}
		}
		if _, seen := i.own[path]; !seen {
			i.own[path] = jsonnet.MakeContentsRaw(raw)
		}
		return i.own[path], embedded + path, nil
	}
	return contents, at, err
}

// Format gives a Jsonnet file in the customary form (jsonnetfmt's defaults).
func Format(filename, src string) (string, error) {
	out, err := formatter.Format(filename, src, formatter.DefaultOptions())
	if err != nil {
		return "", explain(err)
	}
	return out, nil
}
