package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
)

// stands is one line of status.
type stands struct {
	Address    string                 `json:"address"`
	Machine    string                 `json:"machine"`
	Backend    string                 `json:"backend"`
	Digest     digest.Digest          `json:"digest"`
	State      string                 `json:"state"` // deployed, held, failed (it is what it was before), or unknown after an interrupted apply
	Generation int                    `json:"generation"`
	Since      time.Time              `json:"since"`
	Earlier    bool                   `json:"earlier,omitempty"` // it stood so before: gc forgot since when
	Protected  bool                   `json:"protected,omitempty"`
	Running    *agent.SupervisorState `json:"running,omitempty"` // with --refresh: as the machine's systemd tells
	Drift      []string               `json:"drift,omitempty"`   // with --refresh: what is not as it was left
	Runs       *agent.Runs            `json:"runs,omitempty"`    // with --refresh, of what has its times: how the last run went, when the next is due
}

func statusCommand(o *options) *cobra.Command {
	refresh := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is deployed and since when",
		Long: `List the units of the newest generation, as recorded in the state. Machines are not
contacted, except with --refresh, which shows what is running and what differs from the
record: stopped services, edited or missing files, foreign drop-ins.`,
		Example:           "  defx status\n  defx status -e prod --refresh --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, at, err := o.which(cmd.Context())
			if err != nil {
				return err
			}
			store := p.Store(at.name, at.env)
			list, err := state.History(cmd.Context(), store, 0)
			if err != nil {
				return err
			}
			unfinished, err := apply.ReadUnfinished(store.Path())
			if err != nil {
				return err
			}
			g, _, err := state.Current(cmd.Context(), store)
			if err != nil {
				return err
			}
			if g == nil {
				g = &state.Generation{} // what an environment without any looks like
			}
			sinces, err := state.NewReader(store).Since(cmd.Context(), list)
			if err != nil {
				return err
			}
			units := []stands{}
			for _, r := range g.Records {
				since := cmp.Or(sinces[r.Address], g) // an apply may have ended between two looks
				u := stands{Address: r.Address, Machine: r.Machine, Backend: r.Backend, Digest: r.Digest, State: "deployed",
					Generation: since.Number, Since: since.Applied, Earlier: forgotten(list) == since, Protected: r.Protect || r.Stateful}
				switch {
				case r.Digest == "" || unfinished != nil && unfinished.Units[r.Address] != nil:
					u.State = "unknown"
				case slices.Contains(g.Failed, r.Address):
					u.State = "failed"
				case at.desired != nil && slices.Contains(at.desired.HeldUnits, r.Address):
					u.State = "held"
				}
				units = append(units, u)
			}
			var dumb map[string]error
			var orphans []string
			if refresh {
				if orphans, dumb, err = o.refresh(cmd.Context(), units); err != nil {
					return err
				}
				for _, name := range slices.Sorted(maps.Keys(dumb)) {
					tell(os.Stderr, dumb[name])
				}
			}
			if o.json {
				doc := map[string]any{"apiVersion": plan.APIVersion, "kind": "Status", "deployment": at.name, "environment": at.env,
					"generation": g.Number, "by": g.By, "revision": g.Revision, "interrupted": unfinished != nil, "units": units}
				if g.Number > 0 {
					doc["applied"] = g.Applied
				}
				if refresh {
					doc["orphans"] = append([]string{}, orphans...)
				}
				if err := printJSON(os.Stdout, doc); err != nil {
					return err
				}
				return silent(dumb)
			}
			if len(orphans) > 0 {
				defer tellOrphans(orphans)
			}
			if unfinished != nil {
				defer fmt.Fprintln(os.Stderr, "warning: an apply was interrupted; run defx apply to finish it")
			}
			if g.Number == 0 {
				fmt.Printf("%s (%s) · nothing applied yet\n", at.name, at.env)
				return nil
			}
			from := ""
			if g.Revision != "" {
				from = " from " + g.Revision
			}
			done := map[string]string{"apply": "applied", "rollback": "rolled back", "destroy": "destroyed", "rebuild": "rebuilt"}[g.Verb]
			fmt.Printf("%s (%s) · generation %d, %s %s ago by %s%s\n", at.name, at.env, g.Number, done, age(g.Applied), g.By, from)
			if len(units) == 0 {
				fmt.Println("Nothing is deployed.")
				return nil
			}
			rows := [][]string{{"ADDRESS", "MACHINE", "BACKEND", "VERSION", "STATE", "SINCE"}}
			if refresh {
				rows[0] = append(rows[0], "RUNNING")
			}
			for _, u := range units {
				st := map[string]string{"unknown": "unknown (interrupted)", "failed": "failed, previous version"}[u.State]
				if st == "" {
					st = u.State
				}
				if u.Protected {
					st += ", protected"
				}
				since := age(u.Since)
				if u.Earlier {
					since = "over " + since
				}
				row := []string{u.Address, u.Machine, u.Backend, u.Digest.Brief(), st, since}
				if refresh {
					row = append(row, u.runs(dumb[u.Machine]))
				}
				rows = append(rows, row)
			}
			table(os.Stdout, rows)
			return silent(dumb)
		},
	}
	cmd.Flags().BoolVar(&refresh, "refresh", false, "ask the machines for the current state")
	return cmd
}

