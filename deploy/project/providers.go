package project

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/external"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang"
)

// Planning runs no provider: what it must know of one is in defx.providers.lock.json. Only
// LockProviders asks providers, and it says so before it does.

// useProviders makes the locked providers known to the backends.
func (p *Project) useProviders(ctx context.Context, g *graph.Graph, d *Desired) error {
	if len(g.Resources) == 0 {
		return nil
	}
	locked, err := lock.ReadProviders(ctx, p.Config.Root)
	if err != nil {
		return err
	}
	if b, ok := p.Backends[ec2.Name].(*ec2.Backend); ok {
		b.Locked, b.Schemas = true, map[string]*ec2.Schema{}
		for source, required := range ec2.RequiredProviders(g) {
			entry, ok := locked.Terraform[source]
			if !ok || entry.Constraint != required.Version || entry.Schema == nil {
				continue
			}
			if b.Schemas[source], err = ec2.LoadSchema(entry.Schema); err != nil {
				return diag.Errorf("", "the schema of provider %s cannot be read: %v", source, err).In(diag.Position{File: lock.ProvidersName}).WithHint("run defx providers lock --upgrade")
			}
		}
	}
	if b, ok := p.Backends[external.Name].(*external.Backend); ok {
		d.Unlocked = nil
		b.Folder = func(provider string) (digest.Digest, *diag.Error) {
			now, bad := p.providerDigest(provider)
			if bad != nil {
				return "", bad
			}
			was, ok := locked.External[provider]
			if !ok {
				return "", diag.Errorf("", "provider %s is not locked", provider).WithHint("planning and applying run no other executables: run defx providers lock")
			}
			if was.Digest != now {
				d.unlock(diag.Errorf("", "provider %s differs from %s (%s is locked, %s is present), and does not run", provider, lock.ProvidersName, was.Digest.Brief(), now.Brief()).
					WithHint("if the change is intended: defx providers lock"))
			}
			return now, nil
		}
	}
	return nil
}

// unlock records, once, that a provider differs from the lock file.
func (d *Desired) unlock(e *diag.Error) {
	for _, known := range d.Unlocked {
		if known.Msg == e.Msg {
			return
		}
	}
	d.Unlocked = append(d.Unlocked, e)
}

