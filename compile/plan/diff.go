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
	"time"

	"github.com/defx-dev/defx/compile/graph"
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
	GiveUp      map[string]bool                    // addresses that may give up directories with data
	Held        func(address string) bool          // reports whether an address is held and must be left unchanged; nil = none
	Moved       func(address string) string        // returns the current address of a renamed unit; nil = no renames
	Drifted     map[string]bool                    // modules that were changed outside of defx
	Restart     string                             // address of the unit to restart; "" = none
	Uncertainty map[string]Uncertainty             // addresses whose deployed state is not known

	Drift      map[string]*UnitDrift                   // address of a record → how its machine differs from it
	Repair     func(address string, needs Repair) bool // reports whether a difference may be repaired; nil = all
	AllowEmpty func(address, machine string) bool      // reports whether a unit whose data is gone may start; nil = none
	Forgotten  map[string]bool                         // addresses of units whose data was on a machine that was forgotten
	Stop       map[string]*Stopped                     // addresses of units to stop
	Start      map[string]bool                         // addresses of stopped units to start
	NewFields  bool                                    // list the fields of units that are created
}

// Diff subtracts the records from the plan by address, machine, digest and values. The caller
// adds what is held and seals the result.
func Diff(in DiffInput) (*ChangeSet, error) {
	cs := &ChangeSet{APIVersion: APIVersion, Kind: "ChangeSet", Deployment: in.Plan.Deployment, Environment: in.Plan.Environment,
		Base: in.Base, Actions: []Action{}, Held: []HeldItem{}, Protected: []Protected{}, Names: in.names()}
	var err error
	if cs.Plan, err = in.Plan.Digest(); err != nil {
		return nil, err
	}
	if in.Held == nil {
		in.Held = func(string) bool { return false }
	}
	in.AllowDelete, in.AllowMove, in.GiveUp = fullNames(cs.Names, in.AllowDelete), fullNames(cs.Names, in.AllowMove), fullNames(cs.Names, in.GiveUp)
	in.Restart = cs.Names.Full(in.Restart)
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
				needed[on] = "held " + cs.Names.Text(r.Address)
			}
		}
		for _, on := range r.After {
			if stays && strings.HasPrefix(on, factPrefix) {
				needed[on] = cs.Names.Text(r.Address)
			}
		}
		if stays {
			in.keepModules(r, cs.Names.Text(r.Address), needed, records)
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
	cs.repairHeld(in)
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
			p := Protected{Address: r.Address, Machine: r.Machine, Reason: why}
			if now := RenameSuggestion(r.Placed(), in.Plan, func(a string) bool { return records[a] != nil }); now != "" {
				p.Moved = MovedLine(r.Address, now)
			}
			cs.Protected = append(cs.Protected, p)
			cs.Summary.Protected++
			if d := in.Drift[r.Address]; d != nil {
				cs.Drifted = append(cs.Drifted, Drifted{Address: r.Address, Machine: r.Machine, Differences: d.Differences})
			}
			continue
		}
		cs.Summary.Delete++
		cs.Actions = append(cs.Actions, Action{Op: Delete, Address: r.Address, Machine: r.Machine, Backend: r.Backend,
			Before: r.Digest, Certain: !in.uncertain(r.Address), Reason: in.Uncertainty[r.Address].deleteReason(), Changes: []Change{}, Drift: in.differences(r.Address)})
	}
	if err := cs.checkClaims(in); err != nil {
		return nil, err
	}
	sortActions(cs.Actions)
	slices.SortFunc(cs.Drifted, func(a, b Drifted) int { return strings.Compare(a.Address, b.Address) })
	slices.SortFunc(cs.Protected, func(a, b Protected) int { return strings.Compare(a.Address, b.Address) })
	cs.fillWaits(in.Plan, records)
	cs.waitForClaims(in.Plan, records)
	for i := range cs.Actions {
		a := &cs.Actions[i]
		r := records[a.Address]
		if r == nil {
			r = records[a.PreviousAddress]
		}
		if u := in.Plan.Find(a.Address); u != nil && a.Op != Delete && (r == nil || a.Op != Update || r.Digest != u.Digest) {
			a.Needs = u.Needs
		}
		if r != nil && a.Machine != "" && a.Stops() {
			a.StopTimeout = in.longStop(r)
		}
	}
	return cs, nil
}

