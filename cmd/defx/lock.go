package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/spf13/cobra"
)

// lockStatus is what lock prints as JSON.
type lockStatus struct {
	APIVersion  string              `json:"apiVersion"`
	Kind        string              `json:"kind"` // "Lock"
	Environment string              `json:"environment"`
	Entries     []project.LockEntry `json:"entries"`
}

func lockCommand(o *options) *cobra.Command {
	var update, copied bool
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
			if copied && len(args) != 2 {
				return errors.New("defx lock --copy needs two environments\n    hint: defx lock --copy FROM TO")
			}
			if copied {
				return nil
			}
			return arguments(0, 0)(cmd, args)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			p, err := o.open()
			if err != nil || !copied || len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return p.LockedEnvironments(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.open()
			if err != nil {
				return err
			}
			if copied {
				for _, env := range args {
					if !graph.ValidName(env) {
						return fmt.Errorf("%q is not a valid name of an environment\n    hint: use a-z, 0-9 and -", env)
					}
				}
				if err := p.CopyLock(args[0], args[1]); err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, lockStatus{APIVersion: "defx/v1", Kind: "Lock", Environment: args[1], Entries: []project.LockEntry{}})
				}
				fmt.Printf("Copied the locked versions of %s to %s.\n", args[0], args[1])
				return nil
			}
			status := p.LockStatus
			if update {
				status = p.UpdateLock
			}
			env, list, err := status(cmd.Context())
			if err != nil {
				return err
			}
			if o.json {
				doc := lockStatus{APIVersion: "defx/v1", Kind: "Lock", Environment: env, Entries: append([]project.LockEntry{}, list...)}
				if err := printJSON(os.Stdout, doc); err != nil {
					return err
				}
			} else {
				printLock(env, list, update)
			}
			for _, e := range list {
				if !update && e.State != project.LockMatches && e.State != project.LockAbsent {
					if !o.json {
						fmt.Fprintln(os.Stderr, "    hint: if this is intended, run defx lock --update -e "+env)
					}
					return &exit{code: exitError}
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&update, "update", false, "lock the current files and the digests of image tags")
	cmd.Flags().BoolVar(&copied, "copy", false, "copy the lock of the first environment to the second")
	cmd.MarkFlagsMutuallyExclusive("update", "copy")
	return cmd
}

func printLock(env string, list []project.LockEntry, updated bool) {
	if len(list) == 0 {
		fmt.Printf("Nothing to lock in %s: no artifacts, and no images named by tag.\n", env)
		return
	}
	words := map[string]string{project.LockMatches: "locked", project.LockAbsent: "locked, file missing", project.LockNew: "not locked",
		project.LockDiffers: "differs from the lock", project.LockUnused: "locked, unused", project.LockMissing: "file missing, not locked"}
	if updated {
		words[project.LockNew], words[project.LockDiffers], words[project.LockUnused] = "added", "updated", "removed"
	}
	var rows [][]string
	for _, e := range list {
		brief := e.Digest
		if brief == "" {
			brief = e.Locked
		}
		rows = append(rows, []string{e.Kind, e.Name, brief.Brief(), words[e.State]})
	}
	table(os.Stdout, rows)
}
