package lang

import (
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// maxNesting is how deep brackets may be nested in a source file. The parser is
// recursive and cannot be stopped, so a file that could exhaust its stack is
// refused before parsing, with the position of the bracket that exceeds the limit.
const maxNesting = 1000

// codeNesting is the code of the error for a file that nests too deep.
const codeNesting = "source-nesting"

// checkSource refuses a source file that nests too deep, is not UTF-8, or holds
// characters that are reserved for tokens.
func checkSource(file, src string) *diag.Error {
	if i := strings.IndexFunc(src, func(r rune) bool { return r >= 0xe000 && r <= 0xe1ff && token.Reserved(string(r)) }); i >= 0 {
		return diag.Errorf("", "a character of the private-use range that defx reserves for tokens").In(positionAt(file, src, i)).
			WithHint("remove it, or write it as a \\u escape in a value that is not part of a deployment")
	}
	if i := firstInvalidByte(src); i >= 0 {
		return diag.Errorf("", "a byte sequence that is not valid UTF-8").In(positionAt(file, src, i)).WithHint("save the file as UTF-8")
	}
	depth, operators := 0, 0
	for i := 0; i < len(src); {
		c := src[i]
		if c == '!' || c == '~' || c == '-' || c == '+' {
			if operators++; operators > maxNesting {
				return diag.Errorf("", "more than %d operators in a row", maxNesting).In(positionAt(file, src, i)).
					WithHint("remove pairs of operators that cancel each other out")
			}
		} else if c != ' ' && c != '\n' {
			operators = 0
		}
		switch {
		case c == '#' || strings.HasPrefix(src[i:], "//"):
			i = indexAfter(src, i, "\n")
		case strings.HasPrefix(src[i:], "/*"):
			i = indexAfter(src, i+2, "*/")
		case strings.HasPrefix(src[i:], "|||"):
			i = skipTextBlock(src, i)
		case c == '@' && i+1 < len(src) && (src[i+1] == '"' || src[i+1] == '\''):
			i = skipVerbatim(src, i+1)
		case c == '"' || c == '\'':
			i = skipQuoted(src, i)
		case c == '(' || c == '[' || c == '{':
			if depth++; depth > maxNesting {
				return diag.Errorf("", "brackets are nested more than %d deep", maxNesting).WithCode(codeNesting).In(positionAt(file, src, i)).
					WithHint("build deep values with functions instead of literals")
			}
			i++
		case c == ')' || c == ']' || c == '}':
			depth--
			i++
		default:
			i++
		}
	}
	return nil
}

// positionAt returns the position of byte i. Columns count bytes, as in go-jsonnet.
func positionAt(file, src string, i int) diag.Position {
	before := src[:i]
	return diag.Position{File: file, Line: 1 + strings.Count(before, "\n"), Col: i - strings.LastIndexByte(before, '\n')}
}

// indexAfter returns the index after the next occurrence of end, or the length of src.
func indexAfter(src string, i int, end string) int {
	if j := strings.Index(src[i:], end); j >= 0 {
		return i + j + len(end)
	}
	return len(src)
}

// skipQuoted returns the index after the quoted string that begins at i.
func skipQuoted(src string, i int) int {
	q := src[i]
	for i++; i < len(src); i++ {
		switch src[i] {
		case '\\':
			i++
		case q:
			return i + 1
		}
	}
	return len(src)
}

// skipVerbatim returns the index after the verbatim string whose opening quote
// is at i. A doubled quote inside it is a literal quote.
func skipVerbatim(src string, i int) int {
	q := src[i]
	for i++; i < len(src); i++ {
		if src[i] == q {
			if i+1 < len(src) && src[i+1] == q {
				i++
				continue
			}
			return i + 1
		}
	}
	return len(src)
}

// skipTextBlock returns the index after the text block that begins at i. The
// block ends at a ||| that is indented less than its first line.
func skipTextBlock(src string, i int) int {
	i = indexAfter(src, i, "\n")
	for i < len(src) && src[i] == '\n' {
		i++
	}
	n := 0
	for i+n < len(src) && (src[i+n] == ' ' || src[i+n] == '\t') {
		n++
	}
	indent := src[i : i+n]
	for i < len(src) {
		line := src[i:indexAfter(src, i, "\n")]
		if !strings.HasPrefix(line, indent) && strings.TrimSpace(line) != "" || n == 0 {
			if j := strings.Index(line, "|||"); j >= 0 {
				return i + j + 3
			}
			return i + len(line)
		}
		i += len(line)
	}
	return len(src)
}

// firstInvalidByte returns the index of the first byte that is not UTF-8, or -1.
// The parser would silently replace it.
func firstInvalidByte(src string) int {
	for i, r := range src {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(src[i:]); n == 1 {
				return i
			}
		}
	}
	return -1
}
