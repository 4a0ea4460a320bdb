package terraform

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/gofrs/flock"
	"github.com/hashicorp/terraform-exec/tfexec"
)

// Schema is what a provider itself says of its resources. It is asked once for
// each version that is asked for, and kept beside the providers. Without
// Terraform, or without a way to the provider, there is none.
func (s *Runner) Schema(ctx context.Context, source, version string) (*ec2.Schema, error) {
	name := strings.ReplaceAll(source, "/", "_") + "-" + digest.Bytes([]byte(version)).Short() + ".json"
	kept := filepath.Join(s.Cache, "schemas", name)
	if raw, err := os.ReadFile(kept); err == nil {
		return ec2.ParseSchema(raw, source)
	}
	if err := s.findProgram(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(s.Cache, lockFile))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return nil, err
	}
	defer lock.Unlock()
	dir, err := os.MkdirTemp(s.Cache, ".schema-")
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
	tf, err := tfexec.NewTerraform(dir, s.program)
	if err != nil {
		return nil, err
	}
	tf.SetStdout(io.Discard)
	tf.SetStderr(io.Discard)
	if err := tf.SetEnv(environment(s.Cache)); err != nil {
		return nil, err
	}
	if err := tf.Init(ctx); err != nil {
		return nil, translateError(err, nil)
	}
	schemas, err := tf.ProvidersSchema(ctx)
	if err != nil {
		return nil, translateError(err, nil)
	}
	if raw, err = json.Marshal(schemas); err != nil {
		return nil, err
	}
	out, err := ec2.ParseSchema(raw, source)
	if err != nil {
		return nil, err
	}
	return out, writeFile(kept, raw)
}
