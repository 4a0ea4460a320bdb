package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryVerbHelps: what it is for, two examples at least, the exit codes.
func TestEveryVerbHelps(t *testing.T) {
	root := rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("x") // an argument, for it is made only where there are some
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			look(sub)
		}
		if c.Hidden || c.Name() == "help" || c.HasParent() && c.Parent().Name() == "completion" {
			return // the shells' own instructions stand in their place
		}
		var b strings.Builder
		c.SetOut(&b)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		help := b.String()
		if !strings.Contains(help, "\nExamples:\n") || !strings.Contains(help, "\nUsage:\n") {
			t.Errorf("%s --help has no examples or no usage:\n%s", c.CommandPath(), help)
		}
		if !strings.Contains(help, exitCodes) {
			t.Errorf("%s --help does not tell the exit codes", c.CommandPath())
		}
		examples := strings.Split(strings.Trim(c.Example, "\n"), "\n")
		if len(examples) < 2 {
			t.Errorf("%s has %d examples", c.CommandPath(), len(examples))
		}
		for _, e := range examples {
			if !strings.HasPrefix(e, "  "+root.Name()+" ") {
				t.Errorf("%s: the example %q is not a line of defx", c.CommandPath(), e)
			}
			if c.HasParent() && !strings.HasPrefix(e, "  "+c.CommandPath()) {
				t.Errorf("%s: the example %q is of another verb", c.CommandPath(), e)
			}
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: %q is not a line for a list", c.CommandPath(), c.Short)
		}
	}
	look(root)
}
