package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func rootCommand() *cobra.Command {
	o := &globalOptions{}
	root := &cobra.Command{
		Use:   "defx",
		Short: "Deploy services described in Jsonnet",
		Long: `defx evaluates Jsonnet libraries, compares the result with what is deployed, and
changes only the services whose digest changed.`,
		Example:       "  defx init shop && cd shop\n  defx plan\n  defx apply",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       versionText(),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			changesNothing.Store(slices.Contains(planningCommands, cmd.Name()) && cmd.Parent() == cmd.Root())
			if err := setFromEnvironment(cmd.Flags()); err != nil {
				return err
			}
			if limits, err := o.limits(); err == nil { // commands that evaluate report the error
				cmd.SetContext(lang.WithBudget(cmd.Context(), limits))
			}
			return nil
		},
	}
	o.addFlags(root.PersistentFlags())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
			err = flagError(err, "--"+invalid.GetFlag().Name)
		}
		return withHint(err, "%s --help lists the flags", cmd.CommandPath())
	})
	root.SetOut(stdout)
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), helpText(cmd)) })
	root.SetHelpCommand(helpCommand(root))
	root.SetVersionTemplate("{{.Version}}\n")
	root.DisableSuggestions = true
	root.AddCommand(agentCommand(), applyCommand(o), attachCommand(o), destroyCommand(o), detachCommand(o), evalCommand(o), explainCommand(o),
		fmtCommand(o), gcCommand(o), graphCommand(o), historyCommand(o), importCommand(o), initCommand(o), lintCommand(o), lockCommand(o),
		logsCommand(o), machineCommand(o), planCommand(o), providersCommand(o), renderCommand(o), restartCommand(o), rollbackCommand(o), schemaCommand(), shellCommand(o),
		startCommand(o), stateCommand(o), statusCommand(o), stopCommand(o), versionCommand(o))
	setUpCompletion(root)
	completeFlags(root, o)
	root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp))
	invocation.root, invocation.options = root, o
	root.RegisterFlagCompletionFunc("env", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		p, err := o.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return p.Environments(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	})
	return root
}

// planningCommands are the commands that change nothing.
var planningCommands = []string{"eval", "explain", "fmt", "graph", "history", "lint", "plan", "render", "status"}

// setFromEnvironment sets the flags that are not on the command line from the
// variables DEFX_NAME. An empty variable counts as not set.
func setFromEnvironment(f *pflag.FlagSet) error {
	var errs diag.List
	f.VisitAll(func(fl *pflag.Flag) {
		name := "DEFX_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		v := os.Getenv(name)
		if v == "" || fl.Changed || fl.Name == "help" || fl.Name == "version" {
			return
		}
		for _, v := range environmentValues(fl, v) {
			if err := f.Set(fl.Name, v); err != nil {
				errs = append(errs, diagnostics(flagError(err, name))...)
			}
		}
	})
	if colorFlag != "auto" && colorFlag != "always" && colorFlag != "never" {
		errs = append(errs, diagnostics(unknownValue("color", colorFlag, "auto", "always", "never"))...)
	}
	return errs.Err()
}

// environmentValues splits the variable of a repeatable flag: folders are
// separated as in PATH, other values stand on lines of their own.
func environmentValues(f *pflag.Flag, v string) []string {
	switch {
	case f.Value.Type() != "stringArray":
		return []string{v}
	case f.Name == "jpath":
		return filepath.SplitList(v)
	}
	return strings.Split(strings.TrimSuffix(v, "\n"), "\n")
}

// arguments accepts from least to most arguments.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return diag.Errorf("", "%s: missing argument", cmd.CommandPath()).WithHint("usage: %s", cmd.UseLine())
		case len(args) > most:
			return diag.Errorf("", "%s: unexpected argument %q", cmd.CommandPath(), args[most]).WithHint("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// noFiles keeps shells from completing file names.
func noFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeFrom completes the first argument from what the recorded environment has.
func (o *globalOptions) completeFrom(list func(*session.Session) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := o.session(cmd.Context(), func(error) {})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list(s), cobra.ShellCompDirectiveNoFileComp
	}
}

// deployedNames lists the addresses of the deployed units, and the names of sets of several.
func deployedNames(s *session.Session) []string {
	return append(deployedAddresses(s), s.Names().Sets()...)
}

// deployedAddresses lists the addresses of the deployed units.
func deployedAddresses(s *session.Session) []string {
	var out []string
	names := s.Names()
	for _, r := range s.Records {
		out = append(out, names.Text(r.Address))
	}
	return out
}

// loggedAddresses lists the addresses that logs accepts: also those of units that failed.
func loggedAddresses(s *session.Session) []string {
	out := deployedNames(s)
	for _, o := range s.Generation.Outcomes {
		out = append(out, o.Address)
	}
	return sets.Union(out)
}
