package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var updateDocs = flag.Bool("update-docs", false, "rewrite docs/cli.md")

// TestTheReferenceOfTheVerbsIsTheirHelp keeps docs/cli.md equal to what --help says.
func TestTheReferenceOfTheVerbsIsTheirHelp(t *testing.T) {
	var b strings.Builder
	root := rootCommand()
	fmt.Fprintf(&b, "# The verbs\n\nWhat `defx VERB --help` says, in one page. Every flag can also be set by a variable: `DEFX_ENV` for `--env`.\n\n## Flags of all verbs\n\n```\n%s```\n\n%s\n",
		root.PersistentFlags().FlagUsages(), exitCodes)
	var section func(c *cobra.Command)
	section = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		long := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(c.Long), exitCodes))
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n%s\n\n```console\n", c.UseLine(), c.Short, long)
		for _, l := range strings.Split(c.Example, "\n") {
			fmt.Fprintf(&b, "$ %s\n", strings.TrimSpace(l))
		}
		b.WriteString("```\n")
		if f := c.LocalNonPersistentFlags().FlagUsages(); f != "" {
			fmt.Fprintf(&b, "\n```\n%s```\n", f)
		}
		for _, sub := range c.Commands() {
			section(sub)
		}
	}
	for _, c := range root.Commands() {
		section(c)
	}
	b.WriteString("\n## defx completion SHELL\n\nPrint what makes bash, zsh, fish or powershell complete verbs, flags and addresses.\n\n```console\n$ defx completion bash > /etc/bash_completion.d/defx\n$ defx completion zsh > \"${fpath[1]}/_defx\"\n```\n")
	const name = "../../docs/cli.md"
	if *updateDocs {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != b.String() {
		t.Error("docs/cli.md is not what the verbs say; go test ./cmd/defx -run Reference -update-docs writes it")
	}
}
