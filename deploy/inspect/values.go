package inspect

import (
	"bytes"
	"encoding/json"
	"reflect"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
)

// Values returns an evaluated deployment as one value, with the values of its
// functionalities in "libs", and the errors of those that do not evaluate.
func Values(res *lang.Result) (map[string]any, diag.List, error) {
	deployment, err := decodeValue(res.Deployment)
	if err != nil {
		return nil, nil, err
	}
	doc, _ := deployment.(map[string]any)
	libs := map[string]map[string]any{}
	var errs diag.List
	for _, l := range res.Libraries {
		libs[l.Name] = map[string]any{}
		if l.Err != nil {
			errs = append(errs, l.Err)
		}
		for _, f := range l.Functionalities {
			if f.Err != nil {
				errs = append(errs, f.Err)
				continue
			}
			v, err := decodeValue(f.Value)
			if err != nil {
				return nil, nil, err
			}
			libs[l.Name][f.Name] = inlineReplicas(v)
		}
	}
	doc["libs"] = libs
	return doc, errs, nil
}

// inlineReplicas undoes the form in which evaluation returns patched replicas,
// {"$value", "$replicas"}: each replica that differs from the value takes the
// place of its patch, as a whole.
func inlineReplicas(v any) any {
	packed, _ := v.(map[string]any)
	value, _ := packed["$value"].(map[string]any)
	replicas, _ := packed["$replicas"].(map[string]any)
	place, _ := value["place"].(map[string]any)
	patches, _ := place["replicas"].(map[string]any)
	if patches == nil {
		return v
	}
	delete(place, "replicas")
	for name, r := range replicas {
		replica, ok := r.(map[string]any)
		if !ok {
			continue
		}
		if p, ok := replica["place"].(map[string]any); ok {
			delete(p, "replicas")
		}
		if !reflect.DeepEqual(replica, value) {
			patches[name] = replica
		}
	}
	place["replicas"] = patches
	return value
}

// decodeValue decodes a value. Strings with tokens get their form in documents,
// {"$text": [...]}. A malformed token stays a string.
func decodeValue(raw json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return splitTokens(v), nil
}

func splitTokens(v any) any {
	switch v := v.(type) {
	case string:
		if t, err := token.Split(v); err == nil && len(t.Tokens()) > 0 {
			return t
		}
	case []any:
		for i := range v {
			v[i] = splitTokens(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = splitTokens(v[k])
		}
	}
	return v
}
