package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// applyFlags are the flags of commands that change machines.
type applyFlags struct {
	yes      bool
	repair   bool
	skip     bool   // do not ask the machines
	confirm  string // name of the environment; only with addConfirm
	parallel int
	lockWait time.Duration
}

func (f *applyFlags) addFlags(fs *pflag.FlagSet) {
	fs.BoolVarP(&f.yes, "yes", "y", false, "do not ask for confirmation")
	fs.BoolVar(&f.repair, "repair", false, "with --yes, also repair what somebody stopped or edited on the machines")
	fs.BoolVar(&f.skip, "no-refresh", false, "do not ask the machines what they have")
	fs.IntVar(&f.parallel, "parallel", 30, "maximum `NUMBER` of concurrent actions")
	fs.DurationVar(&f.lockWait, "lock-wait", time.Minute, "`DURATION` to wait for another apply to finish")
}

type applyOptions struct {
	*globalOptions
	planFlags
	applyFlags
	planFile string          // a plan saved by plan -o; "" = plan now
	named    map[string]bool // addresses of --allow-delete
}

func (o *applyOptions) addFlags(f *pflag.FlagSet) {
	o.planFlags.addFlags(f)
	o.addRefresh(f, "ask the cloud for the state of resources, too, and include differences")
	o.applyFlags.addFlags(f)
	o.addConfirm(f)
	f.Lookup("yes").Usage = yesUsage
}

func applyCommand(g *globalOptions) *cobra.Command {
	o := &applyOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "apply [FILE]",
		Short: "Apply the deployment",
		Long: `Show the changes, ask for confirmation, and apply them. Only services whose digest
changed are touched. If an apply was killed, the next one finishes it. With FILE (made
by plan -o), exactly that plan is applied without asking; if the situation has changed
since, apply refuses.

The machines are asked first what they have. What is missing there is restored. What
somebody stopped or edited is shown, and repaired after the same confirmation; --yes
leaves it as it is unless --repair is given, too. Edited files are kept as copies. A unit
whose data is gone is not started without --allow-empty.

--yes answers the question in advance. A plan that deletes everything, or more than half
of what is deployed and at least three units, is confirmed only by the name of the
environment: typed when asked, or given with --confirm. This holds for a FILE, too.`,
		Example: "  defx apply\n  defx apply --yes -e prod",
		Args:    arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.planFile = args[0]
			}
			return runApply(cmd.Context(), o, g.view())
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func runApply(ctx context.Context, o *applyOptions, v view) error {
	if err := atLeast("parallel", o.parallel, 1); err != nil {
		return err
	}
	o.named = setOf(o.allowDelete)
	if o.planFile != "" {
		return runSaved(ctx, o, v)
	}
	for {
		err := planAndApply(ctx, o, v)
		if o.yes || !askAgain(ctx, v, err) {
			return err
		}
	}
}

// askAgain reports whether an apply that a person confirmed was refused because
// another process has changed the state since, so that it must be shown and
// confirmed again as it is now.
func askAgain(ctx context.Context, v view, err error) bool {
	if ctx.Err() != nil || !errors.Is(err, apply.ErrPlanChanged) {
		return false
	}
	v.note("note", "another process has changed the state since, and nothing was done; these are the changes now")
	return true
}

// planAndApply plans, shows the changes, asks for confirmation and makes them.
func planAndApply(ctx context.Context, o *applyOptions, v view) error {
	p, d, r, err := o.desired(ctx, &o.planFlags, v, (*project.Project).Plan)
	if err != nil {
		return err
	}
	defer v.held(d) // errors come last
	if err := o.validate(d); err != nil {
		return err
	}
	if err := refuseUnlocked(d); err != nil {
		return err
	}
	if err := o.refreshMachines(ctx, r); err != nil {
		return err
	}
	defer r.Refreshed.Close()
	cs, err := o.changes(ctx, p, d, r)
	if err != nil {
		return err
	}
	return applyChanges(ctx, o, v, d, r, cs)
}

