package terraform

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/hashicorp/terraform-exec/tfexec"
	tfjson "github.com/hashicorp/terraform-json"
)

// sensitiveText is shown in place of sensitive values.
const sensitiveText = "(sensitive)"

// unknownText is shown in place of values that are known only after the apply.
const unknownText = "(known after apply)"

// status makes a plan and saves it, but changes no resource.
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
	if err := c.init(ctx, m); err != nil {
		return err
	}
	var output outputParser
	if _, err := c.tf.PlanJSON(ctx, &output, tfexec.Out(c.path(planFile))); err != nil {
		return translateError(err, &output, m.Addresses)
	}
	raw, err := json.Marshal(output.changes)
	if err == nil {
		err = writeFile(c.path(plannedFile), raw)
	}
	if err != nil {
		return err
	}
	p, err := c.tf.ShowPlanFile(ctx, c.path(planFile))
	if err != nil {
		return translateError(err, nil)
	}
	r.Status = &plan.RefreshResult{Changes: resourceChanges(p.ResourceChanges, m.Addresses), Drift: []plan.ResourceChange{}}
	if old != nil { // resources to orphan are removed from Terraform's state first; the plan is made again then
		r.Status.Changes = slices.DeleteFunc(r.Status.Changes, func(rc plan.ResourceChange) bool {
			orphaned := rc.Op == plan.Delete && slices.ContainsFunc(old.OrphanOnDelete, func(id string) bool { return toAddress(id, m.Addresses) == rc.Address })
			r.Replan = r.Replan || orphaned
			return orphaned
		})
	}
	for _, d := range resourceChanges(p.ResourceDrift, m.Addresses) { // only drift that the apply would undo: not, for example, a count that the cloud manages
		if slices.ContainsFunc(r.Status.Changes, func(r plan.ResourceChange) bool { return r.Address == d.Address }) {
			r.Status.Drift = append(r.Status.Drift, d)
		}
	}
	return nil
}

// resourceChanges converts changes of Terraform, without data sources and no-ops,
// sorted by address.
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
	slices.SortFunc(out, func(a, b plan.ResourceChange) int { return cmp.Compare(a.Address, b.Address) })
	return out
}

// diffValues calls emit for each difference between two values. The marks unknown,
// wasSensitive and isSensitive have the shape of the values, with true where a value
// is unknown or sensitive before or after the change.
func diffValues(before, after, unknown, wasSensitive, isSensitive any, path []string, emit func(path []string, before, after any)) {
	if isTrue(wasSensitive) || isTrue(isSensitive) {
		if !reflect.DeepEqual(before, after) || isTrue(unknown) {
			emit(path, sensitiveText, sensitiveText)
		}
		return
	}
	if isTrue(unknown) {
		emit(path, before, unknownText)
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
		for _, k := range sets.Keys(keys) {
			diffValues(bm[k], am[k], child(unknown, k, 0), child(wasSensitive, k, 0), child(isSensitive, k, 0), append(slices.Clone(path), k), emit)
		}
		return
	}
	bl, bo := before.([]any)
	al, ao := after.([]any)
	if bo && ao && len(bl) == len(al) {
		for i := range bl {
			diffValues(bl[i], al[i], child(unknown, "", i), child(wasSensitive, "", i), child(isSensitive, "", i), append(slices.Clone(path), strconv.Itoa(i)), emit)
		}
		return
	}
	if isZero(before) && isZero(after) {
		return
	}
	if !reflect.DeepEqual(before, after) && len(path) > 0 {
		if hasTrue(wasSensitive) || hasTrue(isSensitive) {
			before, after = sensitiveText, sensitiveText
		}
		emit(path, before, after)
	}
}

// isZero reports whether a value is null or an empty list or object, which mean the
// same to providers.
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

// isTrue reports whether v is the boolean true.
func isTrue(v any) bool { b, ok := v.(bool); return ok && b }

// hasTrue reports whether v is or contains the boolean true.
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

// child returns the member key of an object or the element i of a list.
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
