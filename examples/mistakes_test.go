package examples_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/internal/diag"
)

// mistake is a typing error in the example.
type mistake struct {
	kind string
	file string
	at   int    // offset in the file
	old  string // text at that offset
	new  string
	col  int    // expected column; 0: any
	word string // misspelt word
}

func (m mistake) name() string {
	short := func(s string) string {
		s = strings.Join(strings.Fields(s), " ")
		if r := []rune(s); len(r) > 40 {
			s = string(r[:40]) + "…"
		}
		return s
	}
	return fmt.Sprintf("%s, %s: %s -> %s", m.kind, m.file, short(m.old), short(m.new))
}

func (m mistake) apply(text string) string { return text[:m.at] + m.new + text[m.at+len(m.old):] }

// line returns the line at which the mistake starts.
func (m mistake) line(text string) int { return 1 + strings.Count(text[:m.at], "\n") }

func column(text string, at int) int { return at - strings.LastIndexByte(text[:at], '\n') }

// field is a field of an object in the source.
type field struct {
	path       []string // enclosing fields
	key        string
	at         int // offset of the key
	value, end int
}

// fields returns the fields of all objects that are not arguments of a call: only these are
// certainly part of the contract.
func fields(text string) []field {
	var out []field
	type open struct {
		bracket byte
		path    []string
		free    bool
	}
	stack := []open{{}}
	path := []string{}
	last := byte(0)           // last significant character
	word, wordAt := "", 0     // last word
	depths := map[int][]int{} // depth → fields that end there
	closeAll := func(depth, at int) {
		for _, i := range depths[depth] {
			out[i].end = at
			path = out[i].path
		}
		delete(depths, depth)
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == ' ' || c == '\n' || c == '\t':
			i++
		case strings.HasPrefix(text[i:], "//"):
			i += strings.IndexByte(text[i:], '\n')
		case strings.HasPrefix(text[i:], "|||"):
			i += 3 + strings.Index(text[i+3:], "|||") + 3
			last = '|'
		case c == '\'' || c == '"' || isLetter(c):
			j := i + 1
			if c == '\'' || c == '"' {
				for text[j] != c {
					if text[j] == '\\' {
						j++
					}
					j++
				}
				j++
			} else {
				for j < len(text) && (isLetter(text[j]) || text[j] >= '0' && text[j] <= '9') {
					j++
				}
			}
			top := stack[len(stack)-1]
			key := strings.Trim(text[i:j], `'"`)
			k := j
			if k < len(text) && text[k] == '+' {
				k++
			}
			if top.bracket == '{' && (last == '{' || last == ',') && k < len(text) && text[k] == ':' && !top.free {
				out = append(out, field{path: slices.Clone(path), key: key, at: i, value: k + 1, end: -1})
				depths[len(stack)] = append(depths[len(stack)], len(out)-1)
				path = append(slices.Clone(path), key)
				last, i = ':', k+1
				continue
			}
			word, wordAt = text[i:j], i
			last, i = 'a', j
		case c == '{' || c == '[' || c == '(':
			top := stack[len(stack)-1]
			o := open{bracket: c, path: path, free: top.free || c == '(' && !(word == "group" && wordAt+len(word) == i)}
			stack = append(stack, o)
			last = c
			i++
		case c == '}' || c == ']' || c == ')':
			closeAll(len(stack), i)
			path = stack[len(stack)-1].path
			stack = stack[:len(stack)-1]
			last = c
			i++
		case c == ',':
			closeAll(len(stack), i)
			last = c
			i++
		default:
			last = c
			i++
		}
	}
	for i := range out {
		for out[i].value < len(text) && text[out[i].value] == ' ' {
			out[i].value++
		}
		if out[i].end < 0 {
			panic("a field without end: " + out[i].key)
		}
		out[i].end = out[i].value + len(strings.TrimRight(text[out[i].value:out[i].end], " \n"))
	}
	return out
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }

// misspelt swaps two letters in the middle of a word, or repeats its last letter.
func misspelt(w string) string {
	for i := 1; i+1 < len(w); i++ {
		if w[i] != w[i+1] {
			return w[:i] + string(w[i+1]) + string(w[i]) + w[i+2:]
		}
	}
	return w + w[len(w)-1:]
}

