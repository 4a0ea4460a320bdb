package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Commands that are printed to be copied must act on the same deployment and
// environment as the one that printed them. Hints are written in many packages,
// which know no flags; so the flags are added in one place, when a hint is printed.

// invocation is the command line that is being executed, for texts that are
// printed outside of any command.
var invocation struct {
	root    *cobra.Command
	options *globalOptions
}

// unselective are the commands that act on no deployment.
var unselective = []string{"completion", "fmt", "help", "import", "init", "schema", "version"}

// selection returns the flags that select the deployment and the environment,
// each with its value, quoted for a shell.
func (o *globalOptions) selection() []string {
	var out []string
	add := func(flag string, values ...string) {
		for _, v := range values {
			out = append(out, flag+" "+shellWord(v))
		}
	}
	if o.dir != "." && o.dir != "" {
		add("-C", o.dir)
	}
	if o.file != "defx.jsonnet" && o.file != "" {
		add("-f", o.file)
	}
	if o.env != "" {
		add("-e", o.env)
	}
	if o.state != "" {
		add("--state", o.state)
	}
	add("-J", o.jpath...)
	add("-A", o.tlaStr...)
	add("--tla-code", o.tlaCode...)
	return out
}

var (
	commandRE = regexp.MustCompile(`\bdefx((?: [a-z]+)+)`)
	hintRE    = regexp.MustCompile(`(?m)^ *hint: .*$`)
)

// copyable adds to each command of defx in a text the flags that select the
// deployment and the environment, except those that the command has already.
func copyable(text string) string {
	o, root := invocation.options, invocation.root
	if o == nil || root == nil || !strings.Contains(text, "defx ") {
		return text
	}
	selection := o.selection()
	if len(selection) == 0 {
		return text
	}
	var b strings.Builder
	end := 0
	for _, m := range commandRE.FindAllStringSubmatchIndex(text, -1) {
		words := strings.Fields(text[m[2]:m[3]])
		n := commandWords(root, words)
		if n == 0 || slices.Contains(unselective, words[0]) {
			continue
		}
		at := m[0] + len("defx "+strings.Join(words[:n], " "))
		rest, _, _ := strings.Cut(text[at:], "\n")
		if i := strings.IndexAny(rest, ";,`"); i >= 0 {
			rest = rest[:i]
		}
		if strings.HasPrefix(rest, " --help") {
			continue
		}
		b.WriteString(text[end:at])
		end = at
		for _, flag := range selection {
			name, _, _ := strings.Cut(flag, " ")
			if !strings.Contains(rest, " "+name+" ") {
				b.WriteString(" " + flag)
			}
		}
	}
	return b.String() + text[end:]
}

// commandWords returns how many of the words name a command.
func commandWords(root *cobra.Command, words []string) int {
	c := root
	for i, w := range words {
		next := slices.IndexFunc(c.Commands(), func(s *cobra.Command) bool { return s.Name() == w })
		if next < 0 {
			return i
		}
		c = c.Commands()[next]
	}
	return len(words)
}

// copyableHints is copyable for the hints of an error's text.
func copyableHints(text string) string { return hintRE.ReplaceAllStringFunc(text, copyable) }
