package plan

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// DiffInput is the input of Diff.
type DiffInput struct {
	Plan        *Plan
	Records     []Record                           // the deployed units
	Base        int                                // generation of the records
	Unit        func(digest.Digest) (*Unit, error) // returns a unit by the digest of its canonical bytes
	AllowDelete map[string]bool                    // protected addresses that may be deleted
	AllowMove   map[string]bool                    // stateful addresses that may change machines
	Held        func(address string) bool          // reports whether an address is held and must be left unchanged; nil = none
	Moved       func(address string) string        // returns the current address of a renamed unit; nil = no renames
	Drifted     map[string]bool                    // modules that were changed outside of defx
	Restart     string                             // address of the unit to restart; "" = none
	Uncertainty map[string]Uncertainty             // addresses whose deployed state is not known
}

// Diff subtracts the records from the plan by address, machine, digest and values. The caller
// adds what is held and seals the result.
func Diff(in DiffInput) (*ChangeSet, error) {
	cs := &ChangeSet{APIVersion: APIVersion, Kind: "ChangeSet", Deployment: in.Plan.Deployment, Environment: in.Plan.Environment,
		Base: in.Base, Actions: []Action{}, Held: []HeldItem{}, Protected: []Protected{}}
	var err error
	if cs.Plan, err = in.Plan.Digest(); err != nil {
		return nil, err
	}
	if in.Held == nil {
		in.Held = func(string) bool { return false }
	}
	former := in.renameRecords()
	records := make(map[string]*Record, len(in.Records))
	for i := range in.Records {
		records[in.Records[i].Address] = &in.Records[i]
	}
	needed := map[string]string{} // addresses that must be kept because a kept unit needs them → the reason
	for _, r := range in.Records {
		held := in.Held(r.Address)
		stays := held || in.Plan.Find(r.Address) == nil && protection(r) != "" && !in.AllowDelete[r.Address]
		for _, on := range r.Requires {
			if held {
				needed[on] = "held " + r.Address
			}
		}
		for _, on := range r.After {
			if stays && strings.HasPrefix(on, factPrefix) {
				needed[on] = r.Address
			}
		}
		if stays {
			in.keepModules(r, needed, records)
		}
	}
	for i := range in.Plan.Units {
		u := &in.Plan.Units[i]
		if in.Held(u.Address) {
			cs.Summary.Unchanged++
			continue
		}
		if err := cs.compare(in, u, records[u.Address], former[u.Address]); err != nil {
			return nil, err
		}
	}
	if err := cs.dropUnaffected(in, records); err != nil {
		return nil, err
	}
	cs.addAttachments(in, records)
	for _, r := range in.Records {
		if in.Plan.Find(r.Address) != nil || in.Held(r.Address) {
			continue
		}
		why := protection(r)
		if by := needed[r.Address]; by != "" && why == "" {
			why = by + " requires it"
		}
		if why != "" && !in.AllowDelete[r.Address] {
			cs.Protected = append(cs.Protected, Protected{r.Address, r.Machine, why})
			cs.Summary.Protected++
			continue
		}
		cs.Summary.Delete++
		cs.Actions = append(cs.Actions, Action{Op: Delete, Address: r.Address, Machine: r.Machine, Backend: r.Backend,
			Before: r.Digest, Certain: !in.uncertain(r.Address), Reason: in.Uncertainty[r.Address].deleteReason(), Changes: []Change{}})
	}
	sortActions(cs.Actions)
	slices.SortFunc(cs.Protected, func(a, b Protected) int { return strings.Compare(a.Address, b.Address) })
	cs.fillWaits(in.Plan, records)
	return cs, nil
}

// addAttachments adds actions that register balancer backends again: they are deregistered
// before the service they forward to stops.
func (cs *ChangeSet) addAttachments(in DiffInput, records map[string]*Record) {
	acting := map[string]*Action{}
	for i := range cs.Actions {
		acting[cs.Actions[i].Address] = &cs.Actions[i]
	}
	var more []Action
	for i := range in.Plan.Units {
		u := &in.Plan.Units[i]
		if u.Drain == 0 || records[u.Address] == nil || acting[u.Address] != nil || in.Held(u.Address) {
			continue
		}
		for _, on := range u.Follows {
			a := acting[on]
			if a == nil || !a.Stops() {
				continue
			}
			cs.Summary.Unchanged--
			if a.Certain {
				cs.Summary.Update++
			} else {
				cs.Summary.Uncertain++
			}
			more = append(more, Action{Op: Update, Verb: Attach, Address: u.Address, Backend: u.Backend, Digest: u.Digest, Before: u.Digest, Certain: a.Certain,
				Reason: "deregistered while " + on + " changes", Changes: []Change{}})
			break
		}
	}
	cs.Actions = append(cs.Actions, more...)
}

