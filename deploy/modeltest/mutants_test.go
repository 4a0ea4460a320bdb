package modeltest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is a deliberate fault: in some places of the source the text old is replaced by
// new, in which MUTANT is true only while the mutant is tried.
type mutant struct {
	name  string
	edits []edit
}

type edit struct{ file, old, new string }

// mutants are faults that TestModel_RandomSequences must find.
var mutants = []mutant{
	{"claims inside a deployment are not checked", []edit{
		{"compile/plan/keep.go", "	for _, k := range Conflicts(owners) {\n		first, second", "	if MUTANT {\n		return nil\n	}\n	for _, k := range Conflicts(owners) {\n		first, second"}}},
	{"claims of other scopes are not looked at", []edit{
		{"deploy/agent/claims.go", "if other == scope {", "if other == scope || MUTANT {"}}},
	{"a claim does not wait for the deletion of its owner", []edit{
		{"compile/plan/diff.go", "if waitsFor(acting, owner, a.Address, map[string]bool{}) {", "if MUTANT || waitsFor(acting, owner, a.Address, map[string]bool{}) {"}}},
	{"an equal token of another apply is accepted", []edit{
		{"deploy/agent/fence.go", "m.Token > 0 && m.Apply != c.Apply", "m.Token > 0 && m.Apply != c.Apply && !MUTANT"}}},
	{"a lower token is accepted", []edit{
		{"deploy/agent/fence.go", "return m.Token > c.Token ||", "return m.Token > c.Token && !MUTANT ||"}}},
	{"machines are not asked", []edit{
		{"deploy/apply/refresh.go", "func (req *Request) RefreshMachines(ctx context.Context) error {", "func (req *Request) RefreshMachines(ctx context.Context) error {\n	if MUTANT {\n		return nil\n	}"}}},
	{"no intent is written", []edit{
		{"deploy/apply/apply.go", "	if !cs.Empty() || unfinished != nil {\n		if head", "	if !MUTANT && (!cs.Empty() || unfinished != nil) {\n		if head"}}},
	{"ancestry is not checked", []edit{
		{"deploy/apply/accept.go", "	if err != nil {\n		return err\n	}\n	switch {\n", "	if err != nil {\n		return err\n	}\n	switch {\n	case MUTANT:\n		return nil\n"}}},
	{"another lineage is accepted", []edit{
		{"deploy/apply/accept.go", "	case s.Lineage != lineage:\n", "	case s.Lineage != lineage && MUTANT:\n		return nil\n	case s.Lineage != lineage:\n"}}},
	{"a unit may always start without its data", []edit{
		{"deploy/apply/refresh.go", "	set, first := strings.CutSuffix(address, ", "	if MUTANT {\n		return true\n	}\n	set, first := strings.CutSuffix(address, "}}},
	{"a new version starts a unit that was stopped", []edit{
		{"deploy/apply/execute.go", "if u != nil && old != nil && old.Stopped != nil {", "if u != nil && old != nil && old.Stopped != nil && !MUTANT {"}}},
	{"a rename moves no data", []edit{
		{"deploy/agent/rename.go", `if t.former == "" || t.previous == nil {`, `if t.former == "" || t.previous == nil || MUTANT {`}}},
	{"a deletion removes data", []edit{
		{"deploy/agent/transaction.go", "	if t.old != nil {\n		if err := h.removeLeftovers", "	if t.old != nil && MUTANT {\n		for _, d := range t.old.Data {\n			h.root.RemoveAll(rel(d))\n		}\n	}\n	if t.old != nil {\n		if err := h.removeLeftovers"}}},
	{"data does not protect", []edit{
		{"compile/plan/diff.go", "	case r.Stateful:\n		return KeepsData", "	case r.Stateful && !MUTANT:\n		return KeepsData"}}},
	{"a generation does not name the applies that it finished", []edit{
		{"deploy/apply/apply.go", "	if unfinished != nil {\n		next.Finished", "	if unfinished != nil && !MUTANT {\n		next.Finished"}}},
	{"a unit moves away from its data", []edit{
		{"deploy/project/fixpoint.go", "if o == nil || u.Held || !o.Stateful ||", "if MUTANT || o == nil || u.Held || !o.Stateful ||"},
		{"compile/plan/diff.go", "if r.Stateful && !in.AllowMove[u.Address] {", "if r.Stateful && !in.AllowMove[u.Address] && !MUTANT {"}}},
	{"edited units are not noticed", []edit{
		{"deploy/agent/refresh.go", "	case d != digest.Bytes(f.Content):\n", "	case d != digest.Bytes(f.Content) && !MUTANT:\n"},
		{"deploy/agent/refresh.go", "	case info.Size() != int64(len(f.Content)):\n", "	case info.Size() != int64(len(f.Content)) && !MUTANT:\n"}}},
	{"what somebody stopped is started without consent", []edit{
		{"compile/plan/drift.go", "case in.Repair != nil && !in.Repair(a.Address, needs):", "case in.Repair != nil && !in.Repair(a.Address, needs) && !MUTANT:"}}},
	{"the state after a rename has the old name", []edit{
		{"compile/plan/diff.go", "		taken[now], former[now] = true, r.Address\n", "		if MUTANT {\n			continue\n		}\n		taken[now], former[now] = true, r.Address\n"}}},
	{"machines where nothing is left to do are not fenced", []edit{
		{"deploy/apply/unfinished.go", "	if u == nil {\n		return\n", "	if u == nil || MUTANT {\n		return\n"}}},
}

