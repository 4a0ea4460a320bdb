package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/session"
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
journal of its machine. The name of a set or a group shows the lines of all of its units,
by time, each with its address. A unit that could not be created has logs, too.`,
		Example: "  defx logs shop/web\n  defx logs shop/web#0 --follow -n 100",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.address = args[0]
			return runLogs(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom(loggedAddresses),
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
	units, err := s.LogSources(ctx, o.address)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var lines []logLine
	width := 0
	for _, r := range units {
		width = max(width, len(r.Address))
	}
	addresses := make([]string, len(units))
	for i, r := range units {
		addresses[i] = r.Address
	}
	errs := session.ForEach(addresses, func(address string) error {
		r := units[slices.Index(addresses, address)]
		c, err := s.Dial(ctx, r.Machine)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.LogsOf(ctx, s.Scope(), r.Address, r.Entry, o.lines, o.follow, func(l agent.Line) {
			line := logLine{header: newHeader("Line"), Address: r.Address, Machine: r.Machine, Time: l.Time, PID: l.PID, Text: l.Text}
			if len(units) > 1 {
				line.prefix = pad(r.Address, width)
			}
			mu.Lock()
			defer mu.Unlock()
			if o.follow || len(units) == 1 {
				v.show(line)
			} else {
				lines = append(lines, line)
			}
		})
	})
	slices.SortStableFunc(lines, func(a, b logLine) int { return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Address, b.Address)) })
	for _, l := range lines {
		v.show(l)
	}
	if o.follow && ctx.Err() != nil {
		return &exitError{code: exitInterrupted}
	}
	if len(units) == 1 {
		return errs[addresses[0]]
	}
	warnAll(v, errs)
	if len(errs) > 0 {
		return &exitError{code: exitPartial}
	}
	return nil
}

// logLine is printed by logs, once for each line.
type logLine struct {
	header
	Address string    `json:"address"`
	Machine string    `json:"machine"`
	Time    time.Time `json:"time"`
	PID     int       `json:"pid"`
	Text    string    `json:"text"`

	prefix string // address, if the lines are those of several units
}

func (l logLine) print(p *printer) {
	text := clean(l.Text)
	if l.prefix != "" {
		text = l.prefix + "  " + text
	}
	p.println(l.Time.Local().Format("2006-01-02 15:04:05.000"), text)
}
