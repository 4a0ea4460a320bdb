package main

import (
	"context"

	"github.com/defx-dev/defx/deploy/project"
	"github.com/spf13/cobra"
)

func providersCommand(g *globalOptions) *cobra.Command {
	return commandGroup(&cobra.Command{
		Use:     "providers",
		Short:   "Lock the providers of resources",
		Long:    "Lock the providers of resources: which versions and executables may run.",
		Example: "  defx providers lock\n  defx providers lock --upgrade",
	}, providersLockCommand(g))
}

type providersLockOptions struct {
	*globalOptions
	upgrade bool
}

func providersLockCommand(g *globalOptions) *cobra.Command {
	o := &providersLockOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Write defx.providers.lock.json",
		Long: `Write defx.providers.lock.json, beside the entry file, for the providers that the resources
of the deployment need. Keep it in version control.

Planning runs no provider: it reads the schemas in this file. What runs later, in
plan --refresh and apply, must have the digests in it.

This command runs terraform init for each provider that is not locked yet, which downloads
it, and terraform providers schema, which starts it, for resource types that defx does not
know. It prints what it runs before it does. Of external providers it reads the files and
runs nothing.`,
		Example:           "  defx providers lock\n  defx providers lock --upgrade --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runProvidersLock(cmd.Context(), o, g.view()) },
	}
	cmd.Flags().BoolVar(&o.upgrade, "upgrade", false, "lock the newest versions that the deployment allows")
	return cmd
}

func runProvidersLock(ctx context.Context, o *providersLockOptions, v view) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	list, err := p.LockProviders(ctx, o.upgrade, func(what string) { v.note("runs", what) })
	if err != nil {
		return err
	}
	return v.show(providersLocked{newHeader("ProvidersLock"), append([]project.ProviderEntry{}, list...)})
}

// providersLocked is printed by providers lock.
type providersLocked struct {
	header
	Providers []project.ProviderEntry `json:"providers"`
}

func (l providersLocked) print(p *printer) {
	if len(l.Providers) == 0 {
		p.println("Nothing to lock: no resource needs a provider.")
		return
	}
	var rows [][]string
	for _, e := range l.Providers {
		rows = append(rows, []string{e.Kind, e.Name, orDash(e.Version), orDash(e.Digest[:min(len(e.Digest), 15)]), e.State})
	}
	p.table(rows)
}
