package main

import "testing"

func TestCopyable_AddsSelectingFlags(t *testing.T) {
	previous := invocation
	t.Cleanup(func() { invocation = previous })
	rootCommand()
	o := invocation.options
	*o = globalOptions{dir: "a b", file: "defx.jsonnet", env: "prod", tlaStr: []string{"who=it's me"}}
	const all = "-C 'a b' -e prod -A 'who=it'\\''s me'"
	for text, want := range map[string]string{
		"defx status lists the deployed units":            "defx status " + all + " lists the deployed units",
		"run defx apply again, or defx machine scan web1": "run defx apply " + all + " again, or defx machine scan " + all + " web1",
		"defx lock --update -e dev; defx plan":            "defx lock -C 'a b' -A 'who=it'\\''s me' --update -e dev; defx plan " + all,
		"defx plan --help lists the flags":                "defx plan --help lists the flags",
		"defx init creates one; -C DIR selects another":   "defx init creates one; -C DIR selects another",
		"defx frobnicate, defx":                           "defx frobnicate, defx",
		"`defx logs shop/web`":                            "`defx logs " + all + " shop/web`",
	} {
		if got := copyable(text); got != want {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
	if got := copyableHints("defx.jsonnet:1:1: defx apply\n       1 | // hint: defx apply\n    hint: defx apply"); got != "defx.jsonnet:1:1: defx apply\n       1 | // hint: defx apply\n    hint: defx apply "+all {
		t.Error(got)
	}
	*o = globalOptions{dir: ".", file: "defx.jsonnet"}
	if got := copyable("defx apply"); got != "defx apply" {
		t.Errorf("without flags: %s", got)
	}
	*o = globalOptions{dir: ".", file: "x.jsonnet", state: "s", jpath: []string{"l", "m"}, tlaCode: []string{"n=1"}}
	if got := copyable("defx apply"); got != "defx apply -f x.jsonnet --state s -J l -J m --tla-code n=1" {
		t.Errorf("%s", got)
	}
}