// providerDigest returns the digest of the folder of an external provider.
func (p *Project) providerDigest(provider string) (digest.Digest, *diag.Error) {
	root, err := os.OpenRoot(p.Config.Root)
	if err == nil {
		defer root.Close()
		var d digest.Digest
		if d, err = artifact.DigestFolder(root, provider); err == nil {
			return d, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", diag.Errorf("", "there is no folder %s", provider).WithHint("it has the executables create, check and destroy")
	}
	return "", diag.Errorf("", "the folder %s cannot be read: %v", provider, err)
}

// ProviderEntry is one provider that the lock file has or should have.
type ProviderEntry struct {
	Kind    string `json:"kind"` // terraform or external
	Name    string `json:"name"` // source, or folder
	State   string `json:"state"`
	Version string `json:"version,omitempty"` // of a Terraform provider
	Digest  string `json:"digest,omitempty"`  // of a folder, or a hash of the provider's package
}

// Kinds of a ProviderEntry.
const (
	TerraformKind = "terraform"
	ExternalKind  = "external"
)

// States of a ProviderEntry.
const (
	ProviderLocked  = "locked"  // it was locked before
	ProviderAdded   = "added"   // it was not
	ProviderUpdated = "updated" // another version or content was locked
	ProviderRemoved = "removed" // the deployment does not use it any more
)

// LockProviders rewrites the lock file of providers for what the deployment uses. It downloads and
// asks Terraform providers that are not locked yet, or whose schema lacks a resource type; upgrade
// asks all for the newest version that is allowed. It calls runs before each program that it runs.
func (p *Project) LockProviders(ctx context.Context, upgrade bool, runs func(what string)) ([]ProviderEntry, error) {
	out, d, err := p.compiled(ctx)
	if err != nil {
		return nil, err
	}
	before, err := lock.ReadProviders(ctx, p.Config.Root)
	if err != nil {
		return nil, err
	}
	next := &lock.Providers{APIVersion: before.APIVersion, Kind: before.Kind, Terraform: map[string]lock.TerraformProvider{}, External: map[string]lock.ExternalProvider{}}
	var list []ProviderEntry
	required := ec2.RequiredProviders(out.Graph)
	for _, source := range sets.Union(sets.Keys(required), sets.Keys(before.Terraform)) {
		was, known := before.Terraform[source]
		e := ProviderEntry{Kind: TerraformKind, Name: source, State: ProviderLocked}
		switch want, used := required[source]; {
		case !used && len(out.Held) > 0: // what is held may use it
			next.Terraform[source] = was
		case !used:
			e.State = ProviderRemoved
		default:
			now := was
			if upgrade || !known || was.Constraint != want.Version || !describes(was, want.Types) {
				if upgrade || was.Constraint != want.Version {
					was = lock.TerraformProvider{}
				}
				runs(programsFor(source, want))
				if now, err = p.TerraformRunner(d.Name, d.Environment).Lock(ctx, source, want, was); err != nil {
					return nil, fmt.Errorf("provider %s: %w", source, err)
				}
			}
			if next.Terraform[source] = now; !known {
				e.State = ProviderAdded
			} else if now.Version != before.Terraform[source].Version {
				e.State = ProviderUpdated
			}
		}
		e.Version = next.Terraform[source].Version
		if hashes := next.Terraform[source].Hashes; len(hashes) > 0 {
			e.Digest = hashes[0]
		}
		list = append(list, e)
	}
	entries, err := p.lockFolders(d, out, before, next)
	if err != nil {
		return nil, err
	}
	return append(list, entries...), next.Write(p.Config.Root)
}

// programsFor says which programs ask for a provider.
func programsFor(source string, want ec2.Required) string {
	version := want.Version
	if version == "" {
		version = "any version"
	}
	what := fmt.Sprintf("terraform init downloads provider %s (%s)", source, version)
	if len(want.Types) > 0 {
		what += ", and terraform providers schema starts it"
	}
	return what
}

// describes reports whether a locked provider has the schema of resource types.
func describes(p lock.TerraformProvider, types []string) bool {
	if len(types) == 0 {
		return true
	}
	s, err := ec2.LoadSchema(p.Schema)
	return err == nil && s.Has(types)
}

// lockFolders locks the folders of external providers: those that the deployment uses, and those
// whose resources are deployed and have still to be destroyed.
func (p *Project) lockFolders(d *Desired, out *compile.Output, before, next *lock.Providers) ([]ProviderEntry, error) {
	used := map[string]bool{}
	for _, folder := range external.Providers(out.Graph) {
		used[folder] = true
	}
	var list []ProviderEntry
	for _, folder := range sets.Union(sets.Keys(used), sets.Keys(before.External)) {
		was, known := before.External[folder]
		e := ProviderEntry{Kind: ExternalKind, Name: folder, State: ProviderLocked}
		now, bad := p.providerDigest(folder)
		switch {
		case bad != nil && used[folder]:
			return nil, bad
		case bad != nil:
			e.State = ProviderRemoved
		case !known:
			e.State = ProviderAdded
		case was.Digest != now:
			e.State = ProviderUpdated
		}
		if bad == nil {
			next.External[folder], e.Digest = lock.ExternalProvider{Digest: now}, string(now)
		}
		list = append(list, e)
	}
	return list, nil
}

// compiled returns the graph of the deployment without anything that needs a provider.
func (p *Project) compiled(ctx context.Context) (*compile.Output, *Desired, error) {
	res, err := lang.Evaluate(ctx, p.Config)
	if err != nil {
		return nil, nil, err
	}
	var libraries []string
	for _, l := range res.Libraries {
		libraries = append(libraries, l.Name)
	}
	in := p.startInputs(ctx, *res, libraries)
	if <-in.loaded; in.err != nil {
		return nil, nil, in.err
	}
	ci := compile.Input{Result: res, Baseline: in.baseline, Backends: p.Backends.Names(), Artifact: p.artifacts.Describe, Images: in.images, Secrets: in.secrets}
	if res.Transforms > 0 {
		if err := p.transform(ctx, &ci); err != nil {
			return nil, nil, err
		}
	}
	out, err := compile.Compile(ci)
	return out, in.d, err
}