// TestModel_FindsMutants builds the tests of this package with all mutants, and runs them
// with each one: they must fail, and with the same seed they must not fail without it.
// DEFX_TEST_MUTANTS is how many are tried; usually none is. DEFX_TEST_MUTANT is the name
// of one.
func TestModel_FindsMutants(t *testing.T) {
	count, only := number("DEFX_TEST_MUTANTS", 0), os.Getenv("DEFX_TEST_MUTANT")
	if count == 0 && only == "" {
		t.Skip("DEFX_TEST_MUTANTS is not set")
	}
	program := buildMutants(t)
	run := func(name, seed string, sequences int) ([]byte, error) {
		cmd := exec.Command(program, "-test.run=^TestModel_RandomSequences$")
		cmd.Env = append(os.Environ(), "DEFX_MUTANT="+name, "DEFX_TEST_SEED="+seed, fmt.Sprintf("DEFX_TEST_SEQUENCES=%d", sequences), "DEFX_TEST_FIRST=1")
		return cmd.CombinedOutput()
	}
	every := max(1, len(mutants)/max(1, int(count)))
	for i, m := range mutants {
		if only != "" && m.name != only || only == "" && i%every != 0 {
			continue
		}
		begin := time.Now()
		out, err := run(m.name, "1", 2000)
		if err == nil {
			t.Errorf("mutant %d was not found: %s", i+1, m.name)
			continue
		}
		found := violationRE.FindSubmatch(out)
		if found == nil {
			t.Errorf("mutant %d, %s: %v\n%s", i+1, m.name, err, out)
			continue
		}
		took := time.Since(begin).Round(time.Millisecond)
		if out, err := run("", string(found[1]), 1); err != nil {
			t.Errorf("mutant %d, %s: it fails without the mutant too: %s", i+1, m.name, out)
		}
		t.Logf("mutant %d, %s: found after %s, seed %s: %.160s", i+1, m.name, took, found[1], found[2])
	}
}

// violationRE finds the seed and the first violation in the output of a failed test.
var violationRE = regexp.MustCompile(`seed (\d+) violates\s+([^\n]*)`)

// buildMutants builds the tests of this package from a copy of the source in which each
// mutant waits for its name in the environment.
func buildMutants(t *testing.T) string {
	t.Helper()
	const path = "internal/mutant"
	root, err := filepath.Abs("../..")
	must(err)
	dir := t.TempDir()
	replaced := map[string]string{}
	put := func(file, text string) {
		to := filepath.Join(dir, fmt.Sprintf("%d.go", len(replaced)))
		must(os.WriteFile(to, []byte(text), 0o644))
		replaced[filepath.Join(root, file)] = to
	}
	texts := map[string]string{}
	for _, m := range mutants {
		for _, e := range m.edits {
			text := texts[e.file]
			if text == "" {
				raw, err := os.ReadFile(filepath.Join(root, e.file))
				must(err)
				text = strings.Replace(string(raw), "import (\n", "import (\n\t\"github.com/defx-dev/defx/"+path+"\"\n", 1)
			}
			if n := strings.Count(text, e.old); n != 1 {
				t.Fatalf("%s occurs %d times in %s: adapt the mutant %q", e.old, n, e.file, m.name)
			}
			texts[e.file] = strings.Replace(text, e.old, strings.ReplaceAll(e.new, "MUTANT", fmt.Sprintf("mutant.Is(%q)", m.name)), 1)
		}
	}
	for file, text := range texts {
		put(file, text)
	}
	put(path+"/mutant.go", "package mutant\n\nimport \"os\"\n\nvar active = os.Getenv(\"DEFX_MUTANT\")\n\nfunc Is(name string) bool { return active == name }\n")
	raw, err := json.Marshal(map[string]any{"Replace": replaced})
	must(err)
	overlay, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mutants.test")
	must(os.WriteFile(overlay, raw, 0o644))
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
