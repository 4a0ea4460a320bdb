package main

import (
	"context"
	"errors"
	"time"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/spf13/cobra"
)

type logsOptions struct {
	*globalOptions
	address string
	lines   int
	follow  bool
}

func logsCommand(g *globalOptions) *cobra.Command {
	o := &logsOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "logs ADDRESS",
		Short: "Show the logs of a unit",
		Long: `Show the last log lines of a unit, of its earlier versions and of its scripts, from the
journal of its machine.`,
		Example: "  defx logs shop/web\n  defx logs shop/web#0 --follow -n 100",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.address = args[0]
			return runLogs(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom(deployedAddresses),
	}
	cmd.Flags().IntVarP(&o.lines, "lines", "n", 20, "`NUMBER` of lines")
	cmd.Flags().BoolVar(&o.follow, "follow", false, "keep printing new lines")
	return cmd
}

func runLogs(ctx context.Context, o *logsOptions, v view) error {
	if err := atLeast("lines", o.lines, 0); err != nil {
		return err
	}
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	r, err := s.Unit(o.address)
	if err != nil {
		return err
	}
	c, err := s.Dial(ctx, r.Machine)
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.Logs(ctx, s.Scope(), r.Address, o.lines, o.follow, func(l agent.Line) {
		v.show(logLine{newHeader("Line"), r.Address, r.Machine, l.Time, l.PID, l.Text})
	})
	if o.follow && errors.Is(err, context.Canceled) {
		return &exitError{code: exitInterrupted}
	}
	return err
}

// logLine is printed by logs, once for each line.
type logLine struct {
	header
	Address string    `json:"address"`
	Machine string    `json:"machine"`
	Time    time.Time `json:"time"`
	PID     int       `json:"pid"`
	Text    string    `json:"text"`
}

func (l logLine) print(p *printer) {
	p.println(l.Time.Local().Format("2006-01-02 15:04:05.000"), clean(l.Text))
}
