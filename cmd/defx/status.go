package main

import (
	"fmt"
	"os"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/lang/digest"
	"github.com/spf13/cobra"
)

// stands is one line of status.
type stands struct {
	Address    string        `json:"address"`
	Machine    string        `json:"machine"`
	Backend    string        `json:"backend"`
	Digest     digest.Digest `json:"digest"`
	State      string        `json:"state"` // deployed, or unknown after an interrupted apply
	Generation int           `json:"generation"`
	Since      time.Time     `json:"since"`
	Protected  bool          `json:"protected,omitempty"`
}

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what was deployed where, and since when",
		Long: `List the units of the newest generation, as the state knows them. No machine is asked.

` + exitCodes,
		Example:           "  defx status\n  defx status -e prod --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := o.open()
			if err != nil {
				return err
			}
			name, env, _, err := o.which(cmd.Context(), p)
			if err != nil {
				return err
			}
			store, list, err := o.history(cmd.Context(), p, name, env, 0)
			if err != nil {
				return err
			}
			unfinished, err := apply.ReadUnfinished(store.Path())
			if err != nil {
				return err
			}
			units := []stands{}
			for _, r := range list[0].Records {
				since := sinceWhen(r, list)
				u := stands{r.Address, r.Machine, r.Backend, r.Digest, "deployed", since.Number, since.Applied, r.Protect || r.Stateful}
				if r.Digest == "" || unfinished != nil && unfinished.Units[r.Address] != nil {
					u.State = "unknown"
				}
				units = append(units, u)
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "Status", "deployment": name, "environment": env,
					"generation": list[0].Number, "applied": list[0].Applied, "by": list[0].By, "revision": list[0].Revision,
					"interrupted": unfinished != nil, "units": units})
			}
			g := list[0]
			from := ""
			if g.Revision != "" {
				from = " from " + g.Revision
			}
			fmt.Printf("%s (%s) · generation %d, applied %s ago by %s%s\n", name, env, g.Number, age(g.Applied), g.By, from)
			rows := [][]string{{"ADDRESS", "MACHINE", "BACKEND", "VERSION", "STATE", "SINCE"}}
			for _, u := range units {
				st := u.State
				if u.Protected {
					st += ", protected"
				}
				rows = append(rows, []string{u.Address, u.Machine, u.Backend, u.Digest.Brief(), st, age(u.Since)})
			}
			table(os.Stdout, rows)
			if unfinished != nil {
				fmt.Fprintln(os.Stderr, "an apply was interrupted: defx apply finishes it")
			}
			return nil
		},
	}
}

// sinceWhen is the oldest generation without a gap in which the record was as it is.
func sinceWhen(r plan.Record, list []*state.Generation) *state.Generation {
	at := list[0]
	for _, g := range list {
		same := false
		for _, x := range g.Records {
			if x.Address == r.Address {
				same = x.Digest == r.Digest && x.Machine == r.Machine
				break
			}
		}
		if !same {
			break
		}
		at = g
	}
	return at
}

func age(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d d", int(d.Hours()/24))
	}
}

func historyCommand(o *options) *cobra.Command {
	var n int
	cmd := &cobra.Command{
		Use:               "history",
		Short:             "List the generations of an environment",
		Long:              "List what each apply, rollback and destroy left behind, the newest first.\n\n" + exitCodes,
		Example:           "  defx history\n  defx history -n 5 --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := o.open()
			if err != nil {
				return err
			}
			name, env, _, err := o.which(cmd.Context(), p)
			if err != nil {
				return err
			}
			if n < 0 {
				return fmt.Errorf("--number %d is less than nothing\n    hint: 0 shows all", n)
			}
			_, list, err := o.history(cmd.Context(), p, name, env, n)
			if err != nil {
				return err
			}
			if o.json {
				type entry struct {
					Number   int           `json:"number"`
					Applied  time.Time     `json:"applied"`
					By       string        `json:"by"`
					Verb     string        `json:"verb"`
					Revision string        `json:"revision"`
					Plan     digest.Digest `json:"plan"`
					Summary  state.Counts  `json:"summary"`
					Failed   []string      `json:"failed"`
				}
				out := []entry{}
				for _, g := range list {
					out = append(out, entry{g.Number, g.Applied, g.By, g.Verb, g.Revision, g.Plan, g.Summary, append([]string{}, g.Failed...)})
				}
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "History", "deployment": name, "environment": env, "generations": out})
			}
			rows := [][]string{{"GENERATION", "WHEN", "BY", "VERB", "REVISION", "SUMMARY"}}
			for _, g := range list {
				rev := g.Revision
				if rev == "" {
					rev = "-"
				}
				rows = append(rows, []string{fmt.Sprint(g.Number), g.Applied.Local().Format("2006-01-02 15:04:05"), g.By, g.Verb, rev,
					(&apply.Result{Counts: g.Summary}).Summary()})
			}
			table(os.Stdout, rows)
			return nil
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 0, "show the newest `N` (0 = all)")
	return cmd
}
