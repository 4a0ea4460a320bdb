package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// pace is how an apply goes about its work.
type pace struct {
	yes      bool
	parallel int
	lockWait time.Duration
}

func (p *pace) flags(f *pflag.FlagSet) {
	f.BoolVarP(&p.yes, "yes", "y", false, "do not ask for confirmation")
	f.IntVar(&p.parallel, "parallel", 30, "maximum `NUMBER` of concurrent actions")
	f.DurationVar(&p.lockWait, "lock-wait", time.Minute, "`DURATION` to wait for another apply to finish")
}

func applyCommand(o *options) *cobra.Command {
	var c consent
	var p pace
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
			ctx := cmd.Context()
			var saved *plan.ChangeSet
			var approved digest.Digest
			if len(args) == 1 {
				var err error
				if saved, err = savedChanges(o.path(args[0])); err != nil {
					return fmt.Errorf("%s: %w\n    hint: make one with defx plan -o %s", args[0], err, shellWord(args[0]))
				}
				approved = saved.ChangeSet
			}
			prj, d, w, err := o.desired(ctx, &c, (*project.Project).Plan)
			if err != nil {
				return err
			}
			if saved != nil && (saved.Deployment != d.Name || saved.Environment != d.Environment) {
				return fmt.Errorf("%s was made for %s (%s), not for %s (%s)\n    hint: choose the environment with -e", args[0], saved.Deployment, saved.Environment, d.Name, d.Environment)
			}
			if err := c.knows(d); err != nil {
				return err
			}
			if saved != nil {
				c.agreed(saved)
				c.give(w)
			}
			cs, err := c.changes(ctx, prj, d, w)
			if err != nil {
				return err
			}
			if saved != nil && cs.ChangeSet != approved {
				return fmt.Errorf("%s is out of date: %s\n    hint: make a new one with defx plan -o %s", args[0], moved(saved, cs), shellWord(args[0]))
			}
			unfinished, err := apply.ReadUnfinished(w.Dir)
			if err != nil {
				return err
			}
			if !o.json {
				o.show(d, cs)
			}
			printHeld(d)
			if !cs.Empty() && saved == nil {
				if err := o.ask(ctx, &p, fmt.Sprintf("Apply these changes to %s (%s)? [y/N] ", d.Name, d.Environment), "y"); err != nil {
					return err
				}
			}
			if cs.Empty() && unfinished == nil {
				return o.finish(ctx, &apply.Result{Generation: cs.Base, Changes: cs, Counts: counts(cs)}, len(d.Held) > 0, 0)
			}
			if saved != nil || !p.yes { // --yes agrees to whatever it is by then
				w.Approved = cs
			}
			return o.work(ctx, w, cs, &p, len(d.Held) > 0)
		},
	}
	c.flags(cmd.Flags())
	c.refreshes(cmd.Flags())
	p.flags(cmd.Flags())
	return cmd
}

// savedChanges reads a change set that plan -o wrote, and checks that it is whole.
func savedChanges(file string) (*plan.ChangeSet, error) {
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
	was := cs.ChangeSet
	if err := cs.Seal(); err != nil || cs.ChangeSet != was {
		return nil, errors.New("the file was modified: its digest does not match")
	}
	return &cs, nil
}

// agreed takes what a saved change set deletes and moves as allowed: its digest
// covers them, and a person chose the file.
func (c *consent) agreed(cs *plan.ChangeSet) {
	for _, a := range cs.Actions {
		switch a.Op {
		case plan.Delete:
			c.allowDelete = append(c.allowDelete, a.Address)
		case plan.Move:
			c.allowMove = append(c.allowMove, a.Address)
		}
	}
}

// moved says what makes a saved change set another one than that of now.
func moved(saved, now *plan.ChangeSet) string {
	switch {
	case saved.Base != now.Base:
		return fmt.Sprintf("it was made for generation %d, but the state is at generation %d", saved.Base, now.Base)
	case saved.Plan != now.Plan:
		return "the deployment has changed since"
	}
	return "the state has changed since"
}

