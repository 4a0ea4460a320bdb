package token

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/defx-dev/defx/internal/sets"
)

// Doc is a structured value whose strings may contain tokens. V is nil, a bool, a
// float64, a Text, a []any or a map[string]any of these. Its JSON form is that of
// the value, with texts in the form of Text.
type Doc struct{ V any }

// NewDoc converts a decoded JSON value: every string becomes a Text, and null
// means absent. bad is called for every part that is not allowed in a Doc.
func NewDoc(v any, path []string, bad func(path []string, err error)) Doc {
	return Doc{lift(v, path, bad)}
}

func lift(v any, path []string, bad func([]string, error)) any {
	switch v := v.(type) {
	case string:
		t, err := Split(v)
		if err != nil {
			bad(path, err)
		}
		return t
	case []any:
		out := make([]any, 0, len(v))
		for i, x := range v {
			p := append(slices.Clone(path), strconv.Itoa(i))
			if x == nil {
				bad(p, fmt.Errorf("null inside a list"))
				continue
			}
			out = append(out, lift(x, p, bad))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for _, k := range sets.Keys(v) {
			p := append(slices.Clone(path), k)
			switch {
			case v[k] == nil:
			case k == "$text":
				bad(p, fmt.Errorf("the name %q is reserved", k))
			case Reserved(k):
				bad(path, fmt.Errorf("a token cannot be the name of a field"))
			default:
				out[k] = lift(v[k], p, bad)
			}
		}
		return out
	}
	return v
}

// Map returns a copy of a Doc with every text replaced by the result of f: any
// number of elements in a list, and exactly one elsewhere.
func (d Doc) Map(path []string, f func(path []string, t Text, inList bool) []any) Doc {
	return Doc{mapDoc(d.V, path, f)}
}

func mapDoc(v any, path []string, f func([]string, Text, bool) []any) any {
	switch v := v.(type) {
	case Text:
		return f(path, v, false)[0]
	case []any:
		out := make([]any, 0, len(v))
		for i, x := range v {
			p := append(slices.Clone(path), strconv.Itoa(i))
			if t, ok := x.(Text); ok {
				out = append(out, f(p, t, true)...)
			} else {
				out = append(out, mapDoc(x, p, f))
			}
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for _, k := range sets.Keys(v) {
			out[k] = mapDoc(v[k], append(slices.Clone(path), k), f)
		}
		return out
	}
	return v
}

// MarshalJSON returns the JSON form of Doc.
func (d Doc) MarshalJSON() ([]byte, error) { return json.Marshal(d.V) }

// UnmarshalJSON decodes the JSON form of Doc.
func (d *Doc) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	var err error
	d.V, err = lower(v)
	return err
}

func lower(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case string:
		return Lit(v), nil
	case []any:
		for i := range v {
			if v[i], err = lower(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		if _, ok := v["$text"]; ok {
			raw, _ := json.Marshal(v) // it came from JSON
			var t Text
			err := json.Unmarshal(raw, &t)
			return t, err
		}
		for k := range v {
			if v[k], err = lower(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// BodyDoc returns the body of an each or join token.
func (t Token) BodyDoc() (Doc, error) {
	var d Doc
	err := json.NewDecoder(bytes.NewReader([]byte(t.Body))).Decode(&d)
	return d, err
}

// WithBody returns the token with a body.
func (t Token) WithBody(d Doc) Token {
	raw, err := json.Marshal(d)
	if err != nil {
		panic(err) // plain data always encodes
	}
	t.Body = string(raw)
	return t
}
