package lang

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/toolutils"
)

// A string of Jsonnet is text. go-jsonnet replaces bytes that are not UTF-8 without a word, so
// that two different files would give the same string: such a file is an error where it is
// imported as text or as code. importbin gives the bytes themselves.

// byteOrderMark is what some editors write at the beginning of UTF-8 files.
const byteOrderMark = "\ufeff"

// bytesPrefix starts the path under which a file that begins with a byte order mark is imported
// as text or bytes: an importer must give one content for one path, and as code the file has no
// mark.
const bytesPrefix = "<bytes>/"

// importUnusual returns the content of a file that has a byte order mark or is not UTF-8, for the
// kind of import that the importing file uses.
func (i *importer) importUnusual(f *importedFile, place, importedFrom, importedPath string) (jsonnet.Contents, string, error) {
	asText, asBytes, asCode := i.importsOf(importedFrom, importedPath)
	if f.invalid >= 0 && (asText != nil || asCode != nil || asBytes == nil) {
		src := f.contents.String()
		where := positionAt(place, src, f.invalid)
		offset := f.invalid
		if f.mark {
			offset += len(byteOrderMark)
		}
		if asText == nil {
			return jsonnet.Contents{}, "", &positionedError{diag.Errorf("", "a byte sequence that is not valid UTF-8: 0x%02x at byte %d", src[f.invalid], offset).In(where).WithHint("save the file as UTF-8")}
		}
		return jsonnet.Contents{}, "", &positionedError{diag.Errorf("", "%s is not valid UTF-8: byte %d, at line %d and column %d, is 0x%02x", place, offset, where.Line, where.Col, src[f.invalid]).
			In(position(*asText.Loc())).WithHint("save the text as UTF-8; binary content is an artifact: files: { '/path': { from: defx.artifact('./%s') } }", importedPath)}
	}
	if f.mark && asCode == nil && (asText != nil || asBytes != nil) {
		return f.bytes, bytesPrefix + place, nil
	}
	return f.contents, place, nil
}

// importsOf returns how a file imports a path: as text, as bytes and as code.
func (i *importer) importsOf(file, imported string) (asText, asBytes, asCode ast.Node) {
	from := i.files[file]
	if from == nil {
		return nil, nil, nil
	}
	root, err := jsonnet.SnippetToAST(file, from.contents.String())
	if err != nil {
		return nil, nil, nil
	}
	var walk func(n ast.Node)
	walk = func(n ast.Node) {
		switch n := n.(type) {
		case nil:
			return
		case *ast.ImportStr:
			if n.File.Value == imported && asText == nil {
				asText = n
			}
		case *ast.ImportBin:
			if n.File.Value == imported && asBytes == nil {
				asBytes = n
			}
		case *ast.Import:
			if n.File.Value == imported && asCode == nil {
				asCode = n
			}
		}
		for _, child := range toolutils.Children(n) {
			walk(child)
		}
	}
	walk(root)
	return asText, asBytes, asCode
}

// checkArguments refuses top-level arguments that are not UTF-8. They are checked before they are
// sent to a child process, because JSON replaces such bytes too.
func checkArguments(c Config) *diag.Error {
	for _, args := range []map[string]string{c.TLAStr, c.TLACode} {
		for _, name := range sets.Keys(args) {
			value := args[name]
			if at := firstInvalidByte(value); at >= 0 {
				return diag.Errorf("", "the argument %q is not valid UTF-8: byte %d is 0x%02x", name, at, value[at]).
					In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("arguments are text: binary content is an artifact, defx.artifact('./file')")
			}
		}
	}
	return nil
}

// lineEnds returns a finding if a file has CRLF line ends: they become part of text blocks and of
// imported text, so that a checkout on another system would restart services.
func lineEnds(file, src string) diag.List {
	at := strings.Index(src, "\r\n")
	if at < 0 {
		return nil
	}
	return diag.List{diag.Warningf("line-ends", "", "the file has CRLF line ends (%s)", countOf(strings.Count(src, "\r\n"), "line")).In(positionAt(file, src, at)).
		WithHint("they are part of text blocks and imported text; write '* text eol=lf' into .gitattributes, and convert the file with: sed -i 's/\\r$//' %s", file)}
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// withoutMark returns source code without a byte order mark.
func withoutMark(src []byte) []byte { return bytes.TrimPrefix(src, []byte(byteOrderMark)) }