// ask wants consent on a terminal, and --yes elsewhere.
func (o *options) ask(ctx context.Context, p *pace, question, word string) error {
	if p.yes {
		return nil
	}
	hint := "--yes confirms in advance"
	if word != "y" {
		hint = "--confirm " + word + " confirms in advance"
	}
	if o.json {
		return errors.New("confirmation required, but --json never asks\n    hint: " + hint)
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) || os.Getenv("CI") != "" {
		return errors.New("confirmation required, but stdin is not a terminal\n    hint: " + hint)
	}
	fmt.Fprint(os.Stderr, question)
	answer := make(chan string, 1)
	go func() { // a read from a terminal cannot be broken off
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr)
		return ctx.Err()
	case a := <-answer:
		if a == word || word == "y" && (strings.EqualFold(a, "y") || strings.EqualFold(a, "yes")) {
			return nil
		}
	}
	return errors.New("cancelled: nothing was changed")
}

// work runs an apply and tells of it.
func (o *options) work(ctx context.Context, w *apply.Request, cs *plan.ChangeSet, p *pace, held bool) error {
	if p.parallel < 1 {
		return atLeast("parallel", p.parallel, 1)
	}
	// What is under way is finished and recorded, whether somebody still reads of it or not.
	signal.Ignore(syscall.SIGPIPE)
	w.Parallel, w.LeaseWait = p.parallel, p.lockWait
	t := newTeller(o, cs)
	w.OnEvent = t.tell
	quiet := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "\nstopping: running actions are finished and recorded; press Ctrl-C again to stop at once")
	})
	begun := time.Now()
	res, err := apply.Run(ctx, w)
	quiet()
	t.clear()
	busy, isBusy := errors.AsType[*state.ErrLeaseHeld](err)
	switch {
	case err == nil:
		return o.finish(ctx, res, held, time.Since(begun))
	case ctx.Err() != nil && (isBusy || errors.Is(err, context.Canceled)):
		return context.Canceled // nothing was begun
	case isBusy:
		return fmt.Errorf("%w\n    hint: wait longer with --lock-wait (now %s); if that process is gone, its lease expires by itself", busy, shortDuration(p.lockWait))
	case errors.Is(err, apply.ErrPlanChanged):
		return fmt.Errorf("%w\n    hint: run defx plan again to see the new changes", err)
	case strings.Contains(err.Error(), "\n    hint: "):
		return err // it says itself what to do
	}
	return fmt.Errorf("%w\n    hint: run defx apply again to finish", err)
}

// finish tells what an apply came to and gives the exit code.
func (o *options) finish(ctx context.Context, res *apply.Result, held bool, took time.Duration) error {
	if o.json {
		if err := printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "ApplyResult", "generation": res.Generation, "summary": res.Counts,
			"failed": append([]string{}, res.Failed...), "skipped": append([]string{}, res.Skipped...),
			"orphans": append([]string{}, res.Orphans...), "notes": append([]string{}, res.Notes...)}); err != nil {
			return err
		}
	} else if took > 0 {
		stays := ""
		if !res.Wrote {
			stays = " stays"
		}
		fmt.Printf("\nGeneration %d%s: %s; %s.\n", res.Generation, stays, res.Summary(), duration(took))
	}
	if !o.json {
		tellOrphans(slices.DeleteFunc(slices.Clone(res.Orphans), func(s string) bool { return strings.HasPrefix(s, "volume ") })) // data is not told of each time
	}
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "note:", clean(n))
	}
	for _, u := range res.Unflushed {
		fmt.Fprintln(os.Stderr, "not recorded on machine:", clean(u))
	}
	switch {
	case res.Stopped:
		return &exit{exitStopped, errors.New("interrupted before the end\n    hint: run defx apply again to finish")}
	case len(res.Failed) > 0:
		names := strings.Join(res.Failed[:min(len(res.Failed), 10)], ", ")
		if more := len(res.Failed) - 10; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		return &exit{exitPartly, fmt.Errorf("%s failed: %s\n    hint: fix the errors above and run defx apply again", plural(len(res.Failed), "unit"), names)}
	case ctx.Err() != nil:
		return &exit{code: exitStopped} // all was under way already, and is done
	case len(res.Unflushed) > 0:
		return &exit{exitPartly, errors.New("the changes are recorded, but not on every machine\n    hint: fix the errors above; the next change on that machine completes its record")}
	case held:
		return &exit{code: exitPartly}
	}
	return nil
}
