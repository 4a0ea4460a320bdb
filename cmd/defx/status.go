package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

type statusOptions struct {
	*globalOptions
	refresh bool
}

func statusCommand(g *globalOptions) *cobra.Command {
	o := &statusOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is deployed and since when",
		Long: `List the units of the newest generation, as recorded in the state. Machines are not
contacted, except with --refresh, which shows what is running and what differs from the
record: stopped services, edited or missing files, foreign drop-ins. Then the exit code is
3 if something is wrong. Units that failed, were rolled back, skipped or stopped on purpose
are listed with the reason.`,
		Example:           "  defx status\n  defx status -e prod --refresh --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), o, g.view()) },
	}
	cmd.Flags().BoolVar(&o.refresh, "refresh", false, "ask the machines for the current state")
	return cmd
}

func runStatus(ctx context.Context, o *statusOptions, v view) error {
	s, err := o.session(ctx, v.warn)
	if err != nil {
		return err
	}
	st, err := inspect.NewStatus(ctx, s)
	if err != nil {
		return err
	}
	gen := st.Generation
	doc := status{header: newHeader("Status"), Deployment: s.Deployment, Environment: s.Environment, Generation: gen.Number, By: gen.By, Revision: gen.Revision,
		Interrupted: st.Interrupted, verb: gen.Verb}
	if gen.Number > 0 {
		doc.Applied = &gen.Applied
	}
	if o.refresh {
		st.Refresh(ctx, s)
		doc.refreshed, doc.unreachable, doc.Orphans = true, st.Unreachable, append([]string{}, st.Orphans...)
		warnAll(v, st.Unreachable)
	}
	doc.Units = st.Units
	if err := v.show(doc); err != nil {
		return err
	}
	objects, volumes := splitOrphans(st.Orphans)
	adviseOrphans(v, objects, volumes)
	if st.Interrupted {
		v.advise("an apply was interrupted; run defx apply to finish it")
	}
	adviseRemovals(v, s.Names(), st.Removals)
	if err := unreachableError(st.Unreachable); err != nil || !o.refresh {
		return err
	}
	return wrongUnits(st)
}

// adviseRemovals says what is left on machines that units have moved away from, or that were forgotten.
func adviseRemovals(v view, names *graph.Names, removals []plan.Removal) {
	for _, r := range removals {
		names.Add(r.Address)
	}
	for _, r := range removals {
		if r.Forgotten {
			v.advise("perhaps left on %s, which was forgotten: %s; if it is declared, the next apply that reaches it looks", r.Machine, names.Text(r.Address))
			continue
		}
		v.advise("left on %s: %s; the next apply that reaches it removes it, or run %s", r.Machine, names.Text(r.Address), copyable("defx machine forget "+shellWord(r.Machine)))
	}
}

// wrongUnits is the error of a status --refresh that found something wrong; nil if it did not.
func wrongUnits(st *inspect.Status) error {
	var names []string
	all := graph.NamesOf()
	for _, u := range st.Units {
		all.Add(u.Address)
	}
	for i := range st.Units {
		if st.Units[i].Wrong() {
			names = append(names, all.Text(st.Units[i].Address))
		}
	}
	if len(names) == 0 {
		return nil
	}
	verb := "have problems"
	if len(names) == 1 {
		verb = "has a problem"
	}
	return &exitError{exitPartial, diag.Errorf("", "%s %s: %s", plural(len(names), "unit"), verb, strings.Join(names[:min(len(names), 10)], ", ")).
		WithHint("defx plan --refresh shows what an apply would change")}
}

// status is printed by status.
type status struct {
	header
	Deployment  string         `json:"deployment"`
	Environment string         `json:"environment"`
	Generation  int            `json:"generation"` // 0 = nothing applied yet
	Applied     *time.Time     `json:"applied,omitempty"`
	By          string         `json:"by"`
	Revision    string         `json:"revision"`
	Interrupted bool           `json:"interrupted"`
	Units       []inspect.Unit `json:"units"`
	Orphans     []string       `json:"orphans,omitzero"` // with --refresh

	verb        string // of the generation
	refreshed   bool
	unreachable map[string]error
}

