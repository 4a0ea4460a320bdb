package main

import (
	"context"
	"strings"

	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

type machineScanOptions struct {
	*globalOptions
	machines []string // none = all
}

func machineScanCommand(g *globalOptions) *cobra.Command {
	o := &machineScanOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "scan [NAME…]",
		Short: "Show the ssh host keys of machines",
		Long: `Ask machines reached over ssh for their host key and compare it with hostKey. Nothing is
run there and no login happens. The key shown is that of whichever host answered: before
you pin it, compare its fingerprint with that printed on the machine itself by
'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub'. Exit code 1 if a machine has another
key than the pinned one.`,
		Example: "  defx machine scan\n  defx machine scan web1 --json",
		Args:    arguments(0, 1<<20),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.machines = args
			return runMachineScan(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: g.completeFrom((*session.Session).MachineNames),
	}
}

func runMachineScan(ctx context.Context, o *machineScanOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	names := o.machines
	if len(names) == 0 {
		names = s.MachineNames()
	}
	keys, unreachable, err := inspect.ScanHostKeys(ctx, s, names)
	if err != nil {
		return err
	}
	if err := v.show(scan{newHeader("Scan"), keys}); err != nil {
		return err
	}
	warnAll(v, unreachable)
	var differ []string
	for _, k := range keys {
		if k.State == inspect.KeyDiffers {
			differ = append(differ, k.Machine)
		}
	}
	if len(differ) > 0 {
		return diag.Errorf("", "%s: the host key differs from the pinned one", strings.Join(differ, ", ")).
			WithHint("the connection may be intercepted; if the machine was reinstalled, verify the fingerprint on it and update hostKey")
	}
	return unreachableError(unreachable)
}

// scan is printed by machine scan.
type scan struct {
	header
	Machines []inspect.HostKey `json:"machines"`
}

func (s scan) print(p *printer) {
	texts := map[string]string{inspect.KeyPinned: "matches hostKey", inspect.KeyDiffers: "DIFFERS from hostKey", inspect.KeyUnpinned: "not pinned",
		inspect.KeySilent: "unreachable", inspect.KeyNone: "not reached over ssh"}
	rows := [][]string{{"MACHINE", "FINGERPRINT", "STATE"}}
	for _, k := range s.Machines {
		rows = append(rows, []string{k.Machine, orDash(k.Fingerprint), texts[k.State]})
	}
	p.table(rows)
	for _, k := range s.Machines {
		if k.State == inspect.KeyUnpinned || k.State == inspect.KeyDiffers {
			p.printf("  %s: { hostKey: '%s' }\n", k.Machine, k.Key)
		}
	}
}
