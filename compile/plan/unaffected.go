package plan

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/digest"
)

// stableOutputs are outputs that do not change as long as the resource is not replaced.
var stableOutputs = []string{".output(id)", ".output(arn)", ".output(private_ip)"}

// dropUnaffected removes conditional updates whose inputs cannot change: another machine in a
// module does not affect the readers of the existing ones.
func (cs *ChangeSet) dropUnaffected(in DiffInput, records map[string]*Record) error {
	same := map[string]bool{} // resources that do not change
	for _, a := range cs.Actions {
		u, r := in.Plan.Find(a.Address), records[a.Address]
		if a.Machine != "" || a.Op != Update || !a.Certain || r == nil || r.Digest == "" || in.uncertain(a.Address) || in.Drifted[a.Address] || a.PreviousAddress != "" || len(u.Unknown) > 0 || !maps.Equal(u.Values, r.Values) {
			continue
		}
		before, err := moduleResources(in, r.Object)
		if err != nil {
			return err
		}
		after, err := moduleResources(in, u.Object)
		if err != nil {
			return err
		}
		for name := range after {
			same[name] = unchanged(name, before, after, map[string]bool{})
		}
	}
	cs.Actions = slices.DeleteFunc(cs.Actions, func(a Action) bool {
		u, r := in.Plan.Find(a.Address), records[a.Address]
		if u == nil || r == nil || a.Op != Update || a.Certain || in.uncertain(a.Address) || r.Digest != u.Digest || !maps.Equal(r.Values, u.Values) || !r.Traits.Equal(u.Traits) {
			return false
		}
		for _, key := range u.Unknown {
			i := slices.IndexFunc(stableOutputs, func(s string) bool { return strings.HasSuffix(u.Binds[key], s) })
			if i < 0 || !same[strings.TrimSuffix(u.Binds[key], stableOutputs[i])] {
				return false
			}
		}
		cs.Summary.Uncertain--
		cs.Summary.Unchanged++
		return true
	})
	return nil
}

// moduleResources returns the resources of a module, by address.
func moduleResources(in DiffInput, d digest.Digest) (map[string]json.RawMessage, error) {
	u, err := in.Unit(d)
	if err != nil {
		return nil, err
	}
	by := map[string]json.RawMessage{}
	if json.Unmarshal(u.Spec, &by) != nil {
		return nil, nil
	}
	return by, nil
}

// unchanged reports whether a resource, and every resource of its module that it reads, has not
// changed.
func unchanged(name string, before, after map[string]json.RawMessage, seen map[string]bool) bool {
	if seen[name] {
		return true
	}
	seen[name] = true
	if !bytes.Equal(before[name], after[name]) {
		return false
	}
	var v any
	json.Unmarshal(after[name], &v)
	same := true
	refs(v, func(to string) { same = same && (after[to] == nil || unchanged(to, before, after, seen)) })
	return same
}

// refs calls f for every reference in a value.
func refs(v any, f func(name string)) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			refs(x, f)
		}
	case map[string]any:
		if name, ok := v["name"].(string); ok && v["kind"] == "ref" {
			f(name)
		}
		for _, x := range v {
			refs(x, f)
		}
	}
}
