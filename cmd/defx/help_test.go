package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp_EveryCommandIsComplete wants of each command an imperative summary,
// usage, at least two examples and the exit codes.
func TestHelp_EveryCommandIsComplete(t *testing.T) {
	root := rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("x") // with no argument it would not be made
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			check(sub)
		}
		if c.Hidden || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		var b strings.Builder
		c.SetOut(&b)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		help := b.String()
		for _, want := range []string{"\nExamples:\n", "\nUsage:\n", exitCodes} {
			if !strings.Contains(help, want) {
				t.Errorf("%s --help lacks %q:\n%s", c.CommandPath(), want, help)
			}
		}
		for _, line := range strings.Split(help, "\n") {
			if len([]rune(line)) > 110 {
				t.Errorf("%s --help has a line of %d columns: %s", c.CommandPath(), len([]rune(line)), line)
			}
		}
		examples := strings.Split(strings.Trim(c.Example, "\n"), "\n")
		if len(examples) < 2 {
			t.Errorf("%s has %d examples", c.CommandPath(), len(examples))
		}
		for _, e := range examples {
			if !strings.HasPrefix(e, "  "+c.CommandPath()) {
				t.Errorf("%s: the example %q is not one of this command", c.CommandPath(), e)
			}
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: %q is not a one-line summary", c.CommandPath(), c.Short)
		}
	}
	check(root)
}

func TestUnknownCommand_Suggestions(t *testing.T) {
	root := rootCommand()
	for word, want := range map[string]string{"plam": "plan", "ls": "status", "ps": "status", "up": "apply", "down": "destroy", "stauts": "status", "foo": "", "fm": "fmt", "x": ""} {
		text := unknownCommand(root, word).Error()
		hint := "defx --help lists the commands"
		if want != "" {
			hint = `did you mean "` + want + `"?`
		}
		if !strings.HasPrefix(text, `unknown command "`+word+`"`) || !strings.HasSuffix(text, "\n    hint: "+hint) {
			t.Errorf("%s: %s, want the hint %s", word, text, hint)
		}
	}
}

// Each word of another tool leads to a command that exists, and none leads to one that deletes orphans.
func TestSynonyms_NameCommands(t *testing.T) {
	root := rootCommand()
	for word, name := range synonyms {
		if commandWords(root, strings.Fields(name)) == 0 || strings.HasPrefix(name, "gc") {
			t.Errorf("%s: %q", word, name)
		}
	}
	for _, word := range []string{"gcc", "g", "ps", "cp"} {
		if err := unknownCommand(root, word); strings.Contains(err.Error(), `"gc"`) {
			t.Errorf("%s: %v", word, err)
		}
	}
}