// refuseUnlocked returns an error if the deployment needs providers that differ from the lock file.
func refuseUnlocked(d *project.Desired) error {
	var errs diag.List
	for _, w := range d.Unlocked {
		errs = append(errs, diag.Errorf("", "%s", w.Msg).WithHint("%s", w.Hint))
	}
	d.Unlocked = nil // not shown twice
	return errs.Err()
}

// refreshMachines asks the machines what they have. Without a person to ask, what somebody stopped
// or edited there is left as it is.
func (f *applyFlags) refreshMachines(ctx context.Context, r *apply.Request) error {
	if f.yes && !f.repair {
		r.Repair = func(_ string, needs plan.Repair) bool { return needs != plan.RepairConsent }
	}
	if f.skip {
		return nil
	}
	return r.RefreshMachines(ctx)
}

// refuseEmpty is the error of changes that would start units without their data; nil if there are
// none.
func refuseEmpty(cs *plan.ChangeSet) error {
	var errs diag.List
	for _, d := range cs.Drifted {
		if d.Needs != plan.NeedsEmpty {
			continue
		}
		what := "its data"
		var dirs []string
		for _, x := range d.Differences {
			if x.Cause == plan.CauseDataMissing && strings.ContainsAny(x.Field, "/:") {
				dirs = append(dirs, strings.Replace(x.Field, backends.VolumePrefix, "volume ", 1))
			}
		}
		if len(dirs) > 0 {
			what = strings.Join(dirs, " and ")
		}
		address := cs.Names.Text(d.Address)
		errs = append(errs, diag.Errorf(address, "%s is gone from %s (%s); nothing was changed", what, d.Machine, d.Differences[0].Cause).
			WithHint("restore it there, or start the unit empty: --allow-empty %s, or --allow-empty @%s for all units of the machine", shellWord(address), d.Machine))
	}
	return errs.Err()
}