// Stops reports whether the deployed version stops, or may stop, before the new one is ready.
func (a *Action) Stops() bool {
	switch a.Op {
	case Update:
		return a.Verb == Restart && !a.Graceful || a.Verb == "" && !a.Certain
	case Replace, Move, Delete:
		return true
	}
	return false
}

// renameRecords gives renamed records their current addresses, unless these are taken, and
// returns the previous address of each.
func (in *DiffInput) renameRecords() map[string]string {
	former := map[string]string{}
	if in.Moved == nil {
		return former
	}
	taken := map[string]bool{}
	for _, r := range in.Records {
		taken[r.Address] = true
	}
	in.Records = slices.Clone(in.Records)
	for i, r := range in.Records {
		now := in.Moved(r.Address)
		if now == r.Address || taken[now] || in.Held(r.Address) || in.Plan.Find(now) == nil || in.Plan.Find(r.Address) != nil {
			continue
		}
		taken[now], former[now] = true, r.Address
		in.Records[i].Address = now
	}
	return former
}

// mask replaces sensitive values.
func (c *Change) mask(fields []string) {
	for _, f := range fields {
		if c.Path != f && !strings.HasPrefix(c.Path, f+"/") {
			continue
		}
		for _, v := range []*any{&c.Before, &c.After} {
			if *v != nil {
				*v = "(sensitive)"
			}
		}
	}
}

// renameResources applies renames to the resource names in a module's spec and describes them.
func (in *DiffInput) renameResources(spec json.RawMessage) (json.RawMessage, string) {
	var by map[string]json.RawMessage
	if in.Moved == nil || json.Unmarshal(spec, &by) != nil {
		return spec, ""
	}
	var renames []string
	for _, old := range slices.Sorted(maps.Keys(by)) {
		if now := in.Moved(old); now != old && by[now] == nil {
			by[now] = by[old]
			delete(by, old)
			renames = append(renames, old+" → "+now)
		}
	}
	if len(renames) == 0 {
		return spec, ""
	}
	var value any
	if json.Unmarshal(mustJSON(by), &value) != nil {
		return spec, ""
	}
	in.renameRefs(value)
	return mustJSON(value), "renamed: " + strings.Join(renames, ", ")
}

// renameRefs applies renames to references.
func (in *DiffInput) renameRefs(v any) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			in.renameRefs(x)
		}
	case map[string]any:
		if name, ok := v["name"].(string); ok && v["kind"] == "ref" {
			v["name"] = in.Moved(name)
		}
		for _, x := range v {
			in.renameRefs(x)
		}
	}
}

// keepModules adds the modules on which a kept unit depends to needed: its instance, and the
// network of the instance.
func (in *DiffInput) keepModules(r Record, needed map[string]string, records map[string]*Record) {
	for _, on := range r.Requires {
		if m := records[on]; strings.HasPrefix(on, modulePrefix) && m != nil && needed[on] == "" {
			needed[on] = r.Address
			in.keepModules(*m, needed, records)
		}
	}
}

// modulePrefix is the prefix of the addresses of resource modules.
const modulePrefix = "module/"

// factPrefix is the prefix of the addresses of host facts.
const factPrefix = "host/"

// Uncertainty is why the deployed state of a unit is not known.
type Uncertainty struct {
	Unless string // the case in which nothing has to be done
	Since  string // what happened
}

// Interrupted is the uncertainty after an interrupted apply.
var Interrupted = Uncertainty{"the interrupted apply finished it", interrupted}

// interrupted also applies to a record without a digest, which only an interrupted apply
// leaves.
const interrupted = "an interrupted apply left it in an unknown state"

func (in *DiffInput) uncertain(address string) bool { return in.Uncertainty[address] != Uncertainty{} }

func (d Uncertainty) deleteReason() string {
	if d.Since != "" {
		return "no longer defined; " + d.Since
	}
	return "no longer defined"
}

func protection(r Record) string {
	switch {
	case r.Stateful:
		return "it keeps data of its own"
	case r.Protect:
		return "it was deployed with protect"
	}
	return ""
}

