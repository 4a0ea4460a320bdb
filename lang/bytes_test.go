package lang_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/lang"
)

// evaluated returns the values of all functionalities by name, and their errors.
func evaluated(t *testing.T, c lang.Config) (values, errs map[string]string) {
	t.Helper()
	values, errs = map[string]string{}, map[string]string{}
	for _, l := range evaluate(t, c).Libraries {
		if l.Err != nil {
			errs[l.Name] = l.Err.Error()
		}
		for _, f := range l.Functionalities {
			if f.Err != nil {
				errs[f.Name] = f.Err.Error()
			} else {
				values[f.Name] = string(f.Value)
			}
		}
	}
	return values, errs
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestImport_TextThatIsNotUTF8IsAnError(t *testing.T) {
	dir := writeTree(t, "-- defx.jsonnet --\n{ name: 'b', libs: { l: import 'lib/l.libsonnet' } }\n-- lib/l.libsonnet --\n{\n  str: importstr 'latin',\n  again:\n    { deep: importstr '../lib/latin' },\n"+
		"  bin: import 'bin.libsonnet',\n  late: importstr 'late',\n  cut: importstr 'cut',\n  code: import 'data.json',\n  good: importstr 'good',\n}\n-- lib/bin.libsonnet --\n{ sum: std.foldl(function(a, b) a + b, importbin 'latin', 0) }\n")
	put(t, dir, "lib/latin", "caf\xe9")
	put(t, dir, "lib/late", "one\ntwo \u00e9\xff\n")
	put(t, dir, "lib/cut", "x\xe2\x82")
	put(t, dir, "lib/data.json", "{\n \"a\": \"\xe8\" }")
	put(t, dir, "lib/good", "caf\u00e9 \ufffd") // a replacement character that is really there
	values, errs := evaluated(t, lang.Config{Root: dir})
	for name, want := range map[string][]string{
		"str":   {"lib/l.libsonnet:2:8: ", "lib/latin is not valid UTF-8: byte 3, at line 1 and column 4, is 0xe9", "defx.artifact("},
		"again": {"lib/l.libsonnet:4:13: ", "lib/latin is not valid UTF-8"},
		"late":  {"lib/l.libsonnet:6:9: ", "byte 10, at line 2 and column 7, is 0xff"},
		"cut":   {"byte 1, at line 1 and column 2, is 0xe2"},
		"code":  {"lib/data.json:2:8: ", "0xe8 at byte 9"},
	} {
		for _, w := range want {
			if !strings.Contains(errs[name], w) {
				t.Errorf("%s: %s, want %s", name, errs[name], w)
			}
		}
	}
	if want := `{"sum":531}`; values["bin"] != want {
		t.Errorf("bin: %s %s, want %s", values["bin"], errs["bin"], want)
	}
	if values["good"] != "\"caf\u00e9 \ufffd\"" {
		t.Errorf("good: %s %s", values["good"], errs["good"])
	}
}

func TestEvaluate_ArgumentsMustBeUTF8(t *testing.T) {
	dir := writeTree(t, "-- defx.jsonnet --\nfunction(a) { name: 'b', libs: {} }\n")
	for _, c := range []lang.Config{{TLAStr: map[string]string{"a": "caf\xe9"}}, {TLACode: map[string]string{"a": "'caf\xe9'"}}} {
		c.Root, c.Entry = dir, "defx.jsonnet"
		if _, err := lang.Evaluate(context.Background(), c); err == nil || !strings.Contains(err.Error(), "is not valid UTF-8: byte") {
			t.Errorf("%v", err)
		}
	}
}

func TestImport_ByteOrderMark(t *testing.T) {
	const mark = "\ufeff"
	dir := writeTree(t, "-- defx.jsonnet --\nx\n-- lib/l.libsonnet --\nx\n")
	put(t, dir, "defx.jsonnet", mark+"{ name: 'b', libs: { l: import 'lib/l.libsonnet' } }\n")
	put(t, dir, "lib/l.libsonnet", mark+"{ code: import 'v.json', text: importstr 'v.txt', source: importstr 'm.libsonnet', bytes: { n: std.length(importbin 'm.libsonnet') }, both: (import 'm.libsonnet') }\n")
	put(t, dir, "lib/m.libsonnet", mark+"{ fine: true }")
	put(t, dir, "lib/v.json", mark+`{"a": 1}`)
	put(t, dir, "lib/v.txt", mark+"text")
	values, errs := evaluated(t, lang.Config{Root: dir})
	str := func(s string) string { raw, _ := json.Marshal(s); return string(raw) }
	for name, want := range map[string]string{"code": `{"a":1}`, "text": str(mark + "text"), "both": `{"fine":true}`} {
		if values[name] != want {
			t.Errorf("%s: %s %s, want %s", name, values[name], errs[name], want)
		}
	}
	// Positions are those that editors show.
	put(t, dir, "lib/l.libsonnet", mark+"{ f: error 'x' }")
	if _, errs = evaluated(t, lang.Config{Root: dir}); !strings.Contains(errs["f"], "lib/l.libsonnet:1:6: ") {
		t.Errorf("%v", errs)
	}
	put(t, dir, "lib/l.libsonnet", mark+"{ f: 1 2 }")
	if _, errs = evaluated(t, lang.Config{Root: dir}); !strings.Contains(errs["l"], "lib/l.libsonnet:1:8: ") {
		t.Errorf("%v", errs)
	}
	out, err := lang.EvalFile(context.Background(), lang.EvalConfig{File: filepath.Join(dir, "lib/m.libsonnet")})
	if err != nil || !strings.Contains(out, "fine") {
		t.Errorf("%s %v", out, err)
	}
	if out, err := lang.Format("m.libsonnet", mark+"{a:1}"); err != nil || out != "{ a: 1 }\n" {
		t.Errorf("%q %v", out, err)
	}
}

func TestLint_NamesFilesWithCRLF(t *testing.T) {
	dir := writeTree(t, "-- defx.jsonnet --\nx\n-- lib/l.libsonnet --\nx\n-- vendor/v.libsonnet --\nx\n")
	put(t, dir, "defx.jsonnet", "{ name: 'b', libs: { l: import 'lib/l.libsonnet' } }\n")
	put(t, dir, "lib/l.libsonnet", "{\r\n  web: { service: { command: ['/bin/x', importstr 'text', importstr 'unix'], env: import 'v.libsonnet' } },\r\n}\r\n")
	put(t, dir, "lib/text", "one\ntwo\r\n")
	put(t, dir, "lib/unix", "one\ntwo\n")
	put(t, dir, "vendor/v.libsonnet", "{\r\n}\r\n")
	found, err := lang.Lint(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		if f.Code == "line-ends" {
			got = append(got, f.Headline())
		}
	}
	want := "lib/l.libsonnet:1:2: warning: the file has CRLF line ends (3 lines)\nlib/text:2:4: warning: the file has CRLF line ends (1 line)"
	if strings.Join(got, "\n") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestEvaluate_DefaultMemoryFitsRealPrograms evaluates a program with 360 MB of values that are
// alive at once.
func TestEvaluate_DefaultMemoryFitsRealPrograms(t *testing.T) {
	skipUnlessBounded(t)
	dir := writeTree(t, "-- defx.jsonnet --\nlocal base = std.repeat('x', 1000), all = [std.join('', [base, '' + i]) for i in std.range(1, 90000)];\n"+
		"{ name: 'x', libs: { a: { f: { count: std.foldl(function(s, o) s + std.length(o), all, 0), last: all[89999][995:] } } } }\n")
	values, errs := evaluated(t, lang.Config{Root: dir})
	if len(errs) > 0 || values["f"] == "" {
		t.Errorf("%v %v", values, errs)
	}
	values, errs = evaluated(t, lang.Config{Root: dir, Limits: lang.Limits{Memory: 400 << 20}})
	if !strings.Contains(errs["f"], "more than 400 MiB of memory") {
		t.Errorf("with a lower limit: %v %v", values, errs)
	}
}