// refresh asks the machines how the units are, and what runs there that nothing leads to.
func (o *options) refresh(ctx context.Context, units []stands) (orphans []string, dumb map[string]error, err error) {
	g, err := o.ground(ctx)
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	errs := g.visit(ctx, g.used(), func(name string, c *agent.Client) error {
		looks, err := c.Status(ctx, g.scope())
		if err != nil {
			return err
		}
		left, err := c.Orphans(ctx, g.scope())
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, l := range left {
			orphans = append(orphans, l+" on "+name)
		}
		for i := range units {
			u := &units[i]
			if u.Machine != name {
				continue
			}
			l := looks[u.Address]
			if l == nil {
				u.Drift = []string{"missing on the machine"}
				continue
			}
			u.Running, u.Drift, u.Runs = l.State, l.Drift, l.Runs
			if l.Entry.Digest != u.Digest && l.Entry.Digest != "" {
				u.Drift = append(u.Drift, "another version is deployed: "+l.Entry.Digest.Brief())
			}
		}
		return nil
	})
	slices.Sort(orphans)
	return orphans, errs, nil
}

// tellOrphans lists what nothing leads to. Data is nobody's to remove but the user's.
func tellOrphans(orphans []string) {
	var data, rest []string
	for _, o := range orphans {
		if strings.HasPrefix(o, "volume ") {
			data = append(data, clean(o))
		} else {
			rest = append(rest, clean(o))
		}
	}
	if len(rest) > 0 {
		fmt.Fprintf(os.Stderr, "orphaned: %s; defx gc deletes them\n", strings.Join(rest, ", "))
	}
	if len(data) > 0 {
		fmt.Fprintf(os.Stderr, "unused: %s; the data stays until you run docker volume rm\n", strings.Join(data, ", "))
	}
}

// runs says in a few words how a unit is.
func (u *stands) runs(err error) string {
	switch {
	case err != nil:
		return "unknown: machine unreachable"
	case u.Machine == "":
		return "not asked (see defx plan --refresh)"
	case len(u.Drift) > 0:
		return strings.Join(u.Drift, "; ")
	case u.Runs != nil:
		return u.Runs.String() + u.when()
	case u.Running == nil:
		return "unchanged"
	case u.Running.Since.IsZero():
		return u.Running.Active
	}
	return u.Running.Active + " for " + age(u.Running.Since)
}

// when says when a job ran and runs again.
func (u *stands) when() string {
	out := ""
	if u.Runs.Running {
		return " for " + age(u.Runs.Last)
	}
	if !u.Runs.Last.IsZero() {
		out = " " + age(u.Runs.Last) + " ago"
	}
	if !u.Runs.Next.IsZero() {
		format := "15:04:05"
		if time.Until(u.Runs.Next) > 20*time.Hour {
			format = "2006-01-02 15:04"
		}
		out += ", next " + u.Runs.Next.Local().Format(format)
	}
	return out
}

// forgotten is the oldest generation of a history of which gc forgot what was before it; nil if nothing was forgotten.
func forgotten(history []*state.Generation) *state.Generation {
	if n := len(history); n > 0 && history[n-1].Parent != "" {
		return history[n-1]
	}
	return nil
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
		Long:              `List what each apply, rollback and destroy changed, newest first.`,
		Example:           "  defx history\n  defx history -n 5 --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, at, err := o.which(cmd.Context())
			if err != nil {
				return err
			}
			if n < 0 {
				return atLeast("number", n, 0)
			}
			list, err := state.History(cmd.Context(), p.Store(at.name, at.env), n)
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
				return printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "History", "deployment": at.name, "environment": at.env, "generations": out})
			}
			if len(list) == 0 {
				fmt.Printf("%s (%s) · nothing applied yet\n", at.name, at.env)
				return nil
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
