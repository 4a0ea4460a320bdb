package plan

import (
	"cmp"
	"slices"
	"strings"
)

// Difference is one way in which a machine differs from what was deployed of a unit.
type Difference struct {
	Field  string `json:"field"`            // what differs: a path, "state", "container.memory", …
	Cause  Cause  `json:"cause"`            //
	Detail string `json:"detail,omitempty"` // values and times, in words
}

// String returns the difference in one line.
func (d Difference) String() string {
	text := string(d.Cause)
	if field, container := strings.CutPrefix(d.Field, "container."); container && d.Cause == CauseContainer {
		text += ": " + field
	} else if strings.HasPrefix(d.Field, "/") {
		text += ": " + d.Field
	}
	if d.Detail != "" {
		text += " (" + d.Detail + ")"
	}
	return text
}

// On returns the difference in one line that names the machine where that says more.
func (d Difference) On(machine string) string {
	if d.Cause == CauseStopped {
		return strings.Replace(d.String(), "stopped,", "stopped on "+machine+",", 1)
	}
	return d.String()
}

// Cause is the kind of a Difference, in words that complete "web1: …".
type Cause string

// Causes. What the machine itself lost comes first.
const (
	CauseReinstalled  Cause = "machine reinstalled"    // it has no records of defx, and nothing of the deployment runs
	CauseRecordsLost  Cause = "records lost"           // and units still run there
	CauseNotThere     Cause = "missing on the machine" // its record alone is gone
	CauseReverted     Cause = "machine was reverted"   // it has another version than the one deployed last
	CauseDataMissing  Cause = "its data is gone"
	CauseForgotten    Cause = "its data was on a machine that was forgotten"
	CauseUnitMissing  Cause = "unit file missing"
	CauseUnitEdited   Cause = "unit file edited"
	CauseUnitMode     Cause = "mode of the unit file changed"
	CauseUnitUnread   Cause = "unit file not read by systemd"
	CauseNotLoaded    Cause = "unit not loaded"
	CauseAlias        Cause = "alias changed"
	CauseNotEnabled   Cause = "not enabled"
	CauseMasked       Cause = "masked"
	CauseDropIn       Cause = "drop-in added"
	CauseFileMissing  Cause = "file missing"
	CauseFileEdited   Cause = "file edited"
	CauseFileMode     Cause = "mode of the file changed"
	CauseHostMissing  Cause = "host file missing"
	CauseHostEdited   Cause = "host file edited"
	CauseHostMode     Cause = "mode of the host file changed"
	CauseStoreMissing Cause = "stored content missing"
	CauseStoreDamaged Cause = "stored content damaged"
	CauseStopped      Cause = "stopped, not by defx"
	CauseStarted      Cause = "started, although defx stop stopped it"
	CauseFailed       Cause = "failed"
	CauseRestarting   Cause = "keeps restarting"
	CauseUnhealthy    Cause = "unhealthy"
	CauseFrozen       Cause = "frozen"
	CausePaused       Cause = "container paused"
	CauseNoContainer  Cause = "container missing"
	CauseContainer    Cause = "container changed"
	CauseNoNetwork    Cause = "network missing"
	CauseUnknown      Cause = "an action on it was interrupted"
)

// Repair says who decides whether a difference is repaired.
type Repair int

// Kinds of Repair, the strictest last.
const (
	RepairNone    Repair = iota // it is only shown
	RepairAlways                // it is missing: an apply restores it
	RepairConsent               // somebody may have wanted it so: an apply asks
	RepairData                  // it may have to start without its data: an apply needs --allow-empty
)

// Repair returns who decides about a cause.
func (c Cause) Repair() Repair {
	switch c {
	case CauseRestarting, CauseUnhealthy, CauseUnknown:
		return RepairNone
	case CauseUnitEdited, CauseUnitMode, CauseAlias, CauseNotEnabled, CauseMasked, CauseDropIn, CauseFileEdited, CauseFileMode, CauseHostEdited, CauseHostMode,
		CauseStopped, CauseStarted, CauseFrozen, CausePaused, CauseContainer:
		return RepairConsent
	case CauseDataMissing, CauseForgotten:
		return RepairData
	}
	return RepairAlways
}

// IsEdit reports whether the cause is a change that a running process may have taken over, so
// that it has to start anew.
func (c Cause) IsEdit() bool {
	switch c {
	case CauseUnitEdited, CauseDropIn, CauseFileEdited, CauseStoreDamaged, CauseContainer, CauseDataMissing, CauseStarted:
		return true
	}
	return false
}

// UnitDrift is what a machine reports of a unit that differs.
type UnitDrift struct {
	Differences []Difference
	Missing     bool // the machine has no record of the unit: it is created again
}

// repair returns the strictest Repair of the differences.
func (d *UnitDrift) repair() Repair {
	out := RepairNone
	for _, x := range d.Differences {
		out = max(out, x.Cause.Repair())
	}
	return out
}