// wrong maps field names to invalid values.
var wrong = map[string][]string{
	"service": {"[]", "'x'"}, "place": {"'m1'", "[]"}, "requires": {"'primary'", "3"}, "connects": {"5", "true"}, "exports": {"[]", "'x'"},
	"host": {"'x'", "[1]"}, "fqdn": {"1", "['x']"}, "external": {"'db.example.com'"},
	"command": {"5", "'/bin/true'", "[5]"}, "env": {"5", "[]"}, "secrets": {"'x'", "{ A: 'clear' }"}, "files": {"[]", "{ relative: 'x' }"},
	"dirs": {"'x'", "{ state: 5 }", "{ stat: 'x' }"}, "ports": {"5432", "{ http: 70000 }", "{ http: '80' }", "{ http: 1.5 }"},
	"user": {"0", "{}"}, "ready": {"true", "'/health'", "{ tpc: true }"}, "initializer": {"'x'", "{}"}, "migrate": {"'x'", "7"},
	"schedule": {"'1h'", "{}", "{ every: '1x' }", "{ cron: '99 * * * *' }"}, "limits": {"'1Gi'", "{ memory: '2Zi' }", "{ cpu: 1 }"},
	"reload": {"'HUP'", "{ signal: 1 }"}, "stop": {"'INT'", "{ timeout: 'soon' }"}, "labels": {"['a']", "{ a: 1 }"},
	"replicas": {"-1", "1.5", "'three'", "9007199254740993", "{ A_B: {} }"}, "roles": {"'quorum'", "[1]"}, "spread": {"'machines'", "true"},
	"packages": {"'curl'", "[1]"}, "sysctl": {"[]", "{ 'vm.x': 9007199254740993 }"}, "users": {"'shop'", "{ shop: { uid: 'x' } }", "{ shop: { hme: '/srv' } }"},
	"timeout": {"'soon'", "30"}, "count": {"'two'", "-1"}, "memory": {"'2Zi'", "2"}, "cpu": {"'half'", "1"}, "openFiles": {"'many'", "0", "9007199254740993"},
	"cron": {"'61 * * * *'", "5", "'daily'"}, "timezone": {"'Europe/Berln'"}, "jitter": {"'1x'"}, "missed": {"'runs'", "true"}, "signal": {"'HUPP'", "1"},
	"tcp": {"'yes'", "1"}, "exec": {"'/bin/true'", "[1]"}, "every": {"'machines'", "5"}, "with": {"'nobody'", "1"},
	"connect": {"'ssm:x'", "5", "'dir:'"}, "address": {"5"},
	"machines": {"[]", "'m1'"}, "defaults": {"'prod'"}, "overrides": {"[]", "'x'"}, "libs": {"[]"},
}

// unchecked are fields whose content is not part of the contract: content of files, and maps
// with user-defined keys.
var unchecked = []string{"json", "ini", "yaml", "toml", "env", "files", "exports", "secrets", "labels", "ports", "sysctl"}

