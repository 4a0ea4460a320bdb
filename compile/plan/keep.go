package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// This file keeps data: what a unit must not give up without consent, and what cannot run beside it.

// LostData returns the directories with data that a deployed unit has and its desired version does
// not, as they were declared. Volumes of one backend are not directories of another one.
func LostData(deployed, desired Placed) []string {
	kept := desired.Kept
	if deployed.Backend != desired.Backend {
		kept = slices.DeleteFunc(slices.Clone(kept), func(d string) bool { return !strings.HasPrefix(d, "/") })
	}
	return sets.Minus(deployed.Kept, kept)
}

// LostDataError returns the error of a unit that would give up directories with data.
func LostDataError(names *graph.Names, deployed, desired Placed, lost []string) *diag.Error {
	text := names.Text(desired.Address)
	way := fmt.Sprintf("dirs: { state: %s }", dirValue(lost[0]))
	if deployed.Backend != desired.Backend {
		way = fmt.Sprintf("backend: '%s'", deployed.Backend)
	}
	return diag.Errorf(text, "it would give up the directory %s, which holds its data", quotedList(lost)).
		WithHint("keep it: %s; or give it up with --give-up-data %s: the files stay on the machine, and it starts without them", way, text)
}

func quotedList(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(out, ", ")
}

// dirValue writes a directory as its declaration.
func dirValue(dir string) string {
	if strings.HasPrefix(dir, "/") {
		return "{ path: '" + dir + "' }"
	}
	return "'" + dir + "'"
}

// RenameSuggestion returns the unit that a unit which is no longer defined probably became: the only
// new one on its machine that keeps the same data, or of several the one that has its name in another
// library. It returns "" if there is none.
func RenameSuggestion(gone Placed, desired *Plan, deployed func(address string) bool) string {
	if len(gone.Kept) == 0 {
		return ""
	}
	var found []string
	for _, u := range desired.Units {
		if u.Machine == gone.Machine && u.Backend == gone.Backend && slices.Equal(u.Kept, gone.Kept) && !deployed(u.Address) && replicaOf(u.Address) == replicaOf(gone.Address) {
			found = append(found, u.Address)
		}
	}
	if len(found) > 1 {
		found = slices.DeleteFunc(found, func(address string) bool { return nameInLib(address) != nameInLib(gone.Address) })
	}
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// nameInLib returns an address without its library.
func nameInLib(address string) string {
	_, name, _ := strings.Cut(address, "/")
	return name
}

// AmbiguousName is the error for a name that is not that of one unit.
func AmbiguousName(name string, candidates []string) *diag.Error {
	return diag.Errorf("", "%q is the name of several units", name).WithHint("choose from %s", strings.Join(candidates, ", "))
}

func replicaOf(address string) string {
	_, replica, _ := strings.Cut(address, "#")
	return replica
}

// MovedLine returns the line of the entry file that declares a rename.
func MovedLine(old, now string) string {
	if replicaOf(old) == replicaOf(now) {
		old, _, _ = strings.Cut(old, "#")
		now, _, _ = strings.Cut(now, "#")
	}
	return "moved: { '" + old + "': '" + now + "' }"
}

// ClaimCheck is the input of CheckClaims.
type ClaimCheck struct {
	Desired  *Plan
	Deployed []Placed          // under the addresses that they have now
	Stays    map[string]string // deployed units that are not desired and are not deleted: address → why
	Names    *graph.Names
}

// CheckClaims returns an error for each unit with a new claim that cannot hold beside the claim of
// another unit that will be on the machine: a desired one, or one that stays although it is no
// longer desired. Claims that were deployed together are no errors.
func CheckClaims(in ClaimCheck) diag.List {
	deployed := make(map[string]*Placed, len(in.Deployed))
	owners := make([]Owner, 0, len(in.Desired.Units))
	for _, u := range in.Desired.Units {
		if u.Machine != "" {
			owners = append(owners, Owner{u.Address, u.Machine, u.Claims})
		}
	}
	for i := range in.Deployed {
		u := &in.Deployed[i]
		deployed[u.Address] = u
		if _, stays := in.Stays[u.Address]; stays && u.Machine != "" && in.Desired.Find(u.Address) == nil {
			owners = append(owners, Owner{u.Address, u.Machine, u.Claims})
		}
	}
	isNew := func(address string, machine string, c Claim) bool {
		u := deployed[address]
		return u == nil || u.Machine != machine || !slices.ContainsFunc(u.Claims, func(d Claim) bool { return d.Kind == c.Kind && d.Key == c.Key && d.Value == c.Value })
	}
	var out diag.List
	for _, k := range Conflicts(owners) {
		first, second := isNew(k.First, k.Machine, k.OfFirst), isNew(k.Second, k.Machine, k.OfSecond)
		if first {
			out = append(out, in.conflict(k.First, k.OfFirst, k.Second, k.OfSecond, k.Machine))
		}
		if second {
			out = append(out, in.conflict(k.Second, k.OfSecond, k.First, k.OfFirst, k.Machine))
		}
	}
	return out
}

// conflict returns the error of one of two units that claim the same.
func (in ClaimCheck) conflict(address string, c Claim, other string, of Claim, machine string) *diag.Error {
	e := &diag.Error{Subject: in.Names.Text(address), Path: c.Field}
	text := in.Names.Text(other)
	overlaps := c.Key != of.Key && c.isPath()
	if why, stays := in.Stays[other]; stays && in.Desired.Find(other) == nil {
		e.Msg = fmt.Sprintf("%s on machine %s belongs to %s, which is no longer defined but stays: %s", of, machine, text, why)
		if overlaps {
			e.Msg = fmt.Sprintf("%s overlaps with %s on machine %s, which belongs to %s, which is no longer defined but stays: %s", c, of, machine, text, why)
		}
		i := slices.IndexFunc(in.Deployed, func(u Placed) bool { return u.Address == other })
		suggested := RenameSuggestion(in.Deployed[i], in.Desired, func(a string) bool {
			return slices.ContainsFunc(in.Deployed, func(u Placed) bool { return u.Address == a })
		})
		if suggested == address {
			return e.WithHint("if it was renamed: %s; otherwise delete the old one with --allow-delete %s", MovedLine(other, address), text)
		}
		return e.WithHint("delete it with --allow-delete %s, or choose another %s", text, c.Kind)
	}
	e.Msg = fmt.Sprintf("%s on machine %s is also claimed by %s", of, machine, text)
	if overlaps {
		e.Msg = fmt.Sprintf("%s overlaps with %s of %s on machine %s", c, of, text, machine)
	}
	if of.Field != nil {
		e.AlsoAt("claim of "+text, of.Field...)
	}
	hint := "choose another one, or place the services on different machines"
	if c.Kind == ClaimPath && of.Kind == ClaimPath {
		hint += "; a directory can be shared: { of: '" + text + "' }"
	}
	return e.WithHint("%s", hint)
}
