package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/deploy/transport"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

func machineScanCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
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
			g, err := o.ground(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = g.names()
			}
			type scanned struct {
				Machine     string `json:"machine"`
				HostKey     string `json:"hostKey,omitempty"`
				Fingerprint string `json:"fingerprint,omitempty"`
				State       string `json:"state"` // pinned, other (than the pinned one), unpinned, silent, or none (not reached over ssh)
				err         error
			}
			for _, name := range args {
				if g.machines[name] == nil {
					return diag.Errorf("", "unknown machine %q", name).WithHint("%s", orHint(diag.Suggest(name, g.names()), "defx machine list lists the machines"))
				}
			}
			out := make([]scanned, len(args))
			var all sync.WaitGroup
			room := make(chan struct{}, 20)
			for i, name := range args {
				all.Go(func() {
					room <- struct{}{}
					defer func() { <-room }()
					s, m := &out[i], g.machines[name]
					s.Machine = name
					s.HostKey, s.err = g.p.Dialer().HostKey(cmd.Context(), m)
					switch {
					case s.err != nil:
						s.State = "silent"
						return
					case s.HostKey == "":
						s.State = "none"
						return
					case m.HostKey == "":
						s.State = "unpinned"
					case transport.SameKey(m.HostKey, s.HostKey):
						s.State = "pinned"
					default:
						s.State = "other"
					}
					s.Fingerprint = transport.Fingerprint(s.HostKey)
				})
			}
			all.Wait()
			dumb, other := map[string]error{}, []string{}
			rows := [][]string{{"MACHINE", "FINGERPRINT", "STATE"}}
			for _, s := range out {
				st := map[string]string{"pinned": "matches hostKey", "other": "DIFFERS from hostKey", "unpinned": "not pinned", "silent": "unreachable", "none": "not reached over ssh"}[s.State]
				rows = append(rows, []string{s.Machine, orDash(s.Fingerprint), st})
				if s.err != nil {
					dumb[s.Machine] = s.err
				}
				if s.State == "other" {
					other = append(other, s.Machine)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(dumb)) {
				tell(os.Stderr, dumb[name])
			}
			if o.json {
				if err := printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Scan", "machines": out}); err != nil {
					return err
				}
			} else {
				table(os.Stdout, rows)
				for _, s := range out {
					if s.State == "unpinned" || s.State == "other" {
						fmt.Printf("  %s: { hostKey: '%s' }\n", s.Machine, s.HostKey)
					}
				}
			}
			if len(other) > 0 {
				return fmt.Errorf("%s: the host key differs from the pinned one\n    hint: the connection may be intercepted; if the machine was reinstalled, verify the fingerprint on it and update hostKey", strings.Join(other, ", "))
			}
			return silent(dumb)
		},
	}
	cmd.ValidArgsFunction = o.machineNames
	return cmd
}

func machineHistoryCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "List the changes made on a machine",
		Long: `List the generations that changed something on a machine, and what they changed, newest
first. Only the state is read; the machine is not contacted.`,
		Example: "  defx machine history web1\n  defx machine history web1 --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := o.ground(cmd.Context())
			if err != nil {
				return err
			}
			store := g.p.Store(g.at.name, g.at.env)
			list, err := state.History(cmd.Context(), store, 0)
			if err != nil {
				return err
			}
			type event struct {
				Generation int       `json:"generation"`
				Applied    time.Time `json:"applied"`
				By         string    `json:"by"`
				Verb       string    `json:"verb"`
				Came       []string  `json:"came,omitempty"`
				Changed    []string  `json:"changed,omitempty"`
				Went       []string  `json:"went,omitempty"`
			}
			events, known := []event{}, g.machines[args[0]] != nil
			on := func(records []plan.Record) map[string]plan.Record {
				out := map[string]plan.Record{}
				for _, r := range records {
					if r.Machine == args[0] {
						out[r.Address] = r
					}
				}
				return out
			}
			reader := state.NewReader(store)
			for i, gen := range list {
				e := event{Generation: gen.Number, Applied: gen.Applied, By: gen.By, Verb: gen.Verb}
				var older *state.Generation
				if i+1 < len(list) {
					older = list[i+1]
				}
				a, b, err := reader.Changed(cmd.Context(), gen, older)
				if err != nil {
					return err
				}
				now, before := on(a), on(b)
				if gen == forgotten(list) { // what it did is not known any more
					known = known || len(now) > 0
					break
				}
				for _, a := range slices.Sorted(maps.Keys(now)) {
					switch was, stood := before[a]; {
					case !stood:
						e.Came = append(e.Came, a)
					case was.Digest != now[a].Digest || !maps.Equal(was.Values, now[a].Values):
						e.Changed = append(e.Changed, a)
					}
				}
				for _, a := range slices.Sorted(maps.Keys(before)) {
					if _, stands := now[a]; !stands {
						e.Went = append(e.Went, a)
					}
				}
				if len(e.Came)+len(e.Changed)+len(e.Went) > 0 {
					known, events = true, append(events, e)
				}
			}
			if !known {
				return diag.Errorf("", "unknown machine %q", args[0]).WithHint("%s", orHint(diag.Suggest(args[0], g.names()), "defx machine list lists the machines"))
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "MachineHistory", "machine": args[0], "generations": events})
			}
			if len(events) == 0 && forgotten(list) != nil {
				fmt.Printf("Nothing changed on %s since generation %d; older generations were deleted.\n", args[0], forgotten(list).Number)
				return nil
			}
			if len(events) == 0 {
				fmt.Printf("No unit of %s (%s) was ever deployed on %s.\n", g.at.name, g.at.env, args[0])
				return nil
			}
			rows := [][]string{{"GENERATION", "WHEN", "BY", "VERB", "WHAT"}}
			for _, e := range events {
				var what []string
				for _, l := range []struct {
					sign string
					of   []string
				}{{"+", e.Came}, {"~", e.Changed}, {"-", e.Went}} {
					for _, a := range l.of[:min(3, len(l.of))] {
						what = append(what, l.sign+" "+a)
					}
					if more := len(l.of) - 3; more > 0 {
						what = append(what, fmt.Sprintf("%s %d more", l.sign, more))
					}
				}
				rows = append(rows, []string{fmt.Sprint(e.Generation), e.Applied.Local().Format("2006-01-02 15:04:05"), e.By, e.Verb, strings.Join(what, ", ")})
			}
			table(os.Stdout, rows)
			return nil
		},
	}
	cmd.ValidArgsFunction = o.machineNames
	return cmd
}
