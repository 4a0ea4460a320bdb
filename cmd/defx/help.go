package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const exitCodes = `Exit codes: 0 success or nothing to do; 1 error; 2 there are changes (only plan --exit-code);
3 partial success (something is held or failed); 130 interrupted.`

// flagGroups orders the flags of a command by what they choose. A flag that is
// in no group is an output flag.
var flagGroups = []struct {
	title string
	names []string
}{
	{"Flags that choose what:", []string{"allow-delete", "allow-empty", "allow-move", "confirm", "copy", "ext-code", "ext-str", "from", "give-up-data", "history", "keep", "lines", "links", "new-deployment", "number", "profile", "reason", "to", "update"}},
	{"Flags that choose how:", []string{"check", "dry-run", "follow", "lock-wait", "no-refresh", "parallel", "refresh", "repair", "replace", "strict", "verify-cache", "yes"}},
	{"Flags for the output:", nil},
}

// flagUsages returns the own flags of a command, one text for each group that has any.
func flagUsages(c *cobra.Command) (titles, texts []string) {
	grouped := func(name string) int {
		for i, g := range flagGroups {
			if slices.Contains(g.names, name) {
				return i
			}
		}
		return len(flagGroups) - 1
	}
	for i, g := range flagGroups {
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if grouped(f.Name) == i && f.Name != "help" {
				set.AddFlag(f)
			}
		})
		if text := set.FlagUsages(); text != "" {
			titles, texts = append(titles, g.title), append(texts, text)
		}
	}
	return titles, texts
}

// helpText returns what --help prints: what the command does, usage, examples,
// subcommands, flags and exit codes.
func helpText(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n", strings.TrimSpace(c.Long))
	if c.Runnable() && !c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND\n", c.CommandPath())
	}
	if c.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				fmt.Fprintf(&b, "  %s  %s\n", pad(sub.Name(), sub.NamePadding()), sub.Short)
			}
		}
	}
	titles, texts := flagUsages(c)
	for i, title := range titles {
		fmt.Fprintf(&b, "\n%s\n%s", title, texts[i])
	}
	fmt.Fprintf(&b, "\nGlobal flags:\n%s", c.Root().PersistentFlags().FlagUsages())
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n%s COMMAND --help shows the help of a command.\n", c.CommandPath())
	}
	fmt.Fprintf(&b, "\n%s\n", exitCodes)
	return b.String()
}

func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Long:    "Show the help of a command, as COMMAND --help does.",
		Example: "  defx help plan\n  defx help machine list",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(c, rest[0])
			}
			return c.Help()
		},
	}
}

// synonyms maps words of other tools to the command that does the same.
var synonyms = map[string]string{
	// Terraform and its kin
	"show": "status", "output": "explain", "validate": "lint", "refresh": "plan --refresh", "console": "eval", "taint": "restart", "workspace": "plan -e",
	// Docker and Compose
	"ls": "status", "ps": "status", "list": "status", "up": "apply", "run": "apply", "create": "apply",
	"down": "destroy", "rm": "destroy", "remove": "destroy", "exec": "shell", "inspect": "explain", "top": "status --refresh", "stats": "status --refresh", "events": "history",
	"compose": "import compose", "config": "eval", "pull": "lock --update",
	// kubectl and Helm
	"get": "status", "describe": "explain", "delete": "destroy", "uninstall": "destroy", "install": "apply", "upgrade": "apply", "deploy": "apply", "diff": "plan",
	"rollout": "rollback", "undo": "rollback", "edit": "apply", "patch": "apply", "replace": "apply", "template": "render", "log": "logs",
	// others
	"ssh": "shell", "sh": "shell", "new": "init", "format": "fmt",
}

// unsuggested are commands that no typing error may lead to, because they delete.
var unsuggested = []string{"gc"}

// unknownCommand returns the error for a word that is no command of parent.
func unknownCommand(parent *cobra.Command, word string) error {
	var names []string
	for _, c := range parent.Commands() {
		if c.IsAvailableCommand() && !slices.Contains(unsuggested, c.Name()) {
			names = append(names, c.Name())
		}
	}
	hint := diag.Suggest(word, names)
	if name := synonyms[word]; name != "" && !parent.HasParent() && commandWords(parent.Root(), strings.Fields(name)) > 0 {
		hint = fmt.Sprintf("did you mean %q?", name)
	}
	if hint == "" {
		hint = parent.CommandPath() + " --help lists the commands"
	}
	return diag.Errorf("", "unknown command %q", strings.TrimPrefix(parent.CommandPath()+" "+word, parent.Root().Name()+" ")).WithHint("%s", hint)
}

// commandGroup makes a command that only has subcommands: without one, or with
// an unknown one, it fails.
func commandGroup(c *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	c.AddCommand(subcommands...)
	var uses []string
	for _, s := range subcommands {
		uses = append(uses, s.Use)
	}
	if len(uses) == 1 {
		uses[0] = "defx " + c.Name() + " " + uses[0]
	}
	c.Args = cobra.ArbitraryArgs
	c.ValidArgsFunction = noFiles
	c.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(c, args[0])
		}
		return diag.Errorf("", "%s: missing subcommand", c.CommandPath()).WithHint("%s", oneOf(uses))
	}
	return c
}

// usageError rewrites cobra's error for an unknown command.
func usageError(root *cobra.Command, err error) error {
	word, ok := strings.CutPrefix(err.Error(), "unknown command \"")
	if word, _, found := strings.Cut(word, `" for "`); ok && found {
		return unknownCommand(root, word)
	}
	return err
}

// flagError describes an invalid flag, which was given as name (a flag or an
// environment variable).
func flagError(err error, name string) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	f := invalid.GetFlag()
	e := diag.Errorf("", "%s: %q is not valid: %v", name, invalid.GetValue(), invalid.Unwrap())
	switch f.Value.Type() {
	case "duration":
		return diag.Errorf("", "%s: %q is not a duration", name, invalid.GetValue()).WithHint("a duration such as 5s")
	case "int":
		return diag.Errorf("", "%s: %q is not a whole number", name, invalid.GetValue())
	case "bool":
		return diag.Errorf("", "%s: %q is neither true nor false", name, invalid.GetValue())
	}
	return e
}

// unknownValue is the error for a flag that takes one of a few words.
func unknownValue(flag, value string, known ...string) error {
	return diag.Errorf("", "unknown value %q of --%s", value, flag).WithHint("%s", oneOf(known))
}

// oneOf lists alternatives: "a, b or c".
func oneOf(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// atLeast checks a number given by a flag.
func atLeast(flag string, n, least int) error {
	if n < least {
		return diag.Errorf("", "--%s must be at least %d, not %d", flag, least, n)
	}
	return nil
}

// shortDuration writes a duration without zero parts: 1m rather than 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