// generate returns all mistakes of every kind that can be made in the sources.
func generate(files map[string]string) []mistake {
	var out []mistake
	for _, file := range slices.Sorted(maps.Keys(files)) {
		text := files[file]
		add := func(kind string, at int, old, new string, col int, word string) {
			if text[at:at+len(old)] != old {
				panic(fmt.Sprintf("%s does not contain %q at %d", file, old, at))
			}
			out = append(out, mistake{kind, file, at, old, new, col, word})
		}
		for _, f := range fields(text) {
			parent := ""
			if len(f.path) > 0 {
				parent = f.path[len(f.path)-1]
			}
			value := text[f.value:f.end]
			if parent == "ports" && !slices.ContainsFunc(f.path, func(p string) bool { return p == "json" }) {
				if _, err := strconv.Atoi(value); err == nil {
					for _, bad := range []string{"0", "65536", "'" + value + "'", "9007199254740993"} {
						add("port", f.value, value, bad, 0, "")
					}
				}
			}
			if slices.ContainsFunc(f.path, func(p string) bool { return slices.Contains(unchecked, p) }) {
				continue
			}
			bads, known := wrong[f.key]
			if !known || file == "defx.jsonnet" && len(f.path) > 0 && f.path[0] == "dev" || parent == "staging" || parent == "prod" {
				continue // sizes of environments are not part of the contract
			}
			if text[f.at] != '\'' && text[f.at+len(f.key)] != '+' {
				bad := misspelt(f.key)
				add("misspelt field", f.at, f.key, bad, column(text, f.at), bad)
			}
			if (f.key == "replicas" || f.key == "place") && strings.Contains(value, "replicas") || f.key == "replicas" && file != "defx.jsonnet" {
				continue // overridden by the entry file
			}
			if parent == "external" {
				continue // any string can be the host of an external endpoint
			}
			for _, bad := range bads {
				add("wrong value of "+f.key, f.value, value, bad, 0, "")
			}
		}
		each := func(kind, pattern string, change func(string) string, word bool) {
			re := regexp.MustCompile(pattern)
			for _, m := range re.FindAllStringSubmatchIndex(text, -1) {
				old := text[m[2]:m[3]]
				bad, w := change(old), ""
				if word {
					w = bad
				}
				add(kind, m[2], old, bad, 0, w)
			}
		}
		each("misspelt alias", `defx\.dep\('([a-z]+)'\)`, misspelt, true)
		each("misspelt port", `\.port\('([a-z]+)'\)`, misspelt, true)
		each("misspelt folder", `\.dir\('([a-z]+)'\)`, misspelt, true)
		each("misspelt output", `\.output\('([a-z]+)'\)`, misspelt, true)
		each("misspelt label", `\.label\('([a-z]+)'\)`, misspelt, true)
		each("misspelt word of defx", `defx\.([a-z]+)\(`, misspelt, true)
		each("misspelt word of defx", `defx\.(me|peers)\.`, func(s string) string { return s + "s" }, true)
		each("misspelt word of a replica", `\b(?:r|here|me)\.([a-z]+)\b`, misspelt, true)
		each("misspelt word of a set", `\.(each|join|here)\b`, misspelt, true)
		each("misspelt variable", `%(?: \[|) ?(defx)\.`, misspelt, true)
		each("misspelt variable", `\b(defx)\.me`, misspelt, true)
		each("misspelt name", `(?:requires|connects): \{ [a-z]+: '([a-z/]+)'`, misspelt, true)
		each("misspelt name", `(?:requires|connects): \['([a-z/]+)'\]`, misspelt, true)
		each("misspelt name", `with: '([a-z/]+)'`, misspelt, true)
		each("misspelt name", `    '([a-z]+/[a-z]+)': \{ place\+`, misspelt, true)
		each("missing import", `import '([^']+)'`, func(s string) string { return strings.Replace(s, ".lib", "s.lib", 1) }, false)
		each("missing import", `import '([^']+)'`, func(s string) string { return "../" + s }, false)
		each("number beyond 2^53", `: ([0-9]{3,})[,\n ]`, func(string) string { return "9007199254740993" }, false)
		each("syntax", `\n  +[a-z]+(:) [\[{]`, func(string) string { return ": = " }, false)
		each("syntax", `(\{) [a-z]+: `, func(string) string { return "{ {" }, false)
		each("syntax", `(\]),\n`, func(string) string { return ")" }, false)
		each("syntax", `\n  +[a-z]+: ()[a-z0-9'{\[]`, func(string) string { return "," }, false)
		if file != "defx.jsonnet" {
			each("role that no machine has", `roles: \['([a-z]+)'\]`, misspelt, false)
		}
	}
	return out
}

// outcome returns all errors of the folder's deployment.
func (f *folder) outcome() (diag.List, error) {
	d, err := f.open().Evaluate(context.Background())
	if err != nil {
		if list, ok := errors.AsType[diag.List](err); ok {
			return flat(list), nil
		}
		if e, ok := errors.AsType[*diag.Error](err); ok {
			return flat(diag.List{e}), nil
		}
		return nil, err
	}
	var out diag.List
	for _, h := range d.Held {
		out = append(out, compile.ErrorList(h.Err)...)
	}
	return out.Sort(), nil
}

func flat(l diag.List) diag.List {
	var out diag.List
	for _, e := range l {
		out = append(out, compile.ErrorList(e)...)
	}
	return out.Sort()
}

var quoted = regexp.MustCompile(`^'[^']*'$`)

var meant = regexp.MustCompile(`did you mean "([^"]+)"`)

