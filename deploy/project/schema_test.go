package project_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// unknownProvider needs the schema of a provider that is not built in.
const unknownProvider = `{
  name: 'shop',
  libs: {},
  machines: { box: { connect: 'dir:./box' } },
  resources: { thing: { type: 'terraform.resource', provider: 'acme/widgets', resource: 'widgets_thing', arguments: { size: 3 } } },
}
`

// widgets is a terraform that has one provider, and records its calls.
const widgets = `case "$1" in
version) echo '{ "terraform_version": "1.9.0", "platform": "linux_amd64", "provider_selections": {} }' ;;
init) printf 'provider "registry.terraform.io/acme/widgets" {\n  version = "1.2.3"\n  hashes = [\n    "h1:abc=",\n  ]\n}\n' >.terraform.lock.hcl ;;
providers) echo '{"format_version":"1.0","provider_schemas":{"registry.terraform.io/acme/widgets":{"resource_schemas":{
	"widgets_thing":{"version":0,"block":{"attributes":{"size":{"type":"number","required":true}}}},"widgets_other":{"version":0,"block":{}}}}}}' ;;
esac
`

// TestProviders_PlanningRunsNone: a plan needs the lock file and runs no program. The control is the
// command that writes the lock file: it runs the program that the plans did not run.
func TestProviders_PlanningRunsNone(t *testing.T) {
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(filepath.Join(bin, "terraform"), []byte("#!/bin/sh\necho \"$1\" >>"+log+"\n"+widgets), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DEFX_TERRAFORM", "")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ran := func() string {
		raw, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		os.Remove(log)
		return strings.Join(strings.Fields(string(raw)), " ")
	}
	w := newWorld(t, "")
	plan := func(entry string) error {
		t.Helper()
		w.write("defx.jsonnet", entry)
		p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New(), ec2.New()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Evaluate(t.Context())
		if calls := ran(); calls != "" {
			t.Errorf("planning ran terraform: %s", calls)
		}
		return err
	}
	if err := plan(unknownProvider); err == nil || !strings.Contains(err.Error(), "run defx providers lock") {
		t.Errorf("without a lock: %v", err)
	}
	p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New(), ec2.New()))
	if err != nil {
		t.Fatal(err)
	}
	var announced []string
	list, err := p.LockProviders(t.Context(), false, func(what string) { announced = append(announced, what) })
	if err != nil || len(list) != 1 || list[0].State != project.ProviderAdded || list[0].Version != "1.2.3" {
		t.Fatalf("%+v, %v", list, err)
	}
	if calls := ran(); calls != "version init providers" || len(announced) != 1 || !strings.Contains(announced[0], "acme/widgets") {
		t.Errorf("locking ran %q and announced %q", calls, announced)
	}
	if err := plan(unknownProvider); err != nil {
		t.Error(err)
	}
	for change, want := range map[[2]string]string{
		{"size: 3", "size: 'x'"}:                 "must be a number",
		{"widgets_thing", "widgets_thin"}:        `no resource "widgets_thin"`,
		{"widgets_thing", "widgets_other"}:       "the schema of widgets_other of provider acme/widgets is not locked",
		{"'acme/widgets'", "'acme/gadgets'"}:     "is not locked",
		{"resource:", "version: '2', resource:"}: "is not locked",
	} {
		if err := plan(strings.Replace(unknownProvider, change[0], change[1], 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change[1], err)
		}
	}
	w.write("defx.jsonnet", unknownProvider)
	if _, err := p.LockProviders(t.Context(), false, func(what string) { t.Errorf("locking again runs %s", what) }); err != nil {
		t.Error(err)
	}
}

// TestProviders_DamagedLock: a lock file that somebody edited is an error.
func TestProviders_DamagedLock(t *testing.T) {
	const entry = `{ "apiVersion": "defx/v1", "kind": "ProvidersLock", "terraform": { "acme/widgets": { "address": "registry.terraform.io/acme/widgets", "version": "1.2.3", "hashes": ["h1:abc="], "schema": SCHEMA } } }`
	w := newWorld(t, "")
	w.write("defx.jsonnet", unknownProvider)
	for schema, want := range map[string]string{
		`{"resources":{"widgets_thing":{"block":{"attributes":{"size":{"type":"number","optional":true}}}}}}`: "",
		`{"resources":{"widgets_thing":{}}}`:                                                  "a block is missing",
		`{"resources":{"widgets_thing":{"block":{"attributes":{"size":null}}}}}`:              "has no type",
		`{"resources":{"widgets_thing":{"block":{"attributes":{"size":{"type":["list"]}}}}}}`: "has no type",
		`{"resources":{"widgets_thing":{"block":{"blocks":{"b":{}}}}}}`:                       "a block is missing",
		`[]`: "cannot be read",
	} {
		w.write(lock.ProvidersName, strings.Replace(entry, "SCHEMA", schema, 1))
		p, err := project.Open(w.dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New(), ec2.New()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Evaluate(t.Context()); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", schema, err)
		}
	}
	for _, bad := range []string{`"1.2.3\" }"`, `"x"`, `""`} {
		w.write(lock.ProvidersName, strings.Replace(strings.Replace(entry, "SCHEMA", "{}", 1), `"1.2.3"`, bad, 1))
		if _, err := lock.ReadProviders(t.Context(), w.dir); err == nil || !strings.Contains(err.Error(), "is not a version") {
			t.Errorf("version %s: %v", bad, err)
		}
	}
}
