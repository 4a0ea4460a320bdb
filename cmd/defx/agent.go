package main

import (
	"context"
	"io"
	"os"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/engine"
	"github.com/spf13/cobra"
)

// agentOptions choose what the program does on a machine.
type agentOptions struct {
	enter, cron, job string
	pause            bool
}

// agentCommand is run by defx itself on machines.
func agentCommand() *cobra.Command {
	o := &agentOptions{}
	cmd := &cobra.Command{
		Hidden:            true,
		Use:               "agent",
		Short:             "Run the agent on stdin/stdout (internal)",
		Long:              `Run the agent on stdin/stdout. It is started by defx itself.`,
		Example:           "  defx agent",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.enter, "enter", "", "execute the `REQUEST` of defx shell")
	f.StringVar(&o.cron, "cron", "", "inside a container: run the job of a `FILE` on schedule")
	f.StringVar(&o.job, "job", "", "run the job of a `FILE` now")
	f.BoolVar(&o.pause, "pause", false, "inside a container: hold the network of a group")
	return cmd
}

func runAgent(ctx context.Context, o *agentOptions) error {
	switch {
	case o.enter != "":
		return agent.Exec(ctx, o.enter)
	case o.cron != "":
		return engine.Cron(ctx, o.cron, os.Stdout)
	case o.job != "":
		return engine.Job(ctx, o.job, os.Stdout)
	case o.pause:
		engine.HoldPod(ctx)
		return nil
	}
	return agent.Serve(ctx, struct {
		io.Reader
		io.Writer
	}{os.Stdin, os.Stdout}, agent.OpenMachine(allBackends))
}
