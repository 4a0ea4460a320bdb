package lang

import (
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// maxNesting is how deep brackets may stand in each other. The parser is
// recursive and cannot be stopped: a file that would exhaust its stack is
// refused before it sees it, with the position of the bracket too much.
const maxNesting = 1000

const nestingHint = "build deep values by functions instead of writing them out"

// scan refuses a source file that nests too deeply, or that holds characters
// that only tokens may have.
func scan(file, src string) *diag.Error {
	if i := strings.IndexFunc(src, func(r rune) bool { return r >= 0xe000 && r <= 0xe1ff && token.Reserved(string(r)) }); i >= 0 {
		return diag.Errorf("", "a character of the private range that defx uses for tokens").In(at(file, src, i)).
			WithHint("remove it, or write it as \\u escape in a value that does not reach a deployment")
	}
	if i := firstInvalid(src); i >= 0 {
		return diag.Errorf("", "a byte that is not UTF-8").In(at(file, src, i)).WithHint("save the file as UTF-8")
	}
	depth, signs := 0, 0
	for i := 0; i < len(src); {
		c := src[i]
		if c == '!' || c == '~' || c == '-' || c == '+' {
			if signs++; signs > maxNesting {
				return diag.Errorf("", "more than %d operators follow each other", maxNesting).In(at(file, src, i)).
					WithHint("two of them cancel each other out")
			}
		} else if c != ' ' && c != '\n' {
			signs = 0
		}
		switch {
		case c == '#' || strings.HasPrefix(src[i:], "//"):
			i = after(src, i, "\n")
		case strings.HasPrefix(src[i:], "/*"):
			i = after(src, i+2, "*/")
		case strings.HasPrefix(src[i:], "|||"):
			i = textBlock(src, i)
		case c == '@' && i+1 < len(src) && (src[i+1] == '"' || src[i+1] == '\''):
			i = verbatim(src, i+1)
		case c == '"' || c == '\'':
			i = quoted(src, i)
		case c == '(' || c == '[' || c == '{':
			if depth++; depth > maxNesting {
				return diag.Errorf("", "brackets are nested more than %d deep", maxNesting).In(at(file, src, i)).
					WithHint(nestingHint)
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

// at is the position of byte i. Columns count bytes, as go-jsonnet's do.
func at(file, src string, i int) diag.Position {
	before := src[:i]
	return diag.Position{File: file, Line: 1 + strings.Count(before, "\n"), Col: i - strings.LastIndexByte(before, '\n')}
}

// after is the index behind the next end, or the length.
func after(src string, i int, end string) int {
	if j := strings.Index(src[i:], end); j >= 0 {
		return i + j + len(end)
	}
	return len(src)
}

func quoted(src string, i int) int {
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

// verbatim strings end at their quote; a doubled quote stands for itself.
func verbatim(src string, i int) int {
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

// textBlock ends at ||| that is less indented than its first line.
func textBlock(src string, i int) int {
	i = after(src, i, "\n")
	for i < len(src) && src[i] == '\n' {
		i++
	}
	n := 0
	for i+n < len(src) && (src[i+n] == ' ' || src[i+n] == '\t') {
		n++
	}
	indent := src[i : i+n]
	for i < len(src) {
		line := src[i:after(src, i, "\n")]
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

// firstInvalid is the place of the first byte that is not UTF-8, or -1. The
// parser would replace it without a word.
func firstInvalid(src string) int {
	for i, r := range src {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(src[i:]); n == 1 {
				return i
			}
		}
	}
	return -1
}
