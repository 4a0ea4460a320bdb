package main

import (
	"io"
	"os"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/engine"
	"github.com/spf13/cobra"
)

// agentCommand is the machine's side. Nobody calls it by hand.
func agentCommand() *cobra.Command {
	enter, cron, job, pause := "", "", "", false
	cmd := &cobra.Command{
		Use:               "agent",
		Hidden:            true,
		Short:             "Be the machine's side of a conversation on standard input and output",
		Long:              "Be the machine's side of a conversation on standard input and output. defx starts it by itself.\n\n" + exitCodes,
		Example:           "  defx agent",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if enter != "" {
				return agent.Exec(cmd.Context(), enter)
			}
			if cron != "" {
				return engine.Cron(cmd.Context(), cron, os.Stdout)
			}
			if job != "" {
				return engine.Job(cmd.Context(), job, os.Stdout)
			}
			if pause {
				engine.HoldPod(cmd.Context())
				return nil
			}
			return agent.Serve(cmd.Context(), struct {
				io.Reader
				io.Writer
			}{os.Stdin, os.Stdout}, agent.OpenMachine(all))
		},
	}
	cmd.Flags().StringVar(&enter, "enter", "", "become a command in a unit's surroundings: a `REQUEST` of defx shell")
	cmd.Flags().StringVar(&cron, "cron", "", "inside a container: start the job of a `FILE` on time")
	cmd.Flags().StringVar(&job, "job", "", "run the job of a `FILE` now")
	cmd.Flags().BoolVar(&pause, "pause", false, "inside a container: hold a network until told to stop")
	return cmd
}
