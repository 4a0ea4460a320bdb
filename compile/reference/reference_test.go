package reference_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/compile/reference"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var updateDocs = flag.Bool("update-docs", false, "rewrite docs/reference.md")

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb {
		os.Exit(lang.Worker(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	raw, err := reference.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(reference.ID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(reference.ID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchema_IsValid checks the schema against the schema of its draft.
func TestSchema_IsValid(t *testing.T) {
	raw, err := reference.Schema()
	if err != nil {
		t.Fatal(err)
	}
	again, _ := reference.Schema()
	if !bytes.Equal(raw, again) {
		t.Error("the schema differs when it is written twice")
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	meta, err := jsonschema.NewCompiler().Compile("https://json-schema.org/draft/2020-12/schema")
	if err != nil {
		t.Fatal(err)
	}
	if err := meta.Validate(doc); err != nil {
		t.Error(err)
	}
	schema(t)
}

// compiled evaluates the entry file of a folder and compiles it.
func compiled(t testing.TB, dir string) (*lang.Result, error) {
	t.Helper()
	res, err := lang.Evaluate(t.Context(), lang.Config{Root: dir, Entry: "defx.jsonnet"})
	if err != nil {
		return nil, err
	}
	out, err := compile.Compile(compile.Input{Result: res, Backends: []string{"systemd"}, Artifact: func(t token.Token) (plan.Artifact, error) {
		return plan.Artifact{Path: t.Name, Kind: "file", Digest: digest.Named("test/1", []byte(t.Name))}, nil
	}})
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, h := range out.Held {
		errs = append(errs, h.Err)
	}
	return res, errors.Join(errs...)
}

// wholeValue returns the value of the entry file, put together from the parts of an evaluation.
func wholeValue(t testing.TB, res *lang.Result) any {
	t.Helper()
	doc := map[string]any{}
	if err := json.Unmarshal(res.Deployment, &doc); err != nil {
		t.Fatal(err)
	}
	libs := map[string]any{}
	for _, l := range res.Libraries {
		fs := map[string]any{}
		for _, f := range l.Functionalities {
			var packed struct { // functionalities with patched replicas
				Value json.RawMessage `json:"$value"`
			}
			fs[f.Name] = f.Value
			if json.Unmarshal(f.Value, &packed); packed.Value != nil {
				fs[f.Name] = packed.Value
			}
		}
		libs[l.Name] = fs
	}
	doc["libs"] = libs
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSchema_AcceptsExamples(t *testing.T) {
	s := schema(t)
	entries, err := filepath.Glob("../../examples/*/defx.jsonnet")
	if err != nil || len(entries) < 3 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		dir, err := filepath.Abs(filepath.Dir(e))
		if err != nil {
			t.Fatal(err)
		}
		res, err := compiled(t, dir)
		if err != nil {
			t.Errorf("%s: %v", e, err)
			continue
		}
		if err := s.Validate(wholeValue(t, res)); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
}

// TestSchema_AcceptsScripts checks the deployments in the CLI test scripts. Those that compile
// must be valid.
func TestSchema_AcceptsScripts(t *testing.T) {
	s := schema(t)
	scripts, err := filepath.Glob("../../cmd/defx/testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	valid := 0
	for _, script := range scripts {
		a, err := txtar.ParseFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range a.Files {
			if filepath.Base(f.Name) != "defx.jsonnet" {
				continue
			}
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range a.Files {
				name := filepath.Join(dir, f.Name)
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, f.Data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			res, err := compiled(t, filepath.Join(dir, filepath.Dir(f.Name)))
			if err != nil {
				continue
			}
			valid++
			if err := s.Validate(wholeValue(t, res)); err != nil {
				t.Errorf("%s: %s: %v", script, f.Name, err)
			}
		}
	}
	if valid < 10 {
		t.Errorf("only %d deployments of the scripts compile", valid)
	}
}

func TestTypes_EveryFieldHasDoc(t *testing.T) {
	for _, ty := range reference.Types() {
		if ty.Doc == "" {
			t.Errorf("%s: no comment", ty.Name)
		}
		for _, f := range ty.Fields {
			if f.Doc == "" {
				t.Errorf("%s.%s: no comment; is its file among compile.Sources?", ty.Name, f.Name)
			}
		}
	}
}

// TestExamples_CompileAndAreValid evaluates and compiles the example of each field.
func TestExamples_CompileAndAreValid(t *testing.T) {
	s := schema(t)
	all, err := reference.Differences()
	if err != nil {
		t.Error(err)
	}
	for _, d := range all {
		t.Run(d.In+"."+d.Field.Name, func(t *testing.T) {
			entry := d.With
			t.Parallel()
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "shop"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "shop", "functionalities.libsonnet"), []byte(`{ web: { service: { command: ['/usr/bin/web'] } } }`), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "defx.jsonnet"), []byte(entry), 0o644); err != nil {
				t.Fatal(err)
			}
			res, err := compiled(t, dir)
			if err != nil {
				t.Fatalf("%v\n%s", err, entry)
			}
			if err := s.Validate(wholeValue(t, res)); err != nil {
				t.Errorf("%v\n%s", err, entry)
			}
		})
	}
}

// TestPage_IsUpToDate compares docs/reference.md with the generated page.
func TestPage_IsUpToDate(t *testing.T) {
	const name = "../../docs/reference.md"
	if *updateDocs {
		if err := os.WriteFile(name, reference.Page(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, reference.Page()) {
		t.Error("docs/reference.md is not up to date; go test ./compile/reference -run Page -update-docs writes it")
	}
}
