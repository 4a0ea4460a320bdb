package main

import (
	"context"
	"fmt"

	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

// completeFlags completes the values of flags that name units and generations of
// the recorded environment.
func completeFlags(root *cobra.Command, o *globalOptions) {
	values := map[string]func(context.Context, *session.Session) []string{
		"allow-delete": func(_ context.Context, s *session.Session) []string { return deployedAddresses(s) },
		"allow-move":   func(_ context.Context, s *session.Session) []string { return deployedAddresses(s) },
		"to": func(ctx context.Context, s *session.Session) (out []string) {
			list, err := state.History(ctx, s.Store(), 0)
			if err != nil {
				return nil
			}
			for _, g := range list {
				out = append(out, fmt.Sprintf("%d\t%s %s", g.Number, g.Verb, g.Applied.Local().Format(timeFormat)))
			}
			return out
		},
	}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for name, list := range values {
			if c.Flags().Lookup(name) == nil {
				continue
			}
			c.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
				s, err := o.session(cmd.Context(), func(error) {})
				if err != nil {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				return list(cmd.Context(), s), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
			})
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

const shells = "bash, zsh, fish or powershell"

// setUpCompletion adapts cobra's own completion command to the form of the others.
func setUpCompletion(root *cobra.Command) {
	root.CompletionOptions.HiddenDefaultCmd = false
	root.InitDefaultCompletionCmd("completion") // cobra makes it only if there are arguments
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Use, c.Short = "completion SHELL", "Print a shell completion script"
		c.Long = "Print a completion script for " + shells + ". The help of each shell says where to put it."
		c.Example = "  defx completion bash > /etc/bash_completion.d/defx\n  defx completion zsh > \"${fpath[1]}/_defx\""
		c.RunE = func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return diag.Errorf("", "defx completion: missing shell").WithHint(shells)
			}
			return diag.Errorf("", "unknown shell %q", args[0]).WithHint(shells)
		}
		c.Args = cobra.ArbitraryArgs
	}
}
