package plan

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/digest"
)

// lasting are outputs that a resource keeps as long as it is the same one.
var lasting = []string{".output(id)", ".output(arn)", ".output(private_ip)"}

// settle drops what would act only if a resource became another one, where its
// module changes others alone: a machine more is no news for those that stand.
func (cs *ChangeSet) settle(in DiffInput, records map[string]*Record) error {
	same := map[string]bool{} // resources that stay what they are
	for _, a := range cs.Actions {
		u, r := in.Plan.Find(a.Address), records[a.Address]
		if a.Machine != "" || a.Op != Update || !a.Certain || r == nil || r.Digest == "" || in.doubted(a.Address) || in.Drifted[a.Address] || a.PreviousMachine != "" || len(u.Unknown) > 0 || !maps.Equal(u.Values, r.Values) {
			continue
		}
		before, err := specs(in, r.Object)
		if err != nil {
			return err
		}
		after, err := specs(in, u.Object)
		if err != nil {
			return err
		}
		for name := range after {
			same[name] = stays(name, before, after, map[string]bool{})
		}
	}
	cs.Actions = slices.DeleteFunc(cs.Actions, func(a Action) bool {
		u, r := in.Plan.Find(a.Address), records[a.Address]
		if u == nil || r == nil || a.Op != Update || a.Certain || in.doubted(a.Address) || r.Digest != u.Digest || !maps.Equal(r.Values, u.Values) || !r.same(u) {
			return false
		}
		for _, key := range u.Unknown {
			i := slices.IndexFunc(lasting, func(s string) bool { return strings.HasSuffix(u.Binds[key], s) })
			if i < 0 || !same[strings.TrimSuffix(u.Binds[key], lasting[i])] {
				return false
			}
		}
		cs.Summary.Uncertain--
		cs.Summary.Unchanged++
		return true
	})
	return nil
}

// specs are the resources of a module, by address.
func specs(in DiffInput, d digest.Digest) (map[string]json.RawMessage, error) {
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

// stays tells whether a resource, and all that it reads in its module, is what it was.
func stays(name string, before, after map[string]json.RawMessage, seen map[string]bool) bool {
	if seen[name] {
		return true
	}
	seen[name] = true
	if !bytes.Equal(before[name], after[name]) {
		return false
	}
	var v any
	json.Unmarshal(after[name], &v)
	fine := true
	refs(v, func(to string) { fine = fine && (after[to] == nil || stays(to, before, after, seen)) })
	return fine
}

// refs finds what a value reads.
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
