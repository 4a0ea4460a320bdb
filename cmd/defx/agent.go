package main

import (
	"io"
	"os"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/spf13/cobra"
)

// agentCommand is the machine's side. Nobody calls it by hand.
func agentCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "agent",
		Hidden:            true,
		Short:             "Be the machine's side of a conversation on standard input and output",
		Long:              "Be the machine's side of a conversation on standard input and output. defx starts it by itself.\n\n" + exitCodes,
		Example:           "  defx agent",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(*cobra.Command, []string) error {
			return agent.Serve(struct {
				io.Reader
				io.Writer
			}{os.Stdin, os.Stdout}, agent.OpenMachine(all))
		},
	}
}
