package terraform

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/gofrs/flock"
	tfjson "github.com/hashicorp/terraform-json"
)

// schemaCall is a query for the schema of a provider, in progress or done.
type schemaCall struct {
	done   chan struct{} // closed when schema and err are set
	schema *ec2.Schema
	err    error
}

// Schema returns the schema of a provider's resources. It is queried once for each
// source and version, and stored in the cache directory. A failed query is not
// repeated by this Runner. It fails without Terraform and if the provider cannot be
// downloaded. When ctx ends it returns at once.
func (r *Runner) Schema(ctx context.Context, source, version string) (*ec2.Schema, error) {
	name := strings.ReplaceAll(source, "/", "_") + "-" + digest.Bytes([]byte(version)).Short() + ".json"
	r.mu.Lock()
	call := r.schemas[name]
	first := call == nil
	if first {
		call = &schemaCall{done: make(chan struct{})}
		if r.schemas == nil {
			r.schemas = map[string]*schemaCall{}
		}
		r.schemas[name] = call
	}
	r.mu.Unlock()
	if first {
		call.schema, call.err = r.querySchema(ctx, source, version, filepath.Join(r.Cache, "schemas", name))
		if ctx.Err() != nil { // interrupted, not failed
			r.mu.Lock()
			delete(r.schemas, name)
			r.mu.Unlock()
		}
		close(call.done)
	}
	select {
	case <-call.done:
		return call.schema, call.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// querySchema reads a schema from the cache file, or else asks the provider and
// writes the file.
func (r *Runner) querySchema(ctx context.Context, source, version, file string) (*ec2.Schema, error) {
	if raw, err := os.ReadFile(file); err == nil {
		return ec2.ParseSchema(raw, source)
	}
	if err := r.findProgram(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(r.Cache, lockFile))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return nil, err
	}
	defer lock.Unlock()
	dir, err := os.MkdirTemp(r.Cache, ".schema-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	provider := map[string]any{"source": source}
	if version != "" {
		provider["version"] = version
	}
	raw, err := json.Marshal(map[string]any{"terraform": map[string]any{"required_providers": map[string]any{"asked": provider}}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, configFile), raw, 0o600); err != nil {
		return nil, err
	}
	if err := initModule(ctx, r.program, dir, r.Cache); err != nil {
		return nil, queryError(ctx, err)
	}
	out, err := runTerraform(ctx, r.program, dir, environment(r.Cache), func() int64 { return 0 }, "providers", "schema", "-json", "-no-color")
	if err != nil {
		return nil, queryError(ctx, err)
	}
	var schemas tfjson.ProviderSchemas
	if err := json.Unmarshal(out, &schemas); err != nil {
		return nil, err
	}
	if raw, err = json.Marshal(&schemas); err != nil {
		return nil, err
	}
	schema, err := ec2.ParseSchema(raw, source)
	if err != nil {
		return nil, err
	}
	return schema, atomicfile.Write(file, raw, 0o600)
}

// queryError returns a StalledError and the cause of an interruption unchanged, and
// else the message of Terraform without its frame.
func queryError(ctx context.Context, err error) error {
	if _, stalled := errors.AsType[*StalledError](err); stalled || ctx.Err() != nil {
		return err
	}
	return translateError(err, nil)
}