func (cs *ChangeSet) compare(in DiffInput, u *Placed, r *Record, former string) error {
	a := Action{Op: Create, Address: u.Address, PreviousAddress: former, Machine: u.Machine, Backend: u.Backend, Digest: u.Digest, Certain: true,
		Reason: "new", Changes: []Change{}}
	if r == nil {
		cs.Summary.Create++
		a.Certain = u.Machine != "" || len(u.Unknown) == 0 // false for a module with inputs that are not known yet
		cs.Actions = append(cs.Actions, a)
		return nil
	}
	a.Before = r.Digest
	values := maps.Equal(r.Values, u.Values)
	switch {
	case r.Backend != u.Backend && (r.Backend != "" || u.Machine != ""):
		a.Op, a.From, a.Reason = Replace, r.Machine, fmt.Sprintf("backend %s → %s", r.Backend, u.Backend)
		cs.Summary.Replace++
	case r.Machine != u.Machine:
		if r.Stateful && !in.AllowMove[u.Address] {
			return diag.Errorf(u.Address, "it keeps data of its own on %s and would move to %s without it", r.Machine, u.Machine).
				WithHint("keep it there with place: { machine: '%s' }, or allow the move with --allow-move %s", r.Machine, u.Address)
		}
		a.Op, a.From, a.Reason = Move, r.Machine, fmt.Sprintf("machine %s → %s", r.Machine, u.Machine)
		cs.Summary.Move++
	case former != "":
		a.Op = Update
		cs.Summary.Update++
	case in.uncertain(u.Address):
		a.Op, a.Certain, a.Reason = Update, false, "unless "+in.Uncertainty[u.Address].Unless
		cs.Summary.Uncertain++
	case in.Drifted[u.Address] && r.Digest == u.Digest && values && len(u.Unknown) == 0:
		a.Op, a.Verb, a.Reason = Update, Converge, "changed outside of defx"
		cs.Summary.Update++
		cs.Actions = append(cs.Actions, a)
		return nil
	case in.Restart == u.Address && r.Digest == u.Digest && values && len(u.Unknown) == 0:
		a.Op, a.Verb, a.Reason = Update, Restart, "requested"
		cs.Summary.Update++
		cs.Actions = append(cs.Actions, a)
		return nil
	case r.Digest == u.Digest && values && len(u.Unknown) == 0 && r.Traits.Equal(u.Traits):
		cs.Summary.Unchanged++
		return nil
	case r.Digest == u.Digest && values && len(u.Unknown) == 0:
		a.Op = Update // only what the record stores in addition to the digest
		cs.Summary.Update++
	case r.Digest == u.Digest && values:
		a.Op, a.Certain, a.Reason = Update, false, "if "+strings.Join(u.Unknown, ", ")+" changes"
		cs.Summary.Uncertain++
	default:
		a.Op = Update
		cs.Summary.Update++
	}
	after, err := in.Unit(u.Object)
	if err != nil {
		return err
	}
	var before *Unit
	if r.Digest == "" || in.uncertain(u.Address) || in.uncertain(former) {
		if !a.Certain {
			cs.Actions = append(cs.Actions, a)
			return nil
		}
		a.Verb = Restart
		if u.Machine == "" {
			a.Verb = Converge
		}
		a.Reason = cmp.Or(in.Uncertainty[u.Address].Since, in.Uncertainty[former].Since, interrupted)
	} else if before, err = in.Unit(r.Object); err != nil {
		return err
	}
	if before != nil {
		was, names := before.Spec, ""
		if u.Machine == "" {
			was, names = in.renameResources(before.Spec)
		}
		a.Changes = append(changes(was, after.Spec), valueChanges(r.Values, u.Values, after.Spec)...)
		for i := range a.Changes {
			a.Changes[i].mask(slices.Concat(before.Sensitive, after.Sensitive))
		}
		if a.Op == Update && a.Certain {
			a.Verb = updateVerb(before, after, r.Values, u.Values)
			a.Graceful = a.Verb == Restart && before.Graceful && after.Graceful
			a.Reason = reason(a.Changes, before, after)
			if u.Machine == "" {
				a.Verb = Converge
			} else if l := changes(before.Payload.Run, after.Payload.Run); a.Reason == renderedDifferently && len(l) > 0 { // for example the ports of its group
				a.Reason += ": " + paths(l)
			}
			if names != "" {
				a.Reason = strings.TrimSuffix(names+"; "+reason(a.Changes, before, after), "; "+renderedDifferently)
			}
		}
	}
	if former != "" && u.Machine == "" {
		a.Reason = "renamed from " + former
	} else if former != "" {
		a.Verb, a.Graceful, a.Reason = Restart, false, "renamed from "+former
		if a.Op == Move {
			a.Verb, a.Reason = "", a.Reason+fmt.Sprintf(", machine %s → %s", r.Machine, u.Machine)
		}
	}
	cs.Actions = append(cs.Actions, a)
	return nil
}

func reason(l []Change, before, after *Unit) string {
	if len(l) > 0 {
		return paths(l) + " changed"
	}
	if before.Encoding != after.Encoding {
		return fmt.Sprintf("encoding %d → %d of backend %s", before.Encoding, after.Encoding, after.Backend)
	}
	return renderedDifferently
}

const renderedDifferently = "rendered differently"