// leftDrifted is the end of an apply that left units as somebody changed them; nil if there are none.
func leftDrifted(cs *plan.ChangeSet) error {
	var names []string
	for _, d := range cs.Drifted {
		if d.Needs == plan.NeedsRepair {
			names = append(names, cs.Names.Text(d.Address))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return &driftError{exitError{exitPartial, diag.Errorf("", "%s on the machines and left so: %s", differ(len(names)), strings.Join(names[:min(len(names), 10)], ", ")).
		WithHint("--repair restores what was deployed; defx stop ADDRESS --reason TEXT keeps a unit stopped")}}
}

// driftError is the end of an apply that left units as somebody changed them.
type driftError struct{ exitError }

func (e *driftError) Unwrap() error { return &e.exitError }

func differ(n int) string {
	if n == 1 {
		return "1 unit was changed"
	}
	return fmt.Sprintf("%d units were changed", n)
}

// applyChanges shows the changes, asks for confirmation unless --yes or a saved
// plan confirms them, and makes them.
func applyChanges(ctx context.Context, o *applyOptions, v view, d *project.Desired, r *apply.Request, cs *plan.ChangeSet) error {
	unfinished, err := apply.ReadUnfinished(ctx, r.Store)
	if err != nil {
		return err
	}
	v.propose(newPlanDocument(d, cs))
	adviseUnattached(v, d, cs)
	if err := refuseEmpty(cs); err != nil {
		return err
	}
	if cs.Empty() && unfinished == nil {
		return execute(ctx, r, cs, &o.applyFlags, v, len(d.Held) > 0)
	}
	if !cs.Empty() && (o.planFile == "" || mostDeleted(cs, o.named) != "") {
		if !o.yes {
			v.held(d) // before the question
		}
		if err := o.ask(ctx, v, cs, o.named, confirmation{question: confirmQuestion(d, cs), word: "y"}); err != nil {
			return err
		}
	}
	if !o.yes || o.planFile != "" { // --yes alone also confirms changes of the state since then
		r.Approved = cs
	}
	return execute(ctx, r, cs, &o.applyFlags, v, len(d.Held) > 0)
}

// confirmQuestion asks whether to make changes.
func confirmQuestion(d *project.Desired, cs *plan.ChangeSet) string {
	if cs.Summary.Repair == len(cs.Actions) && len(cs.Removals) == 0 {
		return fmt.Sprintf("Repair this in %s (%s)? [y/N] ", d.Name, d.Environment)
	}
	return fmt.Sprintf("Apply these changes to %s (%s)? [y/N] ", d.Name, d.Environment)
}

const yesHint = "--yes confirms in advance"

// runSaved applies a saved plan, if it is still what an apply would do.
func runSaved(ctx context.Context, o *applyOptions, v view) error {
	saved, err := readSavedPlan(ctx, o.path(o.planFile))
	if err != nil {
		return withHint(fmt.Errorf("%s: %w", o.planFile, err), "make one with defx plan -o %s", shellWord(o.planFile))
	}
	approved := saved.ChangeSet
	typed := o.planFlags
	o.allow(saved)
	p, d, r, err := o.desired(ctx, &o.planFlags, v, (*project.Project).Plan)
	if err != nil {
		return err
	}
	defer v.held(d)
	if saved.Deployment != d.Name || saved.Environment != d.Environment {
		return diag.Errorf("", "%s was made for %s (%s), not for %s (%s)", o.planFile, saved.Deployment, saved.Environment, d.Name, d.Environment).
			WithHint("choose the environment with -e")
	}
	if err := typed.validate(d); err != nil {
		return err
	}
	if err := refuseUnlocked(d); err != nil {
		return err
	}
	if !o.skip {
		if err := r.RefreshMachines(ctx); err != nil {
			return err
		}
		defer r.Refreshed.Close()
	}
	repairs := map[string]bool{}
	for _, a := range saved.Actions {
		repairs[a.Address] = len(a.Drift) > 0
	}
	r.Repair = func(address string, _ plan.Repair) bool { return repairs[address] }
	cs, err := o.changes(ctx, p, d, r)
	if err != nil {
		return err
	}
	if err := changedSince(saved, cs); err != nil {
		return diag.Errorf("", "%s was made before %v: the machine changed since the plan", o.planFile, err).WithHint("make a new one with defx plan --refresh -o %s", shellWord(o.planFile))
	}
	if cs.ChangeSet != approved {
		return diag.Errorf("", "%s is out of date: %s", o.planFile, outdatedReason(saved, cs)).WithHint("make a new one with defx plan -o %s", shellWord(o.planFile))
	}
	err = applyChanges(ctx, o, v, d, r, cs)
	if left, is := errors.AsType[*driftError](err); is { // exactly the plan was applied
		v.warn(left.err)
		return nil
	}
	return err
}

// changedSince returns which machine was changed since a plan was saved, if that concerns a unit of
// the plan. What differs elsewhere is only reported.
func changedSince(saved, now *plan.ChangeSet) error {
	differences := func(list []plan.Difference) string {
		var text []string
		for _, d := range list {
			text = append(text, d.String())
		}
		return strings.Join(text, "; ")
	}
	current, machines := map[string]string{}, map[string]string{}
	for _, d := range now.Drifted {
		current[d.Address], machines[d.Address] = differences(d.Differences), d.Machine
	}
	for _, a := range now.Actions {
		if len(a.Drift) > 0 {
			current[a.Address], machines[a.Address] = differences(a.Drift), a.Machine
		}
	}
	for _, a := range saved.Actions {
		if is := current[a.Address]; is != "" && is != differences(a.Drift) {
			return fmt.Errorf("%s changed: %s: %s", machines[a.Address], now.Names.Text(a.Address), is)
		}
	}
	return nil
}

// readSavedPlan reads a change set that plan -o wrote, and checks its digest.
func readSavedPlan(ctx context.Context, file string) (*plan.ChangeSet, error) {
	raw, err := openfile.Read(ctx, file, state.MaxFile)
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, p.Err
	} else if err != nil {
		return nil, err
	}
	var cs plan.ChangeSet
	if json.Unmarshal(raw, &cs) != nil || cs.Kind != "ChangeSet" || cs.APIVersion != plan.APIVersion {
		return nil, errors.New("not a change set of this version of defx")
	}
	named := cs.ChangeSet
	if err := cs.Seal(); err != nil || cs.ChangeSet != named {
		return nil, errors.New("the file was modified: its digest does not match")
	}
	return &cs, nil
}

// allow permits the deletions and moves of a saved plan: its digest covers them,
// and a person chose the file.
func (f *planFlags) allow(cs *plan.ChangeSet) {
	for _, a := range cs.Actions {
		if len(a.GivesUp) > 0 {
			f.giveUp = append(f.giveUp, a.Address)
		}
		switch a.Op {
		case plan.Delete:
			f.allowDelete = append(f.allowDelete, a.Address)
		case plan.Move:
			f.allowMove = append(f.allowMove, a.Address)
		}
	}
}

// outdatedReason says why a saved plan is not the current one.
func outdatedReason(saved, now *plan.ChangeSet) string {
	switch {
	case saved.Base != now.Base:
		return fmt.Sprintf("it was made for generation %d, but the state is at generation %d", saved.Base, now.Base)
	case saved.Plan != now.Plan:
		return "the deployment has changed since"
	}
	return "the state has changed since"
}

// confirmAndExecute shows changes that come from the state, not from the entry
// file, asks for confirmation, and makes them.
func confirmAndExecute(ctx context.Context, r *apply.Request, f *applyFlags, v view, c confirmation) error {
	if err := atLeast("parallel", f.parallel, 1); err != nil {
		return err
	}
	if err := f.refreshMachines(ctx, r); err != nil {
		return err
	}
	defer r.Refreshed.Close()
	for {
		err := confirmOnce(ctx, r, f, v, c)
		if f.yes || !askAgain(ctx, v, err) {
			return err
		}
		if r.Refreshed != nil {
			if err := r.RefreshMachines(ctx); err != nil {
				return err
			}
		}
	}
}

// confirmOnce shows the changes, asks for confirmation and makes them.
func confirmOnce(ctx context.Context, r *apply.Request, f *applyFlags, v view, c confirmation) error {
	cs, err := apply.Diff(ctx, r)
	if err != nil {
		return err
	}
	unfinished, err := apply.ReadUnfinished(ctx, r.Store)
	if err != nil {
		return err
	}
	v.propose(changesDocument{ChangeSet: cs, verb: r.Verb, title: c.title, unfinished: unfinished != nil})
	if err := refuseEmpty(cs); err != nil {
		return err
	}
	if cs.Empty() && unfinished == nil {
		return execute(ctx, r, cs, f, v, false)
	}
	if err := f.ask(ctx, v, cs, r.AllowDelete, c); err != nil {
		return err
	}
	r.Approved = cs
	return execute(ctx, r, cs, f, v, false)
}

// execute runs an apply and prints its events and its result. held reports
// whether something is held, which the exit code shows.
func execute(ctx context.Context, r *apply.Request, cs *plan.ChangeSet, f *applyFlags, v view, held bool) error {
	// Running actions are finished and recorded even if nothing reads the output any more.
	signal.Ignore(syscall.SIGPIPE)
	r.Parallel, r.LeaseWait = f.parallel, f.lockWait
	event, end := v.events(cs)
	r.OnEvent = event
	stopNote := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "\nstopping: running actions are finished and recorded; press Ctrl-C again to stop at once")
	})
	started := time.Now()
	res, err := apply.Run(ctx, r)
	stopNote()
	end()
	busy, isBusy := errors.AsType[*state.ErrLeaseHeld](err)
	switch {
	case err == nil:
		took := time.Since(started)
		if cs.Empty() && !res.Wrote {
			took = 0
		}
		return showApplyResult(ctx, v, res, held, took)
	case ctx.Err() != nil && (isBusy || errors.Is(err, context.Canceled)):
		return context.Canceled // nothing was started
	case isBusy:
		return withHint(busy, "wait longer with --lock-wait (now %s); if that process is gone, its lease expires by itself", shortDuration(f.lockWait))
	case stateFolderError(err) != nil:
		return stateFolderError(err)
	case errors.Is(err, apply.ErrPlanChanged):
		return withHint(err, "run defx plan again to see the new changes")
	}
	return withHint(err, "run defx apply again to finish")
}

