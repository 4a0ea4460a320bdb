package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func shellCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell ADDRESS [-- COMMAND [ARGUMENT]...]",
		Short: "Run a shell or a command next to a unit",
		Long: `Start a shell, or a command, on the machine of a running unit: as its user, with its
environment variables and working directory, and with its view of the file system. The
exit code is that of the command.`,
		Example: "  defx shell shop/web\n  defx shell data/db -- psql -c 'select 1'",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			g, r, err := o.unit(ctx, args[0])
			if err != nil {
				return err
			}
			m := g.machines[r.Machine]
			if m != nil && strings.HasPrefix(m.Connect, "dir:") {
				return errors.New("dir: machines run no processes")
			}
			c, err := g.dial(ctx, r.Machine) // it sees to it that defx is there
			if err != nil {
				return err
			}
			limited, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			info, err := c.Info(limited)
			c.Close()
			if err != nil {
				return err
			}
			terminal := term.IsTerminal(int(os.Stdin.Fd()))
			e := agent.ExecRequest{Scope: g.scope(), Address: r.Address, Command: args[1:]}
			if m != nil {
				e.Engine = m.Docker
			}
			if terminal {
				e.Term = os.Getenv("TERM")
			}
			run, over, err := g.p.Dialer().Exec(m, info.Program, e, terminal)
			if err != nil {
				return err
			}
			defer over()
			signal.Ignore(os.Interrupt, syscall.SIGQUIT) // they are for what runs there
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			err = run.Run()
			if failed, is := errors.AsType[*exec.ExitError](err); is {
				return &exit{code: failed.ExitCode()}
			}
			return err
		},
	}
	o.completeUnits(cmd)
	return cmd
}