// Has reports whether one of the differences has a cause.
func (d *UnitDrift) Has(c Cause) bool {
	return d != nil && slices.ContainsFunc(d.Differences, func(x Difference) bool { return x.Cause == c })
}

// onlyStopped reports whether nothing differs except that the unit does not run.
func (d *UnitDrift) onlyStopped() bool {
	return !slices.ContainsFunc(d.Differences, func(x Difference) bool { return x.Cause != CauseStopped && x.Cause != CauseFailed })
}

// reason says in one line what differs.
func (d *UnitDrift) reason(machine string) string {
	list := slices.Clone(d.Differences)
	slices.SortStableFunc(list, func(a, b Difference) int { return cmp.Compare(b.Cause.Repair(), a.Cause.Repair()) })
	var out []string
	for i, x := range list {
		if i == 3 {
			out = append(out, "…")
			break
		}
		out = append(out, x.On(machine))
	}
	return strings.Join(out, "; ")
}

// Drifted is a unit that differs on its machine and that the change set leaves as it is.
type Drifted struct {
	Address     string       `json:"address"`
	Machine     string       `json:"machine"`
	Differences []Difference `json:"differences"`
	Needs       Consent      `json:"needs,omitempty"` // what would repair it
}

// Consent is what a person has to agree to before a difference is repaired.
type Consent string

// Kinds of Consent.
const (
	NeedsNothing Consent = ""            // it cannot be repaired by an apply
	NeedsRepair  Consent = "repair"      // --repair, or an answer at the prompt
	NeedsEmpty   Consent = "allow-empty" // --allow-empty: it starts without its data
)

// repairs returns what is done about the drift of a unit, which is the only reason to act on it:
// an action, or else an entry of Drifted.
func (in *DiffInput) repairs(a Action, d *UnitDrift) (*Action, *Drifted) {
	left := &Drifted{Address: a.Address, Machine: a.Machine, Differences: d.Differences}
	needs := d.repair()
	switch {
	case needs == RepairNone:
		return nil, left
	case needs == RepairData && (in.AllowEmpty == nil || !in.AllowEmpty(a.Address, a.Machine)):
		left.Needs = NeedsEmpty
		return nil, left
	case in.Repair != nil && !in.Repair(a.Address, needs):
		left.Needs = NeedsRepair
		return nil, left
	}
	a.Op, a.Verb, a.Reason, a.Drift = Update, RepairUnit, d.reason(a.Machine), d.Differences
	switch {
	case d.Missing:
		a.Op, a.Verb = Create, ""
	case d.onlyStopped():
		a.Verb = Start
	}
	return &a, nil
}

// driftOf returns the drift of a unit, which may be renamed.
func (in *DiffInput) driftOf(address, former string) *UnitDrift {
	if former != "" {
		address = former
	}
	return in.Drift[address]
}

// differences returns how the machine of a record differs from it.
func (in *DiffInput) differences(address string) []Difference {
	if d := in.Drift[address]; d != nil {
		return d.Differences
	}
	return nil
}

// addRepair adds to cs what is done about the drift of a unit, and reports whether the unit's other
// changes are still to be added. Equal units have no others.
func (in *DiffInput) addRepair(cs *ChangeSet, a Action, d *UnitDrift, equal bool) bool {
	if !equal && (d.repair() != RepairData || in.AllowEmpty != nil && in.AllowEmpty(a.Address, a.Machine)) {
		return true // the new version replaces what differs
	}
	if equal && (in.Stop[a.Address] != nil || in.Start[a.Address] || in.Restart == a.Address) && d.repair() != RepairData {
		return true
	}
	action, left := in.repairs(a, d)
	switch {
	case action == nil && !equal && d.repair() == RepairNone:
		return true
	case action == nil:
		cs.Summary.Unchanged++
		cs.Drifted = append(cs.Drifted, *left)
		return false
	case !equal:
		return true
	}
	cs.Summary.Repair++
	cs.Actions = append(cs.Actions, *action)
	return false
}

// repairHeld adds what is done about the drift of held units, which are repaired as they are
// recorded.
func (cs *ChangeSet) repairHeld(in DiffInput) {
	for _, r := range in.Records {
		d := in.Drift[r.Address]
		if d == nil || !in.Held(r.Address) || r.Digest == "" || r.Machine == "" {
			continue
		}
		action, left := in.repairs(Action{Address: r.Address, Machine: r.Machine, Backend: r.Backend, Digest: r.Digest, Before: r.Digest, Certain: true,
			Stopped: r.Stopped != nil, Changes: []Change{}}, d)
		if action == nil {
			cs.Drifted = append(cs.Drifted, *left)
			continue
		}
		cs.Summary.Repair++
		cs.Actions = append(cs.Actions, *action)
	}
}
