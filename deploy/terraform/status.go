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

// sensitiveText stands for what must not be shown.
const sensitiveText = "(sensitive)"

// unknownText stands for what the cloud will tell.
const unknownText = "(known after apply)"

// status plans without changing anything but what Terraform remembers of the plan.
func (c *worker) status(ctx context.Context, m *ec2.Module, old *moduleRecord, r *workerResponse) error {
	moves, err := c.moves(m, old)
	if err == nil && len(moves) > 0 {
		m.JSON, err = withMoves(m.JSON, moves)
	}
	if err != nil {
		return err
	}
	if err := writeFile(c.path(configFile), m.JSON); err != nil {
		return err
	}
	if err := c.init(ctx, m.Providers); err != nil {
		return err
	}
	var said outputParser
	c.starts++
	if _, err := c.tf.PlanJSON(ctx, &said, tfexec.Out(c.path(planFile))); err != nil {
		return translateError(err, &said, m.Addresses)
	}
	raw, err := json.Marshal(said.changes)
	if err == nil {
		err = writeFile(c.path(plannedFile), raw)
	}
	if err != nil {
		return err
	}
	c.starts++
	p, err := c.tf.ShowPlanFile(ctx, c.path(planFile))
	if err != nil {
		return translateError(err, nil)
	}
	r.Status = &plan.RefreshResult{Changes: resourceChanges(p.ResourceChanges, m.Addresses), Drift: []plan.ResourceChange{}}
	if old != nil { // what is to be retained is forgotten first, and then planned anew
		r.Status.Changes = slices.DeleteFunc(r.Status.Changes, func(rc plan.ResourceChange) bool {
			goes := rc.Op == plan.Delete && slices.ContainsFunc(old.OrphanOnDelete, func(id string) bool { return toAddress(id, m.Addresses) == rc.Address })
			r.Replan = r.Replan || goes
			return goes
		})
	}
	for _, d := range resourceChanges(p.ResourceDrift, m.Addresses) { // what nobody would undo is no drift: a count that the cloud owns
		if slices.ContainsFunc(r.Status.Changes, func(r plan.ResourceChange) bool { return r.Address == d.Address }) {
			r.Status.Drift = append(r.Status.Drift, d)
		}
	}
	return nil
}

func resourceChanges(list []*tfjson.ResourceChange, addresses map[string]string) []plan.ResourceChange {
	out := []plan.ResourceChange{}
	for _, rc := range list {
		if rc.Change == nil || rc.Mode == tfjson.DataResourceMode {
			continue
		}
		r := plan.ResourceChange{Address: toAddress(rc.Address, addresses), Fields: []plan.Change{}}
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
			diffValues(rc.Change.Before, rc.Change.After, rc.Change.AfterUnknown, rc.Change.BeforeSensitive, rc.Change.AfterSensitive, nil, func(path []string, before, after any) {
				if r.Op == plan.Create && (after == nil || after == unknownText) {
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

// diffValues walks two values with what is unknown and secret of them beside.
func diffValues(before, after, unknown, hidden, hides any, path []string, tell func(path []string, before, after any)) {
	if isTrue(hidden) || isTrue(hides) {
		if !reflect.DeepEqual(before, after) || isTrue(unknown) {
			tell(path, sensitiveText, sensitiveText)
		}
		return
	}
	if isTrue(unknown) {
		tell(path, before, unknownText)
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
			diffValues(bm[k], am[k], child(unknown, k, 0), child(hidden, k, 0), child(hides, k, 0), append(slices.Clone(path), k), tell)
		}
		return
	}
	bl, bo := before.([]any)
	al, ao := after.([]any)
	if bo && ao && len(bl) == len(al) {
		for i := range bl {
			diffValues(bl[i], al[i], child(unknown, "", i), child(hidden, "", i), child(hides, "", i), append(slices.Clone(path), strconv.Itoa(i)), tell)
		}
		return
	}
	if isZero(before) && isZero(after) {
		return
	}
	if !reflect.DeepEqual(before, after) && len(path) > 0 {
		if hasTrue(hidden) || hasTrue(hides) {
			before, after = sensitiveText, sensitiveText
		}
		tell(path, before, after)
	}
}

// isZero tells whether a value says nothing: null, an empty list and an empty object are the same to the cloud.
func isZero(v any) bool {
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

func isTrue(v any) bool { b, ok := v.(bool); return ok && b }

// hasTrue tells whether anything inside is marked.
func hasTrue(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case map[string]any:
		for _, x := range v {
			if hasTrue(x) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, hasTrue)
	}
	return false
}

func child(v any, key string, i int) any {
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