func (st status) print(p *printer) {
	if st.Generation == 0 {
		p.printf("%s (%s) · nothing applied yet\n", st.Deployment, st.Environment)
		return
	}
	from := ""
	if st.Revision != "" {
		from = " from " + st.Revision
	}
	done := map[string]string{"apply": "applied", "rollback": "rolled back", "destroy": "destroyed", "rebuild": "rebuilt"}[st.verb]
	if done == "" {
		done = "defx " + st.verb
	}
	p.printf("%s (%s) · generation %d, %s %s ago by %s%s\n", st.Deployment, st.Environment, st.Generation, done, age(*st.Applied), st.By, from)
	if len(st.Units) == 0 {
		p.println("Nothing is deployed.")
		return
	}
	rows := [][]string{{"ADDRESS", "MACHINE", "BACKEND", "VERSION", "STATE", "SINCE"}}
	if st.refreshed {
		rows[0] = append(rows[0], "RUNNING")
	}
	below := map[int][]string{}
	names := graph.NamesOf()
	for _, u := range st.Units {
		names.Add(u.Address)
	}
	for _, u := range st.Units {
		row := []string{names.Text(u.Address), u.Machine, orDash(u.Backend), orDash(u.Digest.Brief()), unitState(u), unitAge(u)}
		if st.refreshed {
			row = append(row, runningText(u, st.unreachable[u.Machine] != nil))
		}
		rows = append(rows, row)
		if u.Reason != "" {
			below[len(rows)-1] = []string{p.faint(clean("      " + unitReason(u)))}
		}
	}
	p.tableWith(rows, below)
}

// unitReason says why a unit is in its state, and what was wanted.
func unitReason(u inspect.Unit) string {
	text := u.Reason
	if u.Stopped != nil && u.State == inspect.Stopped {
		text = fmt.Sprintf("by %s %s ago: %s", u.Stopped.By, age(u.Stopped.At), u.Reason)
	}
	if u.Wanted != "" && u.Digest != "" && u.Wanted != u.Digest {
		text = "wanted " + u.Wanted.Brief() + ": " + text
	}
	return text
}

func unitState(u inspect.Unit) string {
	text := u.State
	switch u.State {
	case inspect.Unknown:
		text = "unknown (interrupted)"
	case inspect.Failed:
		if u.Digest != "" {
			text = "failed, previous version"
		}
	}
	if u.Protected {
		text += ", protected"
	}
	return text
}

func unitAge(u inspect.Unit) string {
	if u.Earlier {
		return "over " + age(u.Since)
	}
	return age(u.Since)
}

// runningText says what a machine reported of a unit.
func runningText(u inspect.Unit, unreachable bool) string {
	switch {
	case unreachable:
		return "unknown: machine unreachable"
	case u.Machine == "":
		return copyable("not asked (see defx plan --refresh)")
	case u.Digest == "" && u.Running == nil:
		return "-"
	case len(u.Drift) > 0:
		return strings.Join(u.Drift, "; ")
	case u.Runs != nil:
		return u.Runs.String() + runTimes(u)
	case u.Running == nil:
		return "unchanged"
	case u.Running.Since.IsZero():
		return u.Running.Active
	}
	return u.Running.Active + " for " + age(u.Running.Since)
}

// runTimes says when a job ran and when it runs next.
func runTimes(u inspect.Unit) string {
	if u.Runs.Running {
		return " for " + age(u.Runs.Last)
	}
	text := ""
	if !u.Runs.Last.IsZero() {
		text = " " + age(u.Runs.Last) + " ago"
	}
	if !u.Runs.Next.IsZero() {
		format := "15:04:05"
		if time.Until(u.Runs.Next) > 20*time.Hour {
			format = "2006-01-02 15:04"
		}
		text += ", next " + u.Runs.Next.Local().Format(format)
	}
	return text
}

// splitOrphans separates unreferenced objects, which gc deletes, from unused
// volumes, which hold data and are left to the user.
func splitOrphans(orphans []string) (objects, volumes []string) {
	for _, o := range orphans {
		if strings.HasPrefix(o, "volume ") {
			volumes = append(volumes, clean(o))
		} else {
			objects = append(objects, clean(o))
		}
	}
	return objects, volumes
}

func adviseOrphans(v view, objects, volumes []string) {
	if len(objects) > 0 {
		v.advise("orphaned: %s; defx gc deletes them", strings.Join(objects, ", "))
	}
	if len(volumes) > 0 {
		v.advise("unused: %s; the data stays until you run docker volume rm", strings.Join(volumes, ", "))
	}
}

// age writes how long ago a time was.
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
