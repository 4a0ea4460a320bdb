package compile

import (
	"encoding/json"
	"reflect"
)

// Decode decodes raw as the compiler does, without resolving anything.
func Decode(raw json.RawMessage, out any) error {
	d := &decoder{}
	d.decodeJSON(raw, out, nil)
	return d.errs.Err()
}

// DecodesItself reports whether a type has its own decoding.
func DecodesItself(t reflect.Type) bool {
	return customDecoders[t] != nil || reflect.PointerTo(t).Implements(reflect.TypeFor[valueDecoder]())
}
