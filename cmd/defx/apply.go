package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/lang/digest"
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
	f.BoolVarP(&p.yes, "yes", "y", false, "do not ask")
	f.IntVar(&p.parallel, "parallel", 10, "`NUMBER` of actions at once")
	f.DurationVar(&p.lockWait, "lock-wait", time.Minute, "how long to wait for somebody else's apply")
}

func applyCommand(o *options) *cobra.Command {
	var c consent
	var p pace
	cmd := &cobra.Command{
		Use:   "apply [FILE]",
		Short: "Make what stands what should be",
		Long: `Show what would change, ask, and change it: only services whose digest changed are
touched. An apply that was killed is finished by the next one. With FILE, a change
set that plan -o saved, nothing is asked, and anything else than that is refused.

` + exitCodes,
		Example: "  defx apply\n  defx apply --yes -e prod",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var approved digest.Digest
			if len(args) == 1 {
				var saved plan.ChangeSet
				raw, err := os.ReadFile(args[0])
				if err == nil {
					err = json.Unmarshal(raw, &saved)
				}
				if err == nil && (saved.Kind != "ChangeSet" || saved.APIVersion != plan.APIVersion) {
					err = errors.New("not a change set of this version of defx")
				}
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				was := saved.ChangeSet
				if err := saved.Seal(); err != nil || saved.ChangeSet != was {
					return fmt.Errorf("%s: the change set does not have the digest that it names: it was altered", args[0])
				}
				approved = saved.ChangeSet
			}
			prj, d, w, err := o.desired(ctx, &c)
			if err != nil {
				return err
			}
			if err := c.knows(d); err != nil {
				return err
			}
			cs, err := prj.Changes(ctx, d, w)
			if err != nil {
				return err
			}
			if approved != "" && cs.ChangeSet != approved {
				return fmt.Errorf("%s is not what would be done now: the deployment or its state has changed since\n    hint: make a new one with defx plan -o %s", args[0], args[0])
			}
			unfinished, err := apply.ReadUnfinished(w.Dir)
			if err != nil {
				return err
			}
			if !o.json {
				o.show(d, cs)
			}
			if !cs.Empty() && approved == "" {
				if err := p.ask("Apply these changes?", "y"); err != nil {
					return err
				}
				approved = cs.ChangeSet
			}
			if cs.Empty() && unfinished == nil {
				return o.finish(&apply.Result{Generation: cs.Base, Changes: cs, Counts: counts(cs)}, len(d.Held) > 0, 0)
			}
			w.Approved = approved
			return o.work(ctx, w, &p, len(d.Held) > 0)
		},
	}
	c.flags(cmd.Flags())
	p.flags(cmd.Flags())
	return cmd
}

// ask wants consent on a terminal, and --yes elsewhere.
func (p *pace) ask(question, word string) error {
	if p.yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) || os.Getenv("CI") != "" {
		return errors.New("nobody is here to be asked\n    hint: --yes agrees beforehand")
	}
	fmt.Fprintf(os.Stderr, "%s [%s/N] ", question, word)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), word) && !(word == "y" && strings.EqualFold(strings.TrimSpace(answer), "yes")) {
		return errors.New("nothing was done")
	}
	return nil
}

// work runs an apply and tells of it.
func (o *options) work(ctx context.Context, w *apply.Work, p *pace, held bool) error {
	w.Parallel, w.LeaseWait = p.parallel, p.lockWait
	t := &teller{o: o, s: styleFor(os.Stdout, colorFlag), bar: styleFor(os.Stderr, colorFlag).terminal && !o.json}
	w.Tell = t.tell
	begun := time.Now()
	res, err := apply.Run(ctx, w)
	t.clear()
	if err != nil {
		if errors.Is(err, apply.ErrChanged) {
			return fmt.Errorf("%w\n    hint: look at defx plan again", err)
		}
		return fmt.Errorf("%w\n    hint: apply again: what is done stays done, and the rest is finished", err)
	}
	return o.finish(res, held, time.Since(begun))
}

// finish tells what an apply came to and gives the exit code.
func (o *options) finish(res *apply.Result, held bool, took time.Duration) error {
	if o.json {
		if err := printJSON(os.Stdout, map[string]any{"apiVersion": plan.APIVersion, "kind": "ApplyResult", "generation": res.Generation, "summary": res.Counts}); err != nil {
			return err
		}
	} else if took > 0 {
		fmt.Printf("\nGeneration %d: %s; %.1f s.\n", res.Generation, res.Summary(), took.Seconds())
	}
	switch {
	case res.Stopped:
		return &exit{exitStopped, errors.New("stopped before the end\n    hint: apply again to finish")}
	case len(res.Failed) > 0:
		names := strings.Join(res.Failed[:min(len(res.Failed), 10)], ", ")
		return &exit{exitPartly, fmt.Errorf("%s failed: %s\n    hint: mend the cause told above and apply again", plural(len(res.Failed), "unit"), names)}
	case held:
		return &exit{code: exitPartly}
	}
	return nil
}

// teller writes events as they come.
type teller struct {
	o          *options
	s          style
	bar        bool
	done, open int
	width      int
}

func (t *teller) tell(e apply.Event) {
	if t.o.json {
		m := map[string]any{"apiVersion": plan.APIVersion, "kind": "Event", "outcome": e.Outcome, "op": e.Action.Op, "address": e.Action.Address, "machine": e.Action.Machine}
		if e.Err != nil {
			m["error"] = e.Err.Error()
		}
		if e.Took > 0 {
			m["seconds"] = e.Took.Seconds()
		}
		printJSON(os.Stdout, m)
		return
	}
	t.clear()
	a := e.Action
	switch e.Outcome {
	case apply.Waiting:
		fmt.Fprintf(os.Stderr, "waiting: %v\n", e.Err)
	case apply.Started:
		t.open++
	case apply.Done:
		t.open, t.done = t.open-1, t.done+1
		fmt.Printf("  %s %s  %s  %s in %s\n", t.s.green("✓"), a.Address, a.Machine, past[a.Op], duration(e.Took))
	case apply.Failed:
		t.open--
		fmt.Printf("  %s %s  %s  %s\n", t.s.red("✗"), a.Address, a.Machine, clean(e.Err.Error()))
	case apply.Skipped:
		fmt.Printf("  %s %s  %s  skipped: %v\n", t.s.yellow("·"), a.Address, a.Machine, e.Err)
	}
	if t.bar && t.open > 0 {
		line := fmt.Sprintf("%d done, %d under way: %s", t.done, t.open, a.Address)
		t.width = len(line)
		fmt.Fprint(os.Stderr, line+"\r")
	}
}

func (t *teller) clear() {
	if t.width > 0 {
		fmt.Fprint(os.Stderr, "\r"+strings.Repeat(" ", t.width)+"\r")
		t.width = 0
	}
}

var past = map[plan.Op]string{plan.Create: "created", plan.Update: "updated", plan.Replace: "replaced", plan.Move: "moved", plan.Delete: "deleted"}

func duration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
