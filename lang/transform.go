package lang

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// transformRequest asks a child process to apply the entry's transforms.
type transformRequest struct {
	Values map[string]json.RawMessage // lib/name → value
}

// Transform applies the entry's transforms to values, a map from lib/name to
// functionality, and returns the resulting map. A functionality with patched
// replicas is a replicatedValue: transforms see its base value, and each replica
// keeps its difference from the base. A functionality that a transform drops is
// absent from the result. The error is a diag.List if a transform fails.
func Transform(ctx context.Context, c Config, values map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	a, err := runChild(ctx, request{Config: c, Transform: &transformRequest{Values: values}})
	if d, is := errors.AsType[*childLimitError](err); is {
		return nil, diag.List{diag.Errorf("", "transforms: %s", d.summary).At("transforms").In(diag.Position{File: c.Entry, Line: 1, Col: 1}).WithHint("%s", d.hint)}
	}
	if err != nil {
		return nil, err
	}
	if len(a.Errors) > 0 {
		return nil, a.Errors.Sort()
	}
	return a.Values, nil
}

// replicatedValue is a functionality with the values of its patched replicas.
type replicatedValue struct {
	Value    json.RawMessage            `json:"$value"`
	Replicas map[string]json.RawMessage `json:"$replicas"`
}

// answerTransform applies all transforms in order and stores the result in a.
func answerTransform(c Config, r transformRequest, a *response) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		a.Errors = diag.List{diag.From(err)}
		return
	}
	e, bad := newEvaluator(c, i, true)
	if bad != nil {
		a.Errors = diag.List{bad}
		return
	}
	var n int
	if bad := e.evalInto("std.length(d.transforms)", &n); bad != nil {
		a.Errors = diag.List{bad}
		return
	}
	now, patches := map[string]json.RawMessage{}, map[string]map[string]any{}
	for name, raw := range r.Values {
		var p replicatedValue
		if json.Unmarshal(raw, &p) != nil || p.Value == nil {
			now[name] = raw
			continue
		}
		now[name], patches[name] = p.Value, map[string]any{}
		for replica, v := range p.Replicas {
			patches[name][replica] = diffJSON(decodeJSON(p.Value), decodeJSON(v))
		}
	}
	for i := range n {
		if now, a.Errors = e.transform(i, now); len(a.Errors) > 0 {
			return
		}
	}
	a.Values = now
	for name, replicas := range patches {
		base, ok := now[name]
		if !ok {
			continue
		}
		p := replicatedValue{Value: base, Replicas: map[string]json.RawMessage{}}
		for replica, patch := range replicas {
			p.Replicas[replica], _ = json.Marshal(applyPatch(decodeJSON(base), patch))
		}
		now[name], _ = json.Marshal(p)
	}
}

// transform applies transform number i to all functionalities. If it fails for
// all of them together, it is applied to one at a time to find those at fault.
func (e *evaluator) transform(i int, values map[string]json.RawMessage) (map[string]json.RawMessage, diag.List) {
	apply := func(values map[string]json.RawMessage) (map[string]json.RawMessage, *diag.Error) {
		raw, err := json.Marshal(values)
		if err != nil {
			return nil, diag.Errorf("", "%v", err)
		}
		e.bind("defx-values", string(raw))
		out := map[string]json.RawMessage{}
		bad := e.evalInto(fmt.Sprintf(`local t = d.transforms[%d], v = std.parseJson(std.extVar('defx-values'));
if !std.isObject(t) || std.length(t) != 1 || !std.isFunction(std.get(t, 'each', std.get(t, 'all'))) then
  error 'transforms: each element must be { each: function(f) … } or { all: function(map) … }'
else if std.objectHas(t, 'all') then
  local out = t.all(v); if std.isObject(out) then out else error 'transforms: all must return an object name -> functionality, not a value of type ' + std.type(out)
else { [k]: if std.length(t.each) > 1 then t.each(k, v[k]) else t.each(v[k]) for k in std.objectFields(v) }`, i), &out)
		return out, bad
	}
	out, bad := apply(values)
	if bad != nil {
		list := diag.List{}
		for _, k := range sets.Keys(values) { // find the functionalities at fault
			if _, bad := apply(map[string]json.RawMessage{k: values[k]}); bad != nil {
				bad.Subject = fmt.Sprintf("transform %d of %s", i, k)
				list = append(list, bad.At("transforms"))
			}
		}
		if len(list) == 0 || len(list) == len(values) {
			bad.Subject = fmt.Sprintf("transform %d", i)
			list = diag.List{bad.At("transforms")}
		}
		return nil, list
	}
	var list diag.List
	for _, k := range sets.Keys(out) {
		switch {
		case string(out[k]) == "null":
			delete(out, k)
		case strings.Count(k, "/") != 1:
			list = append(list, diag.Errorf(fmt.Sprintf("transform %d", i), "%q is not the name of a functionality", k).At("transforms").WithHint("names are lib/name"))
		}
	}
	return out, list
}

// decodeJSON decodes JSON that evaluation produced.
func decodeJSON(raw json.RawMessage) any {
	var v any
	json.Unmarshal(raw, &v)
	return v
}

// deletedKey marks in a diff a key that the second value lacks.
type deletedKey struct{}

// diffJSON returns the patch with which applyPatch turns a into b.
func diffJSON(a, b any) any {
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	if !aok || !bok {
		return b
	}
	out := map[string]any{}
	for k := range am {
		if _, kept := bm[k]; !kept {
			out[k] = deletedKey{}
		}
	}
	for k, v := range bm {
		if old, had := am[k]; !had || !reflect.DeepEqual(old, v) {
			out[k] = diffJSON(am[k], v)
		}
	}
	return out
}

// applyPatch returns base with a patch from diffJSON applied; base is not changed.
func applyPatch(base, patch any) any {
	pm, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	bm, _ := base.(map[string]any)
	out := maps.Clone(bm)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range pm {
		if _, drop := v.(deletedKey); drop {
			delete(out, k)
		} else {
			out[k] = applyPatch(out[k], v)
		}
	}
	return out
}
