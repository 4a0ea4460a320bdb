package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// answeringView confirms each question, after calling before.
type answeringView struct {
	*textView
	asked  int
	before func(n int)
}

func (v *answeringView) confirm(context.Context, string, string, string) error {
	v.asked++
	v.before(v.asked)
	return nil
}

// TestApply_AsksAgainIfTheStateChangedAtThePrompt: while a person looks at the
// changes, somebody else applies others.
func TestApply_AsksAgainIfTheStateChangedAtThePrompt(t *testing.T) {
	dir := t.TempDir()
	write := func(n string) {
		t.Helper()
		entry := "{ name: 'tiny', libs: { app: { web: { service: { command: ['/bin/web', '" + n + "'] } } } }, machines: { box: { connect: 'dir:./box' } } }\n"
		if err := os.WriteFile(filepath.Join(dir, "defx.jsonnet"), []byte(entry), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	options := func(yes bool) *applyOptions {
		g := &globalOptions{}
		g.addFlags(pflag.NewFlagSet("defx", pflag.ContinueOnError)) // sets defaults
		g.dir, g.cache = dir, "off"
		return &applyOptions{globalOptions: g, applyFlags: applyFlags{yes: yes, parallel: 1}}
	}
	var other bytes.Buffer
	quiet := &textView{messages{w: &other}, printer{w: &other}}
	apply := func(n string) {
		t.Helper()
		write(n)
		if err := runApply(t.Context(), options(true), quiet); err != nil {
			t.Fatal(err)
		}
	}
	apply("0")
	write("5")
	var out bytes.Buffer
	v := &answeringView{textView: &textView{messages{w: &out}, printer{w: &out}}, before: func(n int) {
		if n == 1 {
			apply("6")
			write("5")
		}
	}}
	if err := runApply(t.Context(), options(false), v); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	first, second := strings.Index(text, `"0" → "5"`), strings.Index(text, `"6" → "5"`)
	if v.asked != 2 || first < 0 || second < first || !strings.Contains(text, "another process has changed the state since, and nothing was done; these are the changes now") {
		t.Errorf("asked %d times:\n%s", v.asked, text)
	}
}
