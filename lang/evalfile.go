package lang

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lib"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/formatter"
)

// EvalConfig is what EvalFile evaluates.
type EvalConfig struct {
	File            string
	JPath           []string // absolute or relative library directories, the rightmost wins
	ExtStr, ExtCode map[string]string
	TLAStr, TLACode map[string]string
	StringOutput    bool
	Limits          Limits
	Command         []string `json:"-"` // as in Config
}

// EvalFile evaluates a file and returns what go-jsonnet's own command would
// print. The file may import any file. Time, memory and stack are limited as in
// Evaluate.
func EvalFile(ctx context.Context, c EvalConfig) (string, error) {
	a, err := runChild(ctx, request{Config: Config{Limits: c.Limits, Command: c.Command}, File: &c})
	if d, is := errors.AsType[*childLimitError](err); is {
		return "", diag.Errorf("", "%s", d.summary).In(diag.Position{File: c.File, Line: 1, Col: 1}).WithHint("%s", d.hint)
	}
	if err != nil {
		return "", err
	}
	return a.Output, a.Errors.Err()
}

// evalFile evaluates a file in this process: in a fast VM and, if that fails, in
// a strict one for the error.
func evalFile(c EvalConfig) (string, diag.List) {
	raw, err := os.ReadFile(c.File)
	if err != nil {
		return "", diag.List{diag.Errorf("", "%v", err)}
	}
	if bad := checkSource(c.File, string(withoutMark(raw))); bad != nil && bad.Code == codeNesting { // other unusual characters are the user's choice here
		return "", diag.List{bad}
	}
	i := &freeImporter{FileImporter: jsonnet.FileImporter{JPaths: c.JPath}}
	out, err := evaluateFile(newVM(i, true), c)
	if err != nil {
		out, err = evaluateFile(newVM(i, false), c)
	}
	if err != nil {
		e := convertError(err)
		if undefinedRE.MatchString(e.Msg) {
			e.Hint = "give it a value: -V NAME=VALUE or --ext-code NAME=CODE"
		}
		if raw, err := os.ReadFile(e.Pos.File); err == nil {
			addSourceHint(e, string(raw))
		}
		return "", diag.List{e}
	}
	return out, nil
}

// evaluateFile evaluates a file in one VM.
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

// freeImporter imports any file, as go-jsonnet's command does, and the embedded library.
type freeImporter struct {
	jsonnet.FileImporter
	embedded map[string]jsonnet.Contents
	marked   map[string]jsonnet.Contents // source files with a byte order mark, without it
}

// Import implements jsonnet.Importer. A file that exists takes precedence over
// the embedded library.
func (i *freeImporter) Import(from, path string) (jsonnet.Contents, string, error) {
	contents, at, err := i.FileImporter.Import(from, path)
	if raw, ok := lib.Read(path); err != nil && ok {
		if i.embedded == nil {
			i.embedded = map[string]jsonnet.Contents{}
		}
		if _, seen := i.embedded[path]; !seen {
			i.embedded[path] = jsonnet.MakeContentsRaw(raw)
		}
		return i.embedded[path], embeddedPrefix + path, nil
	}
	if err == nil && isCode(at) && strings.HasPrefix(contents.String(), byteOrderMark) {
		if i.marked == nil {
			i.marked = map[string]jsonnet.Contents{}
		}
		if _, seen := i.marked[at]; !seen {
			i.marked[at] = jsonnet.MakeContentsRaw(withoutMark(contents.Data()))
		}
		contents = i.marked[at]
	}
	return contents, at, err
}

// Format returns a Jsonnet file in the form of jsonnetfmt with its default options.
func Format(filename, src string) (string, error) {
	out, err := formatter.Format(filename, strings.TrimPrefix(src, byteOrderMark), formatter.DefaultOptions())
	if err != nil {
		return "", convertError(err)
	}
	return out, nil
}
