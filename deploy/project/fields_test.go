package project_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/reference"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// TestReference_DigestColumn compares the digest and the version of a unit with a
// field's example to those without it: a run field changes both, a meta field only
// the digest, and a none field neither.
func TestReference_DigestColumn(t *testing.T) {
	all, err := reference.Differences()
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		t.Skip("evaluates two deployments for each field")
	}
	// Excluded: fields whose example only states the default, that systemd does
	// not use, or that appear in separate units.
	excluded := map[string]bool{"functionality.backend": true, "functionality.group": true, "functionality.resource": true, "functionality.loadBalancer": true, "functionality.external": true,
		"functionality.docker": true, "functionality.ec2": true, "functionality.service": true, "functionality.place": true, "service.image": true,
		"file.owner": true, "ready.port": true, "ready.http": true, "ready.tcp": true, "ready.exec": true}
	included := map[string]bool{"functionality": true, "service": true, "file": true, "dirs": true, "port": true, "ready": true, "schedule": true,
		"socket": true, "limits": true, "reload": true, "stop": true, "link": true}
	seen := 0
	for _, d := range all {
		name := d.In + "." + d.Field.Name
		if !included[d.In] || excluded[name] {
			continue
		}
		want, _, _ := strings.Cut(strings.ReplaceAll(d.Field.Digest, ",", ""), " ")
		if strings.Contains(d.Field.Digest, "adding or removing it is run") {
			want = "run"
		}
		seen++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			digest, version := unit(t, d.Without)
			digest2, version2 := unit(t, d.With)
			if digest2 == "" {
				t.Fatalf("the example is not rendered:\n%s", d.With)
			}
			if digest == "" {
				t.Skip("without the field there is no unit to compare with")
			}
			got := "none"
			if version != version2 {
				got = "run"
			} else if digest != digest2 {
				got = "meta"
			}
			if got != want {
				t.Errorf("the reference has %q, the units have %s", d.Field.Digest, got)
			}
		})
	}
	if seen < 40 {
		t.Errorf("only %d fields were checked", seen)
	}
}

// unit returns the digest and version of shop/web of an entry file, or empty
// strings if it is not rendered.
func unit(t *testing.T, entry string) (string, string) {
	t.Helper()
	dir := t.TempDir()
	var pack bytes.Buffer
	if err := artifact.Pack(&pack, fstest.MapFS{"run": {Data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	entry = strings.Replace(entry, "['/usr/bin/web']", "['/usr/bin/web', '.']", 1) // uses the package
	for name, text := range map[string]string{"defx.jsonnet": entry, "shop.conf": "x", "dist/web.tar.gz": pack.String(), "shop/functionalities.libsonnet": "{}"} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := project.Open(dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New()))
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Evaluate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for address, u := range d.Rendered.Units {
		if address == "shop/web" || address == "shop/web#0" {
			digest, err := u.Digest()
			if err != nil {
				t.Fatal(err)
			}
			version, err := u.Instance(nil)
			if err != nil {
				t.Fatal(err)
			}
			return string(digest), version
		}
	}
	for _, h := range d.Held {
		t.Log(h.Err)
	}
	return "", ""
}
