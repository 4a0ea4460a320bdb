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

type shellOptions struct {
	*globalOptions
	address string
	command []string // none = a shell
}

func shellCommand(g *globalOptions) *cobra.Command {
	o := &shellOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "shell ADDRESS [-- COMMAND [ARGUMENT]...]",
		Short: "Run a shell or a command next to a unit",
		Long: `Start a shell, or a command, on the machine of a running unit: as its user, with its
environment variables and working directory, and with its view of the file system. The
exit code is that of the command.`,
		Example: "  defx shell shop/web\n  defx shell data/db -- psql -c 'select 1'",
		Args:    arguments(1, 1<<20),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.address, o.command = args[0], args[1:]
			return runShell(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom(deployedAddresses),
	}
}

func runShell(ctx context.Context, o *shellOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	r, err := s.Unit(o.address)
	if err != nil {
		return err
	}
	m := s.Machines[r.Machine]
	if m != nil && strings.HasPrefix(m.Connect, "dir:") {
		return errors.New("dir: machines run no processes")
	}
	c, err := s.Dial(ctx, r.Machine) // installs the program there if it is missing
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
	e := agent.ExecRequest{Scope: s.Scope(), Address: r.Address, Command: o.command}
	if m != nil {
		e.Engine = m.Docker
	}
	if terminal {
		e.Term = os.Getenv("TERM")
	}
	run, end, err := s.Project.Dialer().Exec(m, info.Program, e, terminal)
	if err != nil {
		return err
	}
	defer end()
	signal.Ignore(os.Interrupt, syscall.SIGQUIT) // the command on the machine gets them
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = run.Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return &exitError{code: failed.ExitCode()}
	}
	return err
}