// applyResult is the last document of an apply.
type applyResult struct {
	header
	Generation int          `json:"generation"`
	Summary    state.Counts `json:"summary"`
	Failed     []string     `json:"failed"`
	Skipped    []string     `json:"skipped"`
	Unasked    []string     `json:"unasked,omitempty"` // machines with units that could not be asked
	Orphans    []string     `json:"orphans"`
	Notes      []string     `json:"notes"`

	line string // for people; "" = nothing was done
}

func (a applyResult) print(p *printer) {
	if a.line != "" {
		p.printf("\n%s\n", a.line)
	}
}

// showApplyResult prints the result of an apply and returns the error that it ends with.
func showApplyResult(ctx context.Context, v view, res *apply.Result, held bool, took time.Duration) error {
	doc := applyResult{header: newHeader("ApplyResult"), Generation: res.Generation, Summary: res.Counts, Failed: append([]string{}, res.Failed...),
		Skipped: append([]string{}, res.Skipped...), Unasked: res.Unasked, Orphans: append([]string{}, res.Orphans...), Notes: append([]string{}, res.Notes...)}
	if took > 0 {
		unchanged := ""
		if !res.Wrote {
			unchanged = " (no new one)"
		}
		doc.line = fmt.Sprintf("Generation %d%s: %s; %s.", res.Generation, unchanged, res.Summary(), elapsed(took))
	}
	if err := v.show(doc); err != nil {
		return err
	}
	objects, _ := splitOrphans(res.Orphans) // unused volumes are not listed each time
	adviseOrphans(v, objects, nil)
	for _, n := range res.Notes {
		v.note("note", n)
	}
	for _, u := range res.Unflushed {
		v.note("not recorded on machine", u)
	}
	switch {
	case res.Stopped:
		return &exitError{exitInterrupted, diag.Errorf("", "interrupted before the end").WithHint("run defx apply again to finish")}
	case len(res.Failed) > 0:
		names := strings.Join(texts(res.Changes.Names, res.Failed[:min(len(res.Failed), 10)]), ", ")
		if more := len(res.Failed) - 10; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		return &exitError{exitPartial, diag.Errorf("", "%s failed: %s", plural(len(res.Failed), "unit"), names).WithHint("fix the errors above and run defx apply again")}
	case ctx.Err() != nil:
		return &exitError{code: exitInterrupted} // everything had been started, and is done
	case len(res.Unflushed) > 0:
		return &exitError{exitPartial, diag.Errorf("", "the changes are recorded, but not on every machine").WithHint("fix the errors above; the next change on that machine completes its record")}
	case held:
		return &exitError{code: exitPartial}
	case len(res.Unasked) > 0:
		return &exitError{exitPartial, diag.Errorf("", "%s could not be asked: %s", plural(len(res.Unasked), "machine"), strings.Join(res.Unasked, ", ")).
			WithHint("what runs there is not known; --no-refresh does not ask machines")}
	}
	return leftDrifted(res.Changes)
}
