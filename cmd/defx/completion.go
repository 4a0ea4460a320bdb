package main

import (
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

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
