package main

import (
	"context"

	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

type lockOptions struct {
	*globalOptions
	update, copy bool
	from, to     string // environments, with copy
}

func lockCommand(g *globalOptions) *cobra.Command {
	o := &lockOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "lock [--update | --copy FROM TO]",
		Short: "Lock the digests of artifacts and images",
		Long: `Compare artifacts and images with defx.lock.json, which lies beside the entry file and has
a section for each environment; exit 1 if they differ. With --update, write the section
of the environment, asking registries for the digests of image tags. With --copy, give
the environment TO exactly the versions that are locked for FROM (promotion).

A plan takes the digest of an artifact whose file is missing from the lock, and refuses
a file that differs from the lock. Without the lock file nothing is locked.`,
		Example: "  defx lock --update -e dev\n  defx lock --copy dev prod\n  defx lock -e prod --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if !o.copy {
				return arguments(0, 0)(cmd, args)
			}
			if len(args) != 2 {
				return diag.Errorf("", "defx lock --copy needs two environments").WithHint("defx lock --copy FROM TO")
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			p, err := g.open()
			if err != nil || !o.copy || len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return p.Environments(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.copy {
				o.from, o.to = args[0], args[1]
				return runLockCopy(cmd.Context(), o, g.view())
			}
			return runLock(cmd.Context(), o, g.view())
		},
	}
	cmd.Flags().BoolVar(&o.update, "update", false, "lock the current files and the digests of image tags")
	cmd.Flags().BoolVar(&o.copy, "copy", false, "copy the lock of the first environment to the second")
	cmd.MarkFlagsMutuallyExclusive("update", "copy")
	return cmd
}

// runLockCopy copies the locked versions of one environment to another.
func runLockCopy(ctx context.Context, o *lockOptions, v view) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	if err := p.CopyLock(ctx, o.from, o.to); err != nil {
		return err
	}
	return v.show(locked{header: newHeader("Lock"), Environment: o.to, Entries: []project.LockEntry{}, copiedFrom: o.from})
}

func runLock(ctx context.Context, o *lockOptions, v view) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	entries := p.LockStatus
	if o.update {
		entries = p.UpdateLock
	}
	env, list, err := entries(ctx)
	if err != nil {
		return err
	}
	doc := locked{header: newHeader("Lock"), Environment: env, Entries: append([]project.LockEntry{}, list...), updated: o.update}
	if err := v.show(doc); err != nil {
		return err
	}
	for _, e := range list {
		if !o.update && e.State != project.LockMatches && e.State != project.LockAbsent {
			v.advise("    hint: if this is intended, run defx lock --update -e %s", env)
			return &exitError{code: exitFailure}
		}
	}
	return nil
}

// locked is printed by lock.
type locked struct {
	header
	Environment string              `json:"environment"`
	Entries     []project.LockEntry `json:"entries"`

	updated    bool
	copiedFrom string // environment
}

func (l locked) print(p *printer) {
	switch {
	case l.copiedFrom != "":
		p.printf("Copied the locked versions of %s to %s.\n", l.copiedFrom, l.Environment)
		return
	case len(l.Entries) == 0:
		p.printf("Nothing to lock in %s: no artifacts, and no images named by tag.\n", l.Environment)
		return
	}
	texts := map[string]string{project.LockMatches: "locked", project.LockAbsent: "locked, file missing", project.LockNew: "not locked",
		project.LockDiffers: "differs from the lock", project.LockUnused: "locked, unused", project.LockMissing: "file missing, not locked"}
	if l.updated {
		texts[project.LockNew], texts[project.LockDiffers], texts[project.LockUnused] = "added", "updated", "removed"
	}
	var rows [][]string
	for _, e := range l.Entries {
		digest := e.Digest
		if digest == "" {
			digest = e.Locked
		}
		rows = append(rows, []string{e.Kind, e.Name, digest.Brief(), texts[e.State]})
	}
	p.table(rows)
}
