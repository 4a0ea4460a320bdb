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
		Short:             "Run the agent on stdin/stdout (internal)",
		Long:              `Run the agent on stdin/stdout. It is started by defx itself.`,
		Example:           "  defx agent",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(*cobra.Command, []string) error {
			if enter != "" {
				return agent.Exec(enter)
			}
			if cron != "" {
				return engine.Cron(cron, os.Stdout)
			}
			if job != "" {
				return engine.Job(job, os.Stdout)
			}
			if pause {
				engine.HoldPod()
				return nil
			}
			return agent.Serve(struct {
				io.Reader
				io.Writer
			}{os.Stdin, os.Stdout}, agent.OpenMachine(all))
		},
	}
	cmd.Flags().StringVar(&enter, "enter", "", "execute the `REQUEST` of defx shell")
	cmd.Flags().StringVar(&cron, "cron", "", "inside a container: run the job of a `FILE` on schedule")
	cmd.Flags().StringVar(&job, "job", "", "run the job of a `FILE` now")
	cmd.Flags().BoolVar(&pause, "pause", false, "inside a container: hold the network of a group")
	return cmd
}
