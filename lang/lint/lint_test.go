package lint_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang/lint"
)

func TestTokens(t *testing.T) {
	const head = "local defx = import 'defx/v1.libsonnet', db = defx.dep('db');\n"
	for _, c := range []struct{ src, want string }{
		{"db.host", ""},
		{"'%s:%s' % [db.host, db.port('sql')]", ""},
		{"if std.extVar('x') == '' then 1 else 2", ""},
		{"db.host == 'x'", "token-compared 2:1"},
		{"'x' != db.port('sql')", "token-compared 2:1"},
		{"db.host < 'x'", "token-compared 2:1"},
		{"local h = db.host; if h == '::1' then '[' + h + ']' else h", "token-compared 2:23"},
		{"local h = 'x' + db.host, g = h; std.length(g)", "token-measured 2:33"},
		{"local g = h, h = defx.secret('s'); g == ''", "token-compared 2:36"},
		{"std.length(defx.secret('s'))", "token-measured 2:1"},
		{"std.sha256(defx.artifact('./x'))", "token-measured 2:1"},
		{"std.parseInt(defx.me.port('http')) + 1", "token-measured 2:1"},
		{"std.startsWith(defx.lookup('k'), 'a')", "token-compared 2:1"},
		{"db.host[0]", "token-measured 2:1"},
		{"db.host[1:3]", "token-measured 2:1"},
		{"db.port('sql') + 1", "token-measured 2:1"},
		{"db.port('sql') + '1'", ""},
		{"std.length('%s' % db.host)", "token-measured 2:1"},
		{"std.length(std.join(',', [db.host, 'x']))", "token-measured 2:1"},
		{"std.length([db.host])", ""},
		{"defx.peers.each(function(r) if r.host == 'x' then 'y' else r.host)", "token-compared 2:32"},
		{"defx.peers.join(',', function(r) r.name) == ''", "token-compared 2:1"},
		{"std.length(defx.all({ port: 'x' }).each(function(r) r.host))", ""},
		{"{ local h = db.host, a: h == 'x' }", "token-compared 2:25"},
		{"{ [k]: db.host == k for k in ['a'] }", "token-compared 2:8"},
		{"[x == 'y' for x in ['a'] if db.here.host == x]", "token-compared 2:29"},
		{"local f(db) = db.host == 'x'; f({ host: 'x' })", ""},
		{"function(x=db.host == 'y') x", "token-compared 2:12"},
		{"local std = { length(x):: 1 }; std.length(db.host)", ""},
		{"(import 'defx/v1.libsonnet').me.host == 'x'", "token-compared 2:1"},
		{"assert db.host != ''; 1", "token-compared 2:8"},
		{"local ref = defx.ref; ref('a/b').host == 'x'", "token-compared 2:23"},
		{"{ a: { b+: { c:: !(db['host'] == 'x') } } }", "token-compared 2:20"},
		{"db.host ==", ""},
		{"local c = { host: db.host, port: 1 }; [c.host == 'x', c.port == 1]", "token-compared 2:40"},
		{"local c = { d: { local h = db.host, host: h } }; c.d.host == 'x'", "token-compared 2:50"},
		{"local url(r) = 'http://' + r.host; std.length(url(db))", "token-measured 2:36"},
		{"local url = function(r, s) s + r.host; url(db, 'x') == 'y'", "token-compared 2:40"},
		{"local f(x) = f(x); f(db) == 'x'", ""},
		{"local a = b, b = a; a == 'x'", ""},
		{"local o = { a: o.a }; o.a == 'x'", ""},
		{"local o = { a: o.a.b }; o.a.b.c == 'x'", ""},
		{"local o = o.a.b; o.a == 'x'", ""},
	} {
		var got []string
		for _, f := range lint.Tokens("x.jsonnet", head+c.src) {
			got = append(got, fmt.Sprintf("%s %d:%d", f.Code, f.Pos.Line, f.Pos.Col))
			if f.Hint == "" || f.Pos.File != "x.jsonnet" {
				t.Errorf("%s: %+v", c.src, f)
			}
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", c.src, s, c.want)
		}
	}
}

func TestIsSilenced(t *testing.T) {
	f := diag.Warningf("a-rule", "", "x")
	f.Pos.Line = 2
	for line, want := range map[string]bool{
		"// defx-lint: ignore a-rule": true, "  # defx-lint: ignore a-rule": true, "// defx-lint: ignore": true,
		"// defx-lint: ignore b, a-rule": true, "// defx-lint: ignore b": false, "x: 1, // defx-lint: ignore a-rule": true,
		"// ignore a-rule": false, "": false,
	} {
		if got := lint.IsSilenced(line+"\nx", f); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	f.Pos.Line = 1
	if lint.IsSilenced("// defx-lint: ignore", f) {
		t.Error("a finding in the first line was silenced")
	}
}

func TestIsConstant(t *testing.T) {
	src := "local n = 1;\n{\n  a: { b+: [1, 'x', -2, null] },\n  c: n,\n  d: { e: n },\n  'f-g': if true then 1 else 2,\n}"
	for at, want := range map[[2]int]bool{{3, 3}: true, {3, 8}: true, {4, 3}: false, {5, 3}: false, {5, 8}: false, {6, 3}: false, {1, 1}: false, {0, 0}: false} {
		if got := lint.IsConstant(src, diag.Position{File: "x", Line: at[0], Col: at[1]}); got != want {
			t.Errorf("%v: %v", at, got)
		}
	}
}
