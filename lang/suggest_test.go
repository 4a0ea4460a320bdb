package lang_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang"
)

func TestEvaluate_HintsFromSource(t *testing.T) {
	for expr, want := range map[string]string{
		"defx.depp('db').host":                        `did you mean "dep"?`,
		"defx.mee.host":                               `did you mean "me"?`,
		"defx['secert']('x')":                         `did you mean "secret"?`,
		"defx.frobnicate('db')":                       "defx has all, artifact, dep, group, lookup, me, peers, ref, secret",
		"defx.dep('db').hosts":                        `did you mean "host"?`,
		"defx.ref('db').here.prot('sql')":             `did you mean "port"?`,
		"defx.me.zzz":                                 "a reference has dir, each, here, host, index, join, label, machine, name, output, port",
		"defx.peers.join(',', function(r) r.hots)":    `did you mean "host"?`,
		"std.stripChar('a', 'b')":                     `did you mean "stripChars"?`,
		"std.frobnicate('a')":                         "std has no such field",
		"(local o = { name: 1 }; o.nmae)":             `did you mean "name"?`,
		"({ a: 1 }).b":                                "the field is read here; a library may have renamed it",
		"envv":                                        `did you mean "env"?`,
		"sdt.length('x')":                             `did you mean "std"?`,
		"[itme for item in [1]]":                      `did you mean "item"?`,
		"nothing":                                     "declare it with local, or import the library that has it",
		"defx.dep('db').port()":                       "port takes the name of a port: .port('sql')",
		"defx.dep()":                                  "dep takes a name in requires or connects: defx.dep('db')",
		"defx.peers.join(',', function(r) r.label())": "label takes the name of a label: .label('team')",
		"(local f(port) = port; f())":                 "the function has this parameter, and the call gives no value for it",
		"[defx.dep('db').port]":                       "a function is not a value: call it, as in .port('sql')",
		"std.native('parseYaml')('a')":                "there are no native functions here; use std.parseYaml",
		"(local n = std.native; local h = std.native('helm'); h('x'))": "there are no native functions here",
		"std.extVar('HOME')": "deployments have no external variables: add a parameter to the entry's function, and give its value with -A NAME=VALUE",
	} {
		for _, split := range []bool{false, true} { // in the entry file, and in a library
			lib := "local defx = import 'defx/v1.libsonnet', env = 'x';\n{ web: " + expr + " }"
			entry := "function(env='dev') { name: 'a', libs: { a: import 'a.libsonnet' } }"
			if !split {
				entry = "function(env='dev') { local defx = import 'defx/v1.libsonnet', name: 'a', libs: { a: { web: " + expr + " } } }"
			}
			dir := writeTree(t, "-- defx.jsonnet --\n"+entry+"\n-- a.libsonnet --\n"+lib+"\n")
			res, err := lang.Evaluate(context.Background(), lang.Config{Root: dir, Entry: "defx.jsonnet"})
			var e *diag.Error
			var list diag.List
			switch {
			case err == nil && res.Libraries[0].Err != nil:
				e = res.Libraries[0].Err
			case err == nil:
				e = res.Libraries[0].Functionalities[0].Err
			case errors.As(err, &list):
				e = list[0]
			}
			if e == nil || !strings.HasPrefix(e.Hint, want) {
				t.Errorf("%s: %v, want the hint %q", expr, e, want)
			}
		}
	}
}

func TestEvalFile_ExternalVariableHint(t *testing.T) {
	dir := writeTree(t, "-- x.jsonnet --\nstd.extVar('a')\n-- y.jsonnet --\nstd.lenght('a')\n")
	_, err := lang.EvalFile(context.Background(), lang.EvalConfig{File: dir + "/x.jsonnet"})
	if err == nil || !strings.Contains(err.Error(), "-V NAME=VALUE") {
		t.Errorf("%v", err)
	}
	_, err = lang.EvalFile(context.Background(), lang.EvalConfig{File: dir + "/y.jsonnet"})
	if err == nil || !strings.Contains(err.Error(), `did you mean "length"?`) {
		t.Errorf("%v", err)
	}
}
