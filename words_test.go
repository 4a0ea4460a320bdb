package defx_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The vocabulary of the first version that must not come back. The lists hold the words in parts, so
// that this file is checked like any other.
var (
	// bannedPhrases may not be in comments, strings and documents, in upper or lower case.
	bannedPhrases = [][]string{
		{"tells", "whether"}, {"is", "told"}, {"are", "told"}, {"what", "stands"}, {"still", "stands"}, {"as", "it", "should", "be"},
		{"of", "ours"}, {"of", "theirs"}, {"who" + "ever"}, {"nobody" + "'s"}, {"in", "doubt"}, {"the", "road"}, {"be" + "sides"},
	}
	// bannedNames may not be identifiers; upper and lower case are different.
	bannedNames = []string{"deed", "Shop", "ground", "laid", "Sheet", "takeOut", "putBack", "Unfold", "Tell", "teller", "doomed",
		"undermines", "hangUp", "Sketch", "Face"}
	// bannedPrefixes may not begin identifiers.
	bannedPrefixes = []string{"calm"}
	// bannedFiles may not be names of files.
	bannedFiles = joined([][]string{{"horizon", "json"}, {"shop", "go"}, {"self", "go"}, {"say", "go"}, {"look", "go"}, {"both", "go"},
		{"ground", "go"}, {"whole", "go"}, {"settled", "go"}, {"behind", "go"}})
)

func joined(names [][]string) []string {
	var out []string
	for _, parts := range names {
		out = append(out, strings.Join(parts, "."))
	}
	return out
}

// bannedPhrase matches the phrases also if they continue on the next line of a comment or paragraph.
var bannedPhrase = func() *regexp.Regexp {
	var all []string
	for _, words := range bannedPhrases {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = strings.ReplaceAll(regexp.QuoteMeta(w), "'", "['’]")
		}
		all = append(all, strings.Join(quoted, `[\s/#*>]+`))
	}
	return regexp.MustCompile(`(?i)\b(?:` + strings.Join(all, "|") + `)\b`)
}()

func bannedName(name string) bool {
	return slices.Contains(bannedNames, name) || slices.ContainsFunc(bannedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// finding is one use of a banned word.
type finding struct {
	file string
	line int
	what string
}

// phrasesIn returns the banned phrases of a text that begins at a line.
func phrasesIn(file string, line int, text string) []finding {
	var out []finding
	for _, m := range bannedPhrase.FindAllStringIndex(text, -1) {
		out = append(out, finding{file, line + strings.Count(text[:m[0]], "\n"), fmt.Sprintf("phrase %q", strings.Join(strings.Fields(text[m[0]:m[1]]), " "))})
	}
	return out
}

// checkGo returns the banned words of a Go file: in its identifiers, comments and strings.
func checkGo(name string, src []byte) ([]finding, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var out []finding
	for _, group := range file.Comments {
		var text strings.Builder
		for _, c := range group.List {
			text.WriteString(c.Text + "\n")
		}
		out = append(out, phrasesIn(name, fset.Position(group.Pos()).Line, text.String())...)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			if bannedName(n.Name) {
				out = append(out, finding{name, fset.Position(n.Pos()).Line, "identifier " + n.Name})
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				break
			}
			text, err := strconv.Unquote(n.Value)
			if err != nil {
				break
			}
			line := fset.Position(n.Pos()).Line
			for _, f := range phrasesIn(name, line, text) {
				if n.Value[0] == '"' { // a newline in it is no line of the file
					f.line = line
				}
				out = append(out, f)
			}
			if slices.Contains(bannedFiles, filepath.Base(text)) {
				out = append(out, finding{name, line, "file name " + text})
			}
		}
		return true
	})
	return out, nil
}

// checkFile returns the banned words of a file, and nothing for files of other kinds.
func checkFile(name string) ([]finding, error) {
	var out []finding
	if slices.Contains(bannedFiles, filepath.Base(name)) {
		out = append(out, finding{name, 1, "file name"})
	}
	isGo := filepath.Ext(name) == ".go"
	if !isGo && !slices.Contains([]string{".md", ".jsonnet", ".libsonnet", ".sh", ".txtar"}, filepath.Ext(name)) && filepath.Base(name) != "Makefile" && !strings.HasPrefix(name, ".ci/") {
		return out, nil
	}
	src, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if isGo {
		found, err := checkGo(name, src)
		return append(out, found...), err
	}
	return append(out, phrasesIn(name, 1, string(src))...), nil
}

func TestWords_NoneIsBanned(t *testing.T) {
	if _, err := os.Stat(".git"); err != nil {
		t.Skip("not a git checkout: the tracked files are not known")
	}
	list, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []finding
	for _, name := range strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		found, err := checkFile(name)
		if os.IsNotExist(err) { // deleted, but not committed yet
			continue
		}
		if err != nil {
			t.Error(err)
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b finding) int {
		return cmp.Or(strings.Compare(a.file, b.file), cmp.Compare(a.line, b.line), strings.Compare(a.what, b.what))
	})
	for _, f := range slices.Compact(all) {
		t.Errorf("%s:%d: %s", f.file, f.line, f.what)
	}
}

// TestWords_BannedOnesAreFound checks the check.
func TestWords_BannedOnesAreFound(t *testing.T) {
	phrase := strings.Join([]string{"what", "stands"}, " ")
	src := "package x\n\n// It is\n" + "// told twice.\nfunc " + "calmly() { " + "Tell() }\n\n// " + strings.ToUpper(phrase) + "\nvar a, b = \"x\\n" + phrase + "\", `\n\n" + phrase + "`\n\n// A lookout tells calm whether it is retold; Shopping.\nvar Faces, deeds int\n"
	found, err := checkGo("x.go", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, fmt.Sprint(f.line, " ", strings.Fields(f.what)[0]))
	}
	want := []string{"3 phrase", "7 phrase", "5 identifier", "5 identifier", "8 phrase", "10 phrase"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	for _, words := range bannedPhrases {
		text := strings.Join(words, "\n")
		if len(phrasesIn("x.md", 1, "a "+text+" b")) != 1 || len(phrasesIn("x.md", 1, "a"+text+"b")) != 0 {
			t.Errorf("%q is not found, or found in other words", text)
		}
	}
}
