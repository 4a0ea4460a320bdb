package main

import (
	"context"
	"errors"
	"time"

	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

// stopOptions are those of stop and of start.
type stopOptions struct {
	*globalOptions
	address  string
	reason   string // "" = start
	lockWait time.Duration
}

func stopCommand(g *globalOptions) *cobra.Command {
	o := &stopOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "stop ADDRESS --reason TEXT",
		Short: "Stop a unit until it is started again",
		Long: `Stop a unit and record why. It stays stopped across applies, which exchange its files
without starting it, and across reboots of its machine, until defx start. Nothing else
is changed, even if the entry file differs from what is deployed.`,
		Example: "  defx stop shop/web --reason 'moving the database'\n  defx stop shop/web#1 -e prod --reason 'bad disk'",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.address = args[0]; o.reason == "" {
				return diag.Errorf("", "--reason is missing: others will want to know why it does not run").WithHint("defx stop %s --reason 'TEXT'", shellWord(o.address))
			}
			return runStop(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom(deployedAddresses),
	}
	cmd.Flags().StringVar(&o.reason, "reason", "", "`TEXT` that says why, for status and history")
	cmd.Flags().DurationVar(&o.lockWait, "lock-wait", time.Minute, "`DURATION` to wait for an apply to finish")
	return cmd
}

func startCommand(g *globalOptions) *cobra.Command {
	o := &stopOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "start ADDRESS",
		Short: "Start a unit that defx stop stopped",
		Long: `Start a unit that defx stop has stopped, in the version that is deployed now, and wait
until it is ready.`,
		Example: "  defx start shop/web\n  defx start shop/web#1 -e prod",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.address = args[0]
			return runStop(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom(deployedAddresses),
	}
	cmd.Flags().DurationVar(&o.lockWait, "lock-wait", time.Minute, "`DURATION` to wait for an apply to finish")
	return cmd
}

func runStop(ctx context.Context, o *stopOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	r, err := s.Unit(o.address)
	if err != nil {
		return err
	}
	var w *apply.Request
	if o.reason != "" {
		w, err = s.StopRequest(ctx, r, o.reason)
	} else {
		w, err = s.StartRequest(ctx, r)
	}
	if err != nil {
		return err
	}
	w.LeaseWait = o.lockWait
	var failed error
	w.OnEvent = func(e apply.Event) {
		if e.Outcome == apply.Failed {
			failed = errors.Join(failed, e.Err)
		}
	}
	started := time.Now()
	res, err := apply.Run(ctx, w)
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case res.Stopped:
		return ctx.Err()
	}
	kind := "Stopped"
	if o.reason == "" {
		kind = "Started"
	}
	return v.show(stopResult{newHeader(kind), r.Address, r.Machine, o.reason, res.Generation, time.Since(started).Seconds(), s.Names().Text(r.Address)})
}

// stopResult is printed by stop and start.
type stopResult struct {
	header
	Address    string  `json:"address"`
	Machine    string  `json:"machine"`
	Reason     string  `json:"reason,omitempty"`
	Generation int     `json:"generation"`
	Seconds    float64 `json:"seconds"`

	name string // the address, as people read it
}

func (r stopResult) print(p *printer) {
	took := elapsed(time.Duration(r.Seconds * float64(time.Second)))
	if r.Reason == "" {
		p.printf("%s started on %s in %s\n", r.name, r.Machine, took)
		return
	}
	p.printf("%s stopped on %s in %s; it stays stopped until %s\n", r.name, r.Machine, took, copyable("defx start "+shellWord(r.name)))
}
