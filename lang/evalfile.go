package lang

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/openfile"
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
	raw, err := readFree(c.File)
	if err != nil {
		return "", diag.List{diag.From(err)}
	}
	if bad := checkSource(c.File, string(withoutMark(raw))); bad != nil && bad.Code == codeNesting { // other unusual characters are the user's choice here
		return "", diag.List{bad}
	}
	i := newFreeImporter(c.JPath)
	out, err := evaluateFile(newVM(i, true), c)
	if err != nil {
		out, err = evaluateFile(newVM(i, false), c)
	}
	if err != nil {
		e := convertError(err)
		if undefinedRE.MatchString(e.Msg) {
			e.Hint = "give it a value: -V NAME=VALUE or --ext-code NAME=CODE"
		}
		if raw, err := readFree(e.Pos.File); err == nil {
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

// maxFree is the largest size of a file that EvalFile reads, in bytes.
const maxFree = 256 << 20

// readFree returns the content of any regular file.
func readFree(path string) ([]byte, error) {
	return openfile.ReadOpened(func() (*os.File, error) { return openfile.Open(path) }, maxFree)
}

// freeImporter imports any regular file, as go-jsonnet's command does, and the
// embedded library. Files of the kernel are no content.
type freeImporter struct {
	jpath []string
	files map[string]*freeFile // by path
}

// freeFile is the result of reading one file.
type freeFile struct {
	contents jsonnet.Contents
	err      error
}

func newFreeImporter(jpath []string) *freeImporter {
	return &freeImporter{jpath, map[string]*freeFile{}}
}

// Import implements jsonnet.Importer. A file that exists takes precedence over
// the embedded library.
func (i *freeImporter) Import(from, path string) (jsonnet.Contents, string, error) {
	dirs := []string{filepath.Dir(from)}
	for _, dir := range slices.Backward(i.jpath) { // the rightmost wins
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		at := path
		if !filepath.IsAbs(path) {
			at = filepath.Join(dir, path)
		}
		if f := i.read(at); !errors.Is(f.err, fs.ErrNotExist) {
			return f.contents, at, f.err
		}
	}
	raw, ok := lib.Read(path)
	if !ok {
		return jsonnet.Contents{}, "", fmt.Errorf("couldn't open import %#v: no match locally or in the Jsonnet library paths", path)
	}
	at := embeddedPrefix + path
	if i.files[at] == nil {
		i.files[at] = &freeFile{contents: jsonnet.MakeContentsRaw(raw)}
	}
	return i.files[at].contents, at, nil
}

// read reads a file, once. Source files lose their byte order mark.
func (i *freeImporter) read(path string) *freeFile {
	if f := i.files[path]; f != nil {
		return f
	}
	raw, err := readFree(path)
	if isCode(path) {
		raw = withoutMark(raw)
	}
	f := &freeFile{jsonnet.MakeContentsRaw(raw), err}
	i.files[path] = f
	return f
}

// Format returns a Jsonnet file in the form of jsonnetfmt with its default options.
func Format(filename, src string) (string, error) {
	out, err := formatter.Format(filename, strings.TrimPrefix(src, byteOrderMark), formatter.DefaultOptions())
	if err != nil {
		return "", convertError(err)
	}
	return out, nil
}
