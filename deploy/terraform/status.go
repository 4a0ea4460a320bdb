package terraform

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/hashicorp/terraform-exec/tfexec"
	tfjson "github.com/hashicorp/terraform-json"
)

// masked stands for what must not be shown.
const masked = "(sensitive)"

// unknownYet stands for what the cloud will tell.
const unknownYet = "(known after apply)"

// look plans without changing anything but what Terraform remembers of the plan.
func (c *child) look(ctx context.Context, m *ec2.Module, old *kept, r *report) error {
	moves, err := c.moves(m, old)
	if err == nil && len(moves) > 0 {
		m.JSON, err = withMoves(m.JSON, moves)
	}
	if err != nil {
		return err
	}
	if err := durable(c.path(configFile), m.JSON); err != nil {
		return err
	}
	if err := c.init(ctx, m.Providers); err != nil {
		return err
	}
	var said stream
	c.starts++
	if _, err := c.tf.PlanJSON(ctx, &said, tfexec.Out(c.path(planFile))); err != nil {
		return told(err, &said, m.Addresses)
	}
	raw, err := json.Marshal(said.planned)
	if err == nil {
		err = durable(c.path(plannedFile), raw)
	}
	if err != nil {
		return err
	}
	c.starts++
	p, err := c.tf.ShowPlanFile(ctx, c.path(planFile))
	if err != nil {
		return told(err, nil)
	}
	r.Look = &plan.RefreshResult{Changes: resources(p.ResourceChanges, m.Addresses), Drift: []plan.ResourceChange{}}
	if old != nil { // what is to be retained is forgotten first, and then planned anew
		r.Look.Changes = slices.DeleteFunc(r.Look.Changes, func(rc plan.ResourceChange) bool {
			goes := rc.Op == plan.Delete && slices.ContainsFunc(old.Retains, func(id string) bool { return ours(id, m.Addresses) == rc.Address })
			r.Again = r.Again || goes
			return goes
		})
	}
	for _, d := range resources(p.ResourceDrift, m.Addresses) { // what nobody would undo is no drift: a count that the cloud owns
		if slices.ContainsFunc(r.Look.Changes, func(r plan.ResourceChange) bool { return r.Address == d.Address }) {
			r.Look.Drift = append(r.Look.Drift, d)
		}
	}
	return nil
}

func resources(list []*tfjson.ResourceChange, addresses map[string]string) []plan.ResourceChange {
	out := []plan.ResourceChange{}
	for _, rc := range list {
		if rc.Change == nil || rc.Mode == tfjson.DataResourceMode {
			continue
		}
		r := plan.ResourceChange{Address: ours(rc.Address, addresses), Fields: []plan.Change{}}
		switch a := rc.Change.Actions; {
		case a.Replace():
			r.Op = plan.Replace
		case a.Create():
			r.Op = plan.Create
		case a.Update():
			r.Op = plan.Update
		case a.Delete():
			r.Op = plan.Delete
		default:
			continue
		}
		forced := map[string]bool{}
		for _, p := range rc.Change.ReplacePaths {
			if path, ok := p.([]any); ok && len(path) > 0 {
				forced[fmt.Sprint(path[0])] = true
			}
		}
		if r.Op != plan.Delete {
			differ(rc.Change.Before, rc.Change.After, rc.Change.AfterUnknown, rc.Change.BeforeSensitive, rc.Change.AfterSensitive, nil, func(path []string, before, after any) {
				if r.Op == plan.Create && (after == nil || after == unknownYet) {
					return
				}
				r.Fields = append(r.Fields, plan.Change{Path: plan.Pointer(path), Before: before, After: after, Replaces: forced[path[0]]})
			})
		}
		if r.Op == plan.Update && len(r.Fields) == 0 {
			continue
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b plan.ResourceChange) int { return compare(a.Address, b.Address) })
	return out
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// differ walks two values with what is unknown and secret of them beside.
func differ(before, after, unknown, hidden, hides any, path []string, tell func(path []string, before, after any)) {
	if yes(hidden) || yes(hides) {
		if !reflect.DeepEqual(before, after) || yes(unknown) {
			tell(path, masked, masked)
		}
		return
	}
	if yes(unknown) {
		tell(path, before, unknownYet)
		return
	}
	bm, bo := before.(map[string]any)
	am, ao := after.(map[string]any)
	if (bo || before == nil) && (ao || after == nil) && (bo || ao) {
		keys := map[string]bool{}
		for k := range bm {
			keys[k] = true
		}
		for k := range am {
			keys[k] = true
		}
		um, _ := unknown.(map[string]any)
		for k := range um {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			differ(bm[k], am[k], part(unknown, k, 0), part(hidden, k, 0), part(hides, k, 0), append(slices.Clone(path), k), tell)
		}
		return
	}
	bl, bo := before.([]any)
	al, ao := after.([]any)
	if bo && ao && len(bl) == len(al) {
		for i := range bl {
			differ(bl[i], al[i], part(unknown, "", i), part(hidden, "", i), part(hides, "", i), append(slices.Clone(path), strconv.Itoa(i)), tell)
		}
		return
	}
	if nothing(before) && nothing(after) {
		return
	}
	if !reflect.DeepEqual(before, after) && len(path) > 0 {
		if somewhere(hidden) || somewhere(hides) {
			before, after = masked, masked
		}
		tell(path, before, after)
	}
}

// nothing tells whether a value says nothing: null, an empty list and an empty object are the same to the cloud.
func nothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

func yes(v any) bool { b, ok := v.(bool); return ok && b }

// somewhere tells whether anything inside is marked.
func somewhere(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case map[string]any:
		for _, x := range v {
			if somewhere(x) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, somewhere)
	}
	return false
}

func part(v any, key string, i int) any {
	switch v := v.(type) {
	case map[string]any:
		return v[key]
	case []any:
		if i < len(v) {
			return v[i]
		}
	}
	return nil
}