func paths(l []Change) string {
	names := make([]string, len(l))
	for i, c := range l {
		names[i] = strings.ReplaceAll(strings.TrimPrefix(c.Path, "/"), "/", ".")
	}
	return strings.Join(names, ", ")
}

// updateVerb returns how far an update must reach.
func updateVerb(before, after *Unit, had, has Values) Verb {
	if !bytes.Equal(bindValues(before.Payload.Run, had), bindValues(after.Payload.Run, has)) {
		return Restart
	}
	if !bytes.Equal(bindValues(before.Payload.Reload, had), bindValues(after.Payload.Reload, has)) {
		return Reload
	}
	return Swap
}

// changes returns the fields that differ between two normalized services, by name in objects
// and by index in lists, in the order of their paths.
func changes(before, after json.RawMessage) []Change {
	var b, a any
	if json.Unmarshal(before, &b) != nil || json.Unmarshal(after, &a) != nil {
		return []Change{}
	}
	out := []Change{}
	compareValues(b, a, nil, &out)
	return out
}

func compareValues(b, a any, path []string, out *[]Change) {
	bm, bo := b.(map[string]any)
	am, ao := a.(map[string]any)
	if bo && ao && bm["$text"] == nil && am["$text"] == nil {
		for _, k := range sets.Union(sets.Keys(bm), sets.Keys(am)) {
			compareValues(bm[k], am[k], append(slices.Clone(path), k), out)
		}
		return
	}
	// An object that is added or removed is listed field by field, so that each has its source
	// line.
	if bo && bm["$text"] == nil && a == nil && len(bm) > 0 {
		compareValues(b, map[string]any{}, path, out)
		return
	}
	if ao && am["$text"] == nil && b == nil && len(am) > 0 {
		compareValues(map[string]any{}, a, path, out)
		return
	}
	bl, bo := b.([]any)
	al, ao := a.([]any)
	if bo && ao && len(bl) == len(al) {
		for i := range bl {
			compareValues(bl[i], al[i], append(slices.Clone(path), strconv.Itoa(i)), out)
		}
		return
	}
	if rb, ra := mustJSON(b), mustJSON(a); !bytes.Equal(rb, ra) {
		*out = append(*out, Change{Path: Pointer(path), Before: b, After: a, Source: path})
	}
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came from JSON
	}
	return raw
}

// Pointer returns path as a JSON pointer (RFC 6901).
func Pointer(path []string) string {
	var b strings.Builder
	for _, p := range path {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(p))
	}
	return b.String()
}

// valueChanges returns the values that differ, each with the path of the first field that reads
// it.
func valueChanges(had, has Values, spec json.RawMessage) []Change {
	var out []Change
	var v any
	json.Unmarshal(spec, &v)
	for _, key := range slices.Sorted(maps.Keys(has)) {
		old, ok := had[key]
		if old == has[key] || !ok {
			continue
		}
		c := Change{Path: Pointer([]string{"reads", key}), Before: old, After: has[key]}
		walkTexts(v, nil, func(path []string, t token.Text) {
			for _, tok := range t.Tokens() {
				if c.Source == nil && tok.Kind == "ref" && Key(tok) == key {
					c.Source = path
				}
			}
		})
		out = append(out, c)
	}
	return out
}

// fillWaits fills WaitsFor: creations and updates wait along requires and after of the plan,
// deletions in the opposite direction along those of the records.
func (cs *ChangeSet) fillWaits(p *Plan, records map[string]*Record) {
	acting := map[string]*Action{}
	for i := range cs.Actions {
		acting[cs.Actions[i].Address] = &cs.Actions[i]
	}
	wait := func(a *Action, on string) {
		if acting[on] != nil && on != a.Address {
			a.WaitsFor = append(a.WaitsFor, on)
		}
	}
	for i := range cs.Actions {
		a := &cs.Actions[i]
		if u := p.Find(a.Address); u != nil {
			for _, on := range slices.Concat(u.Requires, u.After) {
				if o := acting[on]; o != nil && o.Op != Delete {
					wait(a, on)
				}
			}
		}
	}
	for address, r := range records {
		if a := acting[address]; a != nil && a.Op == Delete && a.Machine != "" { // the module may replace its machine
			for _, on := range r.Requires {
				if m := acting[on]; strings.HasPrefix(on, modulePrefix) && m != nil && m.Op != Delete {
					wait(a, on)
				}
			}
		}
	}
	for address, r := range records { // the users of a deleted unit are updated or deleted first
		for _, on := range slices.Concat(r.Requires, r.After) {
			if a := acting[on]; a != nil && a.Op == Delete {
				wait(a, address)
			}
		}
	}
	for i := range cs.Actions {
		slices.Sort(cs.Actions[i].WaitsFor)
		cs.Actions[i].WaitsFor = slices.Compact(cs.Actions[i].WaitsFor)
	}
}
