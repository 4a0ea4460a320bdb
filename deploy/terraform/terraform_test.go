package terraform

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/gofrs/flock"
	tfjson "github.com/hashicorp/terraform-json"
)

// TestResourceChanges_MaskSensitiveValues: sensitive values are masked at any depth,
// and unknown ones are marked.
func TestResourceChanges_MaskSensitiveValues(t *testing.T) {
	raw := `[{"address":"aws_db_instance.main","mode":"managed","type":"aws_db_instance","name":"main","change":{"actions":["delete","create"],
	  "before":{"password":"old-secret","size":20,"list":[{"token":"s1","n":1}],"endpoint":"a:1","same":1,"empty":null},
	  "after":{"password":"new-secret","size":30,"list":[{"token":"s2","n":2}],"same":1,"empty":[]},
	  "after_unknown":{"endpoint":true},"before_sensitive":{"password":true,"list":[{"token":true}]},"after_sensitive":{"password":true,"list":[{"token":true}]},
	  "replace_paths":[["size"]]}}]`
	var list []*tfjson.ResourceChange
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		t.Fatal(err)
	}
	got := resourceChanges(list, map[string]string{"aws_db_instance.main": "shop/main"})
	if len(got) != 1 || got[0].Address != "shop/main" || got[0].Op != plan.Replace {
		t.Fatalf("%+v", got)
	}
	text := fmt.Sprintf("%v", got[0].Fields)
	if strings.Contains(text, "secret") || strings.Contains(text, "s1") || strings.Contains(text, "s2") {
		t.Errorf("a sensitive value is shown: %s", text)
	}
	fields := map[string]plan.Change{}
	for _, f := range got[0].Fields {
		fields[f.Path] = f
	}
	if f := fields["/size"]; f.Before != 20.0 || f.After != 30.0 || !f.Replaces {
		t.Errorf("%+v", f)
	}
	if fields["/password"].After != sensitiveText || fields["/list/0/token"].After != sensitiveText || fields["/endpoint"].After != unknownText || fields["/list/0/n"].After != 2.0 {
		t.Errorf("%+v", fields)
	}
	if _, same := fields["/same"]; same || len(fields) != 5 {
		t.Errorf("%+v", fields)
	}
}

func TestTranslateError_UsesDefxAddresses(t *testing.T) {
	var s outputParser
	for _, l := range []string{
		`{"type":"version","terraform":"1.11.4"}`,
		`{"type":"planned_change","change":{"resource":{"addr":"aws_vpc.vpc"},"action":"create"}}`,
		`{"type":"apply_start","hook":{}}`,
		`{"type":"diagnostic","diagnostic":{"severity":"warning","summary":"old"}}`,
		`{"type":"diagnostic","diagnostic":{"severity":"error","summary":"creating EC2 VPC","detail":"no\n more\n room","address":"aws_vpc.vpc"}}`,
	} {
		half := len(l) / 2 // lines may arrive in pieces
		s.Write([]byte(l[:half]))
		s.Write([]byte(l[half:] + "\n"))
	}
	if !s.started || len(s.changes) != 1 || s.changes[0] != (plannedChange{"aws_vpc.vpc", "create"}) {
		t.Errorf("%+v", s)
	}
	if got := translateError(errors.New("exit status 1"), &s, map[string]string{"aws_vpc.vpc": "net/vpc"}).Error(); got != "net/vpc: creating EC2 VPC: no more room" {
		t.Errorf("%q", got)
	}
	if got := toAddress("aws_vpc.net_gone", nil); got != "net/gone" {
		t.Errorf("%q", got)
	}
	if got := translateError(errors.New("╷\n│ Error: no way\n│ \n╵"), nil).Error(); got != "Error: no way" {
		t.Errorf("%q", got)
	}
}

func TestWithoutPreventDestroy_KeepsOtherSettings(t *testing.T) {
	raw, err := withoutPreventDestroy([]byte(`{"resource":{"aws_vpc":{"v":{"lifecycle":{"prevent_destroy":true,"ignore_changes":["x"]}}}}}`))
	if err != nil || strings.Contains(string(raw), "prevent_destroy") || !strings.Contains(string(raw), "ignore_changes") {
		t.Errorf("%s %v", raw, err)
	}
}

// TestUnits_ModuleWithRunningWorkerIsUncertain: a module whose lock is held has no
// digest, whatever its entry says.
func TestUnits_ModuleWithRunningWorkerIsUncertain(t *testing.T) {
	s := &Runner{Dir: t.TempDir()}
	dir := filepath.Join(s.Dir, "network")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	e := &moduleRecord{Scope: "dev/shop", Address: "module/network"}
	e.Digest = "sha256:1"
	if err := e.write(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, depsFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	units, err := s.Units(t.Context(), "dev/shop")
	if err != nil || units["module/network"] == nil || units["module/network"].Digest != "sha256:1" {
		t.Fatalf("%v %v", units, err)
	}
	if other, err := s.Units(t.Context(), "prod/shop"); err != nil || len(other) != 0 {
		t.Errorf("%v %v", other, err)
	}
	release := holdLock(t, filepath.Join(dir, lockFile))
	units, err = s.Units(t.Context(), "dev/shop")
	if err != nil || units["module/network"].Digest != "" {
		t.Errorf("%v %v", units["module/network"], err)
	}
	release()
}

// holdLock locks a file and returns a function that unlocks it.
func holdLock(t *testing.T, path string) func() {
	t.Helper()
	l := flock.New(path)
	if ok, err := l.TryLock(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	return func() { l.Unlock() }
}

// TestIsEmpty_EveryFormat: Terraform indents its state, OpenTofu does not.
func TestIsEmpty_EveryFormat(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, // there is no file
		"{\n  \"resources\": [\n    {\n      \"mode\": \"managed\"\n    }\n  ]\n}\n": false,
		`{"version":4,"resources":[{"mode":"managed","type":"aws_vpc"}]}`:            false,
		`{"version":4,"resources":[]}`:                                               true,
		`{"version":4,"resources":[{"mode":"data","type":"aws_vpc"}]}`:               true,
		`{"torn`: false, // unknown
	} {
		c := &worker{workerRequest: &workerRequest{Dir: t.TempDir()}}
		if text != "" {
			if err := os.WriteFile(c.path(stateFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.isEmpty(); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
