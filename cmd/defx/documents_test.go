package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

var updateDocuments = flag.Bool("update-documents", false, "rewrite testdata/documents.golden")

// documents lists, for each command, the documents that it prints with --json.
var documents = map[string][]document{
	"apply":           {actionDocument2{}, applyResult{}},
	"attach":          {actionDocument2{}, applyResult{}},
	"destroy":         {actionDocument2{}, applyResult{}},
	"detach":          {actionDocument2{}, applyResult{}},
	"rollback":        {actionDocument2{}, applyResult{}},
	"eval":            {cacheUse{}},
	"explain":         {explanation{}},
	"fmt":             {formatted{}},
	"gc":              {collected{}},
	"graph":           {graphDocument{}, links{}},
	"history":         {history{}},
	"import compose":  {imported{}},
	"init":            {initialized{}},
	"lint":            {linted{}},
	"lock":            {locked{}},
	"logs":            {logLine{}},
	"machine forget":  {machineForgotten{}},
	"machine history": {machineHistory{}},
	"machine list":    {machines{}},
	"machine repair":  {machineRepaired{}},
	"machine scan":    {scan{}},
	"machine show":    {machine{}},
	"plan":            {changesDocument{}, planCacheUse{}},
	"providers lock":  {providersLocked{}},
	"render":          {rendered{}},
	"restart":         {restarted{}},
	"start":           {stopResult{}},
	"stop":            {stopResult{}},
	"state pull":      {statePulled{}},
	"state rebuild":   {rebuilt{}},
	"state repair":    {stateRepaired{}},
	"state upgrade":   {stateUpgraded{}},
	"status":          {status{}},
	"version":         {versionDocument{}},
	"schema":          nil, // prints a JSON Schema
	"shell":           nil, // prints what the command prints
	"agent":           nil, // speaks the protocol of the agent
}

// kinds maps the kind of a document to its types.
var kinds = map[string][]any{
	"Action": {actionDocument{}}, "ApplyResult": {applyResult{}}, "CacheUse": {cacheUse{}, planCacheUse{}}, "ChangeSet": {changesDocument{}}, "Collected": {collected{}},
	"Explanation": {explanation{}}, "Formatted": {formatted{}}, "Graph": {graphDocument{}}, "History": {history{}}, "Import": {imported{}}, "Initialized": {initialized{}},
	"Line": {logLine{}}, "Links": {links{}}, "Lint": {linted{}}, "Lock": {locked{}}, "Machine": {machine{}}, "MachineForgotten": {machineForgotten{}}, "MachineHistory": {machineHistory{}}, "Machines": {machines{}},
	"MachineRepaired": {machineRepaired{}}, "StatePulled": {statePulled{}}, "StateRepaired": {stateRepaired{}}, "StateUpgraded": {stateUpgraded{}},
	"ProvidersLock": {providersLocked{}}, "Rebuilt": {rebuilt{}}, "Rendered": {rendered{}}, "Started": {stopResult{}}, "Stopped": {stopResult{}}, "Restarted": {restarted{}}, "Scan": {scan{}}, "Status": {status{}}, "Version": {versionDocument{}},
}

// actionDocument2 makes a document of an event, which no view shows to people as a document.
type actionDocument2 struct{ actionDocument }

func (actionDocument2) print(*printer) {}

// TestDocuments_EveryCommandHasOne keeps the list complete.
func TestDocuments_EveryCommandHasOne(t *testing.T) {
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			check(sub)
		}
		name := strings.TrimPrefix(c.CommandPath(), "defx ")
		if _, ok := documents[name]; !ok && !c.HasSubCommands() && c.Name() != "help" && !strings.HasPrefix(name, "completion") {
			t.Errorf("no documents are listed for %s", name)
		}
	}
	check(rootCommand())
}

// TestDocuments_Shapes compares the fields of all documents with a golden file:
// programs depend on them.
func TestDocuments_Shapes(t *testing.T) {
	var b bytes.Buffer
	for _, kind := range slices.Sorted(func(yield func(string) bool) {
		for k := range kinds {
			if !yield(k) {
				return
			}
		}
	}) {
		for _, v := range kinds[kind] {
			fmt.Fprintf(&b, "%s\n", kind)
			writeShape(&b, reflect.TypeOf(v), "  ", nil)
		}
	}
	golden := filepath.Join("testdata", "documents.golden")
	if *updateDocuments {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("the JSON documents differ from %s; if this is intended: go test ./cmd/defx -run Documents -update-documents\n%s", golden, b.String())
	}
}

// writeShape writes the fields of a struct, in the order of their JSON form.
func writeShape(b *bytes.Buffer, t reflect.Type, indent string, above []reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || slices.Contains(above, t) || t == reflect.TypeFor[time.Time]() || t.Implements(reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()) || t.Implements(reflect.TypeFor[json.Marshaler]()) {
		return
	}
	above = append(slices.Clone(above), t)
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, rest, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && name == "":
			writeShape(b, f.Type, indent, above)
		case !f.IsExported() || name == "-":
		default:
			optional := ""
			if strings.Contains(rest, "omit") {
				optional = " (optional)"
			}
			fmt.Fprintf(b, "%s%s: %s%s\n", indent, name, typeName(f.Type), optional)
			writeShape(b, f.Type, indent+"  ", above)
		}
	}
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice, reflect.Array:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map of " + typeName(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return "time"
		}
		if t.Implements(reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()) {
			return "string"
		}
		return "object"
	case reflect.Interface:
		return "any"
	}
	return t.Kind().String()
}

// documentsCommand is the script command "documents KIND...": stdout has to be
// documents of exactly these kinds, one a line, a run of the same kind counted
// once, each with the fields of its type and no others.
func documentsCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: documents KIND...")
	}
	var found []string
	for _, line := range strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n") {
		var h header
		if err := json.Unmarshal([]byte(line), &h); err != nil {
			ts.Fatalf("%q is not a document: %v", line, err)
		}
		if h.APIVersion != plan.APIVersion {
			ts.Fatalf("%q has another apiVersion", line)
		}
		if len(found) == 0 || found[len(found)-1] != h.Kind {
			found = append(found, h.Kind)
		}
		var errs []string
		for _, v := range kinds[h.Kind] {
			if err := decodeStrictly(line, v); err != nil {
				errs = append(errs, err.Error())
			}
		}
		if len(errs) == len(kinds[h.Kind]) {
			ts.Fatalf("%q is not of kind %s: %s", line, h.Kind, strings.Join(errs, "; "))
		}
	}
	if !slices.Equal(found, args) {
		ts.Fatalf("documents of kinds %v, want %v", found, args)
	}
}

// decodeStrictly decodes a document into its type and back.
func decodeStrictly(line string, like any) error {
	v := reflect.New(reflect.TypeOf(like))
	d := json.NewDecoder(strings.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v.Interface()); err != nil {
		return err
	}
	var again bytes.Buffer
	if err := printJSON(&again, v.Interface()); err != nil {
		return err
	}
	if got := strings.TrimSuffix(again.String(), "\n"); got != line {
		return fmt.Errorf("it becomes %s", got)
	}
	return nil
}
