package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
)

// place is a deployment in one environment.
type place struct {
	name, env string
	desired   *project.Desired // nil: the entry does not evaluate
}

// machines is how the entry says that they are reached; nil if it does not evaluate.
func (p place) machines() []*graph.Machine {
	if p.desired == nil {
		return nil
	}
	return p.desired.Graph.Machines
}

// which opens the project and finds deployment and environment even if the entry
// is broken: from the entry if it evaluates, else from what the state holds.
func (o *options) which(ctx context.Context) (*project.Project, place, error) {
	p, err := o.open()
	if err != nil {
		return nil, place{}, err
	}
	at, err := o.find(ctx, p)
	return p, at, err
}

func (o *options) find(ctx context.Context, p *project.Project) (place, error) {
	d, err := p.Plan(ctx) // of a deployment, no more than names, machines and what is held is asked for
	if err == nil {
		return place{d.Name, d.Environment, d}, nil
	}
	known := p.Deployments()
	if ctx.Err() != nil || len(known) != 1 {
		return place{}, err
	}
	name := slices.Collect(maps.Keys(known))[0]
	at := place{name: name, env: o.env}
	if at.env == "" && len(known[name]) == 1 {
		at.env = known[name][0]
	}
	tell(os.Stderr, err)
	if !slices.Contains(known[name], at.env) {
		return place{}, fmt.Errorf("the entry file has an error, and the state of %s has the environments %s\n    hint: choose one with -e", name, strings.Join(known[name], ", "))
	}
	fmt.Fprintf(os.Stderr, "  using only the recorded state of %s (%s)\n", name, at.env)
	return at, nil
}

func rollbackCommand(o *options) *cobra.Command {
	var c consent
	var pc pace
	var to int
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Roll back to an earlier generation",
		Long: `Apply the plan of an earlier generation: by default the newest one whose plan differs from
the current one. It is an apply like any other and makes a new generation.`,
		Example:           "  defx rollback\n  defx rollback --to 12 --yes",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			p, at, err := o.which(ctx)
			if err != nil {
				return err
			}
			store := p.Store(at.name, at.env)
			list, err := state.History(ctx, store, 0)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return fmt.Errorf("%s (%s) was never applied\n    hint: defx apply", at.name, at.env)
			}
			target := list[0]
			for _, g := range list {
				if to == g.Number || to == 0 && g.Plan != list[0].Plan {
					target = g
					break
				}
			}
			if to != 0 && target.Number != to || to == 0 && target == list[0] {
				if to == 0 {
					return errors.New("no earlier generation differs from the current one\n    hint: defx history lists them")
				}
				return fmt.Errorf("there is no generation %d\n    hint: defx history lists them: %d to %d", to, list[len(list)-1].Number, list[0].Number)
			}
			w := &apply.Request{Store: store, Dir: store.Path(), Verb: "rollback", Machines: at.machines(), Revision: target.Revision, Moved: state.AddressAt(list, target.Number),
				Dial: p.Dialer().Dial, HostKey: p.Dialer().HostKey, Artifact: p.ArtifactStream, Modules: p.TerraformRunner(at.name, at.env)}
			for _, m := range target.Machines {
				if !slices.ContainsFunc(w.Machines, func(x *graph.Machine) bool { return x.Name == m.Name }) {
					w.Machines = append(w.Machines, m)
				}
			}
			c.give(w)
			if w.Plan, err = state.LoadPlan(ctx, store, target); err != nil {
				return err
			}
			if w.LastGood, err = state.LoadLastGood(ctx, store, target); err != nil {
				return err
			}
			return o.without(ctx, w, &pc, fmt.Sprintf("%s (%s): roll back to generation %d", at.name, at.env, target.Number), "Roll back? [y/N] ", "y")
		},
	}
	c.flags(cmd.Flags())
	pc.flags(cmd.Flags())
	cmd.Flags().IntVar(&to, "to", 0, "`GENERATION` to roll back to")
	return cmd
}

// without shows and does work that comes from the state and not from the entry file.
func (o *options) without(ctx context.Context, w *apply.Request, p *pace, title, question, word string) error {
	cs, err := apply.Diff(ctx, w)
	if err != nil {
		return err
	}
	unfinished, err := apply.ReadUnfinished(w.Dir)
	if err != nil {
		return err
	}
	if cs.Empty() && unfinished == nil {
		if !o.json {
			styleFor(os.Stdout, colorFlag).printChanges(os.Stdout, cs, w.Verb, o.verbose, nil)
			fmt.Println(noChanges(cs))
		}
		return o.finish(ctx, &apply.Result{Generation: cs.Base, Changes: cs, Counts: counts(cs)}, false, 0)
	}
	if !o.json {
		s := styleFor(os.Stdout, colorFlag)
		fmt.Printf("%s\n\n", title)
		s.printChanges(os.Stdout, cs, w.Verb, o.verbose, nil)
		fmt.Println(s.summary(cs))
	}
	if err := o.ask(ctx, p, question, word); err != nil {
		return err
	}
	w.Approved = cs
	return o.work(ctx, w, cs, p, false)
}

func counts(cs *plan.ChangeSet) state.Counts {
	return state.Counts{Unchanged: cs.Summary.Unchanged + cs.Summary.Protected, Held: cs.Summary.Held}
}

func destroyCommand(o *options) *cobra.Command {
	var c consent
	var pc pace
	var confirm string
	cmd := &cobra.Command{
		Use:   "destroy",
		Short: "Delete everything deployed in an environment",
		Long: `Delete every unit of the environment, in reverse order of dependencies. Units that hold
data or were deployed with protect are kept and listed. The history is kept.`,
		Example:           "  defx destroy -e dev\n  defx destroy -e dev --confirm dev",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			p, at, err := o.which(ctx)
			if err != nil {
				return err
			}
			if confirm != "" && confirm != at.env {
				return fmt.Errorf("--confirm %s does not name the environment, which is %s\n    hint: choose the environment with -e", confirm, at.env)
			}
			if confirm == "" && pc.yes {
				return errors.New("destroy is not confirmed by --yes\n    hint: use --confirm " + at.env)
			}
			pc.yes = confirm == at.env
			store := p.Store(at.name, at.env) // maybe without a generation: an apply may have been killed in its first one
			w := &apply.Request{Store: store, Dir: store.Path(), Verb: "destroy", Machines: at.machines(), Dial: p.Dialer().Dial, Artifact: p.ArtifactStream, Modules: p.TerraformRunner(at.name, at.env),
				Plan:    &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: at.name, Environment: at.env, Units: []plan.Placed{}},
				Objects: map[digest.Digest][]byte{}}
			c.give(w)
			return o.without(ctx, w, &pc, fmt.Sprintf("%s (%s): destroy everything", at.name, at.env), fmt.Sprintf("Type the name of the environment, %s, to confirm: ", at.env), at.env)
		},
	}
	c.flags(cmd.Flags())
	pc.flags(cmd.Flags())
	cmd.Flags().StringVar(&confirm, "confirm", "", "name of the `ENVIRONMENT`, to confirm without being asked")
	return cmd
}