// judge makes one mistake and returns what is wrong with its report, or "".
func judge(f *folder, m mistake, text string) string {
	f.write(m.file, []byte(m.apply(text)))
	defer f.write(m.file, []byte(text))
	list, err := f.outcome()
	if err != nil {
		return "no diagnosis: " + err.Error()
	}
	if len(list) == 0 {
		return "no error"
	}
	line := m.line(text)
	var here *diag.Error
	for _, e := range list {
		if e.Pos.File == m.file && e.Pos.Line == line && (here == nil || here.Hint == "" || m.col != 0 && here.Pos.Col != m.col) {
			here = e
		}
	}
	switch {
	case here == nil:
		slices.SortStableFunc(list, func(a, b *diag.Error) int { return consequence(a) - consequence(b) })
		return fmt.Sprintf("not reported at %s:%d, but: %s", m.file, line, list[0].Error())
	case here.Msg == "":
		return "no message"
	case m.col != 0 && here.Pos.Col != m.col:
		return fmt.Sprintf("column %d, not %d: %s", here.Pos.Col, m.col, here.Error())
	case here.Hint == "":
		return "no hint: " + here.Error()
	}
	if s := meant.FindStringSubmatch(here.Hint); s != nil && (m.word != "" || quoted.MatchString(m.new)) {
		fixed := m
		fixed.new = s[1]
		if m.word == "" {
			fixed.new = "'" + s[1] + "'"
		}
		f.write(m.file, []byte(fixed.apply(text)))
		if list, err := f.outcome(); err != nil || len(list) > 0 {
			return fmt.Sprintf("the hint does not help (%v, %v): %s", err, list, here.Error())
		}
	}
	return ""
}

// consequence returns 1 for an error that only follows from another one, otherwise 0.
func consequence(e *diag.Error) int {
	if e.Because != "" {
		return 1
	}
	return 0
}

// texts returns the Jsonnet files of the example.
func texts(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range sources(t) {
		raw, err := os.ReadFile(filepath.Join("clusters", name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "sonnet") {
			out[name] = string(raw)
		}
	}
	return out
}

// knownReports are gaps in the reports, and the reasons. kind and problem are regular expressions
// of a mistake's kind and of the result of judge.
var knownReports = []struct{ kind, problem, reason string }{
	{"^misspelt", `^not reported at`, "a token has no position: it is reported at its field, which may start some lines before"},
	{"^role", `^not reported at`, "it is reported at place.replicas, which the entry file overrides"},
	{"^wrong value", `unexpected type object, expected`, "Jsonnet reports a wrong type only where the value is extended"},
}

// knownReason returns why a problem is accepted, or "".
func knownReason(kind, problem string) string {
	for _, k := range knownReports {
		if regexp.MustCompile(k.kind).MatchString(kind) && regexp.MustCompile("(?s)"+k.problem).MatchString(problem) {
			return k.reason
		}
	}
	return ""
}

// TestMistakes_ReportedAtTheirPosition makes mistakes, one at a time.
func TestMistakes_ReportedAtTheirPosition(t *testing.T) {
	files := texts(t)
	files["defx.jsonnet"] = strings.Replace(files["defx.jsonnet"], "customers: 20", "customers: 2", 1) // they are all alike
	made := generate(files)
	n := 40 // 240 in continuous integration: 300 together with those of semantic_mistakes_test.go
	if s := os.Getenv("DEFX_TEST_MISTAKES"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	all := sample(made, n)
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := 0
	short := map[string]int{}
	for range runtime.GOMAXPROCS(0) {
		f := folderOf(t, files)
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(all) {
					return
				}
				problem := judge(f, all[i], files[all[i].file])
				if problem == "" {
					continue
				}
				mu.Lock()
				if k := knownReason(all[i].kind, problem); k != "" {
					short[k]++
				} else {
					t.Errorf("%s\n  %s", all[i].name(), problem)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total := 0
	for _, k := range slices.Sorted(maps.Keys(short)) {
		t.Logf("known gap, %d times: %s", short[k], k)
		total += short[k]
	}
	t.Logf("%d of %d mistakes are reported completely; %d are possible", len(all)-total, len(all), len(made))
}

// sample returns n mistakes, of each kind in turn. The result is always the same.
func sample(all []mistake, n int) []mistake {
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := map[string][]mistake{}
	for _, m := range all {
		kinds[m.kind] = append(kinds[m.kind], m)
	}
	names := slices.Sorted(maps.Keys(kinds))
	for _, k := range names {
		rng.Shuffle(len(kinds[k]), func(i, j int) { kinds[k][i], kinds[k][j] = kinds[k][j], kinds[k][i] })
	}
	var out []mistake
	for n = min(n, len(all)); len(out) < n; {
		for _, k := range names {
			if len(kinds[k]) > 0 && len(out) < n {
				out, kinds[k] = append(out, kinds[k][0]), kinds[k][1:]
			}
		}
	}
	return out
}

// folderOf returns a folder with the example, changed to files.
func folderOf(t *testing.T, files map[string]string) *folder {
	t.Helper()
	f := clusters(t)
	for name, text := range files {
		f.write(name, []byte(text))
	}
	return f
}
