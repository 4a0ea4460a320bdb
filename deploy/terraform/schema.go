package terraform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/gofrs/flock"
	tfjson "github.com/hashicorp/terraform-json"
)

// Lock downloads a provider, of the version that was locked before or else of any that the
// constraint allows, and returns what the lock file has of it. It asks the provider for the schema
// of the resource types, and runs it only if there are some. When ctx ends it returns at once.
func (r *Runner) Lock(ctx context.Context, source string, required ec2.Required, before lock.TerraformProvider) (lock.TerraformProvider, error) {
	var none lock.TerraformProvider
	if err := r.findProgram(ctx); err != nil {
		return none, err
	}
	if err := os.MkdirAll(r.Cache, 0o700); err != nil {
		return none, err
	}
	busy := flock.New(filepath.Join(r.Cache, lockFile))
	if ok, err := busy.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return none, err
	}
	defer busy.Unlock()
	dir, err := os.MkdirTemp(r.Cache, ".schema-")
	if err != nil {
		return none, err
	}
	defer os.RemoveAll(dir)
	provider := map[string]any{"source": source}
	if required.Version != "" {
		provider["version"] = required.Version
	}
	raw, err := json.Marshal(map[string]any{"terraform": map[string]any{"required_providers": map[string]any{"asked": provider}}})
	if err != nil {
		return none, err
	}
	if err := os.WriteFile(filepath.Join(dir, configFile), raw, 0o600); err != nil {
		return none, err
	}
	deps := filepath.Join(dir, depsFile)
	if before.Version != "" {
		if err := os.WriteFile(deps, withLocked(nil, map[string]lock.TerraformProvider{source: before}), 0o600); err != nil {
			return none, err
		}
	}
	if err := initModule(ctx, r.program, dir, r.Cache); err != nil {
		return none, queryError(ctx, err)
	}
	chosen, err := os.ReadFile(deps)
	if err != nil && !os.IsNotExist(err) {
		return none, err
	}
	out, ok := lockedIn(chosen, source)
	if !ok {
		return none, fmt.Errorf("no checksum of provider %s was recorded by Terraform: its configuration may have a development override", source)
	}
	out.Constraint = required.Version
	if len(required.Types) == 0 {
		return out, nil
	}
	schema, err := r.querySchema(ctx, dir, source)
	if err != nil {
		return none, err
	}
	schema = schema.Only(required.Types)
	schema.Version = out.Version
	out.Schema, err = json.Marshal(schema)
	return out, err
}

// querySchema asks the provider that was downloaded to dir for its schema.
func (r *Runner) querySchema(ctx context.Context, dir, source string) (*ec2.Schema, error) {
	out, err := runTerraform(ctx, r.program, dir, environment(r.Cache), func() int64 { return 0 }, "providers", "schema", "-json", "-no-color")
	if err != nil {
		return nil, queryError(ctx, err)
	}
	var schemas tfjson.ProviderSchemas
	if err := json.Unmarshal(out, &schemas); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(&schemas)
	if err != nil {
		return nil, err
	}
	return ec2.ParseSchema(raw, source)
}

// queryError returns a StalledError and the cause of an interruption unchanged, and
// else the message of Terraform without its frame.
func queryError(ctx context.Context, err error) error {
	if _, stalled := errors.AsType[*StalledError](err); stalled || ctx.Err() != nil {
		return err
	}
	return translateError(err, nil)
}
