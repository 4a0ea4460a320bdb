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

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// applyFlags are the flags of commands that change machines.
type applyFlags struct {
	yes      bool
	parallel int
	lockWait time.Duration
}

func (f *applyFlags) addFlags(fs *pflag.FlagSet) {
	fs.BoolVarP(&f.yes, "yes", "y", false, "do not ask for confirmation")
	fs.IntVar(&f.parallel, "parallel", 30, "maximum `NUMBER` of concurrent actions")
	fs.DurationVar(&f.lockWait, "lock-wait", time.Minute, "`DURATION` to wait for another apply to finish")
}

type applyOptions struct {
	*globalOptions
	planFlags
	applyFlags
	planFile string // a plan saved by plan -o; "" = plan now
}

func (o *applyOptions) addFlags(f *pflag.FlagSet) {
	o.planFlags.addFlags(f)
	o.addRefresh(f)
	o.applyFlags.addFlags(f)
}

func applyCommand(g *globalOptions) *cobra.Command {
	o := &applyOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "apply [FILE]",
		Short: "Apply the deployment",
		Long: `Show the changes, ask for confirmation, and apply them. Only services whose digest
changed are touched. If an apply was killed, the next one finishes it. With FILE (made
by plan -o), exactly that plan is applied without asking; if the situation has changed
since, apply refuses.`,
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
	if o.planFile != "" {
		return runSaved(ctx, o, v)
	}
	p, d, r, err := o.desired(ctx, &o.planFlags, v, (*project.Project).Plan)
	if err != nil {
		return err
	}
	defer v.held(d) // errors come last
	if err := o.validate(d); err != nil {
		return err
	}
	cs, err := o.changes(ctx, p, d, r)
	if err != nil {
		return err
	}
	return applyChanges(ctx, o, v, d, r, cs)
}

// applyChanges shows the changes, asks for confirmation unless --yes or a saved
// plan confirms them, and makes them.
func applyChanges(ctx context.Context, o *applyOptions, v view, d *project.Desired, r *apply.Request, cs *plan.ChangeSet) error {
	unfinished, err := apply.ReadUnfinished(r.Dir)
	if err != nil {
		return err
	}
	v.propose(newPlanDocument(d, cs))
	adviseUnattached(v, d, cs)
	if cs.Empty() && unfinished == nil {
		return showApplyResult(ctx, v, unchangedResult(cs), len(d.Held) > 0, 0)
	}
	if !cs.Empty() && !o.yes && o.planFile == "" {
		v.held(d) // before the question
		if err := v.confirm(ctx, fmt.Sprintf("Apply these changes to %s (%s)? [y/N] ", d.Name, d.Environment), "y", yesHint); err != nil {
			return err
		}
	}
	if !o.yes || o.planFile != "" { // --yes alone also confirms changes of the state since then
		r.Approved = cs
	}
	return execute(ctx, r, cs, &o.applyFlags, v, len(d.Held) > 0)
}

const yesHint = "--yes confirms in advance"

// runSaved applies a saved plan, if it is still what an apply would do.
func runSaved(ctx context.Context, o *applyOptions, v view) error {
	saved, err := readSavedPlan(o.path(o.planFile))
	if err != nil {
		return withHint(fmt.Errorf("%s: %w", o.planFile, err), "make one with defx plan -o %s", shellWord(o.planFile))
	}
	approved := saved.ChangeSet
	p, d, r, err := o.desired(ctx, &o.planFlags, v, (*project.Project).Plan)
	if err != nil {
		return err
	}
	defer v.held(d)
	if saved.Deployment != d.Name || saved.Environment != d.Environment {
		return diag.Errorf("", "%s was made for %s (%s), not for %s (%s)", o.planFile, saved.Deployment, saved.Environment, d.Name, d.Environment).
			WithHint("choose the environment with -e")
	}
	if err := o.validate(d); err != nil {
		return err
	}
	o.allow(saved)
	o.applyTo(r)
	cs, err := o.changes(ctx, p, d, r)
	if err != nil {
		return err
	}
	if cs.ChangeSet != approved {
		return diag.Errorf("", "%s is out of date: %s", o.planFile, outdatedReason(saved, cs)).WithHint("make a new one with defx plan -o %s", shellWord(o.planFile))
	}
	return applyChanges(ctx, o, v, d, r, cs)
}

// readSavedPlan reads a change set that plan -o wrote, and checks its digest.
func readSavedPlan(file string) (*plan.ChangeSet, error) {
	raw, err := os.ReadFile(file)
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

// confirmation is what a person is shown and asked.
type confirmation struct {
	title    string // of the changes
	question string
	word     string // the answer that confirms
}

// confirmAndExecute shows changes that come from the state, not from the entry
// file, asks for confirmation, and makes them.
func confirmAndExecute(ctx context.Context, r *apply.Request, f *applyFlags, v view, c confirmation) error {
	if err := atLeast("parallel", f.parallel, 1); err != nil {
		return err
	}
	cs, err := apply.Diff(ctx, r)
	if err != nil {
		return err
	}
	unfinished, err := apply.ReadUnfinished(r.Dir)
	if err != nil {
		return err
	}
	v.propose(changesDocument{ChangeSet: cs, verb: r.Verb, title: c.title, unfinished: unfinished != nil})
	if cs.Empty() && unfinished == nil {
		return showApplyResult(ctx, v, unchangedResult(cs), false, 0)
	}
	if !f.yes {
		hint := yesHint
		if c.word != "y" {
			hint = "--confirm " + c.word + " confirms in advance"
		}
		if err := v.confirm(ctx, c.question, c.word, hint); err != nil {
			return err
		}
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
		return showApplyResult(ctx, v, res, held, time.Since(started))
	case ctx.Err() != nil && (isBusy || errors.Is(err, context.Canceled)):
		return context.Canceled // nothing was started
	case isBusy:
		return withHint(busy, "wait longer with --lock-wait (now %s); if that process is gone, its lease expires by itself", shortDuration(f.lockWait))
	case errors.Is(err, apply.ErrPlanChanged):
		return withHint(err, "run defx plan again to see the new changes")
	}
	return withHint(err, "run defx apply again to finish")
}

// unchangedResult is the result of an apply without changes.
func unchangedResult(cs *plan.ChangeSet) *apply.Result {
	return &apply.Result{Generation: cs.Base, Changes: cs, Counts: state.Counts{Unchanged: cs.Summary.Unchanged + cs.Summary.Protected, Held: cs.Summary.Held}}
}

// applyResult is the last document of an apply.
type applyResult struct {
	header
	Generation int          `json:"generation"`
	Summary    state.Counts `json:"summary"`
	Failed     []string     `json:"failed"`
	Skipped    []string     `json:"skipped"`
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
		Skipped: append([]string{}, res.Skipped...), Orphans: append([]string{}, res.Orphans...), Notes: append([]string{}, res.Notes...)}
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
		names := strings.Join(res.Failed[:min(len(res.Failed), 10)], ", ")
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
	}
	return nil
}
