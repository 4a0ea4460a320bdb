package project_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// unknownProvider needs the schema of a provider that is not built in. Its only
// functionality is held, so that planning it takes several passes.
const unknownProvider = `{
  name: 'shop',
  libs: { a: { web: { place: { pool: 'none' }, service: { command: ['/bin/web'] } } } },
  machines: { box: { connect: 'dir:./box' } },
  defaults: { ec2: { region: 'eu-central-1' } },
  resources: { thing: { type: 'terraform.resource', provider: 'acme/widgets', resource: 'widgets_thing', arguments: {} } },
}
`

// withTerraform makes script the program terraform, and returns a project with
// unknownProvider.
func withTerraform(t *testing.T, script string) *project.Project {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "terraform"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DEFX_TERRAFORM", "")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	w := newWorld(t, "")
	w.write("defx.jsonnet", unknownProvider)
	p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New(), ec2.New()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSchema_FailedQueryIsNotRepeated(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p := withTerraform(t, `echo "$1" >> `+log+`
if [ "$1" = version ]; then echo '{ "terraform_version": "1.9.0", "platform": "linux_amd64", "provider_selections": {} }'; exit; fi
exit 1
`)
	for range 2 {
		if _, err := p.Evaluate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(log)
	if n := strings.Count(string(raw), "init"); err != nil || n != 1 {
		t.Errorf("terraform init ran %d times, want 1: %v\n%s", n, err, raw)
	}
}

func TestSchema_QueryEndsWithItsContext(t *testing.T) {
	p := withTerraform(t, "exec sleep 60\n")
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(500*time.Millisecond, func() { cancel(interrupted) })
	begun := time.Now()
	if _, err := p.Evaluate(ctx); err == nil {
		t.Error("no error after an interrupt")
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}
