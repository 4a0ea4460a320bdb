package graph

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/lang/token"
)

// Texts calls f for every text of a spec, found by type so that no field can be forgotten.
func (s Spec) Texts(f func(token.Text)) {
	MapTexts(s, nil, func(_ []string, t token.Text, _ bool) []any { f(t); return []any{t} })
}

var (
	textType = reflect.TypeFor[token.Text]()
	docType  = reflect.TypeFor[token.Doc]()
)

// MapTexts copies v with every token.Text, also those inside a token.Doc, replaced by what f makes of
// it. As an element of a list f may give any number of elements, elsewhere exactly one; outside
// a token.Doc each of them must be a token.Text. The walk is in the order of fields and keys.
func MapTexts[T any](v T, path []string, f func(path []string, t token.Text, inList bool) []any) T {
	return mapValue(reflect.ValueOf(v), path, f).Interface().(T)
}

func mapValue(v reflect.Value, path []string, f func([]string, token.Text, bool) []any) reflect.Value {
	switch {
	case v.Type() == textType:
		if v.IsNil() {
			return v
		}
		return reflect.ValueOf(f(path, v.Interface().(token.Text), false)[0])
	case v.Type() == docType:
		return reflect.ValueOf(v.Interface().(token.Doc).Map(path, f))
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out := reflect.New(v.Type().Elem())
		out.Elem().Set(mapValue(v.Elem(), path, f))
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			out.Field(i).Set(mapValue(v.Field(i), append(slices.Clone(path), name), f))
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			out.SetMapIndex(k, mapValue(v.MapIndex(k), append(slices.Clone(path), k.String()), f))
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), 0, v.Len())
		for i := range v.Len() {
			p := append(slices.Clone(path), strconv.Itoa(i))
			if v.Type().Elem() != textType {
				out = reflect.Append(out, mapValue(v.Index(i), p, f))
				continue
			}
			for _, x := range f(p, v.Index(i).Interface().(token.Text), true) {
				out = reflect.Append(out, reflect.ValueOf(x))
			}
		}
		return out
	}
	return v
}