// checkClaims returns the conflicts of the units that will be on the machines.
func (cs *ChangeSet) checkClaims(in DiffInput) error {
	check := ClaimCheck{Desired: in.Plan, Stays: map[string]string{}, Names: cs.Names}
	for _, r := range in.Records {
		check.Deployed = append(check.Deployed, r.Placed())
	}
	for _, p := range cs.Protected {
		check.Stays[p.Address] = p.Reason
	}
	errs := slices.DeleteFunc(CheckClaims(check), func(e *diag.Error) bool { return in.Held(cs.Names.Full(e.Subject)) })
	return errs.Err()
}

// waitForClaims makes an action wait for the one that gives up what it claims: the port of a service
// that is replaced by one of another name, that moves to another machine or that gets another port is
// free only then.
func (cs *ChangeSet) waitForClaims(p *Plan, records map[string]*Record) {
	acting := map[string]*Action{}
	var owners []Owner
	const before = "\x00before" // marks what a unit has until its action
	for i := range cs.Actions {
		a := &cs.Actions[i]
		acting[a.Address] = a
		r, u := records[a.Address], p.Find(a.Address)
		if a.Op == Delete {
			u = nil
		}
		if r != nil && r.Machine != "" {
			owners = append(owners, Owner{a.Address + before, r.Machine, givenUp(r, u)})
		}
		if u != nil && u.Machine != "" {
			owners = append(owners, Owner{a.Address, u.Machine, u.Claims})
		}
	}
	for _, k := range Conflicts(owners) {
		first, firstHad := strings.CutSuffix(k.First, before)
		second, secondHad := strings.CutSuffix(k.Second, before)
		if first == second || firstHad == secondHad {
			continue
		}
		a, owner := acting[first], acting[second]
		if firstHad {
			a, owner = owner, a
		}
		if waitsFor(acting, owner, a.Address, map[string]bool{}) {
			continue
		}
		if !slices.Contains(a.WaitsFor, owner.Address) {
			a.WaitsFor = append(a.WaitsFor, owner.Address)
			slices.Sort(a.WaitsFor)
		}
	}
}

// givenUp returns the claims of a deployed unit that its new version, nil if there is none, does not
// have on that machine.
func givenUp(r *Record, u *Placed) []Claim {
	if u == nil || u.Machine != r.Machine {
		return r.Claims
	}
	return slices.DeleteFunc(slices.Clone(r.Claims), func(c Claim) bool {
		return slices.ContainsFunc(u.Claims, func(d Claim) bool { return d.Kind == c.Kind && d.Key == c.Key })
	})
}

// waitsFor reports whether an action waits for the action of an address, directly or not.
func waitsFor(acting map[string]*Action, a *Action, address string, seen map[string]bool) bool {
	for _, on := range a.WaitsFor {
		if on == address {
			return true
		}
		if b := acting[on]; b != nil && !seen[on] {
			seen[on] = true
			if waitsFor(acting, b, address, seen) {
				return true
			}
		}
	}
	return false
}

// longStop returns the stop timeout of a deployed unit if it is longer than LongStop; otherwise, and
// if the unit cannot be read, it is empty.
func (in *DiffInput) longStop(r *Record) string {
	if r.Object == "" {
		return ""
	}
	u, err := in.Unit(r.Object)
	if err != nil || u == nil {
		return ""
	}
	var spec struct {
		Stop struct {
			Timeout string `json:"timeout"`
		} `json:"stop"`
	}
	if json.Unmarshal(u.Spec, &spec) != nil {
		return ""
	}
	if d, err := time.ParseDuration(spec.Stop.Timeout); err != nil || d <= LongStop {
		return ""
	}
	return spec.Stop.Timeout
}

// names returns the names of all units, deployed or desired.
func (in *DiffInput) names() *graph.Names {
	n := graph.NamesOf()
	for _, u := range in.Plan.Units {
		n.Add(u.Address)
	}
	for _, r := range in.Records {
		n.Add(r.Address)
	}
	return n
}

// fullNames returns the addresses that a person typed.
func fullNames(n *graph.Names, typed map[string]bool) map[string]bool {
	out := make(map[string]bool, len(typed))
	for a, is := range typed {
		out[n.Full(a)] = is
	}
	return out
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
				Reason: "deregistered while " + cs.Names.Text(on) + " changes", Changes: []Change{}})
			break
		}
	}
	cs.Actions = append(cs.Actions, more...)
}

