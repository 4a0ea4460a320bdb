package main

import (
	"context"
	"fmt"
	"os"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// consent is what a plan or apply may do beyond the usual.
type consent struct {
	strict, refresh        bool
	allowDelete, allowMove []string
}

func (c *consent) flags(f *pflag.FlagSet) {
	f.BoolVar(&c.strict, "strict", false, "fail if anything is held (has an error)")
	f.StringArrayVar(&c.allowDelete, "allow-delete", nil, "`ADDRESS` of a protected unit that may be deleted; repeatable")
	f.StringArrayVar(&c.allowMove, "allow-move", nil, "`ADDRESS` of a unit with data that may move to another machine; repeatable")
}

// changes is what an apply would do; with --refresh the cloud is asked as well.
func (c *consent) changes(ctx context.Context, p *project.Project, d *project.Desired, w *apply.Request) (*plan.ChangeSet, error) {
	if c.refresh {
		return p.Refresh(ctx, d, w)
	}
	return p.Changes(ctx, d, w)
}

// refreshes adds the flag of verbs that may ask the cloud.
func (c *consent) refreshes(f *pflag.FlagSet) {
	f.BoolVar(&c.refresh, "refresh", false, "ask the cloud for the state of resources, and include differences")
}

func (c *consent) give(w *apply.Request) {
	w.AllowDelete, w.AllowMove = set(c.allowDelete), set(c.allowMove)
}

func set(list []string) map[string]bool {
	out := map[string]bool{}
	for _, a := range list {
		out[a] = true
	}
	return out
}

// desired plans, tells what is held, and prepares the work. evaluate is how:
// (*project.Project).Evaluate, or Plan where that suffices.
func (o *options) desired(ctx context.Context, c *consent, evaluate func(*project.Project, context.Context) (*project.Desired, error)) (*project.Project, *project.Desired, *apply.Request, error) {
	p, err := o.open()
	if err != nil {
		return nil, nil, nil, err
	}
	p.AllowMove = set(c.allowMove)
	d, err := evaluate(p, ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if c.strict && len(d.Held) > 0 {
		printHeld(d)
		return nil, nil, nil, fmt.Errorf("%d held, and --strict allows none", len(d.Held))
	}
	w := p.ApplyRequest(d)
	c.give(w)
	return p, d, w, nil
}

// knows refuses --allow-delete and --allow-move of addresses that nobody has.
func (c *consent) knows(d *project.Desired) error {
	known := map[string]bool{}
	var names []string
	add := func(a string) { known[a] = true; names = append(names, a) }
	if d.Generation != nil {
		for _, r := range d.Generation.Records {
			add(r.Address)
		}
	}
	for _, u := range d.Rendered.Plan.Units {
		add(u.Address)
	}
	for flag, list := range map[string][]string{"--allow-delete": c.allowDelete, "--allow-move": c.allowMove} {
		for _, a := range list {
			if !known[a] {
				return diag.Errorf("", "%s %s: unknown unit", flag, a).WithHint("%s", diag.Suggest(a, names))
			}
		}
	}
	return nil
}

func planCommand(o *options) *cobra.Command {
	var c consent
	var exitCode, verify, explain bool
	var out string
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show the changes that apply would make",
		Long: `Evaluate the deployment and show how it differs from what is deployed. Nothing is
written and no machine is contacted. With --refresh, Terraform asks the cloud for the
current state of resources and shows what it would change.

Symbols: + create, ~ update, > move, ± replace, - delete, ? uncertain, ! protected.`,
		Example:           "  defx plan\n  defx plan -e prod --json --exit-code\n  defx plan --explain-cache",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.verify = verify
			plain := !verify && !c.refresh && len(c.allowDelete)+len(c.allowMove) == 0
			if out == "" && plain {
				p, err := o.open()
				if err != nil {
					return err
				}
				if cs := p.CachedNoChanges(); cs != nil {
					if explain {
						return o.explainPlan(p.Config.Cache, nil)
					}
					if o.json {
						return printJSON(os.Stdout, cs)
					}
					fmt.Println(noChanges(cs))
					return nil
				}
			}
			p, d, w, err := o.desired(cmd.Context(), &c, func(p *project.Project, ctx context.Context) (*project.Desired, error) {
				p.PlanOnly, p.Explain = true, explain
				return p.Plan(ctx)
			})
			if err != nil {
				return err
			}
			defer printHeld(d)
			if err := c.knows(d); err != nil {
				return err
			}
			cs, err := c.changes(cmd.Context(), p, d, w)
			if err != nil {
				return err
			}
			if plain {
				p.StoreNoChanges(d, cs)
			}
			if out != "" {
				raw, err := digest.Canonical(cs)
				if err != nil {
					return err
				}
				if err := os.WriteFile(o.path(out), append(raw, '\n'), 0o644); err != nil {
					return err
				}
			}
			switch {
			case explain:
				err = o.explainPlan(p.Config.Cache, d)
			case o.json:
				err = printJSON(os.Stdout, cs)
			default:
				o.show(d, cs)
			}
			if err != nil {
				return err
			}
			switch {
			case len(d.Held) > 0:
				return &exit{code: exitPartly}
			case exitCode && !cs.Empty():
				return &exit{code: exitChanges}
			}
			return nil
		},
	}
	c.flags(cmd.Flags())
	c.refreshes(cmd.Flags())
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit 2 if there are changes")
	cmd.Flags().BoolVar(&explain, "explain-cache", false, "print what was evaluated and rendered instead of read from the cache, and why")
	cmd.Flags().BoolVar(&verify, "verify-cache", false, "also plan without the cache, and fail if the results differ")
	cmd.Flags().StringVarP(&out, "out", "o", "", "save the plan to `FILE`, for apply FILE")
	return cmd
}

// show writes a change set for people, or the one line that says there is none.
func (o *options) show(d *project.Desired, cs *plan.ChangeSet) {
	s := styleFor(os.Stdout, colorFlag)
	if cs.Empty() && len(cs.Protected) == 0 && len(cs.Refresh) == 0 {
		fmt.Println(noChanges(cs))
		return
	}
	fmt.Printf("%s\n\n", header(d, cs))
	s.printChanges(os.Stdout, cs, "apply", o.verbose, upcoming(d, cs))
	s.printLooks(os.Stdout, cs)
	if cs.Empty() {
		fmt.Println(noChanges(cs))
		return
	}
	fmt.Println(s.summary(cs))
	printApart(os.Stderr, d.Graph)
}
