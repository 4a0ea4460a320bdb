package graph

import (
	"reflect"

	"github.com/defx-dev/defx/lang/token"
)

// Texts calls f for every text of a spec, found by type so that no field can be forgotten.
func (s Spec) Texts(f func(token.Text)) { texts(reflect.ValueOf(s), f) }

func texts(v reflect.Value, f func(token.Text)) {
	if t, ok := v.Interface().(token.Text); ok {
		f(t)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			texts(v.Elem(), f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			texts(v.Field(i), f)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			texts(v.MapIndex(k), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			texts(v.Index(i), f)
		}
	}
}
