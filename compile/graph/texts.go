package graph

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/defx-dev/defx/internal/token"
)

// Texts calls f for every text of a spec. Texts are found by type, so no field can be
// forgotten.
func (s Spec) Texts(f func(token.Text)) { eachText(reflect.ValueOf(&s).Elem(), f) }

var (
	textType = reflect.TypeFor[token.Text]()
	docType  = reflect.TypeFor[token.Doc]()
)

// MapTexts returns a copy of v in which every token.Text, also inside a token.Doc, is replaced
// by the result of f. For a list element f may return any number of elements, elsewhere exactly
// one; outside a token.Doc each must be a token.Text. Fields and keys are visited in order.
// Parts that cannot hold texts are shared with v. f must not keep path.
func MapTexts[T any](v T, path []string, f func(path []string, t token.Text, inList bool) []any) T {
	return mapValue(reflect.ValueOf(v), slices.Clip(path), f).Interface().(T)
}

var typeCache sync.Map // type → *typeInfo

// typeInfo says which parts of a type can hold texts.
type typeInfo struct {
	texts  bool    // a value can hold texts
	fields []field // of a struct, those that can hold texts
}

type field struct {
	index int
	name  string
}

func typeInfoOf(t reflect.Type) *typeInfo {
	if s, ok := typeCache.Load(t); ok {
		return s.(*typeInfo)
	}
	s := &typeInfo{texts: t == textType || t == docType}
	if !s.texts {
		switch t.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice:
			s.texts = typeInfoOf(t.Elem()).texts
		case reflect.Struct:
			for i := range t.NumField() {
				if typeInfoOf(t.Field(i).Type).texts {
					name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
					s.fields, s.texts = append(s.fields, field{i, name}), true
				}
			}
		}
	}
	typeCache.Store(t, s)
	return s
}

func mapValue(v reflect.Value, path []string, f func([]string, token.Text, bool) []any) reflect.Value {
	switch {
	case v.Type() == textType:
		if v.IsNil() {
			return v
		}
		return reflect.ValueOf(f(path, v.Interface().(token.Text), false)[0])
	case v.Type() == docType:
		return reflect.ValueOf(v.Interface().(token.Doc).Map(slices.Clone(path), f))
	}
	s := typeInfoOf(v.Type())
	if !s.texts {
		return v
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
		out.Set(v)
		for _, field := range s.fields {
			if of := v.Field(field.index); !of.IsZero() {
				out.Field(field.index).Set(mapValue(of, append(path, field.name), f))
			}
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for _, k := range sortedKeys(v) {
			out.SetMapIndex(k, mapValue(v.MapIndex(k), append(path, k.String()), f))
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), 0, v.Len())
		for i := range v.Len() {
			p := append(path, strconv.Itoa(i))
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

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// eachText calls f for every text in v.
func eachText(v reflect.Value, f func(token.Text)) {
	switch {
	case v.Type() == textType:
		if !v.IsNil() {
			f(v.Interface().(token.Text))
		}
		return
	case v.Type() == docType:
		v.Interface().(token.Doc).Map(nil, func(_ []string, t token.Text, _ bool) []any { f(t); return []any{t} })
		return
	}
	s := typeInfoOf(v.Type())
	if !s.texts {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachText(v.Elem(), f)
		}
	case reflect.Struct:
		for _, field := range s.fields {
			if of := v.Field(field.index); !of.IsZero() {
				eachText(of, f)
			}
		}
	case reflect.Map:
		for _, k := range sortedKeys(v) {
			eachText(v.MapIndex(k), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachText(v.Index(i), f)
		}
	}
}
