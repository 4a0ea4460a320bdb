package main

import (
	"context"
	"fmt"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
)

type historyOptions struct {
	*globalOptions
	number int // of generations; 0 = all
}

func historyCommand(g *globalOptions) *cobra.Command {
	o := &historyOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the generations of an environment",
		Long: `List what each apply, rollback and destroy changed, newest first, and what failed, was
rolled back or skipped in it.`,
		Example:           "  defx history\n  defx history -n 5 --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runHistory(cmd.Context(), o, g.view()) },
	}
	cmd.Flags().IntVarP(&o.number, "number", "n", 0, "show the newest `N` (0 = all)")
	return cmd
}

func runHistory(ctx context.Context, o *historyOptions, v view) error {
	if err := atLeast("number", o.number, 0); err != nil {
		return err
	}
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	list, err := state.History(ctx, s.Store(), o.number)
	if err != nil {
		return err
	}
	doc := history{header: newHeader("History"), Deployment: s.Deployment, Environment: s.Environment, Generations: []historyEntry{}, names: s.Names()}
	for _, g := range list {
		for _, o := range g.Outcomes {
			doc.names.Add(o.Address)
		}
		doc.Generations = append(doc.Generations, historyEntry{g.Number, g.Applied, g.By, g.Verb, g.Revision, g.Plan, g.Summary, append([]string{}, g.Failed...), g.Outcomes})
	}
	return v.show(doc)
}

// history is printed by history, newest generation first.
type history struct {
	header
	Deployment  string         `json:"deployment"`
	Environment string         `json:"environment"`
	Generations []historyEntry `json:"generations"`

	names *graph.Names
}

type historyEntry struct {
	Number   int             `json:"number"`
	Applied  time.Time       `json:"applied"`
	By       string          `json:"by"`
	Verb     string          `json:"verb"`
	Revision string          `json:"revision"`
	Plan     digest.Digest   `json:"plan"`
	Summary  state.Counts    `json:"summary"`
	Failed   []string        `json:"failed"`
	Outcomes []state.Outcome `json:"outcomes,omitempty"` // of units that did not become what was wanted
}

// timeFormat is how times of generations are shown.
const timeFormat = "2006-01-02 15:04:05"

func (h history) print(p *printer) {
	if len(h.Generations) == 0 {
		p.printf("%s (%s) · nothing applied yet\n", h.Deployment, h.Environment)
		return
	}
	rows := [][]string{{"GENERATION", "WHEN", "BY", "VERB", "REVISION", "SUMMARY"}}
	for _, g := range h.Generations {
		summary := (&apply.Result{Counts: g.Summary}).Summary()
		rows = append(rows, []string{fmt.Sprint(g.Number), g.Applied.Local().Format(timeFormat), g.By, g.Verb, orDash(g.Revision), summary})
	}
	below := map[int][]string{}
	for i, g := range h.Generations {
		for _, o := range g.Outcomes {
			below[i+1] = append(below[i+1], p.faint(clean(outcomeText(h.names.Text(o.Address), o))))
		}
	}
	p.tableWith(rows, below)
}

// outcomeText says in one line what became of a unit, and why.
func outcomeText(text string, o state.Outcome) string {
	if o.Machine != "" {
		text += " on " + o.Machine
	}
	return fmt.Sprintf("      %s: %s: %s", text, outcomeWords[o.Outcome], o.Reason)
}

// outcomeWords are the words for the outcomes of units.
var outcomeWords = map[string]string{state.OutcomeFailed: "failed", state.OutcomeRolledBack: "rolled back", state.OutcomeSkipped: "skipped", state.OutcomeInterrupted: "interrupted"}
