package main

import (
	"context"
	"os"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type planOptions struct {
	*globalOptions
	planFlags
	exitCode, explainCache, verifyCache bool
	diff                                bool   // show how rendered files change
	out                                 string // file to save the plan to
}

func (o *planOptions) addFlags(f *pflag.FlagSet) {
	o.planFlags.addFlags(f)
	o.addRefresh(f, "ask the machines and the cloud what they have, and include differences")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit 2 if there are changes")
	f.BoolVar(&o.explainCache, "explain-cache", false, "print what was evaluated and rendered instead of read from the cache, and why")
	f.BoolVar(&o.verifyCache, "verify-cache", false, "also plan without the cache, and fail if the results differ")
	f.BoolVar(&o.diff, "diff", false, "also show how the rendered files change: units, containers, Terraform")
	f.StringVarP(&o.out, "out", "o", "", "save the plan to `FILE`, for apply FILE")
}

func planCommand(g *globalOptions) *cobra.Command {
	o := &planOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show the changes that apply would make",
		Long: `Evaluate the deployment and show how it differs from what is deployed. Nothing is
written and no machine is contacted: the plan is compared with the recorded state. With
--refresh, the machines are asked what they have, and Terraform asks the cloud; what
differs there becomes part of the changes, with its cause.

Symbols: + create, ~ update, > move, ± replace, - delete, ? uncertain, ! repair or
protected.`,
		Example:           "  defx plan\n  defx plan -e prod --json --exit-code\n  defx plan --refresh --diff",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runPlan(cmd.Context(), o, g.view()) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func runPlan(ctx context.Context, o *planOptions, v view) error {
	cacheable := !o.verifyCache && !o.refresh && !o.diff && len(o.allowDelete)+len(o.allowMove)+len(o.allowEmpty)+len(o.giveUp) == 0
	if o.out == "" && cacheable {
		p, err := o.open()
		if err != nil {
			return err
		}
		if cs := p.CachedNoChanges(ctx); cs != nil {
			if o.explainCache {
				return v.show(newPlanCacheUse(p.Config.Cache, nil))
			}
			return v.show(changesDocument{ChangeSet: cs, verb: "apply"})
		}
	}
	p, d, r, err := o.desired(ctx, &o.planFlags, v, func(p *project.Project, ctx context.Context) (*project.Desired, error) {
		p.PlanOnly, p.Explain, p.Config.VerifyCache = !o.verbose && !o.diff, o.explainCache, o.verifyCache
		return p.Plan(ctx)
	})
	if err != nil {
		return err
	}
	defer v.held(d) // errors come last
	if err := o.validate(d); err != nil {
		return err
	}
	r.NewFields = o.verbose
	if o.refresh {
		if err := r.RefreshMachines(ctx); err != nil {
			return err
		}
		defer r.Refreshed.Close()
	}
	cs, err := o.changes(ctx, p, d, r)
	if err != nil {
		return err
	}
	if cacheable {
		p.StoreNoChanges(ctx, d, cs)
	}
	if o.out != "" {
		raw, err := digest.Canonical(cs)
		if err != nil {
			return err
		}
		if err := savePlan(o.path(o.out), append(raw, '\n')); err != nil {
			return err
		}
	}
	if o.explainCache {
		err = v.show(newPlanCacheUse(p.Config.Cache, d))
	} else {
		doc := newPlanDocument(d, cs)
		if o.diff {
			if doc.Diffs, err = fileDiffs(ctx, p, d, r, cs); err != nil {
				return err
			}
		}
		err = v.show(doc)
		adviseUnattached(v, d, cs)
	}
	switch {
	case err != nil:
		return err
	case len(d.Held) > 0:
		return heldError(d)
	case cs.Machines != nil && len(cs.Machines.NotAsked) > 0:
		return &exitError{code: exitPartial}
	case o.exitCode && !cs.Empty():
		return &exitError{code: exitChanges}
	}
	return nil
}

// savePlan writes a plan. A link to a file, which somebody else may have put there, is replaced and
// not followed; one to a device or a pipe, such as /dev/stdout, is the user's.
func savePlan(file string, raw []byte) error {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(file, raw, 0o600)
	}
	return atomicfile.Write(file, raw, 0o600)
}

// newPlanDocument describes the changes of an apply of d.
func newPlanDocument(d *project.Desired, cs *plan.ChangeSet) changesDocument {
	return changesDocument{ChangeSet: cs, verb: "apply", title: planTitle(d, cs), notes: upcomingRuns(d, cs)}
}

// planCacheUse is printed by plan --explain-cache.
type planCacheUse struct {
	cacheUse
	Units []lang.CacheUse `json:"units"`
	Whole string          `json:"whole"` // why the cache was not used for the plan; "" = it was used

	unchanged bool // nothing was planned, because nothing changed
}

// newPlanCacheUse describes the use of the cache in folder. d is nil if nothing was planned.
func newPlanCacheUse(folder string, d *project.Desired) planCacheUse {
	if d == nil {
		return planCacheUse{cacheUse: newCacheUse(folder, nil), Units: []lang.CacheUse{}, unchanged: true}
	}
	return planCacheUse{cacheUse: newCacheUse(folder, d.Cache), Units: append([]lang.CacheUse{}, d.Uses...), Whole: d.FullPlanReason}
}

func (c planCacheUse) print(p *printer) {
	switch {
	case c.unchanged:
		p.println("Nothing changed since the last plan: nothing was evaluated or rendered.")
		return
	case c.Folder == "":
		p.println("The cache is off.")
		return
	}
	parts := p.cacheUses("evaluated", c.Parts)
	if c.Whole != "" {
		p.printf("rendered   all: %s\n", c.Whole)
	}
	units := p.cacheUses("rendered", c.Units)
	p.printf("%d of %s", parts, plural(len(c.Parts), "part"))
	if c.Whole == "" {
		p.printf(" and %d of %s", units, plural(len(c.Units), "functionality"))
	}
	p.printf(" read from the cache %s\n", c.Folder)
}