// Stops reports whether the deployed version stops, or may stop, before the new one is ready.
func (a *Action) Stops() bool {
	switch a.Op {
	case Update:
		return a.Verb == Restart && !a.Graceful || a.Verb == RepairUnit || a.Verb == Stop || a.Verb == "" && !a.Certain
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
func (in *DiffInput) keepModules(r Record, text string, needed map[string]string, records map[string]*Record) {
	for _, on := range r.Requires {
		if m := records[on]; strings.HasPrefix(on, modulePrefix) && m != nil && needed[on] == "" {
			needed[on] = text
			in.keepModules(*m, on, needed, records)
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

// Reasons why a unit that is no longer defined is not deleted.
const (
	KeepsData    = "it keeps data of its own"
	WasProtected = "it was deployed with protect"
)

func protection(r Record) string {
	switch {
	case r.Stateful:
		return KeepsData
	case r.Protect:
		return WasProtected
	}
	return ""
}

func (cs *ChangeSet) compare(in DiffInput, u *Placed, r *Record, former string) error {
	a := Action{Op: Create, Address: u.Address, PreviousAddress: former, Machine: u.Machine, Backend: u.Backend, Digest: u.Digest, Certain: true,
		Reason: "new", Changes: []Change{}}
	if r == nil && in.Forgotten[u.Address] && (in.AllowEmpty == nil || !in.AllowEmpty(u.Address, u.Machine)) {
		cs.Summary.Unchanged++
		cs.Drifted = append(cs.Drifted, Drifted{Address: u.Address, Machine: u.Machine, Differences: []Difference{{Field: "data", Cause: CauseForgotten}}, Needs: NeedsEmpty})
		return nil
	}
	if r == nil {
		cs.Summary.Create++
		a.Certain = u.Machine != "" || len(u.Unknown) == 0 // false for a module with inputs that are not known yet
		if in.NewFields {
			after, err := in.Unit(u.Object)
			if err != nil {
				return err
			}
			a.Changes = newFields(after)
		}
		cs.Actions = append(cs.Actions, a)
		return nil
	}
	a.Before = r.Digest
	if a.GivesUp = LostData(r.Placed(), *u); len(a.GivesUp) > 0 && !in.GiveUp[u.Address] {
		return LostDataError(cs.Names, r.Placed(), *u, a.GivesUp)
	}
	values := maps.Equal(r.Values, u.Values)
	same := r.Digest == u.Digest && values && len(u.Unknown) == 0
	a.Stopped = r.Stopped != nil && !in.Start[u.Address] && u.Machine != ""
	drift := in.driftOf(u.Address, former)
	if drift != nil && !in.uncertain(u.Address) && r.Backend == u.Backend && r.Machine == u.Machine && !in.addRepair(cs, a, drift, former == "" && same && r.Traits.Equal(u.Traits)) {
		return nil
	}
	a.Drift = in.differences(cmp.Or(former, u.Address))
	switch {
	case r.Backend != u.Backend && (r.Backend != "" || u.Machine != ""):
		a.Op, a.From, a.Reason = Replace, r.Machine, fmt.Sprintf("backend %s → %s", r.Backend, u.Backend)
		cs.Summary.Replace++
	case r.Machine != u.Machine:
		if r.Stateful && !in.AllowMove[u.Address] {
			return diag.Errorf(cs.Names.Text(u.Address), "it keeps data of its own on %s and would move to %s without it", r.Machine, u.Machine).
				WithHint("keep it there with place: { machine: '%s' }, or allow the move with --allow-move %s", r.Machine, cs.Names.Text(u.Address))
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
	case in.Stop[u.Address] != nil && r.Stopped == nil && same:
		a.Op, a.Verb, a.Reason = Update, Stop, in.Stop[u.Address].Reason
		cs.Summary.Update++
		cs.Actions = append(cs.Actions, a)
		return nil
	case in.Start[u.Address] && r.Stopped != nil && same:
		a.Op, a.Verb, a.Reason = Update, Start, "asked for"
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
	if drift != nil && drift.Missing && a.Op == Update { // nothing is there to be updated
		a.Op, a.Verb, a.Reason = Create, "", drift.reason(a.Machine)
		cs.Summary.Update--
		cs.Summary.Create++
		cs.Actions = append(cs.Actions, a)
		return nil
	}
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
		a.Reason = "renamed from " + cs.Names.Text(former)
	} else if former != "" {
		a.Verb, a.Graceful, a.Reason = Restart, false, "renamed from "+cs.Names.Text(former)
		if a.Op == Move {
			a.Verb, a.Reason = "", a.Reason+fmt.Sprintf(", machine %s → %s", r.Machine, u.Machine)
		}
	}
	cs.Actions = append(cs.Actions, a)
	return nil
}

// newFields lists the fields of a unit that is created.
func newFields(u *Unit) []Change {
	list := changes(json.RawMessage("{}"), u.Spec)
	for i := range list {
		list[i].mask(u.Sensitive)
	}
	return list
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
