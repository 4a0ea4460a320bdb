package lock

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// ProvidersName is the name of the file that has the providers of a deployment: what planning must
// know of them, and what may run. The file is in the folder of the entry file.
const ProvidersName = "defx.providers.lock.json"

// Providers is the content of the file.
type Providers struct {
	APIVersion string                       `json:"apiVersion"`
	Kind       string                       `json:"kind"`                // "ProvidersLock"
	Terraform  map[string]TerraformProvider `json:"terraform,omitempty"` // by source, such as hashicorp/random
	External   map[string]ExternalProvider  `json:"external,omitempty"`  // by folder, relative to the entry file
}

// TerraformProvider is a provider that Terraform runs.
type TerraformProvider struct {
	Address    string          `json:"address"`              // with the host of the registry
	Constraint string          `json:"constraint,omitempty"` // what the deployment asks for
	Version    string          `json:"version"`              // what Terraform chose
	Hashes     []string        `json:"hashes"`               // of the provider's packages, as in Terraform's own lock file
	Schema     json.RawMessage `json:"schema,omitempty"`     // of the resource types that the deployment uses; none for built-in ones
}

// ExternalProvider is a folder of executables.
type ExternalProvider struct {
	Digest digest.Digest `json:"digest"` // of the folder
}

// Validity of what becomes part of Terraform's own lock file.
var (
	addressRE = regexp.MustCompile(`^[a-z0-9.:-]+/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+$`)
	versionRE = regexp.MustCompile(`^[0-9][0-9A-Za-z.+-]*$`)
	hashRE    = regexp.MustCompile(`^(h1:[A-Za-z0-9+/=]+|zh:[0-9a-f]+)$`)
)

// ReadProviders reads the providers of a folder. If there is no file, it returns
// Providers without any.
func ReadProviders(ctx context.Context, dir string) (*Providers, error) {
	p := &Providers{APIVersion: "defx/v1", Kind: "ProvidersLock"}
	if err := readDocument(ctx, dir, ProvidersName, p); err != nil {
		return nil, err
	}
	if p.APIVersion != "defx/v1" || p.Kind != "ProvidersLock" {
		return nil, unreadable(ProvidersName, fmt.Errorf("apiVersion %q and kind %q are unknown", p.APIVersion, p.Kind))
	}
	for _, source := range sets.Keys(p.Terraform) {
		if err := p.Terraform[source].check(); err != nil {
			return nil, unreadable(ProvidersName, fmt.Errorf("%s: %w", source, err))
		}
	}
	for _, folder := range sets.Keys(p.External) {
		if _, err := digest.Parse(string(p.External[folder].Digest)); err != nil {
			return nil, unreadable(ProvidersName, fmt.Errorf("%s: %w", folder, err))
		}
	}
	return p, nil
}

// check returns an error for values that Terraform would not write.
func (p TerraformProvider) check() error {
	switch {
	case !addressRE.MatchString(p.Address):
		return fmt.Errorf("%q is not the address of a provider", p.Address)
	case !versionRE.MatchString(p.Version):
		return fmt.Errorf("%q is not a version", p.Version)
	case len(p.Hashes) == 0:
		return fmt.Errorf("it has no hashes")
	}
	for _, h := range p.Hashes {
		if !hashRE.MatchString(h) {
			return fmt.Errorf("%q is not a hash", h)
		}
	}
	return nil
}

// Write replaces the file of a folder atomically.
func (p *Providers) Write(dir string) error { return writeDocument(dir, ProvidersName, p) }
